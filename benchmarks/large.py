"""A large index of real words and made-up vectors, for what is measured beyond the model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.passages import chunked, write
from benchmarks.synthetic import CloudEncoder
from evals.beir import read_queries
from tarragon import Index
from tarragon.chunking import Chunker
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder


@dataclass(frozen=True, slots=True)
class LargeIndex:
    """An index that is open and optimized, and the texts in it.

    Attributes:
        index: Synced from a folder of files.
        encoder: Makes its vectors, at once.
        texts: Of its chunks, the first so many; in the order of the documents.
        made_up: How many of the texts are of documents that were put together from sentences.
    """

    index: Index
    encoder: CloudEncoder
    texts: list[str]
    made_up: int

    def describe(self) -> dict[str, Any]:
        """For JSON and in words."""
        count, real = len(self.texts), len(self.texts) - self.made_up
        words = f"{count:,} chunks: {real:,} of real documents, {self.made_up:,} of their sentences in another order"
        return {"chunks": count, "made_up_chunks": self.made_up, "description": words}


def add_corpus_options(parser: argparse.ArgumentParser, *, chunks: int) -> None:
    """What `large_index` and `spread_queries` need, and how often to measure."""
    parser.add_argument("sources", type=Path, nargs="+", help="folders or .jsonl files")
    parser.add_argument("--queries", type=Path, nargs="+", required=True, metavar="JSONL", help="as in a BEIR folder")
    parser.add_argument("--count", type=int, default=300, help="queries, evenly from these files (300)")
    parser.add_argument("--chunks", type=int, default=chunks, help=f"topped up to so many ({chunks:,})")
    parser.add_argument("--chunk-tokens", type=int, default=256)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep documents and index here, and use them again")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are counted (5)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")


@contextmanager
def large_index(options: argparse.Namespace, folder: Path) -> Iterator[LargeIndex]:
    """Made in the folder, or where it is kept; building it is never part of what is measured."""
    tokenizer = SentenceTransformerEncoder().tokenizer
    encoder = CloudEncoder(tokenizer)
    chunker = Chunker(tokenizer, min(options.chunk_tokens, encoder.max_tokens))
    made, chunks, made_up = chunked(options.sources, chunker, options.chunks)
    kept = options.keep or folder
    is_new = not (kept / "large.tarragon").exists()
    if is_new:
        write(kept / "documents", made)
    with Index.open(kept / "large.tarragon", encoder=encoder) as index:
        if is_new:
            index.sync(kept / "documents", progress=False)
            index.optimize(in_place=True)
        yield LargeIndex(index, encoder, [chunk.chunk.embed_text for chunk in chunks], made_up)


def spread_queries(files: Sequence[Path], count: int) -> list[str]:
    """So many queries, the first ones of each file in turn."""
    columns = [[text for _, text in read_queries(path) if text.strip()] for path in files]
    deepest = max(map(len, columns))
    texts = [column[row] for row in range(deepest) for column in columns if row < len(column)]
    return list(dict.fromkeys(texts))[:count]
