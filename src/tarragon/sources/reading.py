"""The door to the files: every byte of a document comes through here, and every refusal has a reason."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import BinaryIO, NoReturn

from tarragon.errors import InvalidInput, UnreadableDocument
from tarragon.protocols import SourceItem
from tarragon.sources.text import SNIFFED_BYTES, looks_binary

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""Largest file that is read. Generous, not measured: a scanned book fits, a database dump does not."""

NOT_REGULAR = "not a regular file"


def read_bytes(path: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """All bytes of a regular file.

    Raises:
        UnreadableDocument: It is gone, forbidden, special, or larger than ``max_bytes``.
    """
    try:
        with open_regular(path, buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(max_bytes + 1) if size > max_bytes else file.read()
    except OSError as error:
        raise UnreadableDocument(f"{path}: {os_reason(error)}", path=path) from error
    if len(data) > max_bytes:
        raise UnreadableDocument(
            f"{path}: {size} bytes, larger than max_bytes={max_bytes}; raise max_bytes or exclude it",
            path=path,
            size=size,
            max_bytes=max_bytes,
        )
    return data


def holds_binary(path: str) -> bool:
    """Whether the first bytes of a file are binary. False where they cannot be read: its `load` will say why."""
    try:
        with open_regular(path) as file:
            return looks_binary(file.read(SNIFFED_BYTES))
    except (OSError, UnreadableDocument):
        return False


def open_regular(path: str, *, buffering: int = -1) -> BinaryIO:
    """Open a regular file for reading. Anything else is refused, and a FIFO does not block."""
    file: BinaryIO = open(path, "rb", buffering, opener=_open_at_once)  # noqa: SIM115 - the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UnreadableDocument(f"{path}: {NOT_REGULAR}", path=path)
    return file


def os_reason(error: OSError) -> str:
    """Why the system refused, in words."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "vanished since the listing"
    if isinstance(error, PermissionError):
        return "permission denied; make it readable or exclude it"
    if isinstance(error, IsADirectoryError):
        return NOT_REGULAR
    return error.strerror or type(error).__name__


def unreadable(document_id: str, reason: str, *, path: str, hides: str | None = None, **data: object) -> SourceItem:
    """An item that is listed so that it is reported: its `load` always raises."""
    return SourceItem(document_id, None, partial(_refuse, reason, {"path": path, **data}), hides)


def checked_max_bytes(max_bytes: int) -> int:
    """``max_bytes`` itself.

    Raises:
        InvalidInput: It is not positive.
    """
    if max_bytes < 1:
        raise InvalidInput(
            f"max_bytes={max_bytes} is not positive; give the largest size in bytes", max_bytes=max_bytes
        )
    return max_bytes


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _refuse(reason: str, data: dict[str, object]) -> NoReturn:
    raise UnreadableDocument(reason, **data)
