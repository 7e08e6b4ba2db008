"""What a version was built under, and the record that is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from tarragon.identity import fingerprint, space_name
from tarragon.recipe import IndexRecipe

VersionRole: TypeAlias = Literal["serving", "standby", "building", "retired"]


@dataclass(frozen=True, slots=True)
class Contract:
    """What a version was built under.

    Attributes:
        recipe: The settings.
        model: Name of the model, for people.
        dimensions: Length of its vectors.
        identity: What makes its space, field by field, to say what differs; see `tarragon.identity.fingerprint`.
        space: Name of the vectors in the store. It stays when the contract is relabelled by `adopt`.
    """

    recipe: IndexRecipe
    model: str
    dimensions: int
    identity: Mapping[str, str]
    space: str

    @classmethod
    def of(cls, recipe: IndexRecipe, model: str, dimensions: int, identity: Mapping[str, str]) -> Contract:
        """The contract under which a recipe and an encoder build; the space is named after the fingerprint."""
        return cls(recipe, model, dimensions, dict(identity), space_name(fingerprint(identity)))

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder."""
        return fingerprint(self.identity)

    def relabelled(self, model: str, identity: Mapping[str, str]) -> Contract:
        """The same vectors under another declaration: see `Index.adopt`."""
        return replace(self, model=model, identity=dict(identity))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {
            "recipe": self.recipe.to_dict(),
            "model": self.model,
            "dimensions": self.dimensions,
            "identity": dict(self.identity),
            "space": self.space,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read `to_dict`."""
        recipe = IndexRecipe.from_dict(values["recipe"])
        return cls(recipe, values["model"], values["dimensions"], dict(values["identity"]), values["space"])


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of an index, as its catalog keeps it.

    Attributes:
        name: Such as ``v1``; never used twice in an index.
        contract: What it is built under.
        canaries: The probes' vectors when it was made, shape ``(16, dimensions)``, as nested lists: see
            `tarragon.canaries`. Empty until the first embedding.
        created: Unix time.
        promoted: Whether it has ever served.
        retired: Whether syncs leave it behind.
    """

    name: str
    contract: Contract
    canaries: tuple[tuple[float, ...], ...] = ()
    created: float = 0.0
    promoted: bool = False
    retired: bool = False

    def role(self, serving: str | None) -> VersionRole:
        """What it is for, given the name of the version that serves."""
        if self.name == serving:
            return "serving"
        if self.retired:
            return "retired"
        return "standby" if self.promoted else "building"
