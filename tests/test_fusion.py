from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.fusion import (
    CALIBRATED_DENSE,
    LEVEL_CAP,
    LEVEL_DEPTH,
    RRF_K,
    TYPICAL,
    TYPICAL_BEST,
    Ranking,
    convex,
    dbsf,
    fuse,
    level,
    ranking,
    rrf,
)
from tarragon.protocols import LegScores
from tarragon.recipe import Fusion, SearchRecipe
from tarragon.statistics import Spread, fit

Leg = dict[UUID, float]
METHODS: tuple[Fusion, ...] = ("rrf", "dbsf", "convex", "calibrated")
every_method = pytest.mark.parametrize("method", METHODS)
SPREAD = Spread(0.1, 0.1)
NAMES = ("dense", "sparse", "lexical")


def legs(letters: Mapping[str, float]) -> Leg:
    """Scores under readable names: the id of a letter is its code."""
    return {UUID(int=ord(letter)): score for letter, score in letters.items()}


A, B, C, D = (UUID(int=ord(letter)) for letter in "ABCD")


def fused(found: LegScores, method: Fusion, weight: float | None = None, spread: Spread | None = SPREAD) -> Ranking:
    return fuse(found, SearchRecipe(fusion=method, dense_weight=weight), spread)


def order(ranked: Ranking) -> list[UUID]:
    return [id_ for id_, _ in ranked]


def subset(found: LegScores, names: tuple[str, ...]) -> LegScores:
    return LegScores(
        found.dense if "dense" in names else None,
        found.lexical if "lexical" in names else None,
        found.sparse if "sparse" in names else None,
    )


identifiers = st.lists(st.integers(0, 40).map(lambda n: UUID(int=n)), unique=True, max_size=20)
subsets = st.sampled_from([names for size in (1, 2, 3) for names in itertools.combinations(NAMES, size)])
similarities = st.integers(-400, 400).map(lambda n: n / 400)
weights = st.sampled_from([None, 0.0, 0.3, 0.5, 1.0])
spreads = st.sampled_from([None, SPREAD, Spread(0.0, 0.0)])


@st.composite
def three_legs(draw: st.DrawFn, least: int = 0) -> LegScores:
    """As a store returns them: every candidate has a dense and a sparse score, some a lexical one. Ties are common."""
    ids = draw(identifiers.filter(lambda ids: len(ids) >= least))
    found = draw(st.lists(st.sampled_from(ids), unique=True)) if ids else []
    return LegScores(
        {id_: draw(similarities) for id_ in ids},
        {id_: draw(st.integers(1, 60)) / 4 for id_ in found},
        {id_: draw(st.integers(0, 80)) / 4 for id_ in ids},
    )


# --- laws of every method ---------------------------------------------------------------------------------------------
@every_method
@given(found=three_legs(), names=subsets, weight=weights, spread=spreads, rng=st.randoms(use_true_random=False))
def test_every_candidate_once_in_a_total_order_whatever_the_order_of_arrival(
    method: Fusion,
    found: LegScores,
    names: tuple[str, ...],
    weight: float | None,
    spread: Spread | None,
    rng: random.Random,
) -> None:
    given_ = subset(found, names)
    ranked = fused(given_, method, weight, spread)
    assert sorted(order(ranked)) == sorted(found.lexical if names == ("lexical",) else found.dense or {})  # type: ignore[arg-type]
    assert all(math.isfinite(score) for _, score in ranked)
    for (first, high), (second, low) in itertools.pairwise(ranked):
        assert high > low or (high == low and first.int < second.int)

    def shuffled(leg: Mapping[UUID, float] | None) -> Leg | None:
        return None if leg is None else dict(rng.sample(list(leg.items()), len(leg)))

    other = LegScores(shuffled(given_.dense), shuffled(given_.lexical), shuffled(given_.sparse))
    assert fused(other, method, weight, spread) == ranked


@every_method
@given(found=three_legs(), names=subsets)
def test_all_weight_on_one_leg_gives_its_order(method: Fusion, found: LegScores, names: tuple[str, ...]) -> None:
    """A weight of 1 leaves the dense leg, 0 the leg by words; a candidate without a score there has 0."""
    ids = list(found.dense or {})
    if "dense" in names:
        assert order(fused(subset(found, names), method, 1.0)) == order(ranking(found.dense or {}))
    for words in ("sparse", "lexical"):
        scores = getattr(found, words)
        expected = order(ranking({id_: scores.get(id_, 0.0) for id_ in ids}))
        assert order(fused(subset(found, ("dense", words)), method, 0.0)) == expected


