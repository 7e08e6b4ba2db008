"""Mean and variance of a query's scores over a corpus, against brute force."""

from __future__ import annotations

import base64
import warnings
from pathlib import Path

import numpy as np
import pytest
from handbook import version_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon import Document, Index, IndexRecipe
from tarragon.errors import InvalidInput
from tarragon.sides import FEWEST
from tarragon.statistics import EXACT, Moments, SpaceStatistics, fit, unpack
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray


def cloud(count: int, dimensions: int, seed: int = 0, decay: float = 0.7) -> FloatArray:
    """Vectors off the origin whose variance falls off along axes that are turned at random."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))
    spread = np.arange(1, dimensions + 1) ** -decay
    return ((rng.standard_normal((count, dimensions)) * spread) @ turn + rng.standard_normal(dimensions)).astype("f4")


def of(vectors: FloatArray, query: FloatArray) -> tuple[float, float]:
    """Mean and standard deviation of the scores, slowly."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    return float(scores.mean()), float(scores.std())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 24), st.integers(0, 10_000))
def test_with_all_axes_mean_and_deviation_are_exact(count: int, dimensions: int, seed: int) -> None:
    """Also of one vector, and of fewer vectors than dimensions."""
    vectors = cloud(count, dimensions, seed)
    query = np.random.default_rng(seed + 1).standard_normal(dimensions).astype("f4")
    spread = fit(vectors).spread(query)
    mean, deviation = of(vectors, query)
    assert spread.mean == pytest.approx(mean, abs=1e-4)
    assert spread.deviation == pytest.approx(deviation, abs=2e-3)


def test_with_few_axes_the_deviation_is_about_right_and_more_axes_are_better() -> None:
    vectors = cloud(2_000, 96)
    worst = {}
    for axes in (8, 32, 64, 96):
        statistics = fit(vectors, axes)
        assert statistics.axes.shape == (axes, 96)
        asked = [(statistics.spread(query).deviation, of(vectors, query)[1]) for query in cloud(100, 96, seed=3)]
        worst[axes] = max(abs(found / true - 1) for found, true in asked)
    assert worst[8] < 0.4
    assert worst[96] < 1e-4
    assert worst[8] > worst[32] > worst[64] > worst[96]


def test_axes_are_orthonormal_ordered_and_point_to_their_largest_number() -> None:
    vectors = cloud(500, 20)
    statistics = fit(vectors, 12)
    assert statistics.axes @ statistics.axes.T == pytest.approx(np.eye(12), abs=1e-5)
    assert (np.diff(statistics.variances) <= 0).all()
    assert (statistics.axes[np.arange(12), np.abs(statistics.axes).argmax(axis=1)] > 0).all()
    along = (vectors - vectors.mean(axis=0)) @ statistics.axes.T
    assert statistics.variances == pytest.approx(along.var(axis=0), rel=1e-3)
    assert statistics.rest * 8 + statistics.variances.sum() == pytest.approx(vectors.var(axis=0).sum(), rel=1e-4)
    assert statistics.count == 500
    assert statistics.mean == pytest.approx(vectors.mean(axis=0), abs=1e-5)


def test_blocks_give_what_all_at_once_gives() -> None:
    vectors = cloud(300, 16)
    moments = Moments(16)
    for block in np.split(vectors, [1, 40, 40, 299]):
        moments.add(block)
    blocks, whole = moments.statistics(6), fit(vectors, 6)
    assert blocks.count == 300
    assert blocks.mean == pytest.approx(whole.mean, abs=1e-6)
    assert blocks.axes == pytest.approx(whole.axes, abs=1e-4)
    assert (blocks.variances, blocks.rest) == (pytest.approx(whole.variances, rel=1e-5), pytest.approx(whole.rest))
    large = np.tile(vectors, (30, 1))  # more than one block of `fit`
    assert fit(large, 6).axes == pytest.approx(whole.axes, abs=1e-4)
    with pytest.raises(InvalidInput, match="at least one"):
        Moments(3).statistics()


def test_of_many_dimensions_the_axes_are_found_about_as_well() -> None:
    """Beyond `EXACT` they are approximate: against those of all products."""
    vectors = cloud(400, EXACT + 8)
    found = fit(vectors, 24)
    moments = Moments(EXACT + 8)
    moments.add(vectors)
    exactly = moments.statistics(24)
    assert found.axes.shape == exactly.axes.shape
    assert found.axes @ found.axes.T == pytest.approx(np.eye(24), abs=1e-4)
    assert np.abs((found.axes[:8] * exactly.axes[:8]).sum(axis=1)) == pytest.approx(np.ones(8), abs=1e-2)
    assert found.variances.sum() == pytest.approx(exactly.variances.sum(), rel=0.01)
    for query in cloud(10, EXACT + 8, seed=3):
        mean, deviation = of(vectors, query)
        assert found.spread(query).mean == pytest.approx(mean, abs=1e-3)
        assert found.spread(query).deviation == pytest.approx(exactly.spread(query).deviation, rel=0.02)
        assert found.spread(query).deviation == pytest.approx(deviation, rel=0.3)
    assert fit(vectors, 24).pack() == found.pack(), "always the same"


