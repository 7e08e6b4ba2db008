"""Is a difference more than chance? Paired tests and intervals over questions, without a distribution assumed.

All take values by question and a seed, and give the same answer for the same input. Which tests suit retrieval:
Smucker, Allan and Carterette, "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation",
2007.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tarragon.errors import InvalidInput
from tarragon.evaluation.types import Interval

SHUFFLES = 10_000
"""Of the randomisation test: the standard error of a p of .05 is then .002."""

RESAMPLES = 2_000
"""Of the bootstrap, as for `Index.compare`."""

CONFIDENCE = 0.95

EQUAL = 1e-12
"""Values that differ by no more are a tie: they were added up in another order."""

_BLOCK = 4_000_000
"""Numbers drawn at a time: 32 MB."""


def randomisation_test(differences: ArrayLike, *, shuffles: int = SHUFFLES, seed: int = 0) -> float:
    """How often a mean at least so far from 0 arises if the two sides of each pair are exchanged by chance.

    Two-sided. Exact where all exchanges are at most ``shuffles``; else by as many random ones, the observed one counted
    among them, so that it is never 0 and never too small (Phipson and Smyth, 2010). 1 where no pair differs.

    Args:
        differences: One side less the other, by question.
        shuffles: Random exchanges.
        seed: Of chance.
    """
    values = _finite(differences)
    values = values[np.abs(values) > EQUAL]  # an exchange of equals changes nothing
    if not len(values):
        return 1.0
    scale = np.abs(values).max()
    values = values / scale
    least = abs(values.sum()) - 1e-9 * len(values)
    if 2 ** len(values) <= shuffles:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float(np.mean(np.abs(signs @ values) >= least))
    chance = np.random.default_rng(seed)
    reached, left = 1, shuffles
    while left:
        rows = min(left, max(1, _BLOCK // len(values)))
        signs = 1.0 - 2.0 * chance.integers(0, 2, (rows, len(values)), dtype=np.int8)
        reached += int(np.count_nonzero(np.abs(signs @ values) >= least))
        left -= rows
    return reached / (shuffles + 1)


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean over questions and its percentile interval (Efron, 1979).

    Raises:
        InvalidInput: There is no value, or one is not finite.
    """
    return bootstrap_intervals([values], confidence=confidence, resamples=resamples, seed=seed)[0]


def bootstrap_intervals(
    rows: Sequence[ArrayLike], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """`bootstrap_interval` of several metrics over the same questions, from the same samples of them."""
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence={confidence} must be between 0 and 1", confidence=confidence)
    if not len(rows):
        return []
    values = np.stack([_finite(row) for row in rows])
    count = values.shape[1]
    if not count:
        raise InvalidInput("no value: a mean needs at least one question")
    chance = np.random.default_rng(seed)
    means = np.empty((len(values), resamples))
    step = max(1, _BLOCK // count)
    for start in range(0, resamples, step):
        picks = chance.integers(0, count, (min(step, resamples - start), count))
        for row, into in zip(values, means, strict=True):
            into[start : start + step] = row[picks].mean(axis=1)
    tail = 50 * (1 - confidence)
    lows, highs = np.percentile(means, [tail, 100 - tail], axis=1)
    return [
        Interval(float(mean), float(low), float(high))
        for mean, low, high in zip(values.mean(axis=1), lows, highs, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values for as many tests as there are: believing all up to .05 is wrong in any of them 5 % of the time.

    Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, test in enumerate(sorted(range(len(p_values)), key=lambda test: (p_values[test], test))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[test]))
        adjusted[test] = largest
    return adjusted


def wins_losses_ties(differences: ArrayLike) -> tuple[int, int, int]:
    """How many questions are above 0, below, and neither."""
    values = _finite(differences)
    wins, losses = int(np.count_nonzero(values > EQUAL)), int(np.count_nonzero(values < -EQUAL))
    return wins, losses, len(values) - wins - losses


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise InvalidInput(f"a list of finite numbers is needed, one a question; shape {found.shape}")
    return found
