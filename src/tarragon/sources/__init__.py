"""Where documents come from: a folder, a file, a JSON Lines file, or the caller's own documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import cast

from tarragon.errors import InvalidInput, SourceNotFound
from tarragon.protocols import Source
from tarragon.sources.documents import DocumentsSource
from tarragon.sources.file import FileSource
from tarragon.sources.folder import FolderSource
from tarragon.sources.formats import suffix_of
from tarragon.sources.jsonl import JsonlSource
from tarragon.sources.reading import DEFAULT_MAX_BYTES
from tarragon.types import Document

READER_REVISION = 1
"""Raised when a converter gives other text than before for the same file: files are then read again."""

__all__ = [
    "DEFAULT_MAX_BYTES",
    "READER_REVISION",
    "DocumentsSource",
    "FileSource",
    "FolderSource",
    "JsonlSource",
    "open_source",
]


def open_source(
    source: str | os.PathLike[str] | Iterable[Document] | Source,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Source:
    """The source behind a path or an object.

    Args:
        source: A folder; a ``.jsonl`` file; any other file, which is one document; documents; or a source, which is
            returned as it is.
        include: Patterns as in a ``.gitignore``: only these files of a folder. Empty: all.
        exclude: Patterns of files and folders to leave out of a folder; they win over ``include``.
        max_bytes: Largest file, or line of a ``.jsonl`` file, that is read.

    Raises:
        SourceNotFound: There is nothing at the path.
        InvalidInput: This cannot be a source, or patterns are given for something other than a folder.
    """
    if isinstance(source, (str, os.PathLike)):
        source = os.path.expanduser(source)
    if isinstance(source, (str, os.PathLike)) and os.path.isdir(source):
        return FolderSource(source, include=include, exclude=exclude, max_bytes=max_bytes)
    if isinstance(source, (str, os.PathLike)):
        opened: Source = _open_file(source, max_bytes=max_bytes)
    else:
        opened = _wrap(source)
    if include or exclude:
        raise InvalidInput(
            f"include and exclude select files of a folder; this source is a {type(source).__name__} that is none"
        )
    return opened


def _open_file(path: str | os.PathLike[str], *, max_bytes: int) -> Source:
    shown = os.fspath(path)
    if not isinstance(shown, str) or not shown:
        raise InvalidInput(f"{shown!r} is no path; give a str or a pathlib.Path that is not empty")
    if not os.path.exists(shown):
        raise SourceNotFound(
            f"nothing at {shown!r} (current folder: {os.getcwd()}); check the path", path=shown, cwd=os.getcwd()
        )
    if not os.path.isfile(shown):
        raise InvalidInput(f"{shown!r} is neither a folder nor a regular file; write its content to a file", path=shown)
    if suffix_of(os.path.basename(shown)) == ".jsonl":
        return JsonlSource(shown, max_bytes=max_bytes)
    return FileSource(shown, max_bytes=max_bytes)


def _wrap(source: Iterable[Document] | Source) -> Source:
    if callable(getattr(source, "items", None)) and callable(getattr(source, "skipped", None)):
        return cast("Source", source)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, memoryview)):
        return DocumentsSource(source)
    raise InvalidInput(
        f"a {type(source).__name__} is no source; give a path, an iterable of Document, or an object with items() and "
        "skipped()"
    )
