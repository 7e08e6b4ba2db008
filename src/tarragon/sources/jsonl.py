"""A JSON Lines file, one document a line; BEIR's ``corpus.jsonl`` is one."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import count
from threading import Lock
from typing import Any, BinaryIO, NoReturn, TypeAlias, cast, get_args
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import SourceNotFound, SourceProblem, UnreadableDocument
from tarragon.protocols import SourceItem
from tarragon.sources.file import settled_before
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


_State: TypeAlias = tuple[int, int, int]
"""Size, modification time and inode of a file."""


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the documents of a file are: 32 bytes each, as a file may have millions.

    Attributes:
        state: Of the file that they are in.
        settled: Whether that was old enough for any later change to give another state.
        hashes: Of the ids, ascending; equal ones in the order of the lines.
        lines: Number, offset and length of each line, in the same order, shape ``(lines, 3)``.
        hiding: The first line whose id is unknown.
    """

    state: _State
    settled: bool
    hashes: NDArray[np.int64]
    lines: NDArray[np.int64]
    hiding: tuple[int, int, int] | None

    def of(self, document_id: str) -> Iterator[tuple[int, int, int]]:
        """The lines that may have this id, in order; those of other ids with the same hash among them."""
        wanted = hash(document_id)
        first, end = (int(np.searchsorted(self.hashes, wanted, side=side)) for side in ("left", "right"))
        yield from map(tuple, self.lines[first:end].tolist())


class JsonlSource:
    """The documents of a JSON Lines file.

    Each line is an object with ``id`` or ``_id`` (string or integer) and ``text``, and maybe with ``title``, ``format``
    and ``metadata``. Any other key goes into the metadata, where a key of ``metadata`` itself wins. A title is put in
    front of the text as a heading, unless the text begins with it. Blank lines are ignored. A line that is no document,
    or longer than ``max_bytes``, is listed as ``name:line`` and reports why when it is loaded.

    Only the places of the lines are kept, and a line is read again when it is loaded. A digest of the line is the hint.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._path = os.path.abspath(path)
        self._max_bytes = checked_max_bytes(max_bytes)
        self._known: _Places | None = None
        self._lock = Lock()

    def items(self) -> Iterator[SourceItem]:
        """Each line, in order; two lines of one id are both listed.

        Raises:
            SourceNotFound: The file is not there.
            SourceProblem: It cannot be read.
        """
        with self._open() as file:
            for _, item in self._listed(file):
                yield item

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}

    def find(self, document_id: str) -> SourceItem | None:
        """The first line with this id, read now; None if no line has it.

        Ids that differ in Unicode normalisation only are one id. While there is a line whose id is unknown, no id is
        known to be gone: its item is unreadable. The first call reads the whole file, and so does the first one after
        the file has changed.

        Raises:
            SourceNotFound: The file is not there.
            SourceProblem: It cannot be read.
        """
        wanted = normalize("NFC", document_id)
        with self._open() as file:
            places = self._places(file)
            found = self._first(file, places, wanted)
            if found is None and not places.settled:
                places = self._places(file, anew=True)
                found = self._first(file, places, wanted)
            if found is None and places.hiding is not None:
                found = self._reread(file, *places.hiding)._replace(document_id=wanted, hides=None)
            return found

    def describe(self) -> Mapping[str, Any]:
        """Path and limit."""
        return {"kind": "jsonl", "path": self._path, "max_bytes": self._max_bytes}

    def _listed(self, file: BinaryIO) -> Iterator[tuple[_Line, SourceItem]]:
        for place, data in _lines(file, self._path, self._max_bytes):
            if data.strip():
                yield place, self._item(place, data)

    def _places(self, file: BinaryIO, *, anew: bool = False) -> _Places:
        """Where the documents of this open file are. Read again only if that may have changed."""
        with self._lock:
            settled = settled_before()
            status = os.fstat(file.fileno())
            state = status.st_size, status.st_mtime_ns, status.st_ino
            is_settled = status.st_mtime_ns < settled
            known = self._known
            if anew or known is None or known.state != state or known.settled != is_settled:
                file.seek(0)
                known = self._known = _places(self._listed(file), state, is_settled)
            return known

    def _first(self, file: BinaryIO, places: _Places, document_id: str) -> SourceItem | None:
        items = (self._reread(file, *place) for place in places.of(document_id))
        return next((item for item in items if normalize("NFC", item.document_id) == document_id), None)

    def _reread(self, file: BinaryIO, number: int, offset: int, length: int) -> SourceItem:
        file.seek(offset)
        return self._item(_Line(self._path, number, offset, length), file.read(min(length, self._max_bytes + 1)))

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
        hint = _digest(place, data)
        return SourceItem(document_id, hint, partial(_load, place, document_id, hint))


def _places(listed: Iterable[tuple[_Line, SourceItem]], state: _State, settled: bool) -> _Places:
    hashes, lines = array("q"), array("q")
    hiding: tuple[int, int, int] | None = None
    for place, item in listed:
        line = place.number, place.offset, place.length
        hashes.append(hash(normalize("NFC", item.document_id)))
        lines.extend(line)
        if hiding is None and item.hides is not None:
            hiding = line
    ids = np.array(hashes, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    return _Places(state, settled, ids[order], np.array(lines, dtype=np.int64).reshape(-1, 3)[order], hiding)


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


def _load(place: _Line, document_id: str, hint: str) -> Document:
    try:
        with open_regular(place.path) as file:
            file.seek(place.offset)
            data = file.read(place.length)
    except OSError as error:
        raise _problem(place, os_reason(error)) from error
    document = _parse(place, data)
    if document.id != document_id:
        raise _problem(place, f"changed since the listing: was {document_id!r}, is {document.id!r}; sync again")
    if _digest(place, data) != hint:  # or the hint would stand for a text that was not the one read
        raise _problem(place, "changed since the listing; sync again")
    return document


def _digest(place: _Line, data: bytes) -> str:
    return blake2b(_without_mark(place, data).strip(), digest_size=8).hexdigest()


def _without_mark(place: _Line, data: bytes) -> bytes:
    return data.removeprefix(_BOM) if place.offset == 0 else data


def _parse(place: _Line, data: bytes) -> Document:
    try:
        return _document(_record(_without_mark(place, data)))
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
