"""Exactness: on 2,000 chunks, every ranking and every score is that of brute force.

The oracles are slow and obvious: NumPy over all vectors, BM25 by its formula over all texts, and each fusion method as
its docstring in `tarragon.fusion` says it, over the candidates that the docstrings of `tarragon.requests` promise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from handbook import version_of

from tarragon import Document, Hit, Index, IndexRecipe, SearchRecipe
from tarragon.fusion import CALIBRATED_DENSE, CONVEX_DENSE, LEVEL_CAP, LEVEL_DEPTH
from tarragon.protocols import Embeddings, EncoderInput, LexicalLeg, SearchRequest
from tarragon.recipe import Fusion
from tarragon.testing import WordTokenizer
from tarragon.types import FloatArray

CHUNKS, DIMENSIONS, WORDS, QUESTIONS = 2_000, 64, 400, 12
TOLERANCE = 1e-5
DECIMALS = 4
ROUNDED = 0.5 * 10**-DECIMALS + 1e-6
"""What rounding does to a lexical score: equal passages must be equal, and the engine adds in single precision."""

Scores = dict[UUID, float]

PLAIN = SearchRecipe(fusion="dbsf")
"""A single leg keeps its own scores."""


# --- the corpus -------------------------------------------------------------------------------------------------------
class Spectrum:
    """A dense encoder of its own: each text has a vector drawn from a cone, with variances that fall as 1 / axis."""

    name = "spectrum"
    device = "cpu"
    dimensions = DIMENSIONS
    max_tokens = 256
    tokenizer = WordTokenizer()
    identity: Mapping[str, str] = {"kind": "spectrum"}

    def vector(self, text: str) -> FloatArray:
        seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
        row = np.random.default_rng(seed).standard_normal(DIMENSIONS) / np.sqrt(np.arange(1, DIMENSIONS + 1))
        row[3] += 1.5
        return np.asarray(row / np.linalg.norm(row), dtype=np.float32)

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        return self.encode_queries([item.text for item in inputs])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        rows = np.array([self.vector(text) for text in texts], dtype=np.float32).reshape(len(texts), DIMENSIONS)
        return Embeddings(rows, sum(len(text.split()) for text in texts), 0)


def made_texts(chance: np.random.Generator, count: int, longest: int) -> list[str]:
    """Distinct texts of words whose frequencies are Zipf's."""
    weights = 1 / np.arange(1, WORDS + 1)
    texts: dict[str, None] = {}
    while len(texts) < count:
        words = chance.choice(WORDS, size=int(chance.integers(2, longest)), p=weights / weights.sum())
        texts[" ".join(f"w{word}" for word in words)] = None
    return list(texts)


@dataclass
class Truth:
    """What is stored, by chunk id, and the scores of all of it by brute force."""

    index: Index
    encoder: Spectrum
    texts: dict[UUID, str]
    metadata: dict[UUID, Mapping[str, Any]]
    questions: list[str]
    known: dict[tuple[str, str], Scores] = field(default_factory=dict)

    def dense(self, query: str) -> Scores:
        return self.once("dense", query, self._dense)

    def lexical(self, query: str) -> Scores:
        return self.once("lexical", query, self._lexical)

    def rounded(self, query: str) -> Scores:
        """BM25 as a search sees it: the engine's, which is the formula's but for single precision and rounding."""
        store, exact = version_of(self.index).store, self.lexical(query)
        found = dict(store.search(SearchRequest(lexical=LexicalLeg(query, CHUNKS))).lexical or {})
        assert found == pytest.approx(exact, abs=ROUNDED)
        return {id_: round(score, DECIMALS) for id_, score in found.items()}

    def once(self, leg: str, query: str, score: Callable[[str], Scores]) -> Scores:
        if (leg, query) not in self.known:
            self.known[leg, query] = score(query)
        return self.known[leg, query]

    def _dense(self, query: str) -> Scores:
        ids = list(self.texts)
        rows = np.stack([self.encoder.vector(self.texts[id_]) for id_ in ids]).astype(np.float64)
        return dict(zip(ids, (rows @ self.encoder.vector(query)).tolist(), strict=True))

    def _lexical(self, query: str) -> Scores:
        """BM25 of those that share a word: Σ idf · f (k₁ + 1) / (f + k₁ (1 - b + b · length / average)), distinct words
        of the query once; idf = ln(1 + (N - n + ½) / (n + ½)).
        """
        words = {id_: text.split() for id_, text in self.texts.items()}
        average = sum(map(len, words.values())) / len(words)
        asked = list(dict.fromkeys(query.split()))
        holding = {word: sum(word in one for one in words.values()) for word in asked}
        scores: Scores = {}
        for id_, own in words.items():
            counts, total = Counter(own), 0.0
            for word in asked:
                idf = math.log(1 + (len(words) - holding[word] + 0.5) / (holding[word] + 0.5))
                norm = 1.2 * (1 - 0.75 + 0.75 * len(own) / average)
                total += idf * counts[word] * 2.2 / (counts[word] + norm)
            if total > 0:
                scores[id_] = total
        return scores

    def passing(self, scores: Scores, passes: Callable[[Mapping[str, Any]], bool]) -> Scores:
        return {id_: score for id_, score in scores.items() if passes(self.metadata[id_])}


