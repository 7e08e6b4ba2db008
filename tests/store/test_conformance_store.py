"""What every `Store` does, in every home of an index, against brute force and rank-bm25."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from homes import DIMENSIONS, HOMES, Home, contract
from hypothesis import given, settings
from rank_bm25 import BM25Okapi
from test_edge_filters import DOCUMENTS, SCALARS, filters, random_metadata

from tarragon.errors import StorageProblem
from tarragon.filters import matches, parse
from tarragon.protocols import Catalog, DenseLeg, LexicalLeg, OpenVersion, SearchRequest, Store, StoredChunk

CHANCE = np.random.default_rng(11)
VOCABULARY = [f"w{n}" for n in range(40)]


def chunk(number: int, text: str = "some text", **metadata: Any) -> StoredChunk:
    vector = CHANCE.standard_normal(DIMENSIONS).astype(np.float32)
    payload = {"content": text, "metadata": metadata, "document_id": str(number)}
    return StoredChunk(UUID(int=number), vector / np.linalg.norm(vector), payload)


@pytest.fixture
def store(version: OpenVersion) -> Store:
    return version.store


def test_what_is_stored_comes_back(store: Store) -> None:
    chunks = [chunk(n, f"text {n}", n=n, deep={"a.b": [1, None, "é", 2**53 + 1]}) for n in range(1, 31)]
    store.upsert(chunks)
    ids = [one.id for one in chunks]
    assert store.count() == 30
    vectors = store.vectors([*ids, UUID(int=999)])
    assert sorted(vectors) == ids
    for one in chunks:
        assert vectors[one.id].dtype == np.float32
        assert np.array_equal(vectors[one.id], one.vector), "bit for bit"
    assert store.payloads([*ids[:2], UUID(int=999)]) == {one.id: dict(one.payload) for one in chunks[:2]}


def test_payload_keys_are_replaced_and_vectors_stay(store: Store) -> None:
    chunks = [chunk(1, "one", a=1), chunk(2, "two", a=2)]
    store.upsert(chunks)
    store.set_payload({chunks[0].id: {"metadata": {"new": 1}}, chunks[1].id: {"start": 7, "metadata": {}}})
    payloads = store.payloads([UUID(int=1), UUID(int=2)])
    assert payloads[UUID(int=1)] == {"content": "one", "document_id": "1", "metadata": {"new": 1}}
    assert payloads[UUID(int=2)] == {"content": "two", "document_id": "2", "metadata": {}, "start": 7}
    assert np.array_equal(store.vectors([UUID(int=1)])[UUID(int=1)], chunks[0].vector)


def test_an_upsert_replaces_the_whole_chunk_and_a_deletion_ignores_what_is_not_there(store: Store) -> None:
    chunks = [chunk(n) for n in range(1, 6)]
    store.upsert(chunks)
    store.upsert([StoredChunk(UUID(int=2), chunks[3].vector, {"content": "replaced"})])
    assert store.payloads([UUID(int=2)]) == {UUID(int=2): {"content": "replaced"}}
    assert np.array_equal(store.vectors([UUID(int=2)])[UUID(int=2)], chunks[3].vector)
    store.delete([UUID(int=1), UUID(int=2), UUID(int=999)])
    assert sorted(store.ids()) == [UUID(int=n) for n in (3, 4, 5)]
    assert store.count() == 3


def test_nothing_is_a_valid_amount(store: Store) -> None:
    store.upsert([])
    store.set_payload({})
    store.delete([])
    assert store.vectors([]) == store.payloads([]) == {}
    assert list(store.ids()) == []
    assert store.count() == 0
    found = store.search(SearchRequest(DenseLeg(np.ones(DIMENSIONS, dtype=np.float32), 3), LexicalLeg("word", 3)))
    assert (dict(found.dense or {}), dict(found.lexical or {})) == ({}, {})


def test_ids_are_paged_to_the_end(store: Store) -> None:
    store.upsert([chunk(n, "t") for n in range(2_345)])
    assert sorted(store.ids()) == [UUID(int=n) for n in range(2_345)]


def test_the_dense_leg_is_brute_force(store: Store) -> None:
    chunks = [chunk(n, "t") for n in range(200)]
    store.upsert(chunks)
    query = chunks[7].vector
    found = store.search(SearchRequest(dense=DenseLeg(query, 10)))
    best = sorted(((float(one.vector @ query), one.id) for one in chunks), reverse=True)[:10]
    assert found.lexical is None
    assert dict(found.dense or {}) == pytest.approx({id_: score for score, id_ in best}, abs=1e-6)


class LuceneBM25(BM25Okapi):  # type: ignore[misc] # rank_bm25 has no types
    """rank_bm25 with the non-negative idf that Lucene and Qdrant use."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        for word, count in nd.items():
            self.idf[word] = math.log(1 + (self.corpus_size - count + 0.5) / (count + 0.5))


