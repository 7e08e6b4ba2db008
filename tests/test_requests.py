"""Requests: what a recipe asks of a store, and candidates that do not hang on the order in which chunks were stored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.errors import InvalidInput
from tarragon.filters import parse
from tarragon.protocols import (
    DenseLeg,
    FirstPass,
    LegScores,
    LexicalLeg,
    SearchRequest,
    SideSpace,
    SparseLeg,
    StoredChunk,
)
from tarragon.recipe import Fusion, Mode
from tarragon.requests import SideQueries, build_request, candidates, is_cut, twice_as_deep, wants, with_limit
from tarragon.store.edge import EdgeStore
from tarragon.testing import WordEncoder
from tarragon.types import SparseVector

DIMENSIONS = 3
SPARSE = SideSpace("s_test", "sparse")
VECTOR = np.array([1.0, 0.0, 0.0], dtype=np.float32)
TERMS = SparseVector(np.array([1, 2], dtype=np.int32), np.array([1.0, 2.0], dtype=np.float32))
SIDES = SideQueries(sparse=("s_test", TERMS), late=("l_test", VECTOR[None, :]))


# --- what is asked ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recipe", "without", "with_sparse"),
    [
        (SearchRecipe(), {"dense", "lexical"}, {"dense", "lexical", "sparse"}),
        (SearchRecipe(words="bm25"), {"dense", "lexical"}, {"dense", "lexical"}),
        (SearchRecipe(words="sparse"), None, {"dense", "sparse"}),
        (SearchRecipe(words="both"), None, {"dense", "lexical", "sparse"}),
        (SearchRecipe(mode="dense"), {"dense"}, {"dense"}),
        (SearchRecipe(mode="lexical"), {"lexical"}, {"lexical"}),
        (SearchRecipe(mode="sparse"), None, {"sparse"}),
    ],
    ids=lambda value: f"{value.mode}-{value.words}" if isinstance(value, SearchRecipe) else "",
)
def test_a_recipe_wants_these_legs(recipe: SearchRecipe, without: set[str] | None, with_sparse: set[str]) -> None:
    assert wants(recipe, has_sparse=True) == with_sparse
    if without is None:
        with pytest.raises(InvalidInput, match="sparse_model"):
            wants(recipe, has_sparse=False)
    else:
        assert wants(recipe, has_sparse=False) == without
    request = build_request("words", VECTOR, 5, None, recipe, SIDES)
    assert {leg for leg in ("dense", "lexical", "sparse") if getattr(request, leg) is not None} == with_sparse


def test_words_say_nothing_about_a_search_with_one_leg() -> None:
    assert wants(SearchRecipe(mode="dense", words="both"), has_sparse=False) == {"dense"}


def test_every_leg_goes_to_the_depth_or_to_k_and_the_first_pass_deeper_in_proportion() -> None:
    sides = replace(SIDES, first=("p_test", VECTOR[:2], 2.5))
    recipe = SearchRecipe(depth=107)
    for k, depth in ((5, 107), (109, 109)):
        request = build_request("words", VECTOR, k, parse({"a": 1}), recipe, sides)
        assert request.dense is not None
        assert request.dense.first is not None
        legs = [request.dense, request.lexical, request.sparse]
        assert [leg.limit for leg in legs if leg is not None] == [depth] * 3
        assert request.dense.first.limit == -(-5 * depth // 2), "rounded up"
        assert request.filter == parse({"a": 1})
        assert request.late is not None
    deeper = twice_as_deep(request)
    assert deeper.dense is not None
    assert deeper.dense.first is not None
    assert (deeper.dense.limit, deeper.dense.first.limit) == (218, 546)
    assert [leg.limit for leg in (deeper.lexical, deeper.sparse) if leg is not None] == [218, 218]
    assert (deeper.filter, deeper.late) == (request.filter, request.late)
    shallow = build_request("words", VECTOR, 5, None, SearchRecipe(depth=10), sides)
    assert shallow.dense is not None
    assert shallow.dense.first is not None
    assert shallow.dense.first.limit == 250, "as deep as it was measured"
    first = FirstPass("p_test", VECTOR[:2], 10)
    assert with_limit(DenseLeg(VECTOR, 4, first), 6).first == replace(first, limit=15)


def test_a_leg_is_cut_where_it_gave_all_that_it_was_asked_for() -> None:
    request = SearchRequest(DenseLeg(VECTOR, 2), LexicalLeg("words", 3))
    one, two, three = (UUID(int=n) for n in (1, 2, 3))
    assert not is_cut(LegScores({one: 1.0}, {one: 1.0, two: 1.0}), request)
    assert is_cut(LegScores({one: 1.0, two: 1.0}, {}), request)
    assert is_cut(LegScores({}, {one: 1.0, two: 1.0, three: 1.0}), request)


# --- ties -------------------------------------------------------------------------------------------------------------
class Many:
    """Chunks with small whole numbers in their vectors and few words, so that there are ties at every limit."""

    def __init__(self, seed: int, count: int) -> None:
        chance = random.Random(seed)
        self.ids = [UUID(int=chance.getrandbits(128)) for _ in range(count)]
        self.dense = {id_: [float(chance.randint(-1, 2)) for _ in range(DIMENSIONS)] for id_ in self.ids}
        self.sparse = {id_: [float(chance.randint(1, 2)) for _ in range(2)] for id_ in self.ids}
        self.words = {id_: " ".join(chance.choices(["w1", "w2", "w3"], k=chance.randint(1, 3))) for id_ in self.ids}

    def chunks(self, ids: Sequence[UUID]) -> list[StoredChunk]:
        terms = TERMS.indices
        return [
            StoredChunk(
                id_,
                np.array(self.dense[id_], dtype=np.float32),
                {"content": self.words[id_], "metadata": {"even": id_.int % 2 == 0}},
                {SPARSE.name: SparseVector(terms, np.array(self.sparse[id_], dtype=np.float32))},
            )
            for id_ in ids
        ]

    def own(self, leg: str) -> dict[UUID, float]:
        """Exact scores: whole numbers; of words only whether passages are alike."""
        if leg == "dense":
            return {id_: row[0] for id_, row in self.dense.items()}
        return {id_: row[0] + 2 * row[1] for id_, row in self.sparse.items()}


def open_store(path: Path) -> EdgeStore:
    store = EdgeStore(path, space="d_test", dimensions=DIMENSIONS, language="neutral")
    store.add_space(SPARSE)
    return store


def filled(path: Path, many: Many, seed: int) -> EdgeStore:
    """The same chunks after another history: in another order, in parts, some replaced, some deleted in between."""
    chance = random.Random(seed)
    store, order = open_store(path), many.ids.copy()
    chance.shuffle(order)
    step = chance.randint(3, len(order))
    for start in range(0, len(order), step):
        store.upsert(many.chunks(order[start : start + step]))
        extra = [StoredChunk(UUID(int=n), VECTOR, {"content": "w1"}) for n in range(start, start + 5)]
        store.upsert(extra)
        store.delete([one.id for one in extra])
    store.upsert(many.chunks(chance.sample(order, len(order) // 3)))
    if chance.random() < 0.3:
        store.optimize()
    return store


REQUESTS = {
    "dense": {"dense": True},
    "lexical": {"lexical": True},
    "sparse": {"sparse": True},
    "hybrid": {"dense": True, "lexical": True},
    "all": {"dense": True, "lexical": True, "sparse": True},
}


def made_request(name: str, limit: int, filter: dict[str, Any] | None) -> SearchRequest:
    legs = REQUESTS[name]
    return SearchRequest(
        dense=DenseLeg(VECTOR, limit) if "dense" in legs else None,
        lexical=LexicalLeg("w1 w3", limit) if "lexical" in legs else None,
        sparse=SparseLeg(SPARSE.name, TERMS, limit) if "sparse" in legs else None,
        filter=None if filter is None else parse(filter),
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    orders=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    limits=st.lists(st.integers(1, 60), min_size=2, max_size=3),
    filter=st.sampled_from([None, {"even": True}]),
)
def test_candidates_do_not_depend_on_the_order_of_storage(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    orders: tuple[int, int],
    limits: list[int],
    filter: dict[str, Any] | None,
) -> None:
    many = Many(seed, 60)
    stores = [filled(tmp_path_factory.mktemp("ties") / "shard", many, order) for order in orders]
    for name in REQUESTS:
        for limit in limits:
            request = made_request(name, limit, filter)
            first, second = (candidates(store, request) for store in stores)
            assert first == second, (name, limit)
            assert_all_that_tie(many, request, first)
    for store in stores:
        store.close()


def assert_all_that_tie(many: Many, request: SearchRequest, found: LegScores) -> None:
    """Of each leg the best, and all that tie with the last of them; and every candidate's score in every space."""
    allowed = [id_ for id_ in many.ids if request.filter is None or id_.int % 2 == 0]
    everyone: set[UUID] = set()
    for name in ("dense", "sparse"):
        leg = getattr(request, name)
        if leg is not None:
            own = {id_: score for id_, score in many.own(name).items() if id_ in allowed}
            least = sorted(own.values(), reverse=True)[: leg.limit][-1]
            everyone |= {id_ for id_, score in own.items() if score >= least}
    if request.lexical is not None:
        words = found.lexical or {}
        matching = [id_ for id_ in allowed if {"w1", "w3"} & set(many.words[id_].split())]
        assert set(words) <= set(matching)
        assert len(words) >= min(request.lexical.limit, len(matching))
        bags = {tuple(sorted(many.words[id_].split())) for id_ in words}
        assert all((tuple(sorted(many.words[id_].split())) in bags) == (id_ in words) for id_ in matching)
        everyone |= set(words)
    for name in ("dense", "sparse"):
        if getattr(request, name) is not None:
            scores = many.own(name)
            assert dict(getattr(found, name)) == {id_: scores[id_] for id_ in everyone}
        else:
            assert getattr(found, name) is None


