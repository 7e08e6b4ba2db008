"""How the hits of a search came to be: `Receipt`, and the list that carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tarragon.types import Hit


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a search.

    Attributes:
        name: Such as ``embed``, ``legs``, ``fuse``, ``serve``, ``rerank: <model>``.
        candidates: How many passages came out of it.
        seconds: How long it took.
        detail: What else there is to say, such as how many passages a budget left out.
    """

    name: str
    candidates: int
    seconds: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """How the hits of a search came to be.

    Attributes:
        version: The version of the index that was searched; empty if there is none yet.
        stages: In order.
        legs: By leg, how many of the candidates it scored.
        spaces: By leg, the fingerprint of the model behind it.
        truncated: Tokens of the query that models did not see.
        degraded: What went wrong and was done without; empty if nothing.
        seconds: Of the whole search.
    """

    version: str = ""
    stages: tuple[Stage, ...] = ()
    legs: Mapping[str, int] = field(default_factory=dict)
    spaces: Mapping[str, str] = field(default_factory=dict)
    truncated: int = 0
    degraded: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a passage stood in one stage: its rank from 1 among the candidates, and its score there.

    None: the stage did not have it.
    """

    rank: int | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one hit stood in every stage, by the stage's name: ``dense``, ``lexical``, ``sparse``, ``fused``, ..."""

    chunk_id: str
    document_id: str
    places: Mapping[str, Place]

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


class Hits(list[Hit]):
    """The hits of one search, best first, with the receipt of it.

    Attributes:
        receipt: How they came to be.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        receipt: Receipt | None = None,
        explain: Callable[[Hit], Explanation] | None = None,
        rankings: Callable[[], dict[str, list[tuple[str, float]]]] | None = None,
    ) -> None:
        super().__init__(hits)
        self.receipt = receipt or Receipt()
        self._explain = explain
        self._rankings = rankings

    def explain(self) -> list[Explanation]:
        """Each hit's rank and score in every stage, in the order of the hits. Nothing is searched again."""
        return [self._explain(hit) if self._explain else Explanation(hit.chunk_id, hit.document_id, {}) for hit in self]

    def rankings(self) -> dict[str, list[tuple[str, float]]]:
        """By stage, chunk id and score of every candidate that it had, hit or not; best first, ties by id.

        A leg of several tells the scores of all their candidates: its own come first.
        """
        return self._rankings() if self._rankings else {}
