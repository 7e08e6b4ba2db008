"""The LlamaIndex retriever beside LlamaIndex's own hybrid search: what it finds, how fast, and what the adapter costs.

    python -m benchmarks.llama_index DATASET_DIR [--keep DIR] [--repeats 5]

One embedding model, one text for each document, one chunk size; on both sides the query is embedded anew each time. The
peer is what LlamaIndex's documentation calls hybrid search: a `VectorIndexRetriever` over a `QdrantVectorStore` and a
`BM25Retriever` under a `QueryFusionRetriever`, in both of its usual fusions. (The store's own ``enable_hybrid`` needs a
sparse model from a hub.) The store is qdrant-client's local mode, in memory.

``--keep`` keeps the index and the peer's vectors, which take some ten minutes each to embed on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import add_common_options, markdown_table, publish, spread_dict
from benchmarks.timing import Spread, latencies, percentile
from evals.beir import read_questions
from tarragon import Retriever
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.protocols import DenseEncoder
from tarragon.sources import open_source
from tarragon.types import FloatArray

K = 10
DEEP = 50
"""Nodes from which the first ten documents are taken."""

OVERLAP = 20
"""Tokens that the peer's chunks share with the one before; Tarragon's share none."""

OURS = "Tarragon"
CORE = "Tarragon, without LlamaIndex"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build all, ask all; see the module."""
    from llama_index.core import Document

    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    questions = read_questions(options.dataset, options.split)
    loaded = [item.load() for item in open_source(options.dataset / "corpus.jsonl").items()]
    documents = [Document(text=one.text, id_=one.id) for one in loaded]
    with _ours(documents, encoder, folder) as ours:
        peers, chunks = _peers(documents, encoder, folder)
        systems: dict[str, Any] = {OURS: ours, **peers}
        found: dict[str, dict[str, list[str]]] = {}
        for name, system in systems.items():
            with _top_k(system, DEEP):
                found[name] = {id_: _documents(system.retrieve(text))[:K] for id_, text in questions.texts.items()}
        chunks[OURS] = ours.index.status().chunks
        texts = list(questions.texts.values())
        calls = {name: _asker(name, system) for name, system in systems.items()}
        seconds = latencies(calls, texts, rounds=options.repeats)
        with Retriever(ours.index, k=K) as core:
            own = latencies({OURS: ours.retrieve, CORE: core.retrieve}, texts, rounds=options.repeats)
    return {
        "benchmark": "llama_index",
        "dataset": options.dataset.resolve().name,
        "documents": len(documents),
        "queries": len(texts),
        "k": K,
        "chunks": chunks,
        "recall": {name: _recall(rankings, questions.judgements) for name, rankings in found.items()},
        "seconds": {name: _quantiles(values) for name, values in seconds.items()},
        "ratio": {name: spread_dict(_by_round(seconds, name, OURS, options.repeats)) for name in peers},
        "adapter_seconds": statistics.median(
            with_adapter - without for with_adapter, without in zip(own[OURS], own[CORE], strict=True)
        ),
    }


# --- the two sides ----------------------------------------------------------------------------------------------------
@contextmanager
def _ours(documents: Sequence[Any], encoder: DenseEncoder, folder: Path) -> Any:
    from llama_index.retrievers.tarragon import TarragonRetriever

    path = folder / "ours.tarragon"
    with TarragonRetriever.from_documents(
        documents, path, encoder=encoder, show_progress=True, similarity_top_k=K
    ) as retriever:
        retriever.index.optimize(in_place=True)
        yield retriever


def _peers(documents: Sequence[Any], encoder: DenseEncoder, folder: Path) -> tuple[dict[str, Any], dict[str, int]]:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.llms import MockLLM
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.retrievers.bm25 import BM25Retriever
    from llama_index.retrievers.tarragon import TarragonEmbedding
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    model = TarragonEmbedding(encoder=encoder)
    splitter = SentenceSplitter(
        chunk_size=encoder.max_tokens,
        chunk_overlap=OVERLAP,
        tokenizer=lambda text: encoder.tokenizer.tokenize([text])[0].tolist(),
    )
    nodes = splitter.get_nodes_from_documents(documents)
    vectors = _embedded([node.get_content("embed") for node in nodes], model, folder / "peer")
    for node, vector in zip(nodes, vectors, strict=True):
        node.embedding = vector.tolist()
    store = QdrantVectorStore("peer", client=QdrantClient(":memory:"))
    index = VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=model)
    legs = [index.as_retriever(similarity_top_k=K), BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=K)]
    return {
        f"QueryFusionRetriever, {mode}": QueryFusionRetriever(
            legs, llm=MockLLM(), mode=mode, num_queries=1, similarity_top_k=K, use_async=False
        )
        for mode in ("reciprocal_rerank", "relative_score")
    }, {"QueryFusionRetriever": len(nodes)}


