"""Where documents come from: a folder, a file, a JSON Lines file, or the caller's own documents."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from tarragon.errors import InvalidInput, SourceNotFound
from tarragon.protocols import FindableSource, Source
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
    "reopen",
]

_KINDS: dict[str, type[FolderSource] | type[FileSource] | type[JsonlSource]] = {
    "folder": FolderSource,
    "file": FileSource,
    "jsonl": JsonlSource,
}
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "path": lambda value: isinstance(value, str) and os.path.isabs(value) and "\0" not in value,
    "include": lambda value: isinstance(value, list) and all(isinstance(pattern, str) for pattern in value),
    "exclude": lambda value: isinstance(value, list) and all(isinstance(pattern, str) for pattern in value),
    "max_bytes": lambda value: type(value) is int,
}


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


def reopen(description: Mapping[str, Any]) -> FindableSource:
    """The source that gave this description with `describe`. Whether it is still there shows when it is asked.

    Raises:
        InvalidInput: This is no such description.
    """
    kind = description.get("kind") if isinstance(description, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InvalidInput(
            f"{description!r} describes no source; its kind must be one of {', '.join(_KINDS)}", description=description
        )
    options = {key: value for key, value in description.items() if key != "kind"}
    needed = ("path", "include", "exclude", "max_bytes") if kind == "folder" else ("path", "max_bytes")
    wrong = [key for key in needed if not _CHECKS[key](options.get(key))]
    wrong += [key for key in options if key not in needed]
    if wrong:
        raise InvalidInput(
            f"{description!r} describes no {kind}: {', '.join(map(repr, wrong))} missing, unknown or of a wrong type",
            description=description,
        )
    return _KINDS[kind](options.pop("path"), **options)


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
