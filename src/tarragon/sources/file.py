"""One file as a document: what is skipped, and how the others are read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from functools import partial

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
        try:
            status = os.stat(self._path)
        except OSError as error:
            raise SourceNotFound(f"no file at {self._path}: {error.strerror}", path=self._path) from error
        name = os.path.basename(self._path)
        if suffix_of(name) not in CONVERTED_SUFFIXES and skip_reason(self._path):
            return iter([unreadable(name, f"{self._path}: binary; convert it to text", path=self._path)])
        return iter([file_item(self._path, name, status=status, max_bytes=self._max_bytes)])

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}


def skip_reason(path: str) -> str:
    """Why a folder leaves this regular file out; empty if it does not. Opens it only if its suffix says nothing."""
    suffix = suffix_of(os.path.basename(path))
    if suffix in CONVERTED_SUFFIXES:
        return ""
    if suffix in BINARY_SUFFIXES or (suffix not in TEXT_SUFFIXES and holds_binary(path)):
        return "binary"
    return ""


def file_item(path: str, document_id: str, *, status: os.stat_result, max_bytes: int) -> SourceItem:
    """A file that is read when it is loaded; size, modification time and inode are its hint, once they have settled."""
    settled = status.st_mtime_ns < time.time_ns() - RACY_NANOSECONDS
    hint = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}" if settled else None
    return SourceItem(document_id, hint, partial(load_file, path, document_id, max_bytes=max_bytes))


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
