"""A JSON Lines file, one document a line; BEIR's ``corpus.jsonl`` is one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, BinaryIO, NoReturn, cast, get_args

from tarragon.errors import SourceNotFound, SourceProblem, UnreadableDocument
from tarragon.protocols import SourceItem
from tarragon.sources.reading import DEFAULT_MAX_BYTES, checked_max_bytes, open_regular, os_reason, unreadable
from tarragon.types import Document, Format

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a line is: its number from 1, its first byte and its length in bytes."""

    path: str
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.number}"


class JsonlSource:
    """The documents of a JSON Lines file.

    Each line is an object with ``id`` or ``_id`` (string or integer) and ``text``, and maybe with ``title``, ``format``
    and ``metadata``. Any other key goes into the metadata, where a key of ``metadata`` itself wins. A title is put in
    front of the text as a heading, unless the text begins with it. Blank lines are ignored. A line that is no document,
    or longer than ``max_bytes``, is listed as ``name:line`` and reports why when it is loaded.

    Only the places of the lines are kept, and a line is read again when it is loaded.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._path = os.path.abspath(path)
        self._max_bytes = checked_max_bytes(max_bytes)

    def items(self) -> Iterator[SourceItem]:
        """Each line, in order; two lines of one id are both listed.

        Raises:
            SourceNotFound: The file is not there.
            SourceProblem: It cannot be read.
        """
        with self._open() as file:
            for place, data in _lines(file, self._path, self._max_bytes):
                if data.strip():
                    yield self._item(place, data)

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}

    def _open(self) -> BinaryIO:
        try:
            return open_regular(self._path)
        except FileNotFoundError as error:
            raise SourceNotFound(f"no file at {self._path}", path=self._path) from error
        except OSError as error:
            raise SourceProblem(f"{self._path}: {os_reason(error)}", path=self._path) from error

    def _item(self, place: _Line, data: bytes) -> SourceItem:
        try:
            if place.length > self._max_bytes:
                raise _problem(place, f"{place.length} bytes, longer than max_bytes={self._max_bytes}; raise max_bytes")
            document_id = _parse(place, data).id
        except UnreadableDocument as error:
            name = f"{os.path.basename(self._path)}:{place.number}"
            return unreadable(name, str(error), path=self._path, hides="", line=place.number)
        return SourceItem(document_id, None, partial(_load, place, document_id))


def _lines(file: BinaryIO, path: str, max_bytes: int) -> Iterator[tuple[_Line, bytes]]:
    """Each line with its place. Of a longer one than ``max_bytes`` only the beginning."""
    offset = 0
    for number in count(1):
        data = file.readline(max_bytes + 1)
        if not data:
            return
        length, end = len(data), data
        while length > max_bytes and not end.endswith(b"\n") and (end := file.readline(max_bytes)):
            length += len(end)
        yield _Line(path, number, offset, length), data
        offset += length


def _load(place: _Line, document_id: str) -> Document:
    try:
        with open_regular(place.path) as file:
            file.seek(place.offset)
            data = file.read(place.length)
    except OSError as error:
        raise _problem(place, os_reason(error)) from error
    document = _parse(place, data)
    if document.id != document_id:
        raise _problem(place, f"changed since the listing: was {document_id!r}, is {document.id!r}; sync again")
    return document


def _parse(place: _Line, data: bytes) -> Document:
    try:
        return _document(_record(data.removeprefix(_BOM) if place.offset == 0 else data))
    except UnicodeDecodeError as error:
        raise _problem(place, f"not valid UTF-8 at byte {error.start} of the line; convert it to UTF-8") from error
    except UnicodeEncodeError as error:
        raise _problem(place, "holds half of a surrogate pair, which is no character") from error
    except RecursionError as error:
        raise _problem(place, "nested too deeply") from error
    except ValueError as error:
        raise _problem(place, str(error)) from error


def _problem(place: _Line, reason: str) -> UnreadableDocument:
    return UnreadableDocument(f"{place}: {reason}", path=place.path, line=place.number)


def _record(data: bytes) -> dict[str, Any]:
    line = data.decode("utf-8")
    try:
        record = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, this is a {type(record).__name__}")
    if "\\ud" in line.lower():
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    return record


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _document(record: dict[str, Any]) -> Document:
    document_id = _checked("id", record.pop("id" if "id" in record else "_id", None), (str, int))
    if document_id == "":
        raise ValueError("its id is empty")
    text = _checked("text", record.pop("text", None), (str,))
    title = _checked("title", _given(record.pop("title", None), ""), (str,))
    metadata = _checked("metadata", _given(record.pop("metadata", None), {}), (dict,))
    form = record.pop("format", None)
    if form is not None and form not in get_args(Format):
        raise ValueError(f"format {form!r} is none of {', '.join(get_args(Format))}")
    return Document(str(document_id), _titled(title, text), {**record, **metadata}, cast("Format | None", form))


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _checked(key: str, value: Any, types: tuple[type, ...]) -> Any:
    if value is None:
        raise ValueError(f"has no {key!r}")
    if not isinstance(value, types) or isinstance(value, bool):
        raise ValueError(f"{key!r} must be {' or '.join(each.__name__ for each in types)}, not {type(value).__name__}")
    return value


def _titled(title: str, text: str) -> str:
    title = " ".join(title.split())
    first = text.lstrip().partition("\n")[0].lstrip("#").strip()
    return text if not title or first == title else f"# {title}\n\n{text}"
