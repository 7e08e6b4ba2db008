"""MMR against its definition, and the limit per document."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.diversity import DECIMALS, at_most_per_document, mmr
from tarragon.errors import InvalidInput
from tarragon.testing import WordEncoder
from tarragon.types import FloatArray


def cosine(first: FloatArray, second: FloatArray) -> float:
    dot = math.fsum(a * b for a, b in zip(first.tolist(), second.tolist(), strict=True))
    lengths = math.hypot(*first.tolist()) * math.hypot(*second.tolist())
    return round(dot / lengths, DECIMALS) if lengths else 0.0


def by_definition(scores: list[float], vectors: FloatArray, k: int, diversity: float) -> list[int]:
    """Slow and obvious: every pair is compared again for every choice."""
    if diversity == 0:
        return list(range(len(scores)))[:k]
    least, most = min(scores, default=0.0), max(scores, default=0.0)
    chosen: list[int] = []
    while len(chosen) < min(k, len(scores)):
        best, best_value = -1, -math.inf
        for i, score in enumerate(scores):
            relevance = (score - least) / (most - least) if most > least else 1.0
            likeness = max((cosine(vectors[i], vectors[j]) for j in chosen), default=0.0)
            value = (1 - diversity) * relevance - diversity * likeness
            if i not in chosen and value > best_value:
                best, best_value = i, value
        chosen.append(best)
    return chosen


components = st.integers(-3, 3)
candidates = st.integers(1, 4).flatmap(
    lambda dimensions: st.lists(
        st.tuples(
            st.integers(-20, 20).map(lambda n: n / 4), st.lists(components, min_size=dimensions, max_size=dimensions)
        ),
        min_size=1,
        max_size=9,
    )
)
shares = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0])


def parts(drawn: list[tuple[float, list[int]]]) -> tuple[list[float], FloatArray]:
    return [score for score, _ in drawn], np.array([row for _, row in drawn], dtype=np.float32)


@settings(max_examples=150, deadline=None)
@given(candidates, st.integers(0, 11), shares)
def test_it_is_what_the_definition_says(drawn: list[tuple[float, list[int]]], k: int, diversity: float) -> None:
    scores, vectors = parts(drawn)
    assert mmr(scores, vectors, k, diversity) == by_definition(scores, vectors, k, diversity)


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9])
def test_it_is_what_the_definition_says_of_long_lists(diversity: float) -> None:
    source = np.random.default_rng(0)
    scores = source.normal(size=60).tolist()
    vectors = source.normal(size=(60, 16)).astype(np.float32)
    assert mmr(scores, vectors, 25, diversity) == by_definition(scores, vectors, 25, diversity)


@settings(max_examples=60, deadline=None)
@given(candidates, shares, st.sampled_from([0.5, 2.0, 8.0]), st.integers(-8, 8))
def test_scales_of_scores_and_lengths_of_vectors_do_not_count(
    drawn: list[tuple[float, list[int]]], diversity: float, factor: float, shift: int
) -> None:
    scores, vectors = parts(drawn)
    lengths = np.array([2.0 ** (i % 3) for i in range(len(scores))], np.float32)[:, None]
    moved = [factor * score + shift for score in scores]
    assert mmr(moved, vectors * lengths, len(scores), diversity) == mmr(scores, vectors, len(scores), diversity)


@settings(max_examples=60, deadline=None)
@given(candidates, shares, st.integers(0, 9))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(
    drawn: list[tuple[float, list[int]]], diversity: float, k: int
) -> None:
    scores, vectors = parts(drawn)
    full = mmr(scores, vectors, len(scores), diversity)
    assert sorted(full) == list(range(len(scores)))
    assert mmr(scores, vectors, k, diversity) == full[:k]


def test_a_copy_of_a_better_hit_falls_behind_what_says_something_else() -> None:
    texts = ["rotate the signing key", "rotate the signing key", "restore the backup", "rotate a key"]
    vectors = WordEncoder().encode_queries(texts).vectors
    scores = [1.0, 0.99, 0.6, 0.9]
    assert mmr(scores, vectors, 4, 0.0) == [0, 1, 2, 3]
    assert mmr(scores, vectors, 2, 0.01) == [0, 1]
    assert mmr(scores, vectors, 4, 0.5) == [0, 3, 1, 2]
    assert mmr(scores, vectors, 4, 0.9) == [0, 2, 3, 1]


def test_with_nothing_but_diversity_the_first_is_the_first_and_the_next_is_the_least_alike() -> None:
    vectors = np.array([[1, 0], [1, 1], [-1, 0], [0, 1]], np.float32)
    assert mmr([0.0, 9.0, 1.0, 2.0], vectors, 4, 1.0) == [0, 2, 3, 1]


def test_equal_scores_count_as_the_best_and_equal_candidates_keep_their_order() -> None:
    same = np.ones((5, 3), np.float32)
    for diversity in (0.0, 0.5, 1.0):
        assert mmr([2.0] * 5, same, 5, diversity) == [0, 1, 2, 3, 4]


def test_equal_rows_tie_wherever_they_stand() -> None:
    row = np.random.default_rng(3).normal(size=385).astype(np.float32)
    vectors = np.tile(row, (37, 1))
    assert mmr([1.0] * 37, vectors, 37, 0.6) == list(range(37))


def test_a_row_of_zeros_is_like_none() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 0]], np.float32)
    assert mmr([1.0, 0.9, 0.5], vectors, 3, 0.6) == [0, 2, 1]


def test_edges() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert mmr([], empty, 5, 0.5) == []
    assert mmr([1.0], np.ones((1, 3), np.float32), 0, 0.5) == []
    assert mmr([1.0], np.ones((1, 3), np.float32), 5, 0.5) == [0]


@pytest.mark.parametrize(
    ("scores", "rows", "k", "diversity", "message"),
    [
        ([1.0], [[1.0]], 1, 1.1, "diversity=1.1"),
        ([1.0], [[1.0]], 1, -0.1, "diversity=-0.1"),
        ([1.0], [[1.0]], 1, math.nan, "diversity=nan"),
        ([1.0], [[1.0]], -1, 0.5, "k=-1"),
        ([1.0, 2.0], [[1.0]], 1, 0.5, "2 scores"),
        ([1.0], [1.0], 1, 0.5, r"shape \(1,\)"),
        ([1.0, math.nan], [[1.0], [1.0]], 1, 0.5, "score nan of candidate 1"),
        ([1.0, 2.0], [[1.0], [math.inf]], 1, 0.5, "vector of candidate 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    scores: list[float], rows: list[list[float]], k: int, diversity: float, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        mmr(scores, np.array(rows, np.float32), k, diversity)


ids = st.lists(st.integers(0, 30), max_size=20, unique=True)


@given(ids, st.integers(1, 4))
def test_at_most_so_many_of_each_document_in_their_order(ranking: list[int], limit: int) -> None:
    documents = {id_: f"document {id_ % 4}" for id_ in ranking}
    kept = at_most_per_document(ranking, documents, limit)
    first = Counter(documents[id_] for id_ in ranking)
    assert Counter(documents[id_] for id_ in kept) == {name: min(limit, count) for name, count in first.items()}
    expected = [
        id_
        for place, id_ in enumerate(ranking)
        if sum(documents[other] == documents[id_] for other in ranking[:place]) < limit
    ]
    assert kept == expected


def test_no_limit_keeps_all_and_a_bad_one_is_refused() -> None:
    assert at_most_per_document(["b", "a"], {}, None) == ["b", "a"]
    with pytest.raises(InvalidInput, match="limit=0"):
        at_most_per_document(["a"], {"a": "d"}, 0)
    with pytest.raises(InvalidInput, match="passage 'b'"):
        at_most_per_document(["a", "b"], {"a": "d"}, 1)