@every_method
def test_the_weight_is_a_knob_between_the_two_legs(method: Fusion) -> None:
    """The share at which a candidate of one leg passes that of the other lies between 0 and 1, and is passed once."""
    found = LegScores(legs({"A": 0.9, "B": 0.4, "C": 0.1}), legs({"B": 9.0, "C": 2.0}))
    winners = [order(fused(found, method, share / 20))[0] for share in range(21)]
    assert winners[0] == B
    assert winners[-1] == A
    assert winners == sorted(winners, reverse=True)


@pytest.mark.parametrize("method", ["rrf", "convex", "calibrated"])
@given(found=three_legs(least=1), spread=spreads, data=st.data())
def test_a_better_score_never_costs_a_place(
    method: Fusion, found: LegScores, spread: Spread | None, data: st.DataObject
) -> None:
    """Not so of dbsf, whose deviation grows with what stands out, nor of the sparse leg in calibrated, which has it."""
    pair = subset(found, ("dense", "lexical"))
    one = data.draw(st.sampled_from(sorted(found.dense or {})))
    before = order(fused(pair, method, None, spread)).index(one)
    gain = data.draw(st.sampled_from([0.25, 1.0, 7.0]))
    dense, lexical = dict(pair.dense or {}), dict(pair.lexical or {})
    nearer = LegScores({**dense, one: dense[one] + gain}, lexical)
    assert order(fused(nearer, method, None, spread)).index(one) <= before
    matching = LegScores(dense, {**lexical, one: lexical.get(one, 0.0) + gain})
    assert order(fused(matching, method, None, spread)).index(one) <= before


@every_method
@pytest.mark.parametrize("candidates", [20, 100, 200])
@pytest.mark.parametrize("spread", [SPREAD, None])
def test_a_lone_match_by_words_is_first(method: Fusion, candidates: int, spread: Spread | None) -> None:
    """One chunk holds the word, and the dense leg has it last but one, below noise of up to six deviations."""
    rng = random.Random(candidates)
    noise = sorted(rng.uniform(0.4, 0.7) for _ in range(candidates - 2))
    dense = {UUID(int=n): score for n, score in enumerate([0.05, 0.11, *noise])}
    lone = UUID(int=1)
    assert order(fused(LegScores(dense, {lone: 5.5}), method, None, spread))[0] == lone
    assert order(fused(LegScores(dense, {}), method, None, spread))[0] == UUID(int=candidates - 1)


@every_method
@pytest.mark.parametrize("spread", [SPREAD, None])
def test_degenerate_lists(method: Fusion, spread: Spread | None) -> None:
    def ranked(*given_: Mapping[str, float] | None) -> list[UUID]:
        return order(fused(LegScores(*(leg if leg is None else legs(leg) for leg in given_)), method, None, spread))

    assert ranked(None, None) == []
    assert ranked({}, {}) == ranked({}, None) == ranked(None, {}) == ranked({}, {}, {}) == []
    assert ranked({"A": 0.3}, {}) == ranked({"A": 0.3}, {"A": 9.0}) == ranked({"A": 0.3}, {}, {"A": 0.0}) == [A]
    equal = {"C": 0.3, "A": 0.3, "B": 0.3}
    assert ranked(equal, {}) == ranked(equal, {"B": 5.0, "A": 5.0, "C": 5.0}) == ranked(equal, {}, equal) == [A, B, C]
    assert ranked(equal, {"B": 5.0}) == [B, A, C]
    assert ranked({"A": 0.3, "B": 0.7, "C": 0.1}, {}) == [B, A, C]  # no word matches: the dense order stays
    assert sorted(ranked({"A": 0.0, "B": 1e-320}, {"A": 1e-320})) == [A, B]


@every_method
@given(found=three_legs(), spread=spreads)
def test_a_hit_of_the_lexical_leg_alone_is_no_candidate(
    method: Fusion, found: LegScores, spread: Spread | None
) -> None:
    """The lexical leg may be asked for more than the candidates, for the sake of their scores."""
    beyond = UUID(int=99)
    deeper = replace(found, lexical={**(found.lexical or {}), beyond: 0.125})
    assert beyond not in order(fused(deeper, method, None, spread))


