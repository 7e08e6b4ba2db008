"""A hybrid query beyond embedding its text: the engine's call, the whole search, and a peer in Python.

    python -m benchmarks.query SOURCE [--chunks 20000] [--queries 200] [--embed N] [--query-file queries.jsonl]

The chunks are real. Their vectors are synthetic unless ``--embed`` asks for real ones: unit vectors scattered around a
few hundred random centres. The queries are runs of words out of the chunks, unless a file has real ones. The peer is
rank-bm25 and an exact NumPy scan with reciprocal rank fusion, the usual hybrid search without a database.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rank_bm25 import BM25Okapi

from benchmarks.corpus import read_chunks
from benchmarks.report import add_common_options, markdown_table, publish
from benchmarks.timing import latencies, percentile
from evals.beir import read_queries
from tarragon import IndexRecipe, SearchRecipe
from tarragon.chunking import Chunker
from tarragon.contract import Contract
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.fusion import RRF_K, ranking
from tarragon.planning import WantedChunk
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, EncoderInput, OpenVersion, Store, StoredChunk
from tarragon.searching import build_request, search
from tarragon.store.embedded import attach
from tarragon.types import FloatArray

CENTRES = 300
SCATTER = 1.0
"""Length of the noise against that of the centre: the cosine to the centre is about .7."""

QUERY_WORDS = 8
BATCH = 500

ENGINE = "engine call"
WHOLE = "whole search"
PEER = "rank-bm25 + NumPy + RRF"


@dataclass(frozen=True, slots=True)
class Query:
    """A text, its vector of unit length, and the words that the peer looks for."""

    text: str
    vector: FloatArray
    words: tuple[str, ...]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; see the module."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    chunker = Chunker(encoder.tokenizer, min(options.chunk_tokens, encoder.max_tokens))
    chunks = read_chunks(options.source, chunker, options.chunks)
    vectors = chunk_vectors(encoder, chunks, options.embed)
    queries = make_queries(encoder, [chunk.chunk.text for chunk in chunks], options)
    recipe = SearchRecipe(depth=options.depth)
    peer = Peer(chunks, vectors, recipe.depth)
    with tempfile.TemporaryDirectory(prefix="tarragon-query-") as folder:
        catalog = attach(Path(folder) / "i.tarragon")
        catalog.create(
            Contract.of(
                IndexRecipe(chunk_tokens=options.chunk_tokens),
                encoder.name,
                encoder.dimensions,
                encoder.identity,
                encoder.max_tokens,
            ),
            serve=True,
        )
        with catalog.reading() as version:
            assert version is not None
            seconds = {"upsert": _timed(lambda: fill(version, chunks, vectors))}
            states = {"before": _measure_state(version, queries, peer, options.k, recipe, options.repeats)}
            seconds["optimize"] = _timed(version.store.optimize)
            states["after"] = _measure_state(version, queries, peer, options.k, recipe, options.repeats)
        catalog.close()
    return {
        "benchmark": "query",
        "source": options.source.resolve().name,
        "chunks": len(chunks),
        "chunks_with_real_vectors": min(options.embed, len(chunks)),
        "queries": len(queries),
        "real_queries": options.query_file is not None,
        "k": options.k,
        "depth": recipe.depth,
        "dimensions": encoder.dimensions,
        "seconds": seconds,
        "states": states,
    }


# --- what is searched -------------------------------------------------------------------------------------------------
def chunk_vectors(encoder: SentenceTransformerEncoder, chunks: Sequence[WantedChunk], real: int) -> FloatArray:
    """One unit vector per chunk: real for the first so many, synthetic for the others."""
    vectors = synthetic_vectors(len(chunks), encoder.dimensions, seed=1)
    inputs = [EncoderInput(chunk.chunk.embed_text, chunk.chunk.token_ids) for chunk in chunks[:real]]
    if inputs:
        vectors[: len(inputs)] = encoder.encode_documents(inputs).vectors
    return vectors


def synthetic_vectors(count: int, dimensions: int, seed: int) -> FloatArray:
    """Unit vectors scattered around centres that are the same for every seed."""
    centres = _directions(np.random.default_rng(0), CENTRES, dimensions)
    random = np.random.default_rng(seed)
    around = centres[random.integers(CENTRES, size=count)]
    return _unit(around + SCATTER * _directions(random, count, dimensions))


def _directions(random: np.random.Generator, count: int, dimensions: int) -> FloatArray:
    return _unit(random.standard_normal((count, dimensions), dtype=np.float32))


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make_queries(
    encoder: SentenceTransformerEncoder, passages: Sequence[str], options: argparse.Namespace
) -> list[Query]:
    """Queries from the file or out of the passages, with vectors like those of the chunks."""
    if options.query_file is not None:
        texts = [text for _, text in read_queries(options.query_file) if text.strip()][: options.queries]
    else:
        texts = _runs_of_words(passages, options.queries)
    if options.embed:
        vectors = encoder.encode_queries(texts).vectors
    else:
        vectors = synthetic_vectors(len(texts), encoder.dimensions, seed=2)
    return [Query(text, vector, words_of(text)) for text, vector in zip(texts, vectors, strict=True)]


def _runs_of_words(passages: Sequence[str], count: int) -> list[str]:
    """From the middle of passages at even distances."""
    long = [words for passage in passages if len(words := passage.split()) >= QUERY_WORDS]
    chosen = [long[place * len(long) // count] for place in range(min(count, len(long)))]
    return [" ".join(words[(len(words) - QUERY_WORDS) // 2 :][:QUERY_WORDS]) for words in chosen]


def words_of(text: str) -> tuple[str, ...]:
    """The peer's words: lower case, cut at white space, punctuation at the ends dropped."""
    return tuple(stripped for word in text.lower().split() if (stripped := word.strip(".,;:!?()[]{}<>\"'`*#")))


