"""Spaces beside the dense one, in every home of an index, against brute force.

qdrant-client's local mode keeps every number as it is, whatever datatype a space has: what `float16` and `int8` cost is
asserted of the engine only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import wire
from homes import DIMENSIONS, HOMES, Home, contract, embedded
from pydantic import TypeAdapter
from qdrant_client import models
from wire import QdrantStub

from tarragon.errors import StorageProblem
from tarragon.filters import parse
from tarragon.interaction import maxsim
from tarragon.protocols import (
    Catalog,
    DenseLeg,
    FirstPass,
    LateStage,
    LexicalLeg,
    OpenVersion,
    SearchRequest,
    SideSpace,
    SideVector,
    SparseLeg,
    Store,
    StoredChunk,
)
from tarragon.store.server_catalog import ServerCatalog
from tarragon.types import FloatArray, SparseVector

PREFIX = SideSpace("p_test", "prefix", 3)
SPARSE = SideSpace("s_test", "sparse")
LATE = SideSpace("l_test", "late", 6)
SPACES = (PREFIX, SPARSE, LATE)
ENGINES = {"embedded", "server"}
"""Homes with the real engine, which rounds where a datatype says so."""


# --- homes ------------------------------------------------------------------------------------------------------------
def _with_spaces(answer: Callable[..., Any]) -> Callable[..., Any]:
    """The stub's answers, and those to what only spaces beside the dense one need."""

    def of_collection(client: Any, name: str, route: str, body: dict[str, Any]) -> Any:
        verb, _, path = route.partition(" ")
        if path == "/points/vectors" and verb == "PUT":
            return client.update_vectors(name, models.UpdateVectors(**body).points)
        if path.startswith("/vectors/") and verb == "PUT":
            config = TypeAdapter(models.VectorNameConfig).validate_python(body)
            return client.create_vector_name(name, path.removeprefix("/vectors/"), config)
        if path.startswith("/vectors/") and verb == "DELETE":
            return client.delete_vector_name(name, path.removeprefix("/vectors/"))
        return answer(client, name, route, body)

    return of_collection


@contextmanager
def _wire(folder: Path) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch, QdrantStub() as stub:
        patch.setattr(wire, "_of_collection", _with_spaces(wire._of_collection))
        yield Home("wire", lambda: ServerCatalog.open(f"{stub.url}/handbook"), many=True)


@pytest.fixture(params=sorted(HOMES))
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    made = _wire if request.param == "wire" else HOMES[request.param]
    with made(tmp_path) as opened:
        yield opened


@pytest.fixture
def store(version: OpenVersion) -> Store:
    return version.store


# --- a small corpus ---------------------------------------------------------------------------------------------------
class Corpus:
    """Chunks with a vector in every space, and their scores by brute force."""

    def __init__(self, count: int, seed: int = 7) -> None:
        self.chance = np.random.default_rng(seed)
        self.ids = [UUID(int=n) for n in range(1, count + 1)]
        self.dense = {id_: self.unit(DIMENSIONS) for id_ in self.ids}
        self.prefix = {id_: self.cut(vector) for id_, vector in self.dense.items()}
        self.sparse = {id_: self.terms(int(self.chance.integers(1, 6))) for id_ in self.ids}
        self.late = {id_: self.tokens(int(self.chance.integers(1, 9))) for id_ in self.ids}

    def unit(self, *shape: int) -> FloatArray:
        rows = self.chance.standard_normal(shape)
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)

    @staticmethod
    def cut(vector: FloatArray) -> FloatArray:
        short = vector[: PREFIX.dimensions]
        return np.asarray(short / np.linalg.norm(short), dtype=np.float32)

    def terms(self, count: int, vocabulary: int = 60) -> SparseVector:
        indices = np.sort(self.chance.choice(vocabulary, size=count, replace=False)).astype(np.int32)
        return SparseVector(indices, (0.1 + self.chance.random(count)).astype(np.float32))

    def tokens(self, count: int) -> FloatArray:
        return self.unit(count, LATE.dimensions)

    def chunks(self) -> list[StoredChunk]:
        payload = {"document_id": "d"}
        return [
            StoredChunk(
                id_,
                self.dense[id_],
                {**payload, "content": f"word w{id_.int % 10}", "metadata": {"parity": id_.int % 2}},
                {PREFIX.name: self.prefix[id_], SPARSE.name: self.sparse[id_], LATE.name: self.late[id_]},
            )
            for id_ in self.ids
        ]

    def fill(self, store: Store) -> Corpus:
        for space in SPACES:
            store.add_space(space)
        store.upsert(self.chunks())
        return self

    def dense_scores(self, query: FloatArray) -> dict[UUID, float]:
        return {id_: float(vector @ query) for id_, vector in self.dense.items()}

    def sparse_scores(self, query: SparseVector) -> dict[UUID, float]:
        return {id_: dot(query, vector) for id_, vector in self.sparse.items()}

    def late_scores(self, query: FloatArray) -> dict[UUID, float]:
        return {id_: maxsim(query, vectors) for id_, vectors in self.late.items()}


