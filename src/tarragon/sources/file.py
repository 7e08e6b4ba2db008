"""One file as a document: what is skipped, and how the others are read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

from tarragon.errors import SourceNotFound, UnreadableDocument
from tarragon.protocols import SourceItem
from tarragon.sources.convert import available, convert
from tarragon.sources.formats import (
    BINARY_SUFFIXES,
    CONVERTED_SUFFIXES,
    HTML_SUFFIXES,
    TEXT_SUFFIXES,
    format_of,
    suffix_of,
)
from tarragon.sources.html import html_to_markdown
from tarragon.sources.reading import DEFAULT_MAX_BYTES, checked_max_bytes, holds_binary, read_bytes, unreadable
from tarragon.sources.text import decode
from tarragon.types import Document

RACY_NANOSECONDS = 2_000_000_000
"""A file changed more recently may change again within the same time stamp (FAT counts in 2 s): no hint for it."""


class FileSource:
    """A single file. Its name is the document's id.

    Who names a file wants it: where a folder would skip a binary file, this reports it as unreadable.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._path = os.path.abspath(path)
        self._max_bytes = checked_max_bytes(max_bytes)

    def items(self) -> Iterator[SourceItem]:
        """The file. Raises `SourceNotFound`."""
        return iter([self._item()])

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}

    def find(self, document_id: str) -> SourceItem | None:
        """The file, if that is its name. Raises `SourceNotFound`, as `items` does."""
        name = os.path.basename(self._path)
        return self._item() if normalize("NFC", document_id) == normalize("NFC", name) else None

    def describe(self) -> Mapping[str, Any]:
        """Path and limit."""
        return {"kind": "file", "path": self._path, "max_bytes": self._max_bytes}

    def _item(self) -> SourceItem:
        settled = settled_before()
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise SourceNotFound(f"no file at {self._path}: {error.strerror}", path=self._path) from error
        folder, name = os.path.split(self._path)
        if skip_reason(self._path, name):
            return unreadable(name, f"{self._path}: binary; convert it to text", path=self._path)
        return SourceItem(name, hint_of(status, settled), FileReader(folder, name, name, self._max_bytes))


@dataclass(slots=True)
class FileReader:
    """The `load` of a file's item. Small, because a folder has many.

    Attributes:
        folder: Where the file is.
        relative: Its path from there on.
        document_id: Its id; mostly the same string.
        max_bytes: Largest size that is read.
    """

    folder: str
    relative: str
    document_id: str
    max_bytes: int

    def __call__(self) -> Document:
        """Raises `UnreadableDocument`."""
        return load_file(os.path.join(self.folder, self.relative), self.document_id, max_bytes=self.max_bytes)


def skip_reason(path: str, name: str) -> str:
    """Why a folder leaves this regular file out; empty if it does not. Opens it only if its suffix says nothing."""
    suffix = suffix_of(name)
    if suffix in TEXT_SUFFIXES or suffix in CONVERTED_SUFFIXES:
        return ""
    return "binary" if suffix in BINARY_SUFFIXES or holds_binary(path) else ""


def settled_before() -> int:
    """The time stamp before which a file has settled, in ns. To be asked before the files are looked at."""
    return time.time_ns() - RACY_NANOSECONDS


def hint_of(status: os.stat_result, settled: int) -> str | None:
    """Size, modification time and inode; None unless the time is before ``settled``."""
    modified = status.st_mtime_ns
    return f"{status.st_size}:{modified}:{status.st_ino}" if modified < settled else None


def load_file(path: str, document_id: str, *, max_bytes: int) -> Document:
    """Read a file, and convert it to Markdown if its suffix asks for it.

    Raises:
        UnreadableDocument: It cannot be read, decoded or converted.
    """
    suffix = suffix_of(os.path.basename(path))
    if suffix in CONVERTED_SUFFIXES:
        if not available():  # not skipped: a sync would then delete what it indexed earlier
            raise UnreadableDocument(f"{path}: to read {suffix} files, pip install 'tarragon[documents]'", path=path)
        text = convert(path, max_bytes=max_bytes)
    else:
        text = _decoded(path, html=suffix in HTML_SUFFIXES, max_bytes=max_bytes)
    return Document(document_id, text, format=format_of(document_id))


def _decoded(path: str, *, html: bool, max_bytes: int) -> str:
    data = read_bytes(path, max_bytes=max_bytes)
    try:
        return html_to_markdown(decode(data)) if html else decode(data)
    except UnreadableDocument as error:
        raise UnreadableDocument(f"{path}: {error}", path=path, **error.data) from error