@pytest.mark.parametrize("method", ["rrf", "dbsf", "convex"])
def test_one_leg_keeps_its_own_scores(method: Fusion) -> None:
    scores = legs({"A": 0.25, "B": 7.5})
    for found in (LegScores(scores, None), LegScores(None, scores), LegScores(None, None, scores)):
        assert fused(found, method) == [(B, 7.5), (A, 0.25)]


def test_the_methods_differ() -> None:
    """Two legs that disagree in ranks and in leads."""
    pair = LegScores(legs({"A": 0.60, "B": 0.59, "C": 0.1, "D": 0.5}), legs({"B": 5.0, "A": 1.0, "D": 4.9}))
    assert order(fused(pair, "rrf")) == [B, A, D, C]
    assert order(fused(pair, "dbsf")) == [B, D, A, C]
    assert len({tuple(score for _, score in fused(pair, method)) for method in METHODS}) == 4


def test_it_is_fast() -> None:
    rng = random.Random(0)
    ids = [UUID(int=rng.getrandbits(128)) for _ in range(600)]
    found = LegScores(
        {id_: rng.gauss(0.3, 0.1) for id_ in ids[:200]}, {id_: rng.expovariate(0.1) for id_ in ids[100:500]}
    )
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        fused(found, "calibrated")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.0005  # .0001 on the machine of docs/fusion.md


def test_a_weight_of_a_leg_that_is_not_there_goes_to_the_others() -> None:
    found = LegScores(None, legs({"A": 3.0, "B": 6.0}), legs({"A": 2.0, "B": 1.0, "C": 0.0}))
    for method in METHODS:
        assert fused(found, method, 1.0) == fused(found, method, 0.0) == fused(found, method, 0.4)
    assert dict(fused(found, "convex", 1.0)) == pytest.approx({A: 0.5 * 0.5 + 0.5, B: 0.5 + 0.5 * 0.5, C: 0.0})


# --- ranking ----------------------------------------------------------------------------------------------------------
@given(three_legs(), st.randoms(use_true_random=False))
def test_ranking_is_total(found: LegScores, rng: random.Random) -> None:
    scores = dict(found.dense or {})
    ranked = ranking(dict(rng.sample(list(scores.items()), len(scores))))
    assert ranked == sorted(scores.items(), key=lambda entry: (-entry[1], entry[0].int))


def test_ties_go_by_id() -> None:
    assert ranking(legs({"C": 1.0, "A": 1.0, "D": 2.0, "B": 1.0})) == [(D, 2.0), (A, 1.0), (B, 1.0), (C, 1.0)]


# --- calibrated -------------------------------------------------------------------------------------------------------
def test_calibrated_by_hand() -> None:
    dense, lexical = legs({"A": 0.5, "B": 0.3}), legs({"B": 8.0, "D": 6.0})
    m = math.sqrt((8.0**2 + 6.0**2) / LEVEL_DEPTH)
    assert dict(fused(LegScores(dense, lexical), "calibrated")) == pytest.approx(
        {A: 0.6 * (0.5 - 0.1) / 0.1, B: 0.6 * (0.3 - 0.1) / 0.1 + 0.4 * 8.0 / math.sqrt(m)}
    )
    assert CALIBRATED_DENSE == 0.6


def test_calibrated_of_three_legs_by_hand() -> None:
    dense, sparse = legs({"A": 0.5, "B": 0.3}), legs({"A": 1.0, "B": 3.0})
    apart = 1 / math.sqrt(2)  # two scores are so many of their standard deviations from their mean
    word = 4.0 / math.sqrt(4.0 / math.sqrt(LEVEL_DEPTH))
    found = LegScores(dense, legs({"A": 4.0}), sparse)
    assert dict(fused(found, "calibrated", 0.5)) == pytest.approx(
        {
            A: 0.5 * 4.0 + 0.25 * (TYPICAL.mean - TYPICAL.deviation * apart) + 0.25 * word,
            B: 0.5 * 2.0 + 0.25 * (TYPICAL.mean + TYPICAL.deviation * apart),
        }
    )


