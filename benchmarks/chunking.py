"""Chunking, tokenising included, against the tokenizer alone.

    python -m benchmarks.chunking SOURCE [--limit-mb N] [--window CHARACTERS]

The tokenizer is the same Rust one with the same threads, without truncation, padding and special tokens, on whole
documents: ``encode_batch``, ``encode_batch_fast`` (which leaves out the offsets), and ``encode`` one by one. All are
given the documents in the windows in which a sync chunks them; ``--window`` changes their size.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.corpus import Formatted, read_documents, windows
from benchmarks.report import add_common_options, markdown_table, publish, spread_dict
from benchmarks.stopwatch import Stopwatch
from benchmarks.timing import Spread, interleave
from tarragon.chunking import Chunker
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.syncing import WINDOW_CHARACTERS

OURS = "Chunker.chunk"

Window = Sequence[Formatted]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; see the module."""
    encoder = SentenceTransformerEncoder(options.model, device=options.device)
    limit = min(options.chunk_tokens, encoder.max_tokens)
    groups = windows(_up_to(options.source, options.limit_mb), options.window)
    texts = [document.text for group in groups for document, _ in group]
    chunker = Chunker(encoder.tokenizer, limit)
    chunks = _checked(chunker, groups)
    timings = interleave(
        {OURS: lambda: [chunker.chunk(group) for group in groups], **_tokenizing(encoder.tokenizer.definition, groups)},
        rounds=options.repeats,
    )
    size = sum(len(text.encode()) for text in texts)
    return {
        "benchmark": "chunking",
        "source": options.source.resolve().name,
        "documents": len(texts),
        "bytes": size,
        "windows": len(groups),
        "chunks": chunks,
        "chunk_tokens": limit,
        "model": encoder.name,
        "mb_per_second": {name: size / 1e6 / timings.median(name) for name in timings.seconds},
        "ratio": {name: spread_dict(timings.speedup(OURS, name)) for name in timings.seconds if name != OURS},
        "share_in_tokenizer": _share_in_tokenizer(encoder, limit, groups),
        "seconds": dict(timings.seconds),
    }


def _up_to(source: Path, megabytes: float | None) -> list[Formatted]:
    documents, size = [], 0
    for document, format_ in read_documents(source):
        documents.append((document, format_))
        size += len(document.text.encode())
        if megabytes is not None and size >= megabytes * 1e6:
            break
    return documents


def _tokenizing(definition: str, groups: Sequence[Window]) -> dict[str, Callable[[], object]]:
    """The tokenizer's own ways, each over all windows; what it makes is dropped window by window, as ours is."""
    tokenizer = Tokenizer.from_str(definition)
    batches = [[document.text for document, _ in group] for group in groups]

    def each(encode: Callable[[list[str]], object]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                encode(batch)

        return run

    return {
        "encode_batch": each(lambda batch: tokenizer.encode_batch(batch, add_special_tokens=False)),
        "encode_batch_fast": each(lambda batch: tokenizer.encode_batch_fast(batch, add_special_tokens=False)),
        "encode, one by one": each(lambda batch: [tokenizer.encode(text, add_special_tokens=False) for text in batch]),
    }


def _checked(chunker: Chunker, groups: Sequence[Window]) -> int:
    """How many chunks there are, after checking that together they are the documents, white space apart."""
    count = 0
    for group in groups:
        for (document, _), chunks in zip(group, chunker.chunk(group), strict=True):
            parts = [document.text[chunk.start : chunk.end] for chunk in chunks]
            if parts != [chunk.text for chunk in chunks] or "".join("".join(parts).split()) != "".join(
                document.text.split()
            ):
                raise ValueError(f"the chunks of {document.id!r} are not its text")
            count += len(chunks)
    return count


def _share_in_tokenizer(encoder: SentenceTransformerEncoder, limit: int, groups: Sequence[Window]) -> float:
    stopwatch = Stopwatch()
    chunker = Chunker(stopwatch.watch(encoder.tokenizer, "tokenizer"), limit)
    started = time.perf_counter()
    for group in groups:
        chunker.chunk(group)
    return stopwatch.seconds["tokenizer"] / (time.perf_counter() - started)


def render(result: Mapping[str, Any]) -> str:
    """The table and where the time goes."""
    rows = []
    for name, rate in result["mb_per_second"].items():
        ratio = result["ratio"].get(name)
        rows.append([name, f"{rate:.2f}", Spread(*ratio.values()) if ratio else ""])
    return "\n".join(
        [
            f"{result['source']}: {result['documents']} documents, {result['bytes'] / 1e6:.1f} MB, {result['chunks']} "
            f"chunks of up to {result['chunk_tokens']} tokens, {result['model']}",
            "",
            markdown_table(["", "MB/s", "Chunker.chunk / this"], rows),
            "",
            f"Of Chunker.chunk's time {result['share_in_tokenizer']:.1%} is in the tokenizer.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chunking", description="Chunking against tokenising.")
    parser.add_argument("source", type=Path, help="a folder or a .jsonl file")
    parser.add_argument("--limit-mb", type=float, help="stop at the document that reaches so many MB")
    parser.add_argument("--window", type=int, default=WINDOW_CHARACTERS, help="characters chunked at once")
    parser.add_argument("--chunk-tokens", type=int, default=256)
    add_common_options(parser, repeats=6)
    options = parser.parse_args(arguments)
    result = measure(options)
    publish(result, render(result), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