def fill(version: OpenVersion, chunks: Sequence[WantedChunk], vectors: FloatArray) -> None:
    """Store the chunks, and record them in the ledger as one document's each."""
    stored = [
        StoredChunk(chunk.id, vector, {"content": chunk.chunk.embed_text, **chunk.payload})
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]
    for start in range(0, len(stored), BATCH):
        version.store.upsert(stored[start : start + BATCH])
    version.store.flush()
    version.ledger.switch(
        [
            DocumentWrite(
                DocumentRecord(str(chunk.id), "", "ok", bytes(64), None, None),
                (ChunkRecord(chunk.id, chunk.hash, chunk.payload_digest, chunk.chunk.tokens),),
            )
            for chunk in chunks
        ]
    )


# --- the peer ---------------------------------------------------------------------------------------------------------
class Peer:
    """Hybrid search without a database, all in memory.

    Args:
        chunks: What is found.
        vectors: One unit vector per chunk.
        depth: Candidates of each leg.
    """

    def __init__(self, chunks: Sequence[WantedChunk], vectors: FloatArray, depth: int) -> None:
        self._chunks = chunks
        self._vectors = vectors
        self._depth = min(depth, len(chunks))
        self._bm25 = BM25Okapi([words_of(chunk.chunk.embed_text) for chunk in chunks])

    def search(self, query: Query, k: int) -> list[tuple[WantedChunk, float]]:
        """The ``k`` best by the sum of reciprocal ranks."""
        scores: dict[int, float] = {}
        for leg in (self._vectors @ query.vector, self._bm25.get_scores(query.words)):
            for rank, place in enumerate(self._best(leg), start=1):
                scores[place] = scores.get(place, 0.0) + 1 / (RRF_K + rank)
        best = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:k]
        return [(self._chunks[place], score) for place, score in best]

    def _best(self, scores: Any) -> list[int]:
        candidates = np.argpartition(-scores, self._depth - 1)[: self._depth]
        best: list[int] = candidates[np.argsort(-scores[candidates], kind="stable")].tolist()
        return best

    def nearest(self, query: Query, k: int) -> set[Any]:
        """Ids of the ``k`` nearest, by an exact scan."""
        return {self._chunks[place].id for place in self._best(self._vectors @ query.vector)[:k]}