def test_a_tie_is_followed_beyond_the_limit_and_so_is_no_more_than_a_tie(tmp_path: Path) -> None:
    many = Many(1, 60)
    store = filled(tmp_path / "shard", many, 1)
    found = candidates(store, made_request("dense", 1, None)).dense or {}
    best = max(many.own("dense").values())
    assert set(found) == {id_ for id_, score in many.own("dense").items() if score == best}
    assert len(found) > 5, "without following the tie it would be one"
    store.close()


class Watched:
    """A store, and what it is asked."""

    def __init__(self, store: EdgeStore) -> None:
        self._store = store
        self.asked: list[SearchRequest] = []

    def search(self, request: SearchRequest) -> LegScores:
        self.asked.append(request)
        return self._store.search(request)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize(("scores", "times"), [(0, 2), (50, 1)], ids=["cut", "told"])
def test_a_tie_of_words_whose_end_is_told_is_followed_without_asking_again(
    tmp_path: Path, scores: int, times: int
) -> None:
    store = open_store(tmp_path / "shard")
    texts = ["w1 w1 w1 w2", *["w1 w2"] * 6, *["w1 w2 w2 w2 w2 w2"] * 3, *["w3"] * 10]
    rows = [np.array([float(n == 0), 1.0, float(n)], dtype=np.float32) for n in range(len(texts))]
    store.upsert([StoredChunk(UUID(int=n), rows[n], {"content": text}) for n, text in enumerate(texts)])
    watched = Watched(store)
    vector = np.array([0.0, 0.0, 1.0], dtype=np.float32)
    found = candidates(watched, SearchRequest(DenseLeg(vector, 2), LexicalLeg("w1", 3, scores)))
    assert len(watched.asked) == times
    assert set(found.dense or {}) == {UUID(int=n) for n in (0, 1, 2, 3, 4, 5, 6, 18, 19)}
    assert dict(found.dense or {}) == {id_: float(id_.int) for id_ in found.dense or {}}
    store.close()


