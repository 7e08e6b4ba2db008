"""Fusion: the scores of one to three legs → one ranking. Pure arithmetic on what `Store.search` returns.

A leg is a mapping of candidates to scores. Every method ranks the candidates of the first leg it is given; the dense
leg, or without it the sparse one, has scored every candidate of any leg. A candidate that a leg has no score for has 0
there, which is the truth of BM25 and not an assumption. docs/fusion.md has what each method is worth.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter, mul
from uuid import UUID

from tarragon.protocols import LegScores, Scores
from tarragon.recipe import SearchRecipe
from tarragon.statistics import Spread

RRF_K = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods",
SIGIR 2009."""

CALIBRATED_DENSE = 0.6
"""Share of the dense leg in `calibrated`. On six judged sets every share from .6 to .7 has a mean within .001 of the
best one's (evals/results/fusions.json); above, dense noise buries identifiers."""

CONVEX_DENSE = 0.5
"""Share of the dense leg in `convex`: the largest at which a lone match by words cannot be beaten."""

LEVEL_DEPTH = 400
"""How many of the best lexical scores make a query's level. A leg that was asked for fewer gives a level that is too
low and counts too much: ask it for at least so many, though fewer of them be candidates."""

LEVEL_CAP = 6.0
"""A higher level counts as this. Long queries and large corpora raise it without making the best match worth less."""

TYPICAL_BEST = 5.5
"""Where a query's nearest chunk lies, in standard deviations of the corpus: medians of six judged sets, 4.9 to 6.0."""

TYPICAL = Spread(2.0, 1.2)
"""Mean and standard deviation of the candidates, likewise: medians of five sets, 1.6 to 3.1 and 1.0 to 1.4."""

Ranking = list[tuple[UUID, float]]


def ranking(scores: Mapping[UUID, float]) -> Ranking:
    """Best first; equal scores by id, so that the order is total."""
    entries: Iterable[tuple[UUID, float]] = scores.items()
    if len(set(scores.values())) < len(scores):
        entries = sorted(entries, key=_identifier)
    return sorted(entries, key=itemgetter(1), reverse=True)  # stable: equal scores stay in order of their ids


def _identifier(entry: tuple[UUID, float]) -> int:
    return entry[0].int


def fuse(legs: LegScores, recipe: SearchRecipe, spread: Spread | None = None) -> Ranking:
    """One ranking of every candidate, by the recipe's method and share of the dense leg.

    Args:
        legs: One to three of ``dense``, ``sparse`` and ``lexical``; ``late`` is not looked at. Without any: no ranking.
        recipe: ``fusion``, ``rrf_k`` and ``dense_weight``; the other legs share equally what the dense one leaves.
            ``min_score`` is the caller's to apply.
        spread: Of this query's dense scores over the corpus, for ``calibrated``. None: not known.

    A single leg keeps its own scores, except in ``calibrated``, where a score means the same whatever the legs.
    """
    if recipe.fusion == "calibrated":
        return ranking(calibrated(legs, recipe.dense_weight, spread))
    present = [leg for leg in (legs.dense, legs.sparse, legs.lexical) if leg is not None]
    if len(present) < 2:
        return ranking(present[0] if present else {})
    if recipe.fusion == "convex":
        return ranking(convex(*present, weights=_shares(legs, recipe.dense_weight, CONVEX_DENSE)))
    weights = None
    if recipe.dense_weight is not None:  # their sum as without weights, so that a half for the dense leg of two is none
        weights = [len(present) * share for share in _shares(legs, recipe.dense_weight)]
    if recipe.fusion == "rrf":
        return ranking(rrf(*present, weights=weights, k=recipe.rrf_k))
    return ranking(dbsf(*present, weights=weights))


def _shares(legs: LegScores, dense: float | None, default: float = CALIBRATED_DENSE) -> list[float]:
    """Weights of the legs that are there, in the order dense, sparse, lexical: they sum to 1.

    Where all the weight is on a dense leg that is not there, the others count the same.
    """
    share = default if dense is None else dense
    words = sum(leg is not None for leg in (legs.sparse, legs.lexical))
    weights = ([] if legs.dense is None else [share]) + [(1 - share) / words for _ in range(words)]
    total = math.fsum(weights)
    return [weight / total if total else 1 / len(weights) for weight in weights]


# --- what each method does --------------------------------------------------------------------------------------------
def calibrated(legs: LegScores, dense_weight: float | None, spread: Spread | None) -> dict[UUID, float]:
    """Corpus-calibrated fusion: each leg in standard deviations of what chance gives for this query, then averaged.

    - dense: z = (s - q·μ) / √(qᵀΣq), exact for the corpus, from the statistics that the principal axes are kept with.
    - lexical: z = s / √m. BM25 sums the contributions of words, and the standard deviation of a sum of independent
      contributions grows with the square root of its level. The level m is the root mean square of the query's first
      `LEVEL_DEPTH` scores, what is missing of them counting as 0, and at most `LEVEL_CAP`. So a lone match, in a
      leg that is empty otherwise, stands far out and wins; and the size of the corpus need not be known.
    - dense without statistics: the candidates from 0 to `TYPICAL_BEST`. Not by their own deviation: a candidate that
      only the other leg found lies so far below the rest that it would be punished for it.
    - sparse: the candidates' own mean and deviation are put to `TYPICAL`. Here what stands apart is above, and wins.

    score = w · dense + (1 - w) · lexical, w = `CALIBRATED_DENSE` by default. Source: ours; the idea of a dense score in
    corpus deviations is standard score normalisation (Montague and Aslam, "Relevance score normalization for
    metasearch", CIKM 2001) with the corpus instead of the hits. Typical best hits of answerable queries have 5 to 10.
    """
    units: list[list[float]] = []
    ids: list[UUID] = list(_first(legs))
    if legs.dense is not None:
        scores = list(legs.dense.values())
        if spread is None or spread.deviation <= 1e-9:
            units.append([TYPICAL_BEST * score for score in _scaled(scores)])
        else:
            units.append([(score - spread.mean) / spread.deviation for score in scores])
    if legs.sparse is not None:
        scores = _standardised(_column(legs.sparse, ids))
        units.append([TYPICAL.mean + TYPICAL.deviation * score for score in scores])
    if legs.lexical is not None:
        scale = 1 / math.sqrt(level(legs.told or legs.lexical.values()) or 1.0)
        units.append([score * scale for score in _column(legs.lexical, ids)])
    return _weighted(ids, units, _shares(legs, dense_weight))