@given(three_legs(least=1))
def test_calibrated_scores_of_one_leg_are_in_the_same_units(found: LegScores) -> None:
    """What `min_score` says must not depend on the mode."""
    dense = dict(fused(subset(found, ("dense",)), "calibrated"))
    assert dense == pytest.approx({id_: (score - 0.1) / 0.1 for id_, score in (found.dense or {}).items()})
    assert dense == pytest.approx(dict(fused(subset(found, ("dense", "lexical")), "calibrated", 1.0)))
    by_words = dict(fused(subset(found, ("lexical",)), "calibrated"))
    both = dict(fused(subset(found, ("dense", "lexical")), "calibrated", 0.0))
    assert by_words == pytest.approx({id_: both[id_] for id_ in by_words})


def test_calibrated_without_statistics_keeps_the_scale() -> None:
    """The nearest counts as one usually does, the farthest as chance."""
    dense = legs({"A": 0.9, "B": 0.5, "C": 0.1})
    ranked = fused(LegScores(dense, None), "calibrated", None, None)
    assert ranked == [(A, TYPICAL_BEST), (B, pytest.approx(TYPICAL_BEST / 2)), (C, 0.0)]


def test_a_dense_score_says_how_far_it_is_from_chance() -> None:
    """Over a whole corpus the scores of any query have mean 0 and deviation 1: with the statistics of the corpus."""
    rng = np.random.default_rng(3)
    vectors = (rng.normal(size=(500, 16)) * np.linspace(0.2, 2, 16) + 0.3).astype(np.float32)
    query = rng.normal(size=16).astype(np.float32)
    dense = {UUID(int=n): float(score) for n, score in enumerate(vectors @ query)}
    units = np.array(
        [score for _, score in fused(LegScores(dense, None), "calibrated", None, fit(vectors).spread(query))]
    )
    assert units.mean() == pytest.approx(0, abs=1e-3)
    assert units.std() == pytest.approx(1, abs=1e-3)


def test_a_query_that_nothing_answers_scores_low() -> None:
    """The best of chance lies near 3 deviations and shares common words; an answer lies far out in both legs."""
    rng = random.Random(1)
    chance = {UUID(int=n): rng.uniform(0.25, 0.4) for n in range(1, 100)}
    common = {UUID(int=n): rng.uniform(3, 5) for n in range(1, 400)}
    assert fused(LegScores(chance, common), "calibrated")[0][1] < 3.5
    answered = LegScores({**chance, UUID(int=0): 0.7}, {**common, UUID(int=0): 20.0})
    assert fused(answered, "calibrated")[0][1] > 6


@given(st.lists(st.integers(1, 100).map(lambda n: n / 4), max_size=30), st.randoms(use_true_random=False))
def test_level_is_the_root_mean_square_of_the_largest(scores: list[float], rng: random.Random) -> None:
    padded = np.zeros(LEVEL_DEPTH)
    padded[: len(scores)] = scores
    assert level(scores) == pytest.approx(min(float(np.sqrt((padded**2).mean())), LEVEL_CAP))
    assert level(rng.sample(scores, len(scores))) == level(scores)


def test_level_looks_no_deeper_than_its_depth_and_has_a_cap() -> None:
    first = [5.0] * LEVEL_DEPTH
    assert level([*[1.0] * 1000, *first]) == level([*first, *[1.0] * 1000]) == level(first) == 5.0
    assert level([9.0] * LEVEL_DEPTH) == LEVEL_CAP


# --- dbsf -------------------------------------------------------------------------------------------------------------
def formula(*given_: Mapping[UUID, float]) -> Leg:
    """Σ (s - (μ - 3σ)) / ((μ + 3σ) - (μ - 3σ)), with the sample's standard deviation; one half without spread."""
    ids = list(given_[0])
    total = np.zeros(len(ids))
    for leg in given_:
        scores = np.array([leg.get(id_, 0.0) for id_ in ids])
        if len(ids) < 2 or np.ptp(scores) == 0:
            total += 0.5
            continue
        low, high = scores.mean() - 3 * scores.std(ddof=1), scores.mean() + 3 * scores.std(ddof=1)
        total += (scores - low) / (high - low)
    return dict(zip(ids, total.tolist(), strict=True))


