"""Many documents of real words: those of several data sets, topped up with their own sentences in another order."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.corpus import read_documents
from tarragon.chunking import Chunker
from tarragon.planning import WantedChunk, wanted_chunks
from tarragon.sources.formats import format_of
from tarragon.types import Document

CHARACTERS = 5_000
"""Of a document that is made up: some five chunks of 256 tokens."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WINDOW = 64


def documents(sources: Sequence[Path]) -> Iterator[Document]:
    """Without end: each document of the sources as Markdown, then made-up ones of as many sentences of theirs.

    A made-up one has the sentences of one source only, drawn evenly from all of it, so that words keep the frequencies
    and the neighbours that they have there. The same sources give the same documents.
    """
    sentences: list[list[str]] = []
    for source in sources:
        own: list[str] = []
        for number, (document, _) in enumerate(read_documents(source)):
            own += [one for one in map(str.strip, _SENTENCE.split(document.text)) if one]
            yield Document(f"{_name(source)}/{number:06}.md", document.text)
        sentences.append(own)
    chance = random.Random(0)
    number = 0
    while any(sentences):
        yield Document(f"made-up/{number:06}.md", _made_up(chance, sentences))
        number += 1


def chunked(sources: Sequence[Path], chunker: Chunker, count: int) -> tuple[list[Document], list[WantedChunk], int]:
    """So many documents that they have at least so many distinct chunks.

    Returns:
        The documents, their distinct chunks under their keys (the last document's only as far as they are needed), and
        how many of these are of made-up documents.
    """
    kept: list[Document] = []
    found: dict[bytes, WantedChunk] = {}
    made_up = 0
    waiting = documents(sources)
    while len(found) < count:
        window = [document for document, _ in zip(waiting, range(_WINDOW), strict=False)]
        if not window:
            raise ValueError(f"{', '.join(map(str, sources))}: no text to make {count} chunks of")
        pieces = chunker.chunk([(document, format_of(document.id)) for document in window])
        for document, own in zip(window, pieces, strict=True):
            if len(found) < count:
                kept.append(document)
                new = {one.hash: one for one in wanted_chunks(document, own) if one.hash not in found}
                made_up += len(new) if document.id.startswith("made-up/") else 0
                found |= new
    return kept, list(found.values())[:count], made_up - max(0, len(found) - count)


def write(folder: Path, made: Sequence[Document]) -> None:
    """Each document as a file."""
    for document in made:
        path = folder / document.id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document.text, encoding="utf-8")


def _made_up(chance: random.Random, sentences: Sequence[Sequence[str]]) -> str:
    (own,) = chance.choices(sentences, weights=[len(one) for one in sentences])
    text: list[str] = []
    while sum(map(len, text)) < CHARACTERS:
        text.append(chance.choice(own))
    return "\n\n".join(" ".join(text[start : start + 5]) for start in range(0, len(text), 5))


def _name(source: Path) -> str:
    return source.stem if source.is_dir() else source.resolve().parent.name