@pytest.fixture(scope="module", params=["as written", "optimized"])
def truth(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    chance = np.random.default_rng(3)
    texts = made_texts(chance, CHUNKS, 60)
    documents = [Document(f"{n}", text, {"even": n % 2 == 0, "year": 1990 + n % 40}) for n, text in enumerate(texts)]
    recipe = IndexRecipe(chunking="whole", language="neutral")
    encoder = Spectrum()
    with Index.open(tmp_path_factory.mktemp("exact") / "index", recipe=recipe, encoder=encoder) as index:
        index.sync(documents, progress=False)
        if request.param == "optimized":
            index.sync(documents[:-200], prune=True, progress=False)
            index.sync(documents, progress=False)
            index.optimize(in_place=True)
        store = version_of(index).store
        payloads = store.payloads(list(store.ids()))
        found = {id_: payload["content"] for id_, payload in payloads.items()}
        assert sorted(found.values()) == sorted(texts), "one chunk a document, which is its text"
        metadata = {id_: payload["metadata"] for id_, payload in payloads.items()}
        yield Truth(index, encoder, found, metadata, made_texts(chance, QUESTIONS, 7))


def ranked(scores: Mapping[UUID, float]) -> list[tuple[UUID, float]]:
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0].int))


def assert_same(hits: Sequence[Hit], expected: Sequence[tuple[UUID, float]], tolerance: float = TOLERANCE) -> None:
    """The same passages with the same scores in the same order; in any order where scores are that close."""
    assert len(hits) == len(expected)
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=tolerance)
    scores = dict(expected)
    assert {UUID(hit.chunk_id) for hit in hits} == scores.keys()
    for hit in hits:
        assert hit.score == pytest.approx(scores[UUID(hit.chunk_id)], abs=tolerance)


FILTERS: dict[str, tuple[dict[str, Any] | None, Callable[[Mapping[str, Any]], bool]]] = {
    "all": (None, lambda _: True),
    "even": ({"even": True}, lambda metadata: metadata["even"]),
    "few": ({"year": {"$gte": 2028}}, lambda metadata: metadata["year"] >= 2028),
}


# --- one leg ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FILTERS)
def test_dense_search_is_brute_force(truth: Truth, name: str) -> None:
    spec, passes = FILTERS[name]
    for query in truth.questions:
        hits = truth.index.search(query, 25, mode="dense", filter=spec, recipe=PLAIN)
        assert_same(hits, ranked(truth.passing(truth.dense(query), passes))[:25])


@pytest.mark.parametrize("name", FILTERS)
def test_lexical_search_is_bm25(truth: Truth, name: str) -> None:
    """The statistics are those of the whole index, whatever the filter."""
    spec, passes = FILTERS[name]
    for query in truth.questions:
        hits = truth.index.search(query, 25, mode="lexical", filter=spec, recipe=PLAIN)
        assert_same(hits, ranked(truth.passing(truth.rounded(query), passes))[:25])
        exact = truth.passing(truth.lexical(query), passes)
        assert [hit.score for hit in hits] == pytest.approx([exact[UUID(hit.chunk_id)] for hit in hits], abs=ROUNDED)
        best = sorted(exact.values(), reverse=True)[:25]
        assert [hit.score for hit in hits] == pytest.approx(best, abs=ROUNDED)


