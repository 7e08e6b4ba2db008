"""Ingest: files to queryable chunks, against embedding alone.

    python -m benchmarks.ingest SOURCE [--limit-chunks N] [--repeats R]

Ours reads, chunks, embeds and stores a folder or a ``.jsonl`` file into a new index, with the model loaded already. The
peer only embeds, and is given the finished chunk texts (each distinct text once, as ours embeds it): with the same
weights on the same device, at its default batch size and at the best of several, found on a sample.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import first_items
from benchmarks.peers import DEFAULT_BATCH, Peer, default_peer, fastest_peer, least_cosine, load_peers, required_cosine
from benchmarks.report import add_common_options, agreement, markdown_table, publish, spread_dict
from benchmarks.stopwatch import Stopwatch, WatchedSource
from benchmarks.stored import stored_passages
from benchmarks.timing import Spread, interleave
from tarragon import Index, IndexRecipe
from tarragon.chunking import Chunker
from tarragon.contract import Contract
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.preparing import Writer
from tarragon.protocols import Ledger, Source, Store
from tarragon.session import Session
from tarragon.store.embedded import attach
from tarragon.syncing import Sync
from tarragon.types import FloatArray

BATCHES = (8, 16, DEFAULT_BATCH, 64)
SAMPLE = 512
"""Texts with which the peer's best batch size is found."""

OURS = "Index.sync"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; see the module."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    recipe = IndexRecipe(chunk_tokens=options.chunk_tokens)
    source = first_items(options.source, _chunker(encoder, recipe), options.limit_chunks)
    with tempfile.TemporaryDirectory(prefix="tarragon-ingest-") as folder:
        stored, documents = _stored_vectors(Path(folder) / "first.tarragon", source, encoder, recipe)
        texts = list(stored)
        peers = load_peers(options.model, encoder.device, BATCHES, encoder.document_prompt)
        best, rates = fastest_peer(peers, texts[:: -(-len(texts) // SAMPLE)])
        compared = {peer.name: peer for peer in (default_peer(peers), best)}
        cosine = least_cosine(np.stack(list(stored.values())), best.encode(texts))
        ours = _ingest_again(Path(folder), source, encoder, recipe)
        timings = interleave({OURS: ours, **_encoding(compared, texts)}, rounds=options.repeats, warmups=1)
        parts = profile(Path(folder) / "profile.tarragon", source, encoder, recipe)
    return {
        "benchmark": "ingest",
        "source": options.source.resolve().name,
        "documents": documents,
        "chunks": len(texts),
        "characters": sum(map(len, texts)),
        "model": encoder.name,
        "device": encoder.device,
        "chunks_per_second": {name: len(texts) / timings.median(name) for name in timings.seconds},
        "speedup": {name: spread_dict(timings.speedup(OURS, name)) for name in compared},
        "least_cosine": cosine,
        "required_cosine": required_cosine(encoder.device),
        "peer_sweep_texts_per_second": dict(rates),
        "profile": parts,
        "seconds": dict(timings.seconds),
    }


@dataclass(frozen=True, slots=True)
class Watched:
    """A version whose calls are timed."""

    store: Store
    ledger: Ledger


def _chunker(encoder: SentenceTransformerEncoder, recipe: IndexRecipe) -> Chunker:
    """As `Index.sync` makes it."""
    return Chunker(encoder.tokenizer, min(recipe.chunk_tokens, encoder.max_tokens), chunking=recipe.chunking)


def _ingest(path: Path, source: Source, encoder: SentenceTransformerEncoder, recipe: IndexRecipe) -> int:
    with Index.open(path, recipe=recipe, encoder=encoder) as index:
        return index.sync(source, progress=False).documents_added


def _ingest_again(
    folder: Path, source: Source, encoder: SentenceTransformerEncoder, recipe: IndexRecipe
) -> Callable[[], object]:
    numbers = count()
    return lambda: _ingest(folder / f"{next(numbers)}.tarragon", source, encoder, recipe)


def _encoding(peers: Mapping[str, Peer], texts: Sequence[str]) -> dict[str, Callable[[], object]]:
    def call(peer: Peer) -> Callable[[], object]:
        return lambda: peer.encode(texts)

    return {name: call(peer) for name, peer in peers.items()}


def _stored_vectors(
    path: Path, source: Source, encoder: SentenceTransformerEncoder, recipe: IndexRecipe
) -> tuple[dict[str, FloatArray], int]:
    """Each distinct chunk text with its vector, read back from the store of a new index; and how many documents."""
    documents = _ingest(path, source, encoder, recipe)
    with Index.open(path, recipe=recipe, encoder=encoder) as index:
        passages = stored_passages(index).values()
        return {passage.text: passage.vector for passage in passages}, documents


def profile(path: Path, source: Source, encoder: SentenceTransformerEncoder, recipe: IndexRecipe) -> dict[str, float]:
    """Share of the time of one more ingest that each part takes; put together as `Index.sync` does."""
    stopwatch = Stopwatch()
    watch = stopwatch.watch
    catalog = attach(path)
    try:
        started = time.perf_counter()
        session = Session(catalog, recipe=recipe, encoders=[encoder], device=None)
        record = catalog.create(
            Contract.of(recipe, encoder.name, encoder.dimensions, encoder.identity, encoder.max_tokens), serve=True
        )
        with session.reading() as version:
            writer = Writer(
                Watched(watch(version.store, "storing"), watch(version.ledger, "storing")),
                lambda: watch(encoder, "embedding"),
                (recipe.chunking, record.contract.limit),
            )
            writer.chunker = watch(_chunker(encoder, recipe), "chunking")
            Sync(writer, session.options(record.contract, "")).run(WatchedSource(source, "reading", stopwatch))
    finally:
        catalog.close()
    total = time.perf_counter() - started
    shares = {name: stopwatch.seconds[name] / total for name in ("reading", "chunking", "embedding", "storing")}
    return {**shares, "rest": 1 - sum(shares.values())}


def render(result: Mapping[str, Any]) -> str:
    """The table, the check and the profile."""
    rows = []
    for name, rate in result["chunks_per_second"].items():
        ratio = result["speedup"].get(name)
        shown = Spread(*ratio.values()) if ratio else ""
        rows.append([name if name == OURS else f"{name} (texts only)", f"{rate:.1f}", shown])
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["profile"].items())
    return "\n".join(
        [
            f"{result['source']}: {result['documents']} documents, {result['chunks']} distinct chunks, "
            f"{result['model']} on {result['device']}",
            "",
            markdown_table(["", "chunks/s", "Index.sync / this"], rows),
            "",
            agreement(result["least_cosine"], result["required_cosine"]),
            f"Time of ours: {shares}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description="Files to queryable chunks.")
    parser.add_argument("source", type=Path, help="a folder or a .jsonl file")
    parser.add_argument("--limit-chunks", type=int, help="stop at the document that reaches so many chunks")
    parser.add_argument("--chunk-tokens", type=int, default=256)
    add_common_options(parser, repeats=6)
    options = parser.parse_args(arguments)
    result = measure(options)
    publish(result, render(result), options.json)
    return 0 if result["least_cosine"] >= result["required_cosine"] else 1


if __name__ == "__main__":
    sys.exit(main())