@pytest.mark.parametrize("count", [1, 2, 40])
def test_of_fewer_vectors_than_axes_the_deviation_is_exact(count: int) -> None:
    vectors = cloud(count, EXACT + 1)
    statistics = fit(vectors)
    query = cloud(1, EXACT + 1, seed=5)[0]
    mean, deviation = of(vectors, query)
    assert (statistics.spread(query).mean, statistics.spread(query).deviation) == pytest.approx(
        (mean, deviation), rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("dimensions", [4, EXACT + 1])
@pytest.mark.parametrize(("count", "value"), [(1, 1.0), (50, 1.0), (3, 0.0)])
def test_vectors_without_spread_have_none(dimensions: int, count: int, value: float) -> None:
    vectors = np.full((count, dimensions), value, "f4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statistics = fit(vectors)
        spread = statistics.spread(np.ones(dimensions, "f4"))
    assert spread.deviation == pytest.approx(0, abs=1e-5 * dimensions)
    assert spread.mean == pytest.approx(dimensions * value)
    assert np.isfinite(statistics.axes).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 12))
def test_what_is_packed_reads_back_exactly(count: int, dimensions: int, axes: int) -> None:
    statistics = fit(cloud(count, dimensions), axes)
    again = unpack(statistics.pack())
    for name in ("count", "rest"):
        assert getattr(again, name) == getattr(statistics, name)
    for name in ("mean", "axes", "variances"):
        one, other = getattr(again, name), getattr(statistics, name)
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    assert again.pack() == statistics.pack()


def packed(count: int = 5, dimensions: int = 4, axes: int = 2, *, numbers: int | None = None, nan: bool = False) -> str:
    header = np.array([count, dimensions, axes], "<i8").tobytes() + np.array([0.5], "<f8").tobytes()
    values = np.zeros(dimensions + axes * dimensions + axes if numbers is None else numbers, "<f4")
    if nan:
        values[0] = np.nan
    return base64.b64encode(header + values.tobytes()).decode()


def test_the_layout_is_the_one_that_damage_is_tried_on() -> None:
    assert unpack(packed()).axes.shape == (2, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AAAA",
        "no base64 at all!",
        "日本",
        packed()[:-4],
        packed() + "AAAA",
        packed(numbers=13),
        packed(numbers=15),
        packed(dimensions=-1, numbers=4),
        packed(axes=-1, numbers=4),
        packed(count=0),
        packed(axes=10**12, numbers=4),
        packed(nan=True),
    ],
)
def test_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        unpack(text)


# --- of an index ------------------------------------------------------------------------------------------------------
RECIPE = IndexRecipe(chunking="whole", language="neutral")


def documents(numbers: range, suffix: str = "") -> list[Document]:
    return [Document(f"d{n}", f"word{n} and word{n % 7}{suffix}") for n in numbers]


def statistics_of(index: Index) -> SpaceStatistics | None:
    version = version_of(index)
    text = version.ledger.attachment(version.record.statistics) if version.record.statistics else None
    return None if text is None else unpack(text)


def attached(index: Index) -> int:
    """How many texts the ledger keeps aside."""
    import sqlite3

    with sqlite3.connect(next(Path(index.status().path).rglob("ledger.sqlite"))) as db:
        return int(db.execute("SELECT count(*) FROM notes WHERE key LIKE 'attachment:%'").fetchone()[0])


def test_they_depend_on_what_is_stored_and_not_on_how_it_came_there(tmp_path: Path) -> None:
    with Index.open(tmp_path / "old", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync(documents(range(150)))
        first = version_of(index).record.statistics
        index.sync(documents(range(100), " edited"), max_delete=1.0)
        index.sync(documents(range(40, 120)), max_delete=1.0)
        key = version_of(index).record.statistics
        assert first != key
        assert attached(index) == 1, "the former ones are removed"
        index.sync(documents(range(40, 120)))
        assert version_of(index).record.statistics == key
        index.optimize()
        index.sync([*documents(range(40, 120))[:-1], Document("d119", "another")])
        index.sync(documents(range(40, 120)))
        assert version_of(index).record.statistics == key
    with Index.open(tmp_path / "fresh", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync(documents(range(40, 120))[::-1])
        assert version_of(index).record.statistics == key


def test_they_are_those_of_the_vectors_and_change_the_scores(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync(documents(range(90)))
        version, statistics = version_of(index), statistics_of(index)
        assert statistics is not None
        vectors = np.stack(list(version.store.vectors(list(version.store.ids())).values()))
        query = WordEncoder().encode_queries(["word3 and word5"]).vectors[0]
        spread = statistics.spread(query)
        assert (spread.mean, spread.deviation) == pytest.approx(of(vectors, query), rel=1e-4)
        hit = index.search("word3", 1)[0]
        top = max(vectors @ WordEncoder().encode_queries(["word3"]).vectors[0])
        mean, deviation = of(vectors, WordEncoder().encode_queries(["word3"]).vectors[0])
        assert index.search("word3", 1, mode="dense")[0].score == pytest.approx(top, abs=1e-5)
        places = {name: at.score for name, at in index.search("word3", 1).explain()[0].places.items()}
        assert hit.score > 0.6 * (places["dense"] - mean) / deviation - 1e-3, "the dense leg's share of the fused score"


def test_too_few_chunks_have_none(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync(documents(range(FEWEST - 1)))
        assert (version_of(index).record.statistics, attached(index)) == ("", 0)
        assert index.search("word3")
        index.sync(documents(range(FEWEST)))
        statistics = statistics_of(index)
        assert statistics is not None
        assert statistics.count == FEWEST
        index.sync(documents(range(FEWEST - 1)), max_delete=1.0)
        assert (version_of(index).record.statistics, attached(index)) == ("", 0)
        assert index.search("word3")


def test_a_corpus_of_one_text_is_searched(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync([Document(f"d{n}", "the same words") for n in range(FEWEST)])
        hits = index.search("the same words", 3)
        assert len(hits) == 3
        assert all(np.isfinite(hit.score) for hit in hits)