# --- fused ------------------------------------------------------------------------------------------------------------
@dataclass
class Oracle:
    """A hybrid search in full: which passages are candidates, and what each method makes of their scores."""

    truth: Truth
    query: str
    depth: int
    passes: Callable[[Mapping[str, Any]], bool]

    def __post_init__(self) -> None:
        self.all_dense = self.truth.dense(self.query)
        dense = self.truth.passing(self.all_dense, self.passes)
        lexical = self.truth.passing(self.truth.rounded(self.query), self.passes)
        self.words = sorted(lexical.values(), reverse=True)
        nearest, matching = self.the_best(dense, self.depth), self.the_best(lexical, self.depth)
        deep = max(self.depth, LEVEL_DEPTH)
        beyond = self.words[deep] if len(self.words) > deep else -math.inf
        self.told = matching | {id_: score for id_, score in lexical.items() if score > beyond}
        self.ids = sorted({*nearest, *matching})
        self.legs = [{id_: dense[id_] for id_ in self.ids}, matching]

    def the_best(self, scores: Scores, count: int) -> Scores:
        """The best so many, and all that tie with the last of them."""
        best = sorted(scores.values(), reverse=True)[:count]
        return {id_: score for id_, score in scores.items() if best and score >= best[-1]}

    def column(self, leg: int) -> list[float]:
        return [self.legs[leg].get(id_, 0.0) for id_ in self.ids]

    def sum_of(self, columns: Sequence[Sequence[float]], weights: Sequence[float]) -> Scores:
        rows = zip(*columns, strict=True)
        return {
            id_: sum(w * x for w, x in zip(weights, row, strict=True)) for id_, row in zip(self.ids, rows, strict=True)
        }

    def dbsf(self, share: float | None) -> Scores:
        columns = []
        for leg in (0, 1):
            values = self.column(leg)
            mean, deviation = np.mean(values), np.std(values, ddof=1)
            columns.append([float((value - mean) / (6 * deviation) + 0.5) for value in values])
        return self.sum_of(columns, [1, 1] if share is None else [2 * share, 2 * (1 - share)])

    def convex(self, share: float | None) -> Scores:
        columns = []
        for leg in (0, 1):
            values = self.column(leg)
            columns.append([(value - min(values)) / (max(values) - min(values)) for value in values])
        share = CONVEX_DENSE if share is None else share
        return self.sum_of(columns, [share, 1 - share])

    def rrf(self, share: float | None) -> Scores:
        columns = []
        for leg in (0, 1):
            ranks = {id_: rank for rank, (id_, _) in enumerate(ranked(self.legs[leg]), start=1)}
            columns.append([1 / (60 + ranks[id_]) if id_ in ranks else 0.0 for id_ in self.ids])
        return self.sum_of(columns, [1, 1] if share is None else [2 * share, 2 * (1 - share)])

    def calibrated(self, share: float | None) -> Scores:
        corpus = np.array(list(self.all_dense.values()))
        first = [*self.words[:LEVEL_DEPTH], *[0.0] * (LEVEL_DEPTH - len(self.words))]
        level = min(math.sqrt(sum(score**2 for score in first) / LEVEL_DEPTH), LEVEL_CAP)
        dense = [float((score - corpus.mean()) / corpus.std()) for score in self.column(0)]
        lexical = [self.told.get(id_, 0.0) / math.sqrt(level) for id_ in self.ids]
        share = CALIBRATED_DENSE if share is None else share
        return self.sum_of([dense, lexical], [share, 1 - share])


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("method", ["dbsf", "convex", "rrf"])
@pytest.mark.parametrize("name", FILTERS)
def test_fused_search_is_brute_force(truth: Truth, method: Fusion, share: float | None, name: str) -> None:
    spec, passes = FILTERS[name]
    for query in truth.questions:
        expected = getattr(Oracle(truth, query, 100, passes), method)(share)
        hits = truth.index.search(query, 30, filter=spec, recipe=SearchRecipe(fusion=method, dense_weight=share))
        assert_same(hits, ranked(expected)[:30])


@pytest.mark.parametrize(("depth", "share"), [(30, None), (30, 0.3), (100, None), (100, 0.3), (LEVEL_DEPTH, None)])
def test_calibrated_fusion_is_brute_force(truth: Truth, depth: int, share: float | None) -> None:
    """In deviations of all 2,000 dense scores, and in levels of the query's first 400 lexical ones."""
    for query in truth.questions:
        expected = Oracle(truth, query, depth, lambda _: True).calibrated(share)
        recipe = SearchRecipe(fusion="calibrated", depth=depth, dense_weight=share)
        assert_same(truth.index.search(query, 30, recipe=recipe), ranked(expected)[:30])


def test_min_score_leaves_out_what_brute_force_scores_less(truth: Truth) -> None:
    recipe = SearchRecipe(fusion="calibrated", depth=LEVEL_DEPTH)
    left_out = 0
    for query in truth.questions:
        expected = ranked(Oracle(truth, query, LEVEL_DEPTH, lambda _: True).calibrated(None))[:30]
        least = (expected[9][1] + expected[10][1]) / 2
        found = truth.index.search(query, 30, recipe=SearchRecipe(fusion="calibrated", depth=400, min_score=least))
        assert_same(found, expected[:10])
        left_out += len(truth.index.search(query, 30, recipe=recipe)) - len(found)
    assert left_out == 20 * len(truth.questions)


def test_a_calibrated_score_means_the_same_whatever_the_depth_and_the_legs(truth: Truth) -> None:
    """So that a `min_score` that was chosen once holds."""
    for query in truth.questions[:4]:
        words = sorted(truth.rounded(query).values(), reverse=True)
        first = [*words[:LEVEL_DEPTH], *[0.0] * (LEVEL_DEPTH - len(words))]
        level = min(math.sqrt(sum(score**2 for score in first) / LEVEL_DEPTH), LEVEL_CAP)
        for depth in (30, 100, 400):
            recipe = SearchRecipe(mode="lexical", depth=depth, min_score=0.0, fusion="calibrated")
            best = truth.index.search(query, 1, recipe=recipe)[0].score
            assert best == pytest.approx(words[0] / math.sqrt(level), abs=TOLERANCE)


def test_more_is_a_longer_list_of_the_same(truth: Truth) -> None:
    """As long as ``k`` is within the depth, it decides nothing but the length."""
    for query in truth.questions[:4]:
        long = truth.index.search(query, 100)
        for k in (1, 7, 50):
            assert [hit.chunk_id for hit in truth.index.search(query, k)] == [hit.chunk_id for hit in long[:k]]
