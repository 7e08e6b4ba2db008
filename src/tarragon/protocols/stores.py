"""Where the chunks of a version are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from tarragon.filters import Filter
from tarragon.types import FloatArray


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as the store keeps it: its id, its vector and all that a hit needs."""

    id: UUID
    vector: FloatArray
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DenseLeg:
    """Search by vector: the ``limit`` nearest."""

    vector: FloatArray
    limit: int


@dataclass(frozen=True, slots=True)
class LexicalLeg:
    """Search by words: the ``limit`` best by BM25."""

    text: str
    limit: int


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One query as data; at least one leg. The filter applies inside every leg, before its limit."""

    dense: DenseLeg | None = None
    lexical: LexicalLeg | None = None
    filter: Filter | None = None


Scores = Mapping[UUID, float]


@dataclass(frozen=True, slots=True)
class LegScores:
    """What the legs found.

    Attributes:
        dense: With both legs, the score of every candidate of either; with one, of its own hits. None without the leg.
        lexical: Of every candidate that the lexical leg found; all others have 0. None without the leg.
    """

    dense: Scores | None
    lexical: Scores | None


class Store(Protocol):
    """The chunks of one version, in one space."""

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

    def payloads(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Payloads of those that exist."""
        ...

    def ids(self) -> Iterator[UUID]:
        """Every chunk's id."""
        ...

    def count(self) -> int:
        """How many chunks are stored."""
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
