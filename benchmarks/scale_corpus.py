"""A corpus of any size for `benchmarks.scale`: real texts first, then new documents out of their paragraphs."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.corpus import read_documents
from tarragon.chunking import Chunker
from tarragon.types import Document

PER_FOLDER = 100
"""Files in one folder."""

SHORTEST = 80
"""Characters of a paragraph; what is shorter are headings and crumbs of tables."""

SECTIONS = (2, 5)
PARAGRAPHS = (2, 5)
"""Least and most in a made-up document, and in a section of it."""

SAMPLE = 400
"""Made-up documents that are chunked, to see how many a number of chunks takes."""

_BLANK = re.compile(r"\n[ \t]*\n")
_WORD = re.compile(r"[A-Za-z]{4,}")


@dataclass(frozen=True, slots=True)
class Pool:
    """What documents are made from.

    Attributes:
        texts: Real documents, no two the same.
        paragraphs: Of all of them, no two the same.
        words: Of all of them, for titles.
    """

    texts: Sequence[str]
    paragraphs: Sequence[str]
    words: Sequence[str]


def read_pool(corpora: Sequence[Path]) -> Pool:
    """The documents of these folders and ``.jsonl`` files, and the paragraphs in them.

    Raises:
        ValueError: They hold no paragraph.
    """
    texts = list(dict.fromkeys(document.text for corpus in corpora for document, _ in read_documents(corpus)))
    parts = (part.strip() for text in texts for part in _BLANK.split(text))
    paragraphs = list(dict.fromkeys(part for part in parts if len(part) >= SHORTEST and not part.startswith("#")))
    if not paragraphs:
        raise ValueError(f"no paragraph of {SHORTEST} characters in {', '.join(map(str, corpora))}")
    random.Random(0).shuffle(texts)
    words = sorted({word.lower() for paragraph in paragraphs for word in _WORD.findall(paragraph)})
    return Pool(texts, paragraphs, words)


def page(pool: Pool, number: int) -> str:
    """The text of a document: the same number, the same text. Its title says the number, so that no two are the same.

    Each passage has the title in its embed text: a paragraph that recurs makes a new chunk with a vector of its own.
    """
    if number < len(pool.texts):
        return pool.texts[number]
    chance = random.Random(number)
    lines = [f"# {_title(pool, chance)} {number}"]
    for _ in range(chance.randint(*SECTIONS)):
        lines.append(f"## {_title(pool, chance)}")
        lines += chance.choices(pool.paragraphs, k=chance.randint(*PARAGRAPHS))
    return "\n\n".join(lines) + "\n"


def _title(pool: Pool, chance: random.Random) -> str:
    return " ".join(chance.choices(pool.words, k=3)).capitalize()


def document_id(number: int) -> str:
    """The path of a document below the folder."""
    return f"{number // PER_FOLDER:05}/page-{number:07}.md"


def write_pages(folder: Path, pool: Pool, chunks: int, chunker: Chunker) -> int:
    """Write documents of about so many chunks as files with stamps that have settled; how many documents.

    A sample says how much text a chunk takes; texts differ too much for a sample to say how many are in a document.
    """
    real = len(pool.texts)
    made = (page(pool, number) for number in range(real, real + SAMPLE))
    densities = [_density(texts, chunker) for texts in (pool.texts[:SAMPLE], list(made))]
    number, expected = 0, 0.0
    while expected < chunks:
        text = page(pool, number)
        expected += len(text) * densities[number >= real]
        path = folder / document_id(number)
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, text)
        number += 1
    return number


def _density(texts: Sequence[str], chunker: Chunker) -> float:
    """Chunks a character."""
    found = chunker.chunk([(Document("page.md", text), "markdown") for text in texts])
    return sum(map(len, found)) / sum(map(len, texts))


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "replace"))
    earlier = time.time() - 86_400
    os.utime(path, (earlier, earlier))


def edit_pages(folder: Path, count: int, edits: int, turn: int) -> list[str]:
    """Put a sentence behind the last paragraph of so many files, spread evenly; their ids, in order.

    Each ``turn`` edits others, and each time with another sentence.
    """
    step = max(1, count // edits)
    ids = [document_id(number) for number in islice(range(turn % step, count, step), edits)]
    for id_ in ids:
        path = folder / id_
        _write(path, path.read_text(encoding="utf-8").rstrip() + f"\nThis was added by edit {turn} of {id_}.\n")
    return ids


def documents(folder: Path, ids: Sequence[str]) -> Iterator[Document]:
    """These files, as a caller who has them in memory hands them over."""
    return (Document(id_, (folder / id_).read_text(encoding="utf-8")) for id_ in ids)


def passages(folder: Path, count: int, wanted: int, chunker: Chunker) -> list[tuple[str, str]]:
    """(document id, embed text) of one chunk from each of so many documents, spread evenly."""
    found = []
    for number in islice(range(0, count, max(1, count // wanted)), wanted):
        (document,) = documents(folder, [document_id(number)])
        if chunks := chunker.chunk([(document, "markdown")])[0]:
            found.append((document.id, chunks[len(chunks) // 2].embed_text))
    return found