def test_the_engine_searches_each_leg_once(tmp_path: Path) -> None:
    many = Many(3, 60)
    store = filled(tmp_path / "shard", many, 1)
    real, asked = store._shard, []

    class Shard:
        def query_batch(self, batch: Any) -> Any:
            answers = real.query_batch(batch)
            asked.append([len(points) for points in answers])
            return answers

    store._shard = Shard()
    found = store.search(made_request("all", 10, None))
    legs, others = asked
    assert legs == [10, 10, 10]
    assert found.dense is not None
    assert found.sparse is not None
    assert found.dense.keys() == found.sparse.keys()
    assert others == [len(found.dense) - 10, len(found.sparse) - 10], "what only the others found"
    store._shard = real
    store.close()


# --- hits -------------------------------------------------------------------------------------------------------------
class Whole(WordEncoder):
    """Vectors of small whole numbers: how often some words are in a text."""

    def __init__(self) -> None:
        super().__init__(DIMENSIONS)

    def _vector(self, ids: Any) -> Any:
        known = self.tokenizer.tokenize(["w1 w2 w3"])[0].tolist()
        counts = [ids.tolist().count(id_) for id_ in known]
        return np.array([*counts[:2], counts[2] + 1], dtype=np.float32)

    @property
    def identity(self) -> dict[str, str]:
        return {"kind": "counts"}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Index, Index]]:
    """The same documents, synced in another order."""
    many = Many(5, 90)
    documents = [Document(f"{n}", many.words[id_], {"n": n % 3}) for n, id_ in enumerate(many.ids)]
    recipe = IndexRecipe(language="neutral", chunking="whole")
    folder = tmp_path_factory.mktemp("twins")
    with (
        Index.open(folder / "a", recipe=recipe, encoder=Whole()) as first,
        Index.open(folder / "b", recipe=recipe, encoder=Whole()) as second,
    ):
        first.sync(documents, progress=False)
        shuffled = random.Random(2).sample(documents, len(documents))
        second.sync(shuffled[:30], progress=False)
        second.sync(shuffled, progress=False)
        second.optimize(in_place=True)
        yield first, second


@pytest.mark.parametrize("fusion", ["dbsf", "rrf", "convex", "calibrated"])
@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_hits_do_not_depend_on_the_order_of_syncing(twins: tuple[Index, Index], mode: Mode, fusion: Fusion) -> None:
    for depth, k in ((1, 1), (4, 3), (10, 10), (40, 7), (200, 200)):
        recipe = SearchRecipe(mode=mode, fusion=fusion, depth=depth, first_pass=False)
        for query in ("w1", "w3 w2", "w1 w1 w2 w3"):
            answers = [
                [(hit.chunk_id, hit.score) for hit in index.search(query, k, recipe=recipe, filter={"n": {"$ne": 1}})]
                for index in twins
            ]
            assert answers[0] == answers[1]
            assert answers[0]
            scores = [(-score, UUID(id_).int) for id_, score in answers[0]]
            assert scores == sorted(scores), "equal scores in order of their chunk ids"
