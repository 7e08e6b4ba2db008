from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tarragon.errors import InvalidInput
from tarragon.evaluation.significance import (
    bootstrap_interval,
    bootstrap_intervals,
    holm,
    randomisation_test,
    wins_losses_ties,
)


def exact(differences: list[float]) -> float:
    """Every exchange of the two sides of pairs, one after the other."""
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * gap for sign, gap in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


@pytest.mark.parametrize("seed", range(10))
def test_few_pairs_are_tested_exactly(seed: int) -> None:
    gaps = np.random.default_rng(seed).choice([-0.5, -0.1, 0.0, 0.2, 0.9], 8)
    assert randomisation_test(gaps) == pytest.approx(exact(gaps.tolist()), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_many_pairs_are_tested_nearly_exactly(seed: int) -> None:
    gaps = np.random.default_rng(seed).normal(0.2, 0.5, 12)
    assert randomisation_test(gaps, shuffles=4_000) == pytest.approx(exact(gaps.tolist()), abs=0.02)


def test_null_comparisons_are_rarely_found_different() -> None:
    """Which side is which is chance, so that nothing differs: at .05, one comparison in twenty is found to."""
    chance = np.random.default_rng(2024)
    found = 0
    for trial in range(1_000):
        scores = chance.choice([0.0, 0.0, 0.39, 0.5, 0.63, 1.0, 1.0], (2, 80))  # as nDCG is: coarse, with many ties
        exchanged = chance.random(80) < 0.5
        first, second = np.where(exchanged, scores[::-1], scores)
        found += randomisation_test(second - first, shuffles=1_000, seed=trial) <= 0.05
    assert 0.035 <= found / 1_000 <= 0.065


def test_what_differs_is_found() -> None:
    chance = np.random.default_rng(0)
    assert randomisation_test(chance.normal(0.1, 0.2, 300)) == pytest.approx(1 / 10_001)
    assert randomisation_test([1.0] * 6) == 2 / 64


def test_nothing_differs() -> None:
    assert randomisation_test([0.0] * 50) == 1.0
    assert randomisation_test([]) == 1.0
    assert randomisation_test([1.0, -1.0]) == 1.0
    assert randomisation_test([1e-15] * 50) == 1.0, "rounding is no difference"


def test_the_same_seed_gives_the_same_answer_and_the_sign_does_not_matter() -> None:
    gaps = np.random.default_rng(1).normal(0.02, 0.2, 200)
    assert randomisation_test(gaps) == randomisation_test(gaps) == randomisation_test(-gaps)
    assert randomisation_test(gaps, seed=1) != randomisation_test(gaps, seed=2)
    assert bootstrap_interval(gaps) == bootstrap_interval(gaps)
    assert bootstrap_interval(gaps, seed=1) != bootstrap_interval(gaps, seed=2)


def test_blocks_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = np.random.default_rng(1).normal(0.02, 0.2, 50)
    whole = randomisation_test(gaps), bootstrap_interval(gaps)
    monkeypatch.setattr("tarragon.evaluation.significance._BLOCK", 1_000)
    parts = randomisation_test(gaps), bootstrap_interval(gaps)
    assert parts[0] == pytest.approx(whole[0], abs=0.02)
    assert parts[1].low == pytest.approx(whole[1].low, abs=0.01)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    chance = np.random.default_rng(5)
    intervals = [bootstrap_interval(chance.exponential(1.0, 60), resamples=400, seed=i) for i in range(400)]
    assert 0.90 <= np.mean([one.low <= 1.0 <= one.high for one in intervals]) <= 0.97
    wide, narrow = (bootstrap_interval([0.0, 1.0] * 30, confidence=level) for level in (0.99, 0.8))
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high


def test_intervals_of_several_metrics_are_those_of_each() -> None:
    rows = np.random.default_rng(3).random((3, 40))
    assert bootstrap_intervals(list(rows)) == [bootstrap_interval(row) for row in rows]
    assert bootstrap_intervals([]) == []
    assert bootstrap_interval([0.25]) == bootstrap_interval([0.25] * 9)


def test_what_cannot_be_tested() -> None:
    for values in ([], [float("nan")], [[1.0]]):
        with pytest.raises(InvalidInput):
            bootstrap_interval(values)
    with pytest.raises(InvalidInput, match="confidence=95"):
        bootstrap_interval([1.0], confidence=95)
    with pytest.raises(InvalidInput):
        randomisation_test([float("inf")])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_wins_losses_and_ties() -> None:
    assert wins_losses_ties([0.5, -0.1, 0.0, 1e-15, 0.2]) == (2, 1, 2)