# --- measuring --------------------------------------------------------------------------------------------------------
def _measure_state(
    version: OpenVersion, queries: Sequence[Query], peer: Peer, k: int, recipe: SearchRecipe, rounds: int
) -> dict[str, Any]:
    calls: dict[str, Callable[[Query], object]] = {
        ENGINE: lambda query: version.store.search(build_request(query.text, query.vector, k, None, recipe)),
        WHOLE: lambda query: search(version, build_request(query.text, query.vector, k, None, recipe), k, recipe),
        PEER: lambda query: peer.search(query, k),
    }
    times = latencies(calls, queries, rounds=rounds)
    beyond = [whole - engine for whole, engine in zip(times[WHOLE], times[ENGINE], strict=True)]
    shown = {**times, "whole search less engine call": beyond}
    return {
        "milliseconds": {
            name: {"p50": 1e3 * percentile(values, 0.5), "p95": 1e3 * percentile(values, 0.95)}
            for name, values in shown.items()
        },
        "dense_recall_at_k": _dense_recall(version.store, queries, peer, k, recipe),
    }


def _dense_recall(store: Store, queries: Sequence[Query], peer: Peer, k: int, recipe: SearchRecipe) -> float:
    """Share of the exact nearest that the dense leg alone finds: the check that the speed is of a right answer."""
    dense = replace(recipe, mode="dense")
    shares = []
    for query in queries:
        scores = store.search(build_request(query.text, query.vector, k, None, dense)).dense or {}
        exact = peer.nearest(query, k)
        shares.append(len(exact & {id_ for id_, _ in ranking(scores)[:k]}) / len(exact))
    return sum(shares) / len(shares)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def render(result: Mapping[str, Any]) -> str:
    """One row per call, before and after `optimize`."""
    before, after = (result["states"][state] for state in ("before", "after"))
    rows = [
        [name, *(f"{state['milliseconds'][name][share]:.2f}" for state in (before, after) for share in ("p50", "p95"))]
        for name in before["milliseconds"]
    ]
    real = result["chunks_with_real_vectors"]
    writing, optimizing = (result["seconds"][name] for name in ("upsert", "optimize"))
    words = "real queries" if result["real_queries"] else "runs of words as queries"
    return "\n".join(
        [
            f"{result['source']}: {result['chunks']} chunks ({real} with real vectors, the others synthetic), "
            f"{result['queries']} {words}, k={result['k']}, depth={result['depth']}, {result['dimensions']} dimensions",
            "",
            markdown_table(["milliseconds", "p50", "p95", "p50, optimized", "p95, optimized"], rows),
            "",
            f"Recall of the dense leg against an exact scan: {before['dense_recall_at_k']:.3f}, "
            f"optimized {after['dense_recall_at_k']:.3f}.",
            f"Writing the chunks took {writing:.1f} s, optimizing {optimizing:.1f} s.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.query", description="Latency of a hybrid query.")
    parser.add_argument("source", type=Path, help="a folder or a .jsonl file")
    parser.add_argument("--chunks", type=int, default=20_000, help="at most; fewer if the source has fewer")
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--query-file", type=Path, metavar="JSONL", help="real queries, as in a BEIR folder")
    parser.add_argument("--embed", type=int, default=0, metavar="N", help="chunks that get real vectors")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--depth", type=int, default=SearchRecipe().depth)
    add_common_options(parser, repeats=3)
    options = parser.parse_args(arguments)
    result = measure(options)
    publish(result, render(result), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