def _embedded(texts: Sequence[str], model: Any, kept: Path) -> FloatArray:
    """Vectors of the peer's chunks, kept by what they were made of, part by part."""
    kept.mkdir(exist_ok=True)
    rows = []
    for start in range(0, len(texts), 2_000):
        part = list(texts[start : start + 2_000])
        path = kept / f"{hashlib.sha256(chr(0).join(part).encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            print(f"embedding the peer's chunks: {start:,} of {len(texts):,}", file=sys.stderr)
            np.save(path, np.array(model.get_text_embedding_batch(part), dtype=np.float32))
        rows.append(np.load(path))
    return np.concatenate(rows)


@contextmanager
def _top_k(system: Any, k: int) -> Any:
    """With so many nodes wanted, of every leg too."""
    parts = [system, *getattr(system, "_retrievers", [])]
    before = [part.similarity_top_k for part in parts]
    for part in parts:
        part.similarity_top_k = k
    yield
    for part, value in zip(parts, before, strict=True):
        part.similarity_top_k = value


def _asker(name: str, system: Any) -> Callable[[str], object]:
    """Asks a question whose embedding is not known."""
    if name != OURS:
        return lambda text: system.retrieve(text)
    known = system.index._answers.asker.vectors

    def ask(text: str) -> object:
        known.clear()
        return system.retrieve(text)

    return ask


# --- figures ----------------------------------------------------------------------------------------------------------
def _documents(nodes: Sequence[Any]) -> list[str]:
    """Documents in the order of their best nodes."""
    return list(dict.fromkeys(str(one.node.ref_doc_id) for one in nodes))


def _recall(rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Mapping[str, int]]) -> float:
    """Recall@10, the mean over the questions."""
    shares = []
    for id_, ranking in rankings.items():
        relevant = {document for document, grade in judgements[id_].items() if grade > 0}
        shares.append(len(relevant.intersection(ranking)) / len(relevant))
    return statistics.mean(shares)


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(seconds, 0.5), "p95": percentile(seconds, 0.95)}


def _by_round(seconds: Mapping[str, Sequence[float]], theirs: str, ours: str, rounds: int) -> Spread:
    """p50 of one over p50 of the other, round by round."""
    size = len(seconds[ours]) // rounds
    parts = [slice(size * number, size * (number + 1)) for number in range(rounds)]
    return Spread.of([percentile(seconds[theirs][part], 0.5) / percentile(seconds[ours][part], 0.5) for part in parts])


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    result: Mapping[str, Any]

    def cells(self) -> list[str]:
        seconds = self.result["seconds"][self.name]
        ratio = self.result["ratio"].get(self.name)
        shown = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "1"
        recall = self.result["recall"][self.name]
        return [self.name, f"{recall:.3f}", f"{seconds['p50'] * 1e3:.1f}", f"{seconds['p95'] * 1e3:.1f}", shown]


def report(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    rows = [_Row(name, result).cells() for name in result["seconds"]]
    table = markdown_table(["", "document R@10", "p50, ms", "p95, ms", "p50 over Tarragon's"], rows)
    chunks = ", ".join(f"{name} {count:,}" for name, count in result["chunks"].items())
    own = f"{result['adapter_seconds'] * 1e3:.2f} ms p50"
    return (
        f"{result['documents']:,} documents, {result['queries']} questions, k={result['k']}; chunks: {chunks}"
        f"\n\n{table}\n\nThe adapter's own time a query, beyond Tarragon's retriever: {own}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as asked and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("dataset", type=Path, help="a BEIR folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--keep", type=Path, help="keep index and vectors here, and use them again")
    add_common_options(parser, repeats=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tarragon-llama-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = measure(options, folder)
    publish(result, report(result), options.json)


if __name__ == "__main__":
    main()
