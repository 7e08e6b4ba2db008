"""Adapters: against spaces whose true map is known, and against ones that have none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tarragon.adapter import MINIMUM_PAIRS, NEIGHBOURS, RIDGES, Adapter, fit, nearest, shared
from tarragon.errors import AdapterRefused, InvalidInput, ModelProblem
from tarragon.protocols import DenseEncoder, EncoderInput
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray

WORDS = ["key", "door", "river", "king", "bread", "law", "music", "star", "bank", "war", "sea", "road", "cell", "tree"]


def unit(rows: NDArray[Any]) -> FloatArray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def rotation(seed: int, dimensions: int) -> NDArray[np.float64]:
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dimensions, dimensions)))
    return np.asarray(turned)


def rows(seed: int, count: int, dimensions: int, away: float = 1.0) -> FloatArray:
    """Unit vectors of uneven spread around a mean that is not 0, as models give them."""
    random = np.random.default_rng(seed)
    spread = 1 / np.sqrt(1 + np.arange(dimensions))
    return unit(random.standard_normal((count, dimensions)) * spread + away * rotation(1, dimensions)[0])


def overlap(mapped: NDArray[Any], old: NDArray[Any]) -> float:
    """Of row by row the same texts."""
    places, pool = np.arange(len(old)), old.astype(np.float64)
    return shared(nearest(mapped.astype(np.float64), pool, places), nearest(pool, pool, places))


# --- what is there is found -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("away", [0.0, 1.0])
def test_a_rotation_is_recovered(away: float) -> None:
    old = rows(0, 400, 32, away)
    turn = rotation(2, 32)
    adapter = fit((old @ turn.T).astype(np.float32), old)
    assert adapter.overlap == 1.0
    assert (adapter.kind, adapter.strength, adapter.pairs, adapter.unit) == ("procrustes", 0.0, 400, True)
    unseen = rows(3, 50, 32, away)
    assert np.allclose(adapter.apply((unseen @ turn.T).astype(np.float32)), unseen, atol=1e-4)


def test_a_scaled_rotation_of_vectors_of_any_length_is_recovered() -> None:
    old = np.random.default_rng(0).standard_normal((320, 16)).astype(np.float32) * 5 + 2
    adapter = fit((old @ rotation(2, 16) * 0.01 - 7).astype(np.float32), old)
    assert (adapter.overlap, adapter.kind, adapter.unit) == (1.0, "procrustes", False)
    assert np.allclose(adapter.apply((old @ rotation(2, 16) * 0.01 - 7).astype(np.float32)), old, atol=1e-2)


def test_a_map_that_is_linear_but_no_rotation_needs_ridge() -> None:
    old = rows(0, 800, 24)
    skew = np.random.default_rng(5).standard_normal((24, 24)) * np.geomspace(1, 10, 24)
    adapter = fit((old @ skew).astype(np.float32), old)
    assert adapter.kind == "ridge"
    assert adapter.strength in RIDGES
    assert adapter.overlap > 0.8
    assert fit(unit(old @ rotation(2, 24)), old).kind == "procrustes"


@pytest.mark.parametrize(("new", "old"), [(48, 24), (24, 48)])
def test_spaces_may_have_different_dimensions(new: int, old: int) -> None:
    meaning = rows(0, 600, 24)
    first, second = meaning @ rotation(6, max(new, 24))[:24, :new], meaning @ rotation(7, max(old, 24))[:24, :old]
    adapter = fit(first.astype(np.float32), unit(second))
    assert adapter.overlap > 0.99
    assert adapter.apply(first[:3].astype(np.float32)).shape == (3, old)


def test_noise_costs_overlap_and_the_figure_says_so() -> None:
    old = rows(0, 800, 32)
    noise = np.random.default_rng(8).standard_normal(old.shape) / np.sqrt(32)
    found = [fit(unit(old @ rotation(2, 32) + size * noise), old, floor=0).overlap for size in (0, 0.05, 0.2, 1)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1.0
    assert found[-1] < 0.5


# --- what is not there is refused -------------------------------------------------------------------------------------
def test_unrelated_spaces_are_refused_with_the_figures() -> None:
    with pytest.raises(AdapterRefused, match=r"keeps 0\.\d\d .* measured on 400 pairs; at least 0\.\d\d") as caught:
        fit(rows(0, 400, 32), rows(1, 400, 32))
    assert isinstance(caught.value, ModelProblem)
    data = caught.value.data
    assert data["pairs"] == 400
    assert isinstance(data["overlap"], float)
    assert data["overlap"] < 0.15


def test_a_map_that_remembers_its_pairs_does_not_promise_more() -> None:
    """With more dimensions than pairs every candidate fits what it has seen; between unrelated spaces that is worth
    nothing, and what is promised must say so."""
    count, dimensions = 320, 400
    new, old = rows(0, count, dimensions, 0), rows(1, count, dimensions, 0)
    adapter = fit(new, old, floor=0)
    remembered = overlap(adapter.apply(new), old)
    chance = NEIGHBOURS / (count - 1)
    assert remembered > 6 * chance
    assert adapter.overlap < 2 * chance


def test_equal_pairs_count_once_so_that_none_is_both_fitted_and_held_out() -> None:
    new, old = rows(0, 310, 16, 0), rows(1, 310, 16, 0)
    adapter = fit(np.tile(new, (6, 1)), np.tile(old, (6, 1)), floor=0)
    assert adapter.pairs == 310
    assert adapter.to_bytes() == fit(new, old, floor=0).to_bytes()


def test_what_is_promised_is_found_on_texts_never_seen() -> None:
    old = rows(0, 1_600, 32)
    noise = np.random.default_rng(8).standard_normal(old.shape) / np.sqrt(32)
    new = unit(old @ rotation(2, 32) + 0.05 * noise)
    adapter = fit(new[:800], old[:800], floor=0)
    unseen = overlap(adapter.apply(new[800:]), old[800:])  # among as many neighbours as the fit was judged by
    assert adapter.overlap == pytest.approx(unseen, abs=0.03)


def test_more_neighbours_lower_the_promise() -> None:
    old = rows(0, 1_600, 32)
    new = unit(old[:400] @ rotation(2, 32) + 0.4 * np.random.default_rng(8).standard_normal((400, 32)) / np.sqrt(32))
    few, many = fit(new, old[:400], floor=0), fit(new, old[:400], among=old, floor=0)
    assert many.overlap < few.overlap - 0.03
    assert fit(new, old[:400], among=old[:400], floor=0).to_bytes() == few.to_bytes()
    assert fit(new, old[:400], among=old[::-1], floor=0).to_bytes() == many.to_bytes()


def test_too_few_pairs_are_refused_however_well_they_fit() -> None:
    old = rows(0, MINIMUM_PAIRS - 1, 8)
    with pytest.raises(AdapterRefused, match=f"{MINIMUM_PAIRS - 1} distinct pairs are too few") as caught:
        fit(old, old)
    assert caught.value.data == {"pairs": MINIMUM_PAIRS - 1, "least": MINIMUM_PAIRS}
    assert fit(rows(0, MINIMUM_PAIRS, 8), rows(0, MINIMUM_PAIRS, 8)).overlap == 1.0


def test_the_floor_is_the_callers() -> None:
    old = rows(0, 400, 32)
    new = unit(old + 0.1 * np.random.default_rng(8).standard_normal(old.shape) / np.sqrt(32))
    found = fit(new, old, floor=0).overlap
    assert fit(new, old, floor=found).overlap == found
    with pytest.raises(AdapterRefused):
        fit(new, old, floor=found + 0.001)


def test_constant_vectors_are_refused_without_a_warning() -> None:
    same = np.ones((320, 8), dtype=np.float32)
    with pytest.raises(AdapterRefused):
        fit(same, rows(0, 320, 8))


# --- laws -------------------------------------------------------------------------------------------------------------
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_pairs_changes_nothing(seed: int) -> None:
    old = rows(0, 320, 16)
    new = unit(old @ rotation(2, 16) + 0.1 * rows(4, 320, 16))
    order = np.random.default_rng(seed).permutation(len(old))
    assert fit(new[order], old[order]).to_bytes() == fit(new, old).to_bytes()


def test_the_seed_chooses_the_held_out_pairs_and_nothing_else() -> None:
    old = rows(0, 320, 16)
    new = unit(old @ rotation(2, 16) + 0.3 * rows(4, 320, 16))
    first, again, other = (fit(new, old, seed=seed, floor=0) for seed in (0, 0, 1))
    assert first.to_bytes() == again.to_bytes()
    assert first.overlap != other.overlap
    assert other.overlap == pytest.approx(first.overlap, abs=0.15)
    assert fit(new, old, held_out=0.5, floor=0).overlap != first.overlap


@pytest.mark.parametrize("tied", [False, True])
def test_the_overlap_agrees_with_the_obvious_count(tied: bool) -> None:
    old = rows(0, 60, 8).astype(np.float64)
    if tied:
        old = np.round(old)
    places = np.array([3, 59, 0, 17])
    mapped = old[places] + 0.2 * rows(4, 4, 8)

    def obvious(vector: NDArray[np.float64], own: int) -> list[int]:
        others = [i for i in range(60) if i != own]
        return sorted(sorted(others, key=lambda i: (-float((vector @ old.T)[i]), i))[:NEIGHBOURS])

    true = [obvious(old[place], place) for place in places.tolist()]
    found = [obvious(vector, place) for vector, place in zip(mapped, places.tolist(), strict=True)]
    assert nearest(old[places], old, places).tolist() == true
    assert nearest(mapped, old, places).tolist() == found
    expected = sum(len(set(one) & set(two)) for one, two in zip(found, true, strict=True)) / 40
    assert shared(np.array(found), np.array(true)) == pytest.approx(expected)


def test_a_row_does_not_depend_on_the_others() -> None:
    old = rows(0, 320, 16)
    adapter = fit(old, old)
    alone = np.concatenate([adapter.apply(old[i : i + 1]) for i in range(20)])
    assert np.allclose(alone, adapter.apply(old)[:20], atol=1e-6)
    assert adapter.apply(old).dtype == np.float32
    assert np.allclose(np.linalg.norm(adapter.apply(old * 3), axis=1), 1, atol=1e-5)
    assert adapter.apply(old[:0]).shape == (0, 16)


def test_bytes_give_the_same_adapter() -> None:
    old = rows(0, 320, 16)
    adapter = fit(np.concatenate([old, old], axis=1), old)
    again = Adapter.from_bytes(adapter.to_bytes())
    assert again.to_bytes() == adapter.to_bytes()
    assert (again.kind, again.overlap, again.pairs, again.unit) == (adapter.kind, adapter.overlap, 320, True)
    assert np.array_equal(again.matrix, adapter.matrix)
    probe = np.concatenate([old, old], axis=1)
    assert np.array_equal(again.apply(probe), adapter.apply(probe))


@pytest.mark.parametrize("cut", [0, 5, 30, 100, -1, -4])
def test_incomplete_bytes_are_refused(cut: int) -> None:
    old = rows(0, 320, 16)
    with pytest.raises(InvalidInput, match="are no adapter"):
        Adapter.from_bytes(fit(old, old).to_bytes()[:cut])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"tarragon adapter 2\n{}\n", b"tarragon adapter 1\n[]\n"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="are no adapter"):
        Adapter.from_bytes(data)


# --- input ------------------------------------------------------------------------------------------------------------
def with_nan(vectors: FloatArray) -> FloatArray:
    broken = vectors.copy()
    broken[[7, 9], 2] = np.nan
    return broken


@pytest.mark.parametrize(
    ("new", "old", "settings", "message"),
    [
        (rows(0, 320, 8), rows(0, 199, 8), {}, "320 new and 199 old vectors are no pairs"),
        (rows(0, 320, 8)[0], rows(0, 320, 8), {}, r"new must be numbers of shape \(n, dimensions\)"),
        (rows(0, 320, 8), rows(0, 320, 8)[:, :0], {}, r"old must be .* not float32 of shape \(320, 0\)"),
        (np.array([["a"]]), rows(0, 1, 8), {}, "new must be numbers"),
        (rows(0, 320, 8), with_nan(rows(0, 320, 8)), {}, "old holds NaN or infinity in 2 of 320 rows, the first is"),
        (rows(0, 320, 8), rows(0, 320, 8), {"held_out": 0}, "held_out=0 is not above 0 and at most 0.5"),
        (rows(0, 320, 8), rows(0, 320, 8), {"held_out": 0.6}, "held_out=0.6 is not above 0"),
        (rows(0, 400, 8), rows(0, 400, 8), {"among": rows(0, 9, 4)}, "among has 4 dimensions and old has 8"),
        (rows(0, 400, 8), rows(0, 400, 8), {"among": with_nan(rows(0, 9 + 9, 8))}, "among holds NaN"),
        (rows(0, 320, 8), rows(0, 320, 8), {"floor": 1.5}, "floor=1.5 is not between 0 and 1"),
        (rows(0, 320, 8), rows(0, 320, 8), {"floor": float("nan")}, "floor=nan is not between 0 and 1"),
    ],
)
def test_what_cannot_be_fitted_is_named(new: FloatArray, old: FloatArray, settings: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        fit(new, old, **settings)


def test_vectors_of_another_model_cannot_be_mapped() -> None:
    adapter = fit(rows(0, 320, 16), rows(0, 320, 16))
    with pytest.raises(InvalidInput, match="vectors have 8 dimensions, but this adapter was fitted on 16"):
        adapter.apply(rows(0, 3, 8))
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        adapter.apply(with_nan(rows(0, 20, 16)))


# --- the real model ---------------------------------------------------------------------------------------------------
def test_the_real_model_bridges_to_its_own_first_dimensions_but_not_to_another_world(encoder: DenseEncoder) -> None:
    random = np.random.default_rng(0)
    texts = [EncoderInput(" ".join(random.choice(WORDS, size=6))) for _ in range(160)]
    old = encoder.encode_documents(texts).vectors
    short = unit(old[:, :128] @ rotation(2, 128))
    adapter = fit(short, old, floor=0)
    assert adapter.overlap > 0.6
    with pytest.raises(AdapterRefused):
        fit(rows(0, 160, 64), old)
    words = WordEncoder().encode_documents(texts).vectors
    assert fit(words, old, floor=0).overlap < adapter.overlap