def dot(first: SparseVector, second: SparseVector) -> float:
    weights = dict(zip(second.indices.tolist(), second.values.tolist(), strict=True))
    return sum(
        value * weights.get(term, 0.0)
        for term, value in zip(first.indices.tolist(), first.values.tolist(), strict=True)
    )


def best(scores: Mapping[UUID, float], limit: int) -> dict[UUID, float]:
    return dict(sorted(scores.items(), key=lambda entry: -entry[1])[:limit])


def even(scores: Mapping[UUID, float]) -> dict[UUID, float]:
    return {id_: score for id_, score in scores.items() if id_.int % 2 == 0}


def only(scores: Mapping[UUID, float] | None, ids: Sequence[UUID] | set[UUID]) -> dict[UUID, float]:
    return {id_: score for id_, score in (scores or {}).items() if id_ in ids}


def same(first: SideVector, second: SideVector) -> bool:
    if isinstance(first, SparseVector) and isinstance(second, SparseVector):
        return np.array_equal(first.indices, second.indices) and np.array_equal(first.values, second.values)
    return np.array_equal(np.asarray(first), np.asarray(second))


def plain(number: int, **sides: SideVector) -> StoredChunk:
    return StoredChunk(UUID(int=number), np.ones(DIMENSIONS, dtype=np.float32), {"content": f"w{number}"}, sides)


# --- keeping ----------------------------------------------------------------------------------------------------------
def test_what_is_stored_with_a_chunk_comes_back_bit_for_bit(store: Store) -> None:
    corpus = Corpus(40).fill(store)
    stored = [(PREFIX, corpus.prefix), (SPARSE, corpus.sparse), (LATE, corpus.late)]
    for space, expected in stored:
        found = store.sides(space, [*corpus.ids, UUID(int=999)])
        assert sorted(found) == corpus.ids
        assert all(same(found[id_], expected[id_]) for id_ in corpus.ids), space.kind
        assert list(store.without(space)) == []
    vectors = store.vectors(corpus.ids)
    assert all(same(vectors[id_], corpus.dense[id_]) for id_ in corpus.ids), "and the dense ones as ever"
    assert store.count() == 40


def test_a_space_that_exists_is_left_as_it_is(store: Store) -> None:
    corpus = Corpus(5).fill(store)
    for space in SPACES:
        store.add_space(space)
    assert all(same(vectors, corpus.late[id_]) for id_, vectors in store.sides(LATE, corpus.ids).items())
    assert [len(store.sides(space, corpus.ids)) for space in SPACES] == [5, 5, 5]


