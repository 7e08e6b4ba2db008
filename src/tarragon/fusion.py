"""Fusion: two legs' scores → one ranking. Pure arithmetic on what `Store.search` returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from operator import add
from uuid import UUID

from tarragon.protocols import LegScores, Scores
from tarragon.recipe import Fusion

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009."""

Ranking = list[tuple[UUID, float]]


def ranking(scores: Mapping[UUID, float]) -> Ranking:
    """Best first; equal scores by id, so that the order is total."""
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0].int))


def fuse(legs: LegScores, method: Fusion) -> Ranking:
    """One ranking of every candidate: of the only leg by its own scores, of two by the method."""
    if legs.dense is None or legs.lexical is None:
        return ranking(legs.dense or legs.lexical or {})
    methods: dict[Fusion, Callable[[Scores, Scores], Scores]] = {"dbsf": dbsf, "rrf": rrf}
    return ranking(methods[method](legs.dense, legs.lexical))


def dbsf(dense: Scores, lexical: Scores) -> dict[UUID, float]:
    """Distribution-based score fusion over the union of candidates.

    Each leg's scores are measured against the leg's mean μ and standard deviation σ over *all* candidates, so that
    μ ± 3σ is 0 to 1, and added: s = Σ (sᵢ - μᵢ + 3σᵢ) / 6σᵢ. A candidate without a matching word has lexical score 0,
    which is the truth of BM25 and not an assumption. So a lone match stands far out of its leg's spread and wins, where
    fusing each leg's own hits gives it one half, below the noise of the other leg. Scores lie between 0 and 2, except
    such outliers'. A leg without spread gives every candidate one half.
    """
    ids = list(dense)
    near = _standardised(list(dense.values()))
    words = _standardised([lexical.get(id_, 0.0) for id_ in ids])
    return dict(zip(ids, map(add, near, words), strict=True))


def _standardised(scores: list[float]) -> list[float]:
    count = len(scores)
    if count < 2:
        return [0.5] * count
    mean = math.fsum(scores) / count
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (count - 1))
    if deviation <= 1e-9 * max(1.0, abs(mean)):
        return [0.5] * count
    return [(score - mean) / (6 * deviation) + 0.5 for score in scores]


def rrf(dense: Scores, lexical: Scores) -> dict[UUID, float]:
    """Reciprocal rank fusion: s = Σ 1 / (60 + rankᵢ), ranks from 1.

    The dense rank is among the candidates of both legs, since each has a dense score; a candidate without a matching
    word has no lexical rank.
    """
    return _add(_reciprocal(dense), _reciprocal(lexical))


def _reciprocal(leg: Scores) -> dict[UUID, float]:
    return {id_: 1 / (RRF_K + rank) for rank, (id_, _) in enumerate(ranking(leg), start=1)}


def _add(first: Mapping[UUID, float], second: Mapping[UUID, float]) -> dict[UUID, float]:
    return {id_: first.get(id_, 0.0) + second.get(id_, 0.0) for id_ in {**first, **second}}
