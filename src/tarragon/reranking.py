"""Reranking: a ranking and rerankers → a better ranking. Pure, but for the clock and what the rerankers do.

Steps run one after the other, each on the best of what the step before it made: a small model on a hundred passages, a
large one on the twenty best of them. What a step does to a ranking:

- It scores the first ``depth`` passages; fewer where time runs out.
- Those that it scored come first, by their score; equal scores stay in the order that they were in.
- All others follow in the order that they were in.
- A step that fails, or has no time to score anything, changes nothing.

So the result is a permutation of what came in, and its order is total.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from tarragon.errors import RerankingFailed
from tarragon.observing import RankedPassage, reranking
from tarragon.protocols import Reranker, RerankScores
from tarragon.receipts import Stage
from tarragon.recipe import OnFailure

Ranking = list[tuple[UUID, float]]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Step:
    """A reranker, and how many of the best it scores."""

    reranker: Reranker
    depth: int


@dataclass(frozen=True, slots=True)
class Reranked:
    """What `rerank` returns.

    Attributes:
        ranking: Every passage that came in, best first, with scores that never rise. Where a step scored something:
            those that the last such step scored have its scores, as the model gave them. The rest were not compared
            with them and have no score on that scale: the first of them gets the lowest of these scores minus 1, the
            second minus 2, and so on, so that sorting by score keeps the order. Else the ranking that came in.
        stages: One a step, in order: how many passages it scored, how long that took, and what was left out.
        scores: By stage name, the score of each passage that it scored.
        truncated: Tokens that the rerankers did not see.
        degraded: What failed and was done without; empty if nothing.
    """

    ranking: Ranking
    stages: tuple[Stage, ...] = ()
    scores: Mapping[str, Mapping[UUID, float]] = field(default_factory=dict)
    truncated: int = 0
    degraded: tuple[str, ...] = ()


class Deadline:
    """Says when time is over: what ``is_over`` is to a `Reranker` here.

    Args:
        seconds: From now.
        clock: Seconds from any origin.
    """

    def __init__(self, seconds: float, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def __call__(self) -> bool:
        """Whether it is over."""
        return self._clock() >= self._end

    def remaining(self) -> float:
        """Seconds left, at least 0: how long a reranker that waits for a server may wait."""
        return max(0.0, self._end - self._clock())


def rerank(
    query: str,
    ranking: Ranking,
    texts: Mapping[UUID, str],
    steps: Sequence[Step],
    *,
    budget_ms: float | None = None,
    on_failure: OnFailure = "degrade",
    clock: Clock = time.perf_counter,
) -> Reranked:
    """Run the steps over a ranking.

    Args:
        query: The question.
        ranking: Distinct ids with their scores, best first.
        texts: Of the passages that steps may score: the first ``max(step.depth for step in steps)`` of the ranking.
            One that has no text is not scored.
        steps: In order.
        budget_ms: For all steps together. None: no limit. A reranker asks between two batches whether time is over, so
            that it can end by one batch late.
        on_failure: ``degrade`` goes on without a step that fails; ``raise`` raises.
        clock: Seconds from any origin.

    Raises:
        RerankingFailed: With ``on_failure="raise"``, where a reranker fails or there is no time to score anything.
    """
    deadline = None if budget_ms is None else Deadline(budget_ms / 1000, clock)
    order = [id_ for id_, _ in ranking]
    last: dict[UUID, float] = {}
    former = dict(ranking)
    stages: list[Stage] = []
    scores: dict[str, Mapping[UUID, float]] = {}
    degraded: list[str] = []
    truncated = 0
    for step in steps:
        name, start = _stage_name(step.reranker.name, scores), clock()
        ids = [id_ for id_ in order[: step.depth] if id_ in texts]
        passages = [RankedPassage(id_, texts[id_], former[id_]) for id_ in ids]
        run = partial(_score, step.reranker, query, [passage.text for passage in passages], deadline)
        try:
            result = reranking(step.reranker.name, query, passages, run)
        except RerankingFailed as error:
            if on_failure == "raise":
                raise
            degraded.append(f"{name}: {error}")
            result = RerankScores([None] * len(ids))
        scores[name] = {id_: float(score) for id_, score in zip(ids, result.scores, strict=True) if score is not None}
        if scores[name]:
            last = dict(scores[name])
            former |= last
            order = _reorder(order, last)
        truncated += result.truncated
        stages.append(Stage(name, len(scores[name]), clock() - start, _detail(len(scores[name]), len(ids), result)))
    return Reranked(_rescore(order, last) if last else ranking, tuple(stages), scores, truncated, tuple(degraded))


def _stage_name(reranker: str, taken: Mapping[str, object]) -> str:
    """Distinct, also where the same reranker runs twice."""
    name = f"rerank: {reranker}"
    again = sum(other == name or other.startswith(f"{name} (") for other in taken)
    return f"{name} ({again + 1})" if again else name


def _score(reranker: Reranker, query: str, passages: list[str], deadline: Deadline | None) -> RerankScores:
    """The reranker's scores, checked. Raises `RerankingFailed`, whatever goes wrong, also if it scored nothing."""
    if not passages:
        return RerankScores([])
    if deadline is not None and deadline():
        raise RerankingFailed(f"there was no time left to score {len(passages)} passages; raise rerank_budget_ms")
    try:
        result = reranker.score(query, passages, **({} if deadline is None else {"is_over": deadline}))
    except RerankingFailed:
        raise
    except Exception as error:  # a user's own reranker: a search must not end with it
        raise RerankingFailed(f"{type(error).__name__}: {error}") from error
    if len(result.scores) != len(passages):
        raise RerankingFailed(f"it gave {len(result.scores)} scores for {len(passages)} passages; give one for each")
    if wrong := [score for score in result.scores if score is not None and not math.isfinite(score)]:
        raise RerankingFailed(f"{len(wrong)} of {len(passages)} scores are no finite numbers, such as {wrong[0]}")
    if all(score is None for score in result.scores):
        raise RerankingFailed(f"it scored none of {len(passages)} passages in the time given; raise rerank_budget_ms")
    return result


def _reorder(order: Sequence[UUID], scores: Mapping[UUID, float]) -> list[UUID]:
    """Those with a score first, highest first, ties as they stood; then the rest as it stood."""
    scored = sorted((id_ for id_ in order if id_ in scores), key=lambda id_: -scores[id_])  # sorted() is stable
    return scored + [id_ for id_ in order if id_ not in scores]


def _rescore(order: Sequence[UUID], scores: Mapping[UUID, float]) -> Ranking:
    """See `Reranked.ranking`; where a float is too coarse for a step of 1, the next lower one."""
    least = score = min(scores.values())
    ranking: Ranking = [(id_, scores[id_]) for id_ in order[: len(scores)]]
    for place, id_ in enumerate(order[len(scores) :], start=1):
        score = min(least - place, math.nextafter(score, -math.inf))
        ranking.append((id_, score))
    return ranking


def _detail(scored: int, wanted: int, result: RerankScores) -> str:
    left_out = f"{scored} of {wanted} in the time given" if 0 < scored < wanted else ""
    cut = f"{result.truncated} tokens cut" if result.truncated else ""
    return ", ".join(filter(None, (left_out, cut)))
