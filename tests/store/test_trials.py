"""Ways to search vectors, tried in throw-away shards, against slow obvious code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as q

from tarragon.store.trials import QUANTIZATIONS, Trials, Way, bytes_of, exact
from tarragon.types import FloatArray

RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((700, 32)).astype("f4") * (np.arange(1, 33) ** -0.5).astype("f4")
QUERIES = RNG.standard_normal((9, 32)).astype("f4")


def slowly(vectors: FloatArray, query: FloatArray, limit: int, but: int | None = None) -> list[int]:
    scored = [(-float(vectors[row] @ query), row) for row in range(len(vectors)) if row != but]
    return [row for _, row in sorted(scored)[:limit]]


@pytest.mark.parametrize("limit", [1, 10, 699, 700, 900])
def test_exact_search_is_every_score_in_order(limit: int) -> None:
    found = exact(VECTORS, QUERIES[:3], limit)
    assert found.shape == (3, limit)
    for row, query in zip(found, QUERIES, strict=False):
        expected = slowly(VECTORS, query, limit)
        assert row[: len(expected)].tolist() == expected
        assert (row[len(expected) :] == -1).all()


def test_ties_go_by_row_and_what_is_left_out_never_comes_back() -> None:
    same = np.ones((40, 4), "f4")
    same[7] *= 2
    query = np.ones((1, 4), "f4")
    assert exact(same, query, 5)[0].tolist() == [7, 0, 1, 2, 3]
    assert exact(same, query, 5, [7])[0].tolist() == [0, 1, 2, 3, 4]
    assert exact(same[:4], query, 5, [1])[0].tolist() == [0, 2, 3, -1, -1]
    assert exact(VECTORS, VECTORS[:5], 20, range(5)).tolist() == [
        slowly(VECTORS, VECTORS[row], 20, row) for row in range(5)
    ]


def test_a_scan_finds_what_exact_search_finds() -> None:
    with Trials(VECTORS, {}) as trials:
        found, seconds = trials.run(Way(), QUERIES, None, 20)
    assert found.tolist() == exact(VECTORS, QUERIES, 20).tolist()
    assert 0 < seconds < 1


@pytest.mark.parametrize(("depth", "limit"), [(1.0, 10), (2.0, 10), (1.5, 7), (4.0, 300)])
def test_a_first_pass_is_two_stages(depth: float, limit: int) -> None:
    shorts, asked = VECTORS[:, :6].copy(), QUERIES[:, :6].copy()
    with Trials(VECTORS, {6: shorts, 9: VECTORS[:, :9].copy()}) as trials:
        found, _ = trials.run(Way(short=6, depth=depth), QUERIES, asked, limit)
    for row, query, short in zip(found, QUERIES, asked, strict=True):
        candidates = slowly(shorts, short, int(np.ceil(depth * limit)))
        expected = sorted(candidates, key=lambda place: -float(VECTORS[place] @ query))[:limit]
        assert row[: len(expected)].tolist() == expected


def test_fewer_queries_than_are_asked_to_warm_up_and_fewer_vectors_than_are_wanted() -> None:
    with Trials(VECTORS[:5], {4: VECTORS[:5, :4].copy()}) as trials:
        for count in (1, 2, 3, 4):
            found, _ = trials.run(Way(short=4), QUERIES[:count], QUERIES[:count, :4].copy(), 8)
            assert found.shape == (count, 8)
            assert (found[:, 5:] == -1).all()
            for row, query in zip(found, QUERIES, strict=False):
                assert row[:5].tolist() == slowly(VECTORS[:5], query, 5), "each query has its own short form"


def test_quantizations_reduce_and_their_settings_arrive() -> None:
    """The fewer the bits the more is lost, and less of it with oversampling."""
    truth = exact(VECTORS, QUERIES, 10)

    def recall(way: Way) -> float:
        found, _ = trials.run(way, QUERIES, None, 10)
        return float(np.mean([len(np.intersect1d(one, other)) / 10 for one, other in zip(truth, found, strict=True)]))

    with Trials(VECTORS, {}) as trials:
        recalls = {name: [recall(Way(name, times)) for times in (1.0, 8.0)] for name in QUANTIZATIONS if name}
    assert list(recalls) == ["int8", "turbo 4 bits", "turbo 1 bit", "binary"]
    assert min(recalls["int8"]) > 0.9
    assert all(recalls[name][0] < recalls[name][1] for name in ("turbo 1 bit", "binary")), "or oversampling is not"
    assert recalls["binary"][0] < recalls["int8"][0], "or it was not used"
    assert recalls["turbo 1 bit"][0] < recalls["turbo 4 bits"][0]


@pytest.mark.parametrize("name", list(QUANTIZATIONS))
def test_quantizations_are_in_use_however_few_the_vectors(name: str) -> None:
    """Without rescoring the scores are those of the reduced vectors."""
    reduced = q.SearchParams(quantization=q.QuantizationSearchParams(ignore=False, rescore=False))
    with Trials(VECTORS, {}) as trials:
        request = q.QueryRequest(limit=10, query=q.Query.Nearest(QUERIES[0], using="full"), params=reduced)
        points = trials._built(name).query(request)
    error = max(abs(point.score - float(VECTORS[point.id] @ QUERIES[0])) for point in points)
    assert (error > 1e-4) == (name != "")


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Trials(VECTORS, {}) as trials:
        trials.run(Way("int8"), QUERIES, None, 10)
        assert [path.name[:14] for path in tmp_path.iterdir()] == ["tarragon-tune-"]
        trials.run(Way(), QUERIES, None, 10)
        assert len(list(tmp_path.iterdir())) == 1, "one shard at a time"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), Trials(VECTORS, {}) as trials:
        trials.run(Way(), QUERIES, None, 10)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_those_of_the_first_vector_that_is_read() -> None:
    assert [bytes_of(Way(name), 384) for name in QUANTIZATIONS] == [1536, 384, 192, 48, 48]
    assert bytes_of(Way("int8", short=64), 384) == 256
