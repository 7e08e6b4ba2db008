"""Bytes a chunk: what an index of real text takes on disk, part by part, and what a server needs for a million.

    python -m benchmarks.size SOURCE [--chunks 10000] [--dimensions 384] [--json OUT]

Texts are chunked with the bundled model's tokenizer and limit; vectors are random, since their bytes do not depend on
what they mean. Sizes are of the embedded engine's files before and after building its graph, as allocated; those of the
server's ledger are its records as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tarragon.chunking import Chunker
from tarragon.contract import Contract
from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import UnreadableDocument
from tarragon.identity import canonical_json
from tarragon.planning import WantedChunk, wanted_chunks
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, OpenVersion, StoredChunk
from tarragon.recipe import IndexRecipe
from tarragon.sources import open_source
from tarragon.sources.formats import format_of
from tarragon.store.embedded import attach
from tarragon.store.server_documents import intended, switched, to_payload

PARTS = {
    "vector_storage": "vectors",
    "vector_index": "graph of the vectors (HNSW)",
    "payload_storage": "text and metadata",
    "payload_index": "index of the words (BM25)",
    "id_tracker": "ids and versions",
    "wal": "write-ahead log",
    "ledger": "ledger (SQLite)",
}
"""Start of a file's or folder's name → what it holds."""

RAM_BYTES_PER_DIMENSION = {
    "float32": 4.0,
    "float16": 2.0,
    "int8 (scalar), originals on disk": 1.0,
    "1 bit (binary), originals on disk": 1 / 8,
}
"""Of what must be in memory for a search to be fast."""

MILLION = 1_000_000
_LIMIT = 256


def read_chunks(source: Path, count: int) -> Iterator[tuple[str, list[WantedChunk]]]:
    """Documents with their chunks until there are so many chunks."""
    tokenizer = FastTokenizer(Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json")))
    chunker = Chunker(tokenizer, _LIMIT - 2)
    found = 0
    for item in open_source(source).items():
        if found >= count:
            return
        try:
            document = item.load()
        except UnreadableDocument:
            continue
        (chunks,) = chunker.chunk([(document, document.format or format_of(document.id))])
        found += len(chunks)
        yield document.id, wanted_chunks(document, chunks)


def build(version: OpenVersion, documents: Sequence[tuple[str, list[WantedChunk]]], dimensions: int) -> Counter[str]:
    """Store the documents; the bytes of their texts, payloads, and records on a server."""
    chance = np.random.default_rng(1)
    bytes_: Counter[str] = Counter()
    for id_, wanted in documents:
        vectors = chance.standard_normal((len(wanted), dimensions)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        payloads = [{**one.payload, "content": one.chunk.embed_text} for one in wanted]
        records = tuple(ChunkRecord(one.id, one.hash, one.payload_digest, one.chunk.tokens) for one in wanted)
        record = DocumentRecord(id_, "corpus", "ok", bytes(64), "1700000000 12345 987654321", None)
        write = DocumentWrite(record, records)
        version.ledger.intend([write])
        version.store.upsert(
            [StoredChunk(*parts) for parts in zip((one.id for one in wanted), vectors, payloads, strict=True)]
        )
        version.ledger.switch([write])
        bytes_["text"] += sum(len(one.chunk.embed_text.encode()) for one in wanted)
        bytes_["payload"] += sum(len(canonical_json(payload).encode()) for payload in payloads)
        bytes_["server ledger"] += len(canonical_json(to_payload(switched(intended(None, write), write))).encode())
        bytes_["tokens"] += sum(one.chunk.tokens for one in wanted)
    version.store.flush()
    return bytes_


def measure(folder: Path) -> Counter[str]:
    """Allocated bytes of an index by part."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            sizes[_part(path.relative_to(folder))] += path.stat().st_blocks * 512
    return sizes


def _part(path: Path) -> str:
    names = [name for part in path.parts for name in PARTS if part.startswith(name)]
    return PARTS[names[0]] if names else "else"


def memory_per_million(dimensions: int, fixed: float) -> dict[str, float]:
    """GiB of memory for a million chunks, given the bytes a chunk that no choice of vectors changes."""
    return {
        name: (per_dimension * dimensions + fixed) * MILLION / 2**30
        for name, per_dimension in RAM_BYTES_PER_DIMENSION.items()
    }


def report(counts: Mapping[str, float], stages: Mapping[str, Mapping[str, float]]) -> str:
    """The tables, in Markdown."""
    lines = ["| bytes a chunk | " + " | ".join(stages) + " |", "| --- |" + " ---: |" * len(stages)]
    parts = [*PARTS.values(), "else", "all"]
    lines += [
        f"| {part} | " + " | ".join(f"{stage.get(part, 0):,.0f}" for stage in stages.values()) + " |" for part in parts
    ]
    lines += ["", "| | a chunk |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,.0f} |" for name, value in counts.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    documents = list(read_chunks(options.source, options.chunks))
    count = sum(len(wanted) for _, wanted in documents)
    contract = Contract.of(IndexRecipe(), "random", options.dimensions, {"kind": "random"}, _LIMIT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "size.tarragon"
        catalog = attach(path)
        with catalog.writing():
            catalog.create(contract, serve=True)
            with catalog.reading() as version:
                assert version is not None
                bytes_ = build(version, documents, options.dimensions)
        stages = {"as written": measure(path)}
        catalog.compact()
        catalog.close()
        stages["with its graph"] = measure(path)
    per_chunk = {
        name: {**{part: size / count for part, size in stage.items()}, "all": sum(stage.values()) / count}
        for name, stage in stages.items()
    }
    counts = {
        "tokens": bytes_["tokens"] / count,
        "text in UTF-8": bytes_["text"] / count,
        "payload as JSON": bytes_["payload"] / count,
        "record in a server's ledger, as JSON": bytes_["server ledger"] / count,
    }
    print(f"{count:,} chunks of {len(documents):,} documents, {options.dimensions} dimensions\n")
    print(report(counts, per_chunk))
    last = per_chunk["with its graph"]
    fixed = sum(last.get(PARTS[part], 0) for part in ("vector_index", "payload_index", "id_tracker"))
    gibibytes = memory_per_million(options.dimensions, fixed)
    print("\n| memory for a million chunks | GiB |\n| --- | ---: |")
    print("\n".join(f"| {name} | {value:.2f} |" for name, value in gibibytes.items()))
    if options.json:
        values = {"chunks": count, "documents": len(documents), "dimensions": options.dimensions, "counts": counts}
        options.json.write_text(json.dumps({**values, "bytes_per_chunk": per_chunk, "gib_per_million": gibibytes}))


if __name__ == "__main__":
    main()