def test_chunks_are_given_vectors_later_and_unknown_ones_are_ignored(store: Store) -> None:
    corpus = Corpus(6)
    store.upsert([StoredChunk(one.id, one.vector, one.payload) for one in corpus.chunks()])
    payloads = store.payloads(corpus.ids)
    ghost = UUID(int=999)
    for space, vectors in [(PREFIX, corpus.prefix), (SPARSE, corpus.sparse), (LATE, corpus.late)]:
        store.add_space(space)
        assert sorted(store.without(space)) == corpus.ids
        half: dict[UUID, SideVector] = {id_: vectors[id_] for id_ in corpus.ids[:3]}
        store.set_sides(space, {ghost: vectors[corpus.ids[0]], **half})
        assert sorted(store.without(space)) == corpus.ids[3:]
        found = store.sides(space, corpus.ids)
        assert sorted(found) == corpus.ids[:3], "of those that have one"
        assert all(same(found[id_], vectors[id_]) for id_ in found)
        store.set_sides(space, {})
        store.set_sides(space, {ghost: vectors[corpus.ids[0]]})
        other: dict[UUID, SideVector] = {corpus.ids[0]: vectors[corpus.ids[5]]}
        store.set_sides(space, other)
        assert same(store.sides(space, corpus.ids[:1])[corpus.ids[0]], vectors[corpus.ids[5]]), "replaced"
    assert store.count() == 6
    assert store.payloads(corpus.ids) == payloads
    assert all(same(vector, corpus.dense[id_]) for id_, vector in store.vectors(corpus.ids).items())


def test_an_upsert_replaces_the_vectors_of_every_space_and_payloads_replace_none(store: Store) -> None:
    corpus = Corpus(4).fill(store)
    first, second = corpus.ids[:2]
    store.upsert([plain(first.int), plain(second.int, **{LATE.name: corpus.late[first]})])
    assert [sorted(store.without(space)) for space in SPACES] == [[first, second], [first, second], [first]]
    assert same(store.sides(LATE, [second])[second], corpus.late[first])
    store.set_payload({corpus.ids[2]: {"metadata": {"new": 1}}})
    assert same(store.sides(LATE, corpus.ids)[corpus.ids[2]], corpus.late[corpus.ids[2]])
    store.delete([second, corpus.ids[3]])
    assert sorted(store.sides(LATE, corpus.ids)) == [corpus.ids[2]]


def test_a_dropped_space_is_gone_with_its_vectors_and_can_be_made_again(store: Store) -> None:
    corpus = Corpus(5).fill(store)
    for space, vectors in [(PREFIX, corpus.prefix), (SPARSE, corpus.sparse), (LATE, corpus.late)]:
        store.drop_space(space.name)
        store.drop_space(space.name)
        store.drop_space("never was")
        assert sorted(store.without(space)) == corpus.ids
        store.add_space(space)
        assert store.sides(space, corpus.ids) == {}
        assert sorted(store.without(space)) == corpus.ids
        store.set_sides(space, {corpus.ids[0]: vectors[corpus.ids[0]]})
        assert same(store.sides(space, corpus.ids)[corpus.ids[0]], vectors[corpus.ids[0]])
    assert store.count() == 5


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.kind)
def test_a_space_that_was_never_made_has_no_vectors(store: Store, space: SideSpace) -> None:
    store.upsert([plain(1), plain(2)])
    assert sorted(store.without(space)) == [UUID(int=1), UUID(int=2)]
    assert store.sides(space, [UUID(int=1)]) == {}


def test_a_vector_of_another_length_is_refused(store: Store) -> None:
    corpus = Corpus(3).fill(store)
    id_ = corpus.ids[0]
    for space, wrong in [(PREFIX, np.ones(4, dtype=np.float32)), (LATE, np.ones((2, 5), dtype=np.float32))]:
        with pytest.raises(StorageProblem):
            store.set_sides(space, {id_: wrong})
        with pytest.raises(StorageProblem):
            store.upsert([plain(77, **{space.name: wrong})])
    assert same(store.sides(LATE, [id_])[id_], corpus.late[id_])
    assert UUID(int=77) not in set(store.ids())