def level(scores: Iterable[float]) -> float:
    """Root mean square of the `LEVEL_DEPTH` largest scores, padded with zeros, at most `LEVEL_CAP`; 0 of nothing."""
    largest = list(scores)
    if len(largest) > LEVEL_DEPTH:
        largest = heapq.nlargest(LEVEL_DEPTH, largest)
    return min(math.sqrt(math.fsum(map(mul, largest, largest)) / LEVEL_DEPTH), LEVEL_CAP)


def dbsf(*legs: Scores, weights: Sequence[float] | None = None) -> dict[UUID, float]:
    """Distribution-based score fusion over all candidates: s = Σ wᵢ ((sᵢ - μᵢ) / 6σᵢ + ½).

    Each leg's mean μ and standard deviation σ are those of its scores over *all* candidates, so that μ ± 3σ is 0 to 1.
    So a lone match stands far out of its leg's spread and wins, where fusing each leg's own hits gives it one half,
    below the noise of the other leg. Scores lie between 0 and the number of legs, except such outliers'. A leg without
    spread gives every candidate one half. Source: Qdrant, whose fusion of that name does it to each leg's own hits.
    """
    ids = list(legs[0])
    units = [[unit / 6 + 0.5 for unit in _standardised(_column(leg, ids))] for leg in legs]
    return _weighted(ids, units, weights)


def _standardised(scores: list[float]) -> list[float]:
    """In standard deviations from the mean; all 0 where there is no spread but the noise of the last digits."""
    count = len(scores)
    if count < 2:
        return [0.0] * count
    mean = math.fsum(scores) / count
    centred = [score - mean for score in scores]
    deviation = math.sqrt(math.fsum(score * score for score in centred) / (count - 1))
    if deviation <= 1e-9 * max(1.0, abs(mean)):
        return [0.0] * count
    return [score / deviation for score in centred]


def convex(*legs: Scores, weights: Sequence[float]) -> dict[UUID, float]:
    """Convex combination of min-max scaled scores: s = Σ wᵢ (sᵢ - minᵢ) / (maxᵢ - minᵢ), over all candidates.

    With weights that sum to 1 the scores lie between 0 and 1. A leg without spread gives every candidate 0. Source:
    Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023.
    """
    ids = list(legs[0])
    return _weighted(ids, [_scaled(_column(leg, ids)) for leg in legs], weights)


def _scaled(scores: list[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        return [0.0] * len(scores)
    return [(score - low) / (high - low) for score in scores]


def rrf(*legs: Scores, weights: Sequence[float] | None = None, k: int = RRF_K) -> dict[UUID, float]:
    """Reciprocal rank fusion: s = Σ wᵢ / (k + rankᵢ), ranks from 1 among the candidates; equal scores rank by id.

    A candidate that a leg has no score for has no rank there, and nothing is added.
    """
    ids = list(legs[0])
    by_id = sorted(range(len(ids)), key=lambda place: ids[place].int)
    return _weighted(ids, [_reciprocal([leg.get(id_) for id_ in ids], by_id, k) for leg in legs], weights)


def _reciprocal(scores: list[float | None], by_id: list[int], k: int) -> list[float]:
    """1 / (k + rank) in the order of the scores, 0 where there is none; ``by_id`` has their places in order of ids."""
    found = [(score, place) for place in by_id if (score := scores[place]) is not None]
    found.sort(key=itemgetter(0), reverse=True)  # stable: equal scores stay in order of their ids
    reciprocal = [0.0] * len(scores)
    for rank, (_, place) in enumerate(found, start=1):
        reciprocal[place] = 1 / (k + rank)
    return reciprocal


def _first(legs: LegScores) -> Scores:
    """The leg that has scored every candidate."""
    return next((leg for leg in (legs.dense, legs.sparse, legs.lexical) if leg is not None), {})


def _column(leg: Scores, ids: list[UUID]) -> list[float]:
    return [leg.get(id_, 0.0) for id_ in ids]


def _weighted(ids: list[UUID], units: list[list[float]], weights: Sequence[float] | None) -> dict[UUID, float]:
    """Id → weighted sum of its units, one list a leg; without weights each counts 1."""
    if weights is not None:
        units = [[weight * unit for unit in leg] for weight, leg in zip(weights, units, strict=True)]
    return dict(zip(ids, map(sum, zip(*units, strict=True)), strict=True))
