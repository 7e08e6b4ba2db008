from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.fusion import RRF_K, dbsf, fuse, ranking, rrf
from tarragon.protocols import LegScores


def legs(letters: Mapping[str, float]) -> dict[UUID, float]:
    """Scores under readable names: the id of a letter is its code."""
    return {UUID(int=ord(letter)): score for letter, score in letters.items()}


A, B, C, D = (UUID(int=ord(letter)) for letter in "ABCD")


def formula(dense: Mapping[UUID, float], lexical: Mapping[UUID, float]) -> dict[UUID, float]:
    """Σ (s - (μ - 3σ)) / ((μ + 3σ) - (μ - 3σ)), with the sample's standard deviation; one half without spread."""
    ids = list(dense)
    total = np.zeros(len(ids))
    for leg in (dense, lexical):
        scores = np.array([leg.get(id_, 0.0) for id_ in ids])
        if len(ids) < 2 or np.ptp(scores) == 0:
            total += 0.5
            continue
        low, high = scores.mean() - 3 * scores.std(ddof=1), scores.mean() + 3 * scores.std(ddof=1)
        total += (scores - low) / (high - low)
    return dict(zip(ids, total.tolist(), strict=True))


candidates = st.dictionaries(
    st.integers(0, 30).map(lambda n: UUID(int=n)), st.integers(-400, 400).map(lambda n: n / 400)
)


@st.composite
def two_legs(draw: st.DrawFn) -> tuple[dict[UUID, float], dict[UUID, float]]:
    """As a store returns them: every candidate has a dense score, some a lexical one."""
    dense = draw(candidates)
    found = draw(st.lists(st.sampled_from(sorted(dense)), unique=True)) if dense else []
    return dense, {id_: draw(st.integers(1, 60)) / 4 for id_ in found}


# --- dbsf -------------------------------------------------------------------------------------------------------------
@given(two_legs())
def test_dbsf_is_its_formula(pair: tuple[dict[UUID, float], dict[UUID, float]]) -> None:
    fused, expected = dbsf(*pair), formula(*pair)
    assert fused.keys() == expected.keys()
    assert fused == pytest.approx(expected, abs=1e-9)


def test_dbsf_by_hand() -> None:
    fused = dbsf(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"A": 3.0, "B": 6.0}))
    assert fused == pytest.approx(
        {
            A: (0.4 / (6 * 0.4) + 0.5) + (0 / (6 * 3) + 0.5),
            B: (0.0 / (6 * 0.4) + 0.5) + (3 / (6 * 3) + 0.5),
            C: (-0.4 / (6 * 0.4) + 0.5) + (-3 / (6 * 3) + 0.5),
        }
    )


def test_dbsf_of_degenerate_legs() -> None:
    assert dbsf({}, {}) == {}
    assert dbsf(legs({"A": 0.3}), {}) == {A: 1.0}
    assert dbsf(legs({"A": 0.3}), legs({"A": 9.0})) == {A: 1.0}
    assert dbsf(legs({"A": 0.3, "B": 0.3}), legs({"A": 5.0, "B": 5.0})) == {A: 1.0, B: 1.0}
    # without a lexical match the dense order stays
    dense = legs({"A": 0.3, "B": 0.7, "C": 0.1})
    assert [id_ for id_, _ in ranking(dbsf(dense, {}))] == [B, A, C]


def test_dbsf_does_not_blow_up_the_noise_of_equal_scores() -> None:
    """Scores that differ in their last digit have no spread; dividing by it would give each a different sum."""
    dense = legs({"A": 0.7, "B": 0.1 * 7, "C": 0.7})
    assert len(set(dense.values())) == 2
    assert set(dbsf(dense, legs({})).values()) == {1.0}


@pytest.mark.parametrize("candidates", [20, 100, 200])
def test_a_lone_lexical_match_wins(candidates: int) -> None:
    """One document holds the word that was searched for, and the dense leg has it last."""
    rng = random.Random(candidates)
    dense = {UUID(int=n): rng.gauss(0.3, 0.05) for n in range(candidates)}
    last = min(dense, key=dense.__getitem__)
    assert ranking(dbsf(dense, {last: 4.2}))[0][0] == last


