"""What a search notes of itself while it runs, for its receipt and its explanations. Cheap enough to be always on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

from tarragon.protocols import LegScores
from tarragon.receipts import Explanation, Place, Receipt, Stage
from tarragon.requests import LEGS
from tarragon.types import Hit


class Trace:
    """Notes of one search.

    Args:
        begun: When the search began, by ``time.perf_counter``; None: now.

    Attributes:
        stages: What was done, in order.
        degraded: What went wrong and was done without.
        truncated: Tokens of the query that models did not see.
        spaces: By leg, the fingerprint of its model.
        ranking_stages: Those that ranked what the legs gave, in order: ``fused``, ``late``, rerankers.
        version: That was searched.
    """

    def __init__(self, begun: float | None = None) -> None:
        self._begun = time.perf_counter() if begun is None else begun
        self._scores: dict[str, Mapping[UUID, float] | Sequence[tuple[UUID, float]]] = {}
        self.stages: list[Stage] = []
        self.degraded: list[str] = []
        self.truncated = 0
        self.spaces: dict[str, str] = {}
        self.version = ""
        self._legs: dict[str, int] = {}
        self.ranking_stages: list[str] = []
        self._ranks: dict[str, dict[UUID, int]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[list[int | str]]:
        """Times a block, which puts the number of candidates, and a detail if there is one, into the list."""
        said: list[int | str] = []
        begun = time.perf_counter()
        yield said
        seconds = time.perf_counter() - begun
        count = next((value for value in said if isinstance(value, int)), 0)
        detail = next((value for value in said if isinstance(value, str)), "")
        self.stages.append(Stage(name, count, seconds, detail))

    def legs(self, legs: LegScores) -> None:
        """Note what the legs gave; the last call counts."""
        for name in (*LEGS, "late"):
            scores = getattr(legs, name)
            if scores is not None:
                self._scores[name] = scores
                self._legs[name] = len(scores)
        first = legs.dense if legs.dense is not None else legs.sparse
        if first is not None and legs.lexical is not None:  # which tells scores of others too
            self._legs["lexical"] = sum(map(first.__contains__, legs.lexical))

    def ranked(self, stage: str, ranking: Sequence[tuple[UUID, float]]) -> None:
        """Note a stage's own ranking."""
        self._scores[stage] = ranking
        if stage not in self.ranking_stages:
            self.ranking_stages.append(stage)

    @property
    def scores(self) -> dict[str, Mapping[UUID, float]]:
        """By stage, the score of every candidate that it had. Higher is better; equal ones rank by id."""
        return {
            stage: scores if isinstance(scores, Mapping) else dict(scores) for stage, scores in self._scores.items()
        }

    def receipt(self) -> Receipt:
        """Of the search so far."""
        return Receipt(
            version=self.version,
            stages=tuple(self.stages),
            legs=dict(self._legs),
            spaces=dict(self.spaces),
            truncated=self.truncated,
            degraded=tuple(self.degraded),
            seconds=time.perf_counter() - self._begun,
        )

    def explain(self, hit: Hit) -> Explanation:
        """Where a hit stood in every stage."""
        id_ = UUID(hit.chunk_id)
        places = {stage: Place(self.rank(stage, id_), scores.get(id_)) for stage, scores in self.scores.items()}
        return Explanation(hit.chunk_id, hit.document_id, places)

    def rankings(self) -> dict[str, list[tuple[str, float]]]:
        """See `tarragon.receipts.Hits.rankings`."""
        orders = {stage: sorted(scores.items(), key=_by_score) for stage, scores in self.scores.items()}
        return {stage: [(str(id_), score) for id_, score in order] for stage, order in orders.items()}

    def rank(self, stage: str, id_: UUID) -> int | None:
        """A passage's rank in a stage, from 1; None if the stage did not have it."""
        if stage not in self._ranks:
            order = sorted(self.scores[stage].items(), key=_by_score)
            self._ranks[stage] = {one: rank for rank, (one, _) in enumerate(order, start=1)}
        return self._ranks[stage].get(id_)


def _by_score(entry: tuple[UUID, float]) -> tuple[float, int]:
    return -entry[1], entry[0].int
