"""The engine behind `Store`: its contract, and its BM25 against an independent implementation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as q
from rank_bm25 import BM25Okapi

from tarragon.errors import IndexLocked, StorageProblem
from tarragon.filters import parse
from tarragon.protocols import DenseLeg, LexicalLeg, SearchRequest, StoredChunk
from tarragon.recipe import Language
from tarragon.store.edge import EdgeStore, _text_index

DIMENSIONS = 8
CHANCE = np.random.default_rng(5)


def chunk(number: int, text: str = "some text", **metadata: object) -> StoredChunk:
    vector = CHANCE.standard_normal(DIMENSIONS).astype(np.float32)
    payload = {"content": text, "metadata": metadata, "document_id": str(number)}
    return StoredChunk(UUID(int=number), vector / np.linalg.norm(vector), payload)


def open_store(path: Path, *, space: str = "d_test", language: Language = "english") -> EdgeStore:
    return EdgeStore(path, space=space, dimensions=DIMENSIONS, language=language)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    opened = open_store(tmp_path / "shard")
    yield opened
    opened.close()


def test_what_is_stored_comes_back(store: EdgeStore) -> None:
    chunks = [chunk(n, f"text {n}", n=n) for n in range(50)]
    store.upsert(chunks)
    ids = [one.id for one in chunks]
    assert sorted(store.ids()) == ids
    vectors = store.vectors([*ids, UUID(int=999)])
    assert sorted(vectors) == ids
    for one in chunks:
        assert np.array_equal(vectors[one.id], one.vector), "bit for bit"
    assert store.payloads(ids[:2])[ids[1]] == dict(chunks[1].payload)
    store.set_payload({ids[1]: {"metadata": {"new": 1}}})
    assert store.payloads([ids[1]])[ids[1]] == {"content": "text 1", "document_id": "1", "metadata": {"new": 1}}
    assert np.array_equal(store.vectors([ids[1]])[ids[1]], chunks[1].vector)
    store.upsert([StoredChunk(ids[2], chunks[3].vector, {"content": "replaced"})])
    assert store.payloads([ids[2]])[ids[2]] == {"content": "replaced"}
    store.delete([*ids[:10], UUID(int=999)])
    assert sorted(store.ids()) == ids[10:]
    store.upsert([])
    store.set_payload({})
    store.delete([])
    assert store.vectors([]) == store.payloads([]) == {}


def test_ids_are_paged_to_the_end(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.store.edge._PAGE", 7)
    store.upsert([chunk(n) for n in range(50)])
    assert len(set(store.ids())) == 50


def test_the_dense_leg_is_brute_force_and_both_legs_see_the_filter(store: EdgeStore) -> None:
    chunks = [chunk(n, "even words" if n % 2 == 0 else "odd words", parity=n % 2) for n in range(100)]
    store.upsert(chunks)
    query = chunks[7].vector
    scores = {one.id: float(one.vector @ query) for one in chunks}
    found = store.search(SearchRequest(dense=DenseLeg(query, 10)))
    assert found.lexical is None
    best = dict(sorted(scores.items(), key=lambda entry: -entry[1])[:10])
    assert dict(found.dense or {}) == pytest.approx(best, abs=1e-6)

    both = store.search(SearchRequest(DenseLeg(query, 10), LexicalLeg("even", 20), parse({"parity": 0})))
    assert both.dense is not None
    assert both.lexical is not None
    even = {one.id for one in chunks[::2]}
    assert len(both.lexical) == 20
    assert set(both.dense) >= set(both.lexical), "every candidate has a dense score"
    assert set(both.dense) <= even
    assert dict(both.dense) == pytest.approx({id_: scores[id_] for id_ in both.dense}, abs=1e-6)
    top_even = sorted(even, key=lambda id_: -scores[id_])[:10]
    assert set(both.dense) == set(top_even) | set(both.lexical)


def test_the_space_is_checked_by_the_engine_itself(tmp_path: Path, store: EdgeStore) -> None:
    with pytest.raises(StorageProblem, match="dim"):
        store.upsert([StoredChunk(UUID(int=1), np.ones(3, dtype=np.float32), {})])
    store.close()
    other = open_store(tmp_path / "shard", space="d_other")
    with pytest.raises(StorageProblem, match="d_other"):
        other.upsert([chunk(1)])
    with pytest.raises(StorageProblem, match="d_other"):
        other.search(SearchRequest(dense=DenseLeg(np.ones(DIMENSIONS, dtype=np.float32), 3)))
    other.close()


def test_a_second_opening_is_refused_and_closing_releases(tmp_path: Path, store: EdgeStore) -> None:
    store.upsert([chunk(1)])
    with pytest.raises(IndexLocked):
        open_store(tmp_path / "shard")
    store.flush()
    store.close()
    again = open_store(tmp_path / "shard")
    assert list(again.ids()) == [UUID(int=1)]
    again.close()


# --- BM25 -------------------------------------------------------------------------------------------------------------
class LuceneBM25(BM25Okapi):  # type: ignore[misc] # rank_bm25 has no types
    """rank_bm25 with the non-negative idf that Lucene and Qdrant use; its own is negative for frequent words."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        for word, count in nd.items():
            self.idf[word] = math.log(1 + (self.corpus_size - count + 0.5) / (count + 0.5))


