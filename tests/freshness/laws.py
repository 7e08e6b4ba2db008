"""The laws of freshness as slow, obvious code: what an index of these documents must hold and answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from tarragon import Document, Hit, Index, IndexRecipe
from tarragon.canaries import probes
from tarragon.chunking import Chunker
from tarragon.identity import chunk_hash, digest
from tarragon.protocols import Embeddings, EncoderInput, OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.searching import build_request, search
from tarragon.sources.formats import format_of
from tarragon.testing import WordEncoder, WordTokenizer
from tarragon.types import FloatArray, IntArray

DIMENSIONS = 16
EVERYTHING = 500
"""More hits than any index here has chunks."""

QUERIES = ("keys rotate at night", "Who answers the phone?", "# Doors", "the backup of the cold walls", "zzz")


# --- encoders ---------------------------------------------------------------------------------------------------------
@cache
def _tokens(text: str) -> IntArray:
    return WordTokenizer().tokenize([text])[0]


class CachedTokenizer:
    """`WordTokenizer`, each text once."""

    sliceable = True

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        return [_tokens(text) for text in texts]


_rows: dict[tuple[str, str], tuple[FloatArray, int]] = {}


class Words(WordEncoder):
    """`WordEncoder`, each text once, and a list of the batches of documents that it was asked for."""

    def __init__(self, salt: str = "") -> None:
        super().__init__(DIMENSIONS, salt=salt)
        self.salt = salt
        self.tokenizer = CachedTokenizer()  # type: ignore[assignment]
        self.batches: list[list[str]] = []

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        texts = [item.text for item in inputs]
        if tuple(texts) != probes():
            self.batches.append(texts)
        return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        for text in texts:
            if (self.salt, text) not in _rows:
                alone = super()._encode([text])
                _rows[self.salt, text] = alone.vectors[0], alone.tokens
        rows = [_rows[self.salt, text] for text in texts]
        vectors = np.array([row for row, _ in rows], dtype=np.float32).reshape(len(rows), self.dimensions)
        return Embeddings(vectors, sum(tokens for _, tokens in rows), 0)

    def vector(self, text: str) -> FloatArray:
        """Of one text, without being counted."""
        row: FloatArray = self._encode([text]).vectors[0]
        return row


# --- what a document should be ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class State:
    """What a source says of a document at one time; metadata as JSON."""

    text: str
    metadata: str = "{}"

    def document(self, document_id: str) -> Document:
        return Document(document_id, self.text, json.loads(self.metadata))


@dataclass(frozen=True)
class Passage:
    """What a hit shows."""

    chunk_id: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    metadata: str


@dataclass(frozen=True)
class Piece:
    """A chunk that must be stored."""

    passage: Passage
    embed_text: str
    payload: dict[str, Any]


@lru_cache(maxsize=50_000)
def pieces(document_id: str, state: State, limit: int) -> tuple[Piece, ...]:
    """The chunks that this document must have, with ids worked out from their definition."""
    document = state.document(document_id)
    chunker = Chunker(CachedTokenizer(), limit)
    seen: Counter[bytes] = Counter()
    found: list[Piece] = []
    for chunk in chunker.chunk([(document, format_of(document_id))])[0]:
        hash_ = digest("chunk", chunk.embed_text.encode())
        id_ = digest("chunk id", document_id, hash_, seen[hash_].to_bytes(8, "little")).hex()
        chunk_id = "-".join((id_[:8], id_[8:12], id_[12:16], id_[16:20], id_[20:]))
        seen[hash_] += 1
        assert document.text[chunk.start : chunk.end] == chunk.text
        payload = {
            "content": chunk.embed_text,
            "document_id": document_id,
            "offset": len(chunk.embed_text) - len(chunk.text),
            "start": chunk.start,
            "end": chunk.end,
            "ordinal": chunk.ordinal,
            "heading": list(chunk.heading),
            "metadata": dict(document.metadata),
            "previous": found[-1].passage.chunk_id if found else "",
            "next": "",
        }
        if found:
            found[-1].payload["next"] = chunk_id
        passage = Passage(chunk_id, chunk.text, chunk.start, chunk.end, chunk.heading, state.metadata)
        found.append(Piece(passage, chunk.embed_text, payload))
    return tuple(found)


def passages(document_id: str, state: State | None, limit: int) -> frozenset[Passage]:
    """What a search for everything must show of a document."""
    return frozenset() if state is None else frozenset(piece.passage for piece in pieces(document_id, state, limit))


def texts_of(served: Mapping[str, State], limit: int) -> set[str]:
    """Texts whose vectors a version has."""
    return {piece.embed_text for id_, state in served.items() for piece in pieces(id_, state, limit)}


# --- what an index shows ----------------------------------------------------------------------------------------------
def passage_of(hit: Hit) -> Passage:
    metadata = json.dumps(dict(hit.metadata), sort_keys=True)
    return Passage(hit.chunk_id, hit.text, hit.start, hit.end, tuple(hit.heading), metadata)


def by_document(hits: Iterable[Hit]) -> dict[str, frozenset[Passage]]:
    found: dict[str, list[Passage]] = {}
    for hit in hits:
        found.setdefault(hit.document_id, []).append(passage_of(hit))
    for document_id, shown in found.items():
        assert len(shown) == len(set(shown)), f"{document_id} is shown twice"
    return {document_id: frozenset(shown) for document_id, shown in found.items()}


def shown_by(version: OpenVersion, encoder: Words) -> dict[str, frozenset[Passage]]:
    """All that a version answers, through the real read path."""
    recipe = SearchRecipe(mode="dense")
    request = build_request("all", encoder.vector("keys"), EVERYTHING, None, recipe)
    return by_document(one.hit for one in search(version, request, EVERYTHING, recipe))


Contents = dict[str, tuple[dict[str, Any], tuple[float, ...]]]


def contents(version: OpenVersion) -> Contents:
    """Everything stored: chunk id → payload and vector."""
    ids = list(version.store.ids())
    assert len(ids) == len(set(ids)) == version.store.count()
    payloads, vectors = version.store.payloads(ids), version.store.vectors(ids)
    return {str(id_): (payloads[id_], tuple(vectors[id_].tolist())) for id_ in ids}


Answers = dict[tuple[str, str], list[tuple[str, float]]]


def answers(index: Index, k: int = 10) -> Answers:
    """Chunk ids and scores for a handful of queries in each mode."""
    found: Answers = {}
    for mode in ("hybrid", "dense", "lexical"):
        for query in QUERIES:
            hits = index.search(query, k, mode=mode)  # type: ignore[arg-type]
            found[mode, query] = [(hit.chunk_id, hit.score) for hit in hits]
    return found


def assert_alike(found: Answers, wanted: Answers, what: str) -> None:
    """The same hits with nearly the same scores; hits whose scores are nearly equal may change places."""
    for asked, right in wanted.items():
        scores = dict(found[asked])
        assert np.allclose([score for _, score in found[asked]], [score for _, score in right], atol=1e-4), (
            f"{what}: other scores for {asked}: {found[asked]} instead of {right}"
        )
        last = right[-1][1] if right else 0.0
        for chunk_id, score in right:
            if score > last + 1e-4:
                assert abs(scores.get(chunk_id, -9.0) - score) < 1e-4, f"{what}: {asked} lacks {chunk_id} {score}"


# --- what a version must hold -----------------------------------------------------------------------------------------
def assert_holds(version: OpenVersion, served: Mapping[str, State], encoder: Words) -> None:
    """One space; ``ok`` ⇒ exactly the wanted chunks, rows and vectors; every point has a document."""
    contract = version.record.contract
    limit, name = contract.limit, version.record.name
    assert dict(contract.identity) == dict(encoder.identity), f"{name} was built by another encoder"
    records = version.ledger.documents()
    rows = {document_id: {str(row.id): row for row in version.ledger.chunks(document_id)} for document_id in records}
    stored = contents(version)
    owned = {chunk_id for owner in rows.values() for chunk_id in owner}
    assert set(stored) <= owned, f"{name} stores chunks of no document: {set(stored) - owned}"
    held = {id_ for id_, record in records.items() if record.status == "ok"}
    assert held <= set(served), f"{name} says ok of {held - set(served)}, which it does not serve"
    for document_id in held:
        wanted = {piece.passage.chunk_id: piece for piece in pieces(document_id, served[document_id], limit)}
        assert set(rows[document_id]) == set(wanted), f"{name}: the ledger has other chunks of {document_id}"
        mine = {id_ for id_, (payload, _) in stored.items() if payload["document_id"] == document_id}
        assert mine == set(wanted), f"{name}: other chunks of {document_id} are stored than its text has"
        for chunk_id, piece in wanted.items():
            payload, vector = stored[chunk_id]
            row = rows[document_id][chunk_id]
            assert {key: value for key, value in payload.items() if key != "digest"} == piece.payload
            assert payload["digest"] == row.payload.hex(), f"{name}: another payload than recorded"
            assert row.hash == chunk_hash(piece.embed_text)
            assert vector == tuple(encoder.vector(piece.embed_text).tolist()), f"{name}: a vector of another space"


def assert_nearest(index: Index, query: str, served: Mapping[str, State], limit: int, encoder: Words) -> None:
    """A dense search gives what comparing the query with every chunk gives."""
    asked = encoder.vector(query)
    scores = {
        piece.passage.chunk_id: float(asked @ encoder.vector(piece.embed_text))
        for document_id, state in served.items()
        for piece in pieces(document_id, state, limit)
    }
    hits = index.search(query, 10, mode="dense")
    best = sorted(scores.values(), reverse=True)[:10]
    assert np.allclose([hit.score for hit in hits], best, atol=1e-5)
    assert all(abs(scores[hit.chunk_id] - hit.score) < 1e-5 for hit in hits)


def build_fresh(path: Any, served: Mapping[str, State], salt: str, tokens: int) -> tuple[Contents, Answers]:
    """An index built anew from these documents."""
    documents = [state.document(document_id) for document_id, state in served.items()]
    with Index.open(path, encoder=Words(salt), recipe=IndexRecipe(chunk_tokens=tokens)) as index:
        index.sync(documents)
        with index._opened.reading() as version:
            return contents(version), answers(index)
