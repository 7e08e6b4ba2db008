"""Where the chunks of a version are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias
from uuid import UUID

from tarragon.filters import Filter
from tarragon.recipe import Datatype
from tarragon.types import FloatArray, SparseVector

SideVector: TypeAlias = FloatArray | SparseVector
"""A vector beside the dense one: of shape ``(dimensions,)``, ``(tokens, dimensions)``, or sparse."""

SideKind: TypeAlias = Literal["prefix", "sparse", "late"]
"""A short form of the dense vector for a first pass; weights of terms; one vector a token."""


@dataclass(frozen=True, slots=True)
class SideSpace:
    """A space beside the dense one, as a store keeps it.

    Attributes:
        name: Of the vectors in the store.
        kind: Of the vectors.
        dimensions: Their length; 0 for sparse ones.
        datatype: How their numbers are kept; not for sparse ones.
    """

    name: str
    kind: SideKind
    dimensions: int = 0
    datatype: Datatype = "float32"


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as the store keeps it: its id, its vectors and all that a hit needs.

    Attributes:
        id: Of the chunk.
        vector: In the dense space.
        payload: What a hit needs.
        sides: By the name of the space, vectors beside the dense one.
    """

    id: UUID
    vector: FloatArray
    payload: Mapping[str, Any]
    sides: Mapping[str, SideVector] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FirstPass:
    """A cheap search of a prefix space; the full vectors score its ``limit`` best again."""

    space: str
    vector: FloatArray
    limit: int


SEARCH_WIDTH = 400
"""Candidates that a search of the vector index keeps in view (``ef``), or as many as are wanted if that is more. At the
engine's own 100, recall@10 over 300,000 chunks of 384 made-up dimensions was .90; at 400 it is .975, for 2.1 instead of
1.0 ms of a core (benchmarks/README.md)."""


@dataclass(frozen=True, slots=True)
class DenseLeg:
    """Search by vector: the ``limit`` nearest, of all or of what a first pass finds."""

    vector: FloatArray
    limit: int
    first: FirstPass | None = None


@dataclass(frozen=True, slots=True)
class SparseLeg:
    """Search by weighted terms: the ``limit`` best by dot product."""

    space: str
    vector: SparseVector
    limit: int


@dataclass(frozen=True, slots=True)
class LateStage:
    """Score every candidate of the legs by MaxSim as well; ``vectors`` has shape ``(tokens, dimensions)``."""

    space: str
    vectors: FloatArray


@dataclass(frozen=True, slots=True)
class LexicalLeg:
    """Search by words: the ``limit`` best by BM25 are candidates, and the ``scores`` best are told, if that is more."""

    text: str
    limit: int
    scores: int = 0


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One query as data; at least one leg. The filter applies inside every leg, before its limit.

    Of a filter with a `tarragon.filters.Where` that is its `relaxed` form; what it is relaxed by, the caller looks at.
    """

    dense: DenseLeg | None = None
    lexical: LexicalLeg | None = None
    filter: Filter | None = None
    sparse: SparseLeg | None = None
    late: LateStage | None = None


Scores = Mapping[UUID, float]

LEXICAL_DECIMALS = 4
"""To which lexical scores, between 0 and some 50, are compared: an engine adds them up in single precision."""


@dataclass(frozen=True, slots=True)
class LegScores:
    """What the legs found.

    Attributes:
        dense: With other legs, the score of every candidate of any leg; alone, of its own hits. None without the leg.
        lexical: Of every candidate that the lexical leg found, and of as many others as it was to tell, best first; all
            others have 0, or less than any of these. None without the leg.
        sparse: As dense.
        late: Of every candidate. None without the stage.
        told: The best lexical scores, best first, whose ever they are; empty if none were to be told.
    """

    dense: Scores | None
    lexical: Scores | None
    sparse: Scores | None = None
    late: Scores | None = None
    told: Sequence[float] = ()


class Store(Protocol):
    """The chunks of one version, in one dense space and any number of spaces beside it."""

    @property
    def parallel(self) -> int:
        """How many searches at a time are of use."""
        ...

    def upsert(self, chunks: Sequence[StoredChunk]) -> None:
        """Insert or replace. Durable against a killed process when it returns."""
        ...

    def set_payload(self, payloads: Mapping[UUID, Mapping[str, Any]]) -> None:
        """Replace the named payload keys of existing chunks; their vectors are not touched."""
        ...

    def delete(self, ids: Sequence[UUID]) -> None:
        """Remove chunks. Unknown ids are ignored."""
        ...

    def vectors(self, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
        """Vectors of those that exist, each of shape ``(dimensions,)``."""
        ...

    def add_space(self, space: SideSpace) -> None:
        """Make room for another vector a chunk. A space of that name that exists is left as it is."""
        ...

    def drop_space(self, name: str) -> None:
        """Remove a space with its vectors. An unknown name is ignored."""
        ...

    def set_sides(self, space: SideSpace, vectors: Mapping[UUID, SideVector]) -> None:
        """Give existing chunks a vector in this space; those that do not exist are ignored."""
        ...

    def sides(self, space: SideSpace, ids: Sequence[UUID]) -> dict[UUID, SideVector]:
        """Vectors in this space of those chunks that exist and have one."""
        ...

    def without(self, space: SideSpace) -> Iterator[UUID]:
        """Chunks that have no vector in this space."""
        ...

    def payloads(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Payloads of those that exist."""
        ...

    def ids(self) -> Iterator[UUID]:
        """Every chunk's id."""
        ...

    def count(self) -> int:
        """How many chunks are stored."""
        ...

    def indexed_vectors(self) -> int:
        """Vectors of all spaces together that a search need not go through one by one."""
        ...

    def search(self, request: SearchRequest) -> LegScores:
        """Run all legs of the request in one call of the engine."""
        ...

    def flush(self) -> None:
        """Durable against a power cut when it returns."""
        ...

    def close(self) -> None:
        """Release the files. The store cannot be used afterwards."""
        ...