def test_a_chunk_whose_sparse_vector_has_no_term_has_one_all_the_same(store: Store) -> None:
    """A model can find nothing in a text; it must not be asked again and again."""
    none = SparseVector(np.array([], dtype=np.int32), np.array([], dtype=np.float32))
    store.add_space(SPARSE)
    store.upsert([plain(1, **{SPARSE.name: none}), plain(2)])
    assert list(store.without(SPARSE)) == [UUID(int=2)]
    assert same(store.sides(SPARSE, [UUID(int=1)])[UUID(int=1)], none)
    store.set_sides(SPARSE, {UUID(int=2): none})
    assert list(store.without(SPARSE)) == []
    found = store.search(SearchRequest(sparse=SparseLeg(SPARSE.name, Corpus(1).terms(5), 9)))
    assert dict(found.sparse or {}) == {}
    found = store.search(SearchRequest(sparse=SparseLeg(SPARSE.name, none, 9)))
    assert dict(found.sparse or {}) == {}, "a query without terms finds nothing"


def test_spaces_belong_to_one_version(catalog: Catalog, store: Store) -> None:
    corpus = Corpus(3).fill(store)
    other = catalog.create(contract("other"), serve=False)
    with catalog.reading(other.name) as second:
        assert second is not None
        second.store.upsert([plain(id_.int) for id_ in corpus.ids])
        second.store.add_space(LATE)
        assert sorted(second.store.without(LATE)) == corpus.ids
    assert len(store.sides(LATE, corpus.ids)) == 3


def test_many_chunks_with_large_side_vectors_are_written_and_paged_to_the_end(store: Store) -> None:
    store.add_space(LATE)
    rows = np.ones((1, LATE.dimensions), dtype=np.float32)
    store.upsert([plain(n) for n in range(1, 1_302)])
    store.set_sides(LATE, {UUID(int=n): n * rows for n in range(1, 1_302, 2)})
    assert sorted(id_.int for id_ in store.without(LATE)) == list(range(2, 1_302, 2))
    found = store.sides(LATE, [UUID(int=n) for n in range(1, 1_302)])
    assert {id_.int: float(np.asarray(vector)[0, 0]) for id_, vector in found.items()} == {
        n: float(n) for n in range(1, 1_302, 2)
    }


def test_what_was_flushed_is_there_after_reopening(tmp_path: Path) -> None:
    corpus = Corpus(8)
    with embedded(tmp_path) as lasting:
        first = lasting.open()
        with first.writing():
            first.create(contract(), serve=True)
            with first.reading() as version:
                assert version is not None
                corpus.fill(version.store)
                version.store.flush()
        first.close()
        second = lasting.open()
        with second.reading() as version:
            assert version is not None
            version.store.add_space(LATE)
            found = version.store.sides(LATE, corpus.ids)
            assert all(same(found[id_], corpus.late[id_]) for id_ in corpus.ids)
            assert list(version.store.without(SPARSE)) == []
        second.close()


