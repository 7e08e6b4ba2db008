"""Documents and chunks to measure with, read through the package's own sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tarragon.chunking import Chunker
from tarragon.errors import UnreadableDocument
from tarragon.planning import WantedChunk, wanted_chunks
from tarragon.protocols import Source, SourceItem
from tarragon.sources import open_source
from tarragon.sources.formats import format_of
from tarragon.syncing import WINDOW_CHARACTERS
from tarragon.types import Document, Format

Formatted = tuple[Document, Format]


class FirstItems:
    """The beginning of a source."""

    def __init__(self, source: Source, count: int) -> None:
        self._source = source
        self._count = count

    def items(self) -> Iterable[SourceItem]:
        """See `tarragon.protocols.Source`."""
        return islice(self._source.items(), self._count)

    def skipped(self) -> Mapping[str, int]:
        """See `tarragon.protocols.Source`."""
        return self._source.skipped()


def read_documents(source: Path) -> Iterator[Formatted]:
    """Each readable document of a folder or a JSON Lines file."""
    for item in open_source(source).items():
        try:
            document = item.load()
        except UnreadableDocument:
            continue
        yield document, document.format or format_of(document.id)


def first_items(source: Path, chunker: Chunker, chunks: int | None) -> Source:
    """So much of the source that it has at least so many chunks; all of it if None."""
    if chunks is None:
        return open_source(source)
    items = found = 0
    for item in open_source(source).items():
        items += 1
        try:
            document = item.load()
        except UnreadableDocument:
            continue
        (pieces,) = chunker.chunk([(document, document.format or format_of(document.id))])
        found += len(pieces)
        if found >= chunks:
            break
    return FirstItems(open_source(source), items)


def read_chunks(source: Path, chunker: Chunker, limit: int | None = None) -> list[WantedChunk]:
    """The chunks of the source under their keys, in order, at most so many."""
    found: list[WantedChunk] = []
    for document, format_ in read_documents(source):
        (chunks,) = chunker.chunk([(document, format_)])
        found += wanted_chunks(document, chunks)
        if limit is not None and len(found) >= limit:
            break
    return found[:limit]


def windows(documents: Iterable[Formatted], characters: int = WINDOW_CHARACTERS) -> list[Sequence[Formatted]]:
    """The documents in groups, as a sync chunks them."""
    groups: list[Sequence[Formatted]] = []
    group: list[Formatted] = []
    size = 0
    for document, format_ in documents:
        group.append((document, format_))
        size += len(document.text)
        if size >= characters:
            groups.append(group)
            group, size = [], 0
    return [*groups, group] if group else groups