def words(count: int) -> dict[UUID, list[str]]:
    weights = 1 / np.arange(1, len(VOCABULARY) + 1)
    lengths = CHANCE.integers(1, 40, size=count)
    return {
        UUID(int=n): CHANCE.choice(VOCABULARY, size=length, p=weights / weights.sum()).tolist()
        for n, length in enumerate(lengths)
    }


def bm25(tokens: dict[UUID, list[str]], query: list[str]) -> dict[UUID, float]:
    oracle = LuceneBM25(list(tokens.values()), k1=1.2, b=0.75)
    scores = dict(zip(tokens, oracle.get_scores(query), strict=True))
    return {id_: score for id_, score in scores.items() if score > 0}


@pytest.mark.parametrize("query", [["w0"], ["w39"], ["w1", "w7", "w30"], ["absent"], ["w3", "absent"]], ids=" ".join)
def test_the_lexical_leg_is_rank_bm25(store: Store, query: list[str]) -> None:
    tokens = words(120)
    store.upsert([StoredChunk(id_, chunk(0).vector, {"content": " ".join(text)}) for id_, text in tokens.items()])
    found = store.search(SearchRequest(lexical=LexicalLeg(" ".join(query), 1_000)))
    assert found.dense is None
    assert dict(found.lexical or {}) == pytest.approx(bm25(tokens, query), rel=1e-4)


def test_both_legs_score_the_union_and_see_the_filter(store: Store) -> None:
    tokens = words(150)
    chunks = [chunk(id_.int, " ".join(text), parity=id_.int % 2) for id_, text in tokens.items()]
    store.upsert(chunks)
    query, text = chunks[8].vector, ["w2", "w9"]
    found = store.search(SearchRequest(DenseLeg(query, 10), LexicalLeg(" ".join(text), 15), parse({"parity": 0})))
    dense, lexical = dict(found.dense or {}), dict(found.lexical or {})
    even = {one.id: float(one.vector @ query) for one in chunks if one.payload["metadata"]["parity"] == 0}
    by_words = {id_: score for id_, score in bm25(tokens, text).items() if id_ in even}
    assert len(lexical) == 15 < len(by_words)
    assert lexical == pytest.approx({id_: by_words[id_] for id_ in lexical}, rel=1e-4)
    assert min(lexical.values()) >= sorted(by_words.values(), reverse=True)[14] - 1e-4
    nearest = set(sorted(even, key=even.__getitem__, reverse=True)[:10])
    assert set(dense) == nearest | set(lexical), "every candidate of either leg has a dense score"
    assert dense == pytest.approx({id_: even[id_] for id_ in dense}, abs=1e-6)


def test_a_vector_of_another_space_is_refused(catalog: Catalog, store: Store) -> None:
    with pytest.raises(StorageProblem):
        store.upsert([StoredChunk(UUID(int=1), np.ones(3, dtype=np.float32), {})])
    other = catalog.create(contract("other"), serve=False)
    with catalog.reading(other.name) as second:
        assert second is not None
        second.store.upsert([chunk(1)])
        assert second.store.vectors([UUID(int=1)])
    assert store.count() == 0, "versions do not see one another"


