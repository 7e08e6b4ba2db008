"""Bytes → text, strictly: what cannot be decoded is reported, never guessed."""

from __future__ import annotations

import codecs

from tarragon.errors import UnreadableDocument

SNIFFED_BYTES = 8192
"""Where a NUL byte is looked for; git decides "binary" on the first 8000 bytes in the same way."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its first half
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


_FIRST_BYTES = {mark[:1] for mark, _ in _MARKS}


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file hold a NUL byte that no UTF-16 or UTF-32 byte order mark explains."""
    return _encoding(head)[1] == "utf-8" and b"\0" in head[:SNIFFED_BYTES]


def decode(data: bytes) -> str:
    """Decode by the byte order mark, else as UTF-8. The mark is dropped; line ends and all else stay as they are.

    Raises:
        UnreadableDocument: With the offset of the first byte that is not text.
    """
    if looks_binary(data):
        offset = data.index(b"\0")
        raise UnreadableDocument(
            f"NUL at byte {offset}: binary, or UTF-16 without a byte order mark; convert it to UTF-8 or exclude it",
            offset=offset,
        )
    mark, encoding = _encoding(data)
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = len(mark) + error.start
        raise UnreadableDocument(
            f"not valid {encoding[:6].upper().rstrip('-')} at byte {offset} ({error.reason}); "
            "convert it to UTF-8 or exclude it",
            offset=offset,
        ) from error


def _encoding(data: bytes) -> tuple[bytes, str]:
    if data[:1] not in _FIRST_BYTES:
        return b"", "utf-8"
    return next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8"))
