"""What a version was built under, and the record that is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from tarragon.identity import fingerprint, space_name
from tarragon.recipe import Datatype, IndexRecipe, SearchRecipe

VersionRole: TypeAlias = Literal["serving", "standby", "building", "retired"]


@dataclass(frozen=True, slots=True)
class SideContract:
    """What the vectors beside the dense ones were built with.

    Attributes:
        kind: ``sparse`` or ``late``.
        model: Name of the model, for people.
        dimensions: Length of a vector; 0 for sparse ones.
        identity: What makes the space, as in `Contract`.
        datatype: How the numbers are kept.
    """

    kind: Literal["sparse", "late"]
    model: str
    dimensions: int
    identity: Mapping[str, str]
    datatype: Datatype = "float32"

    @property
    def fingerprint(self) -> str:
        """Identifies the encoder."""
        return fingerprint(self.identity)

    @property
    def space(self) -> str:
        """Name of the vectors in the store."""
        return f"{self.kind[0]}_{self.fingerprint[:12]}"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A space of short vectors for a first pass, and what was measured of it: made by `Index.tune`.

    Attributes:
        space: Name of the vectors in the store.
        dimensions: Their length.
        rotation: Note of the ledger that holds the axes that vectors are turned onto; empty: the first numbers as they
            are, for models that were trained for it.
        unit: Whether short vectors are brought to unit length.
        depth: Candidates of the first pass for each that the dense leg wants.
        recall: Share of the true ten best among them, as measured.
        chunks: How many chunks there were then.
    """

    space: str
    dimensions: int
    rotation: str
    unit: bool
    depth: float
    recall: float
    chunks: int


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
        sides: The models beside the dense one.
    """

    recipe: IndexRecipe
    model: str
    dimensions: int
    identity: Mapping[str, str]
    space: str
    limit: int
    sides: tuple[SideContract, ...] = ()

    @classmethod
    def of(
        cls, recipe: IndexRecipe, model: str, dimensions: int, identity: Mapping[str, str], max_tokens: int
    ) -> Contract:
        """The contract under which a recipe and an encoder build; the space is named after the fingerprint."""
        limit = min(recipe.chunk_tokens, max_tokens)
        return cls(recipe, model, dimensions, dict(identity), space_name(fingerprint(identity)), limit)

    def side(self, kind: Literal["sparse", "late"]) -> SideContract | None:
        """The model of this kind, if there is one."""
        return next((side for side in self.sides if side.kind == kind), None)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """Of every model, the dense one first."""
        return (self.fingerprint, *(side.fingerprint for side in self.sides))

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
            "sides": [asdict(side) for side in self.sides],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contract:
        """Read `to_dict`."""
        return cls(
            **{
                **values,
                "recipe": IndexRecipe.from_dict(values["recipe"]),
                "identity": dict(values["identity"]),
                "sides": tuple(SideContract(**side) for side in values.get("sides", ())),
            }
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
        statistics: Which statistics of the dense space hold: a note of the ledger; empty: none.
        prefix: The first pass, where `Index.tune` chose one.
        tuning: What `Index.tune` measured and chose last.
    """

    name: str
    contract: Contract
    canaries: str = ""
    created: float = 0.0
    promoted: bool = False
    retired: bool = False
    statistics: str = ""
    prefix: Prefix | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)

    def role(self, serving: str | None) -> VersionRole:
        """What it is for, given the name of the version that serves."""
        if self.name == serving:
            return "serving"
        if self.retired:
            return "retired"
        return "standby" if self.promoted else "building"

    def search_recipe(self) -> SearchRecipe:
        """How to search where nobody says: as it was tuned."""
        return SearchRecipe(**self.tuning.get("search", {}))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it back."""
        return {
            "name": self.name,
            "contract": self.contract.to_dict(),
            "canaries": self.canaries,
            "created": self.created,
            "promoted": self.promoted,
            "retired": self.retired,
            "statistics": self.statistics,
            "prefix": None if self.prefix is None else asdict(self.prefix),
            "tuning": dict(self.tuning),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VersionRecord:
        """Read `to_dict`."""
        prefix = values.get("prefix")
        return cls(
            **{
                **values,
                "contract": Contract.from_dict(values["contract"]),
                "prefix": None if prefix is None else Prefix(**prefix),
            }
        )