@given(two_legs(), st.floats(0.1, 10), st.floats(-1, 1))
def test_dbsf_does_not_depend_on_the_scale_of_a_leg(
    pair: tuple[dict[UUID, float], dict[UUID, float]], factor: float, shift: float
) -> None:
    dense, lexical = pair
    scaled = dbsf({id_: score * factor + shift for id_, score in dense.items()}, lexical)
    assert scaled == pytest.approx(dbsf(dense, lexical), abs=1e-6)


# --- rrf --------------------------------------------------------------------------------------------------------------
def test_rrf_by_hand() -> None:
    fused = rrf(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"C": 8.0, "D": 2.0}))
    assert fused == {A: 1 / (60 + 1), B: 1 / (60 + 2), C: 1 / (60 + 3) + 1 / (60 + 1), D: 1 / (60 + 2)}
    assert RRF_K == 60


def test_rrf_of_degenerate_legs() -> None:
    assert rrf({}, {}) == {}
    assert rrf(legs({"A": 0.1}), {}) == {A: 1 / 61}
    assert rrf({}, legs({"A": 0.1})) == {A: 1 / 61}
    # equal scores have an order all the same: by id
    assert rrf(legs({"B": 1.0, "A": 1.0}), {}) == {A: 1 / 61, B: 1 / 62}


# --- ranking and fuse -------------------------------------------------------------------------------------------------
@given(candidates, st.randoms(use_true_random=False))
def test_ranking_is_total(scores: dict[UUID, float], rng: random.Random) -> None:
    entries = list(scores.items())
    rng.shuffle(entries)
    ranked = ranking(dict(entries))
    assert ranked == ranking(scores)
    assert dict(ranked) == scores
    for (first, high), (second, low) in itertools.pairwise(ranked):
        assert high > low or (high == low and first.int < second.int)


def test_ties_go_by_id() -> None:
    assert ranking(legs({"C": 1.0, "A": 1.0, "D": 2.0, "B": 1.0})) == [(D, 2.0), (A, 1.0), (B, 1.0), (C, 1.0)]


@pytest.mark.parametrize("method", ["dbsf", "rrf"])
@given(pair=two_legs(), rng=st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(
    method: str, pair: tuple[dict[UUID, float], dict[UUID, float]], rng: random.Random
) -> None:
    dense, lexical = (rng.sample(list(leg.items()), len(leg)) for leg in pair)
    shuffled = fuse(LegScores(dict(dense), dict(lexical)), method)  # type: ignore[arg-type]
    assert shuffled == fuse(LegScores(*pair), method)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["dbsf", "rrf"])
@given(pair=two_legs())
def test_every_candidate_once_with_a_finite_score(
    method: str, pair: tuple[dict[UUID, float], dict[UUID, float]]
) -> None:
    fused = fuse(LegScores(*pair), method)  # type: ignore[arg-type]
    assert sorted(id_ for id_, _ in fused) == sorted(pair[0])
    assert all(math.isfinite(score) for _, score in fused)


@pytest.mark.parametrize("method", ["dbsf", "rrf"])
def test_one_leg_keeps_its_own_scores(method: str) -> None:
    scores = legs({"A": 0.25, "B": 7.5})
    assert fuse(LegScores(scores, None), method) == [(B, 7.5), (A, 0.25)]  # type: ignore[arg-type]
    assert fuse(LegScores(None, scores), method) == [(B, 7.5), (A, 0.25)]  # type: ignore[arg-type]
    assert fuse(LegScores({}, None), method) == []  # type: ignore[arg-type]
    assert fuse(LegScores(None, {}), method) == []  # type: ignore[arg-type]
    assert fuse(LegScores({}, {}), method) == []  # type: ignore[arg-type]


def test_the_methods_differ() -> None:
    """Two legs that disagree: a tie to rrf, which has only ranks; dbsf sees that one lead is larger than the other."""
    pair = LegScores(legs({"A": 1.0, "B": 0.99, "C": 0.0}), legs({"B": 5.0, "A": 1.0}))
    assert [id_ for id_, _ in fuse(pair, "rrf")] == [A, B, C]
    assert [id_ for id_, _ in fuse(pair, "dbsf")] == [B, A, C]