def lexical(store: EdgeStore, query: str, limit: int = 1_000) -> dict[UUID, float]:
    return dict(store.search(SearchRequest(lexical=LexicalLeg(query, limit))).lexical or {})


def assert_bm25(store: EdgeStore, tokens: dict[UUID, list[str]], query: str, query_tokens: list[str]) -> None:
    """The engine's scores are rank_bm25's on these tokens, for every document that has one of the words."""
    oracle = LuceneBM25(list(tokens.values()), k1=1.2, b=0.75)
    expected = dict(zip(tokens, oracle.get_scores(query_tokens), strict=True))
    assert lexical(store, query) == pytest.approx({id_: s for id_, s in expected.items() if s > 0}, rel=1e-4)


def test_bm25_ranks_and_scores_as_rank_bm25_does(tmp_path: Path) -> None:
    store = open_store(tmp_path / "shard", language="neutral")
    vocabulary = [f"w{n}" for n in range(60)]
    weights = 1 / np.arange(1, 61)
    tokens = {
        UUID(int=n): CHANCE.choice(vocabulary, size=CHANCE.integers(1, 60), p=weights / weights.sum()).tolist()
        for n in range(300)
    }
    store.upsert([StoredChunk(id_, chunk(0).vector, {"content": " ".join(words)}) for id_, words in tokens.items()])
    for query in [["w0"], ["w59"], ["w1", "w7", "w30"], ["w5", "w40", "w41", "w42"], ["absent"], ["w3", "absent"]]:
        assert_bm25(store, tokens, " ".join(query), query)
    # ... and after most of it is gone: counts and lengths are live, not those of the first day
    for id_ in list(tokens)[50:]:
        del tokens[id_]
    store.delete([UUID(int=n) for n in range(50, 300)])
    assert_bm25(store, tokens, "w1 w7 w30", ["w1", "w7", "w30"])
    store.close()


@pytest.mark.parametrize("language", ["english", "neutral"])
def test_frequent_words_get_no_links_of_their_own_in_the_graph(tmp_path: Path, language: Language) -> None:
    """`optimize` makes them for every frequent word, and only a filter on words would use them."""
    path = tmp_path / "shard"
    vectors = {"d_test": q.EdgeVectorParams(size=DIMENSIONS, distance=q.Distance.Dot)}
    path.mkdir()
    shard = q.EdgeShard.create(str(path), q.EdgeConfig(vectors=vectors))
    made = _text_index(language)
    former = q.TextIndexParams(
        tokenizer=made.tokenizer,
        lowercase=True,
        ascii_folding=made.ascii_folding,
        stopwords=made.stopwords,
        stemmer=made.stemmer,
        scoring=True,
    )
    shard.update(q.UpdateOperation.create_field_index("content", former))
    texts = {UUID(int=n): f"running {n} words {'and keys' * (n % 3)}" for n in range(1, 40)}
    points = [q.Point(id_, {"d_test": chunk(0).vector}, {"content": text}) for id_, text in texts.items()]
    shard.update(q.UpdateOperation.upsert_points(points))
    asked = q.QueryRequest(limit=50, query=q.TextQuery("content", "run keys 7"))
    expected = {point.id: point.score for point in shard.query(asked)}
    shard.flush()
    shard.close()
    for _ in range(2):  # opened by this release for the first time, and again
        store = open_store(path, language=language)
        assert store._shard.info().payload_schema["content"].params.enable_hnsw is False
        assert lexical(store, "run keys 7", 50) == expected
        store.close()


STEMS = {
    "english": ("The runners were running quickly", "run runner quick", "the were", "runs"),
    "german": ("Die Häuser standen in den Straßen", "Haus Straße", "die in den", "Hauses"),
    "french": ("Les maisons étaient dans la rue", "maison rue", "les dans la", "maison"),
    "spanish": ("Las casas estaban en la calle", "casa calle", "las en la", "casa"),
}


@pytest.mark.parametrize("language", STEMS)
def test_words_are_stemmed_and_stop_words_ignored(tmp_path: Path, language: Language) -> None:
    text, _, stop_words, inflected = STEMS[language]
    store = open_store(tmp_path / "shard", language=language)
    store.upsert([chunk(1, text), chunk(2, "something else entirely 12345")])
    assert set(lexical(store, inflected)) == {UUID(int=1)}
    assert lexical(store, stop_words) == {}
    assert set(lexical(store, text.upper())) == {UUID(int=1)}
    store.close()


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("这个系统的签名密钥每年更换一次", "密钥"),
        ("東京の鍵は毎年交換される", "鍵を交換する"),  # a query of kanji alone is cut as Chinese and may find nothing
        ("서명 키는 매년 교체된다", "서명 키"),
        ("Ünïcode naïve", "unicode naive"),
        ("مفتاح التوقيع", "مفتاح"),
    ],
)
def test_the_neutral_language_reads_every_script(tmp_path: Path, text: str, query: str) -> None:
    store = open_store(tmp_path / "shard", language="neutral")
    store.upsert([chunk(1, text), chunk(2, "latin words only")])
    assert set(lexical(store, query)) == {UUID(int=1)}
    store.close()