@given(three_legs())
def test_dbsf_is_its_formula(found: LegScores) -> None:
    given_ = (found.dense or {}, found.sparse or {}, found.lexical or {})
    assert dbsf(*given_) == pytest.approx(formula(*given_), abs=1e-9)
    assert dict(fused(found, "dbsf")) == pytest.approx(formula(*given_), abs=1e-9)


def test_dbsf_by_hand() -> None:
    scores = dbsf(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"A": 3.0, "B": 6.0}))
    assert scores == pytest.approx(
        {
            A: (0.4 / (6 * 0.4) + 0.5) + (0 / (6 * 3) + 0.5),
            B: (0.0 / (6 * 0.4) + 0.5) + (3 / (6 * 3) + 0.5),
            C: (-0.4 / (6 * 0.4) + 0.5) + (-3 / (6 * 3) + 0.5),
        }
    )


def test_dbsf_does_not_blow_up_the_noise_of_equal_scores() -> None:
    """Scores that differ in their last digit have no spread; dividing by it would give each a different sum."""
    dense = legs({"A": 0.7, "B": 0.1 * 7, "C": 0.7})
    assert len(set(dense.values())) == 2
    assert set(dbsf(dense, legs({})).values()) == {1.0}


@given(three_legs(), st.floats(0.1, 10), st.floats(-1, 1))
def test_dbsf_and_convex_do_not_depend_on_the_scale_of_a_leg(found: LegScores, factor: float, shift: float) -> None:
    dense, lexical = found.dense or {}, found.lexical or {}
    scaled = {id_: score * factor + shift for id_, score in dense.items()}
    assert dbsf(scaled, lexical) == pytest.approx(dbsf(dense, lexical), abs=1e-6)
    halves = (0.5, 0.5)
    assert convex(scaled, lexical, weights=halves) == pytest.approx(convex(dense, lexical, weights=halves), abs=1e-6)


# --- convex -----------------------------------------------------------------------------------------------------------
def test_convex_by_hand() -> None:
    found = LegScores(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"A": 3.0, "B": 6.0}))
    assert dict(fused(found, "convex", 0.8)) == pytest.approx({A: 0.8 + 0.2 * 0.5, B: 0.8 * 0.5 + 0.2, C: 0.0})
    assert fused(found, "convex") == fused(found, "convex", 0.5)


@given(three_legs(), subsets.filter(lambda names: len(names) > 1), weights)
def test_convex_scores_lie_between_0_and_1(found: LegScores, names: tuple[str, ...], weight: float | None) -> None:
    assert all(-1e-12 <= score <= 1 + 1e-12 for _, score in fused(subset(found, names), "convex", weight))


# --- rrf --------------------------------------------------------------------------------------------------------------
def test_rrf_by_hand() -> None:
    scores = rrf(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"C": 8.0, "B": 2.0}))
    assert scores == {A: 1 / (60 + 1), B: 1 / (60 + 2) + 1 / (60 + 2), C: 1 / (60 + 3) + 1 / (60 + 1)}
    assert RRF_K == SearchRecipe().rrf_k == 60


def test_rrf_has_a_constant_and_weights() -> None:
    dense, lexical = legs({"A": 0.9, "B": 0.5}), legs({"B": 8.0})
    assert rrf(dense, lexical, k=2) == {A: 1 / 3, B: 1 / 4 + 1 / 3}
    assert rrf(dense, lexical, weights=(3.0, 1.0)) == {A: 3 / 61, B: 3 / 62 + 1 / 61}
    ranked = fuse(LegScores(dense, lexical), SearchRecipe(fusion="rrf", rrf_k=2, dense_weight=0.75))
    assert dict(ranked) == pytest.approx({A: 1.5 / 3, B: 1.5 / 4 + 0.5 / 3})


def test_rrf_of_equal_scores_ranks_by_id() -> None:
    assert rrf(legs({"B": 1.0, "A": 1.0}), {}) == {A: 1 / 61, B: 1 / 62}


def test_a_half_for_the_dense_leg_of_two_is_the_published_formula() -> None:
    found = LegScores(legs({"A": 0.9, "B": 0.5, "C": 0.1}), legs({"A": 3.0, "B": 6.0}))
    for method in ("rrf", "dbsf"):
        assert fused(found, method, 0.5) == fused(found, method)  # type: ignore[arg-type]