def test_what_was_flushed_is_there_after_reopening(lasting_home: Home) -> None:
    first = lasting_home.open()
    with first.writing():
        first.create(contract(), serve=True)
        with first.reading() as version:
            assert version is not None
            version.store.upsert([chunk(n, f"w{n}") for n in range(20)])
            version.store.delete([UUID(int=3)])
            version.store.flush()
    first.close()
    second = lasting_home.open()
    with second.reading() as version:
        assert version is not None
        assert sorted(version.store.ids()) == [UUID(int=n) for n in range(20) if n != 3]
        assert set(version.store.search(SearchRequest(lexical=LexicalLeg("w7", 9))).lexical or {}) == {UUID(int=7)}
    second.close()


# --- filters ----------------------------------------------------------------------------------------------------------
COMPARES_EXACTLY = {"local", "wire"}
"""qdrant-client's local mode compares whole numbers with the bound of a range as Python does; the engine, and so a
server, as doubles. They differ from 2**53 on: documents with such numbers are left out there."""


def has_inexact_integer(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_inexact_integer(inner) for inner in value.values())
    if isinstance(value, list):
        return any(has_inexact_integer(inner) for inner in value)
    return isinstance(value, int) and int(float(value)) != value


@dataclass(frozen=True)
class Filled:
    """A store with documents. Its repr is short because hypothesis shows it."""

    store: Store = field(repr=False)
    documents: dict[UUID, dict[str, Any]] = field(repr=False)

    def passing(self, spec: dict[str, Any], limit: int = 1_000) -> set[UUID]:
        query = np.ones(DIMENSIONS, dtype=np.float32)
        return set(self.store.search(SearchRequest(dense=DenseLeg(query, limit), filter=parse(spec))).dense or {})

    def allowed(self, spec: dict[str, Any]) -> set[UUID]:
        return {id_ for id_, metadata in self.documents.items() if matches(parse(spec), metadata)}


@pytest.fixture(scope="module", params=sorted(HOMES))
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    rng = random.Random(20_240_131)
    values = [*SCALARS, None, [], [None], [[]], {}, [[1]], [{"b": 1}], {"b": 1}]
    found = [{}, *({"a": value} for value in values), *(random_metadata(rng) for _ in range(DOCUMENTS))]
    if request.param in COMPARES_EXACTLY:
        found = [metadata for metadata in found if not has_inexact_integer(metadata)]
    documents = {UUID(int=n): metadata for n, metadata in enumerate(found)}
    with HOMES[request.param](tmp_path_factory.mktemp("filters")) as home:
        catalog = home.open()
        with catalog.writing():
            catalog.create(contract(), serve=True)
            with catalog.reading() as version:
                assert version is not None
                one = chunk(0).vector
                version.store.upsert([StoredChunk(id_, one, {"metadata": m}) for id_, m in documents.items()])
                yield Filled(version.store, documents)
        catalog.close()


@settings(max_examples=60, deadline=None)
@given(spec=filters)
def test_any_filter_agrees_with_its_definition(filled: Filled, spec: dict[str, Any]) -> None:
    assert filled.passing(spec) == filled.allowed(spec)


@pytest.mark.parametrize(
    "spec",
    [
        {"a": {"$exists": True}},
        {'"a.b"': {"$exists": True}},
        {"$not": {"a": {"$in": [1, "x", True]}}},
        {"a": {"$in": []}},
        {"$or": [{"a": 1.5}, {"$and": [{"b": {"$ne": 2}}, {"a": {"$nin": ["x"]}}]}]},
        {"a": {"$gte": 1, "$lt": 2021}},
        {"a": {"$gte": "2024-01-31T09:00:00Z", "$lt": "9999-01-01"}},
        {"a": {"$gt": float("inf")}},
        {"a": {"$gt": float("-inf")}},
        {"a": {"$lte": float("inf")}},
        {"a": {"$lt": float("-inf")}},
        {"a": float("inf")},
        {"a": 2**53 + 1},
    ],
    ids=repr,
)
def test_a_filter_that_needs_care_agrees_with_its_definition(filled: Filled, spec: dict[str, Any]) -> None:
    assert filled.passing(spec) == filled.allowed(spec)


def test_a_filter_applies_before_the_limit(filled: Filled) -> None:
    spec = {"a": {"$gte": "0001-01-01"}}
    found = filled.passing(spec, 5)
    assert len(found) == 5
    assert found < filled.allowed(spec)
