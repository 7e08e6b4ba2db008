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
        limit: Most tokens in a chunk: the recipe's, capped by what the model can take.
    """

    recipe: IndexRecipe
    model: str
    dimensions: int
    identity: Mapping[str, str]
    space: str
    limit: int

    @classmethod
    def of(
        cls, recipe: IndexRecipe, model: str, dimensions: int, identity: Mapping[str, str], max_tokens: int
    ) -> Contract:
        """The contract under which a recipe and an encoder build; the space is named after the fingerprint."""
        limit = min(recipe.chunk_tokens, max_tokens)
        return cls(recipe, model, dimensions, dict(identity), space_name(fingerprint(identity)), limit)

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
            "limit": self.limit,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read `to_dict`."""
        return cls(
            **{**values, "recipe": IndexRecipe.from_dict(values["recipe"]), "identity": dict(values["identity"])}
        )


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of an index, as its catalog keeps it.

    Attributes:
        name: Such as ``v1``; never used twice in an index.
        contract: What it is built under.
        canaries: The probes' vectors when it was made, as `tarragon.canaries.pack` writes them; empty: none.
        created: Unix time.
        promoted: Whether it has ever served.
        retired: Whether syncs leave it behind.
    """

    name: str
    contract: Contract
    canaries: str = ""
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {
            "name": self.name,
            "contract": self.contract.to_dict(),
            "canaries": self.canaries,
            "created": self.created,
            "promoted": self.promoted,
            "retired": self.retired,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VersionRecord:
        """Read `to_dict`."""
        return cls(**{**values, "contract": Contract.from_dict(values["contract"])})
