"""Drift: figures against slow obvious code, and how often the test cries wolf."""

from __future__ import annotations

import json
from itertools import combinations, product
from math import exp

import numpy as np
import pytest

from tarragon.errors import InvalidInput
from tarragon.evaluation.drift import Batch, compare, describe, two_sample

CHANCE = np.random.default_rng(3)


def drawn(count: int, dimensions: int = 6, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimensions)) + shift
    return rows.astype(np.float32)


def cosine(one: np.ndarray, two: np.ndarray) -> float:
    return float(one @ two / np.linalg.norm(one) / np.linalg.norm(two))


def slow_mmd(first: np.ndarray, second: np.ndarray) -> float:
    """Lemma 6 of Gretton et al. 2012, term by term."""
    pooled = [*first, *second]
    width = np.median([float(((a - b) ** 2).sum()) for a, b in combinations(pooled, 2)])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return exp(-float(((a - b) ** 2).sum()) / (2 * width))

    within_first = np.mean([kernel(a, b) for i, a in enumerate(first) for j, b in enumerate(first) if i != j])
    within_second = np.mean([kernel(a, b) for i, a in enumerate(second) for j, b in enumerate(second) if i != j])
    return float(within_first + within_second - 2 * np.mean([kernel(a, b) for a, b in product(first, second)]))


def test_a_batch_is_described_as_computed_pair_by_pair() -> None:
    rows = drawn(9).astype(np.float64)
    found = describe(rows)
    assert found.count == 9
    assert found.length == pytest.approx(np.mean([np.linalg.norm(row) for row in rows]))
    assert found.variance == pytest.approx(np.mean([((row - rows.mean(axis=0)) ** 2).sum() for row in rows]))
    assert found.cosine == pytest.approx(np.mean([cosine(a, b) for a, b in combinations(rows, 2)]))


def test_the_discrepancy_is_that_of_the_paper() -> None:
    first, second = drawn(7, seed=1).astype(np.float64), drawn(5, shift=0.7, seed=2).astype(np.float64)
    found = compare(first, second, permutations=50)
    assert found.mmd == pytest.approx(slow_mmd(first, second), abs=1e-12)
    assert found.across == pytest.approx(np.mean([cosine(a, b) for a, b in product(first, second)]))
    gap = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert found.shift == pytest.approx(gap / np.sqrt(describe(first).variance))


def test_p_is_the_share_of_all_splits_that_are_as_far_apart() -> None:
    first, second = drawn(4, 2, seed=5).astype(np.float64), drawn(4, 2, shift=0.8, seed=6).astype(np.float64)
    pooled = np.concatenate([first, second])
    splits = [list(chosen) for chosen in combinations(range(8), 4)]
    values = [slow_mmd(pooled[one], pooled[[i for i in range(8) if i not in one]]) for one in splits]
    exact = np.mean([value >= slow_mmd(first, second) - 1e-12 for value in values])
    _, p = two_sample(first, second, 20_000, np.random.default_rng(0))
    assert p == pytest.approx(exact, abs=0.015)


def test_batches_of_one_distribution_are_rarely_told_apart() -> None:
    ps = []
    for trial in range(300):
        rows = drawn(60, 4, seed=1_000 + trial)
        ps.append(compare(rows[:30], rows[30:], permutations=99, seed=trial).p)
    assert 0.02 <= np.mean(np.array(ps) <= 0.05) <= 0.085, "within three standard errors of .05"


def test_batches_that_lie_elsewhere_are_told_apart() -> None:
    moved = compare(drawn(100, seed=1), drawn(100, shift=0.6, seed=2))
    assert moved.p <= 0.002
    assert moved.mmd > 0.01
    assert moved.shift > 0.4
    wider = compare(drawn(100, seed=1), 2 * drawn(100, seed=2))
    assert wider.p <= 0.002, "the mean is the same, the spread is not"
    assert wider.shift < 0.4
    still = compare(drawn(100, seed=1), drawn(100, seed=2))
    assert still.p > 0.05


def test_the_same_input_gives_the_same_figures() -> None:
    first, second = drawn(300, seed=1), drawn(40, seed=2)
    assert compare(first, second, most=50) == compare(first, second, most=50)
    assert compare(first, second, most=50).first.count == 50
    json.dumps(compare(first, second).to_dict())


def test_equal_vectors_do_not_divide_by_zero() -> None:
    rows = np.ones((5, 3), dtype=np.float32)
    found = compare(rows, rows, permutations=10)
    assert (found.mmd, found.p, found.shift) == (0.0, 1.0, 0.0)
    assert describe(np.zeros((3, 2), dtype=np.float32)) == Batch(3, 0.0, 0.0, 0.0)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least two"):
        compare(drawn(1), drawn(5))
    with pytest.raises(InvalidInput, match="different spaces"):
        compare(drawn(5, 3), drawn(5, 4))