@pytest.mark.parametrize("way", ["upsert", "set_sides"])
def test_requests_to_a_server_stay_small_with_late_vectors_too(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """A server refuses requests above 32 MB: 256 chunks of 300 tokens of 128 numbers each would be 200 MB."""
    limit = 200_000
    monkeypatch.setattr("tarragon.store.server.BATCH_BYTES", limit)
    monkeypatch.setattr(wire, "_of_collection", _with_spaces(wire._of_collection))
    rows = {UUID(int=n): Corpus(n).unit(30, 96) for n in range(1, 21)}
    space = SideSpace("l_wide", "late", 96)
    with QdrantStub() as stub:
        catalog = ServerCatalog.open(f"{stub.url}/handbook")
        with catalog.writing():
            catalog.create(contract(), serve=True)
            with catalog.reading() as version:
                assert version is not None
                version.store.add_space(space)
                if way == "upsert":
                    version.store.upsert([plain(id_.int, **{space.name: late}) for id_, late in rows.items()])
                else:
                    version.store.upsert([plain(id_.int) for id_ in rows])
                    version.store.set_sides(space, dict(rows))
                assert list(version.store.without(space)) == []
        catalog.close()
        largest = max(seen.size for seen in stub.seen)
    one = 21 * 30 * 96
    assert one < largest, "the vectors were sent"
    assert largest <= limit + one


# --- what a datatype costs --------------------------------------------------------------------------------------------
WORST = {"float32": 0.0, "float16": 6e-4, "int8": 1.2e-2}
"""Distance of a unit vector of 96 numbers from itself, stored. Measured: float16 3e-4, int8 (Turbo8) 8e-3 at most."""


def rows_in(store: Store, space: SideSpace, rows: FloatArray) -> FloatArray:
    store.add_space(space)
    store.upsert([plain(n + 1, **{space.name: row}) for n, row in enumerate(rows)])
    found = store.sides(space, [UUID(int=n + 1) for n in range(len(rows))])
    return np.stack([np.asarray(found[UUID(int=n + 1)]) for n in range(len(rows))])


@pytest.mark.parametrize("datatype", WORST)
def test_a_datatype_costs_so_much_and_no_more(store: Store, home: Home, datatype: Any) -> None:
    rows = Corpus(1).unit(200, 96)
    kept = rows_in(store, SideSpace("p_wide", "prefix", 96, datatype), rows)
    errors = np.linalg.norm(kept - rows, axis=1)
    assert errors.max() <= WORST[datatype]
    if datatype != "float32" and home.name in ENGINES:
        assert errors.max() > 0, "the datatype makes a difference"


@pytest.mark.parametrize("datatype", WORST)
def test_late_interaction_is_maxsim_of_what_is_kept(store: Store, home: Home, datatype: Any) -> None:
    """With float32 brute-force MaxSim itself; with fewer bits brute-force MaxSim within what they cost a token."""
    corpus = Corpus(1)
    space = SideSpace("l_wide", "late", 96, datatype)
    store.add_space(space)
    passages = {UUID(int=n): corpus.unit(int(corpus.chance.integers(1, 30)), 96) for n in range(1, 61)}
    store.upsert([plain(id_.int, **{space.name: rows}) for id_, rows in passages.items()])
    query = corpus.unit(12, 96)
    dense = DenseLeg(np.ones(DIMENSIONS, dtype=np.float32), 60)
    found = dict(store.search(SearchRequest(dense, late=LateStage(space.name, query))).late or {})
    expected = {id_: maxsim(query, rows) for id_, rows in passages.items()}
    assert found.keys() == expected.keys()
    worst = max(abs(found[id_] - expected[id_]) for id_ in expected)
    assert worst <= (1e-4 if datatype == "float32" else len(query) * WORST[datatype])


@pytest.mark.parametrize("datatype", WORST)
def test_zeros_and_rows_of_any_length_are_kept(store: Store, datatype: Any) -> None:
    """An encoder gives one vector of zeros for a text without tokens that count."""
    rows = np.stack([np.zeros(96), 1e-3 * Corpus(1).unit(96), 100 * Corpus(2).unit(96)]).astype(np.float32)
    kept = rows_in(store, SideSpace("p_wide", "prefix", 96, datatype), rows)
    assert np.isfinite(kept).all()
    lengths = np.linalg.norm(rows, axis=1)
    assert (np.linalg.norm(kept - rows, axis=1) <= 2 * WORST[datatype] * lengths + 1e-6).all()


# --- searching --------------------------------------------------------------------------------------------------------
def test_a_first_pass_is_a_prefix_search_rescored_by_the_full_vectors(store: Store) -> None:
    corpus = Corpus(120).fill(store)
    query = corpus.unit(DIMENSIONS)
    short = corpus.cut(query)
    first = best({id_: float(vector @ short) for id_, vector in corpus.prefix.items()}, 20)
    expected = best({id_: score for id_, score in corpus.dense_scores(query).items() if id_ in first}, 8)
    assert expected.keys() != best(corpus.dense_scores(query), 8).keys(), "the first pass makes a difference"
    found = store.search(SearchRequest(DenseLeg(query, 8, FirstPass(PREFIX.name, short, 20))))
    assert dict(found.dense or {}) == pytest.approx(expected, abs=1e-6)
    wide = store.search(SearchRequest(DenseLeg(query, 8, FirstPass(PREFIX.name, short, 120))))
    assert dict(wide.dense or {}) == pytest.approx(best(corpus.dense_scores(query), 8), abs=1e-6)


def test_a_first_pass_beside_another_leg_gives_the_union_full_scores(store: Store) -> None:
    corpus = Corpus(120).fill(store)
    query = corpus.unit(DIMENSIONS)
    short = corpus.cut(query)
    scores = corpus.dense_scores(query)
    first = best({id_: float(vector @ short) for id_, vector in corpus.prefix.items()}, 20)
    own = best({id_: scores[id_] for id_ in first}, 8)
    words = {id_ for id_ in corpus.ids if id_.int % 10 == 3}
    found = store.search(SearchRequest(DenseLeg(query, 8, FirstPass(PREFIX.name, short, 20)), LexicalLeg("w3", 50)))
    assert set(found.lexical or {}) == words
    assert set(found.dense or {}) == own.keys() | words
    assert dict(found.dense or {}) == pytest.approx({id_: scores[id_] for id_ in own.keys() | words}, abs=1e-6)


def test_the_sparse_leg_is_the_dot_product(store: Store) -> None:
    corpus = Corpus(150).fill(store)
    query = corpus.terms(12)
    scores = {id_: score for id_, score in corpus.sparse_scores(query).items() if score > 0}
    assert 20 < len(scores) < 150
    found = store.search(SearchRequest(sparse=SparseLeg(SPARSE.name, query, 15)))
    assert (found.dense, found.lexical, found.late) == (None, None, None)
    assert dict(found.sparse or {}) == pytest.approx(best(scores, 15), abs=1e-5)
    everything = store.search(SearchRequest(sparse=SparseLeg(SPARSE.name, query, 1_000)))
    assert dict(everything.sparse or {}) == pytest.approx(scores, abs=1e-5), "what shares no term is not found"


def test_negative_weights_count(store: Store) -> None:
    store.add_space(SPARSE)
    terms = np.array([3, 5], dtype=np.int32)
    weights = {1: [1.0, -2.0], 2: [2.0, 1.0], 3: [-1.0, -1.0]}
    sides = {n: {SPARSE.name: SparseVector(terms, np.array(row, dtype=np.float32))} for n, row in weights.items()}
    store.upsert([plain(n, **side) for n, side in sides.items()])
    query = SparseVector(terms, np.array([1.0, 1.0], dtype=np.float32))
    found = store.search(SearchRequest(sparse=SparseLeg(SPARSE.name, query, 9)))
    assert dict(found.sparse or {}) == pytest.approx({UUID(int=2): 3.0, UUID(int=1): -1.0, UUID(int=3): -2.0})


def all_legs(corpus: Corpus, **settings: Any) -> SearchRequest:
    query = corpus.unit(DIMENSIONS)
    return SearchRequest(
        dense=DenseLeg(query, 10, FirstPass(PREFIX.name, corpus.cut(query), 30)),
        lexical=LexicalLeg("w4", 7),
        sparse=SparseLeg(SPARSE.name, corpus.terms(9), 9),
        late=LateStage(LATE.name, corpus.tokens(5)),
        **settings,
    )


def test_every_candidate_of_any_leg_has_its_true_score_in_every_space(store: Store) -> None:
    corpus = Corpus(150).fill(store)
    request = all_legs(corpus)
    found = store.search(request)
    assert request.dense is not None
    assert request.sparse is not None
    assert request.late is not None
    dense, late = corpus.dense_scores(request.dense.vector), corpus.late_scores(request.late.vectors)
    sparse = {id_: score for id_, score in corpus.sparse_scores(request.sparse.vector).items() if score > 0}
    own = store.search(SearchRequest(dense=request.dense)).dense or {}
    union = {*own, *(found.lexical or {}), *best(sparse, 9)}
    assert len(found.lexical or {}) == 7
    assert len(union) > 20, "the legs find different chunks"
    assert dict(found.dense or {}) == pytest.approx(only(dense, union), abs=1e-6)
    assert dict(found.late or {}) == pytest.approx(only(late, union), abs=1e-4)
    assert dict(found.sparse or {}) == pytest.approx(only(sparse, union), abs=1e-5)


@pytest.mark.parametrize("leg", ["dense", "lexical", "sparse"])
def test_late_interaction_scores_the_candidates_of_one_leg(store: Store, leg: str) -> None:
    corpus = Corpus(80).fill(store)
    whole = all_legs(corpus)
    assert whole.late is not None
    found = store.search(SearchRequest(**{leg: getattr(whole, leg)}, late=whole.late))
    own = set(getattr(found, leg) or {})
    assert own
    assert dict(found.late or {}) == pytest.approx(only(corpus.late_scores(whole.late.vectors), own), abs=1e-4)


def test_a_filter_applies_inside_every_leg_and_before_its_limit(store: Store) -> None:
    corpus = Corpus(200).fill(store)
    request = all_legs(corpus, filter=parse({"parity": 0}))
    found = store.search(request)
    assert request.dense is not None
    assert request.dense.first is not None
    assert request.sparse is not None
    assert request.late is not None
    short = request.dense.first.vector
    first = best(even({id_: float(vector @ short) for id_, vector in corpus.prefix.items()}), 30)
    dense = best(only(corpus.dense_scores(request.dense.vector), set(first)), 10)
    sparse = {id_: score for id_, score in even(corpus.sparse_scores(request.sparse.vector)).items() if score > 0}
    union = {*dense, *best(sparse, 9), *(found.lexical or {})}
    assert len(found.lexical or {}) == 7, "as many as without the filter: w4 is in even chunks only"
    assert set(found.dense or {}) == set(found.late or {}) == union
    assert set(found.sparse or {}) == {id_ for id_ in union if id_ in sparse}
    assert all(id_.int % 2 == 0 for id_ in union)
    nothing = store.search(all_legs(corpus, filter=parse({"parity": 2})))
    assert [dict(getattr(nothing, leg) or {}) for leg in ("dense", "lexical", "sparse", "late")] == [{}] * 4


@pytest.mark.parametrize("leg", ["dense", "sparse"])
def test_a_filter_applies_to_one_leg_alone_and_before_its_limit(store: Store, leg: str) -> None:
    corpus = Corpus(150).fill(store)
    query, terms = corpus.unit(DIMENSIONS), corpus.terms(12)
    requests = {
        "dense": SearchRequest(DenseLeg(query, 10, FirstPass(PREFIX.name, corpus.cut(query), 150))),
        "sparse": SearchRequest(sparse=SparseLeg(SPARSE.name, terms, 10)),
    }
    scores = {"dense": corpus.dense_scores(query), "sparse": corpus.sparse_scores(terms)}[leg]
    request = requests[leg]
    odd = {id_: score for id_, score in scores.items() if id_.int % 2}
    confined = SearchRequest(request.dense, sparse=request.sparse, filter=parse({"parity": 1}))
    found = dict(getattr(store.search(confined), leg) or {})
    assert found == pytest.approx(best(odd, 10), abs=1e-5)


def test_nothing_is_found_in_an_empty_store(store: Store) -> None:
    for space in SPACES:
        store.add_space(space)
    found = store.search(all_legs(Corpus(1)))
    assert [dict(getattr(found, leg) or {}) for leg in ("dense", "lexical", "sparse", "late")] == [{}] * 4


def test_a_chunk_without_a_side_vector_is_still_a_candidate_of_the_other_legs(store: Store) -> None:
    """As while a space is being filled in."""
    corpus = Corpus(30).fill(store)
    store.upsert([plain(100)])
    request = SearchRequest(DenseLeg(corpus.unit(DIMENSIONS), 50), late=LateStage(LATE.name, corpus.tokens(3)))
    found = store.search(request)
    assert UUID(int=100) in (found.dense or {})
    assert UUID(int=100) not in (found.late or {}), "without a vector it has no score"
    assert len(found.late or {}) == 30
