"""Lines of a text file with their places, so that whatever is malformed is an error with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tarragon.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file.

    Attributes:
        path: The file.
        number: Of the line, from 1; 0: the file as a whole.
        error: What `refuse` raises.
    """

    path: Path
    number: int
    error: type[InvalidInput]

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says what is wrong here."""
        where = f"{self.path}, line {self.number}" if self.number else str(self.path)
        raise self.error(f"{where}: {reason}", path=str(self.path), line=self.number)


def read_text(path: Path, error: type[InvalidInput]) -> str:
    """All of a UTF-8 file, without a byte order mark."""
    return "".join(f"{text}\n" for _, text in lines(path, error, blank=True))


def lines(path: Path, error: type[InvalidInput], *, blank: bool = False) -> Iterator[tuple[Place, str]]:
    """Each line of a UTF-8 file without its end; those that are blank only if asked for."""
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, start=1):
                place = Place(path, number, error)
                text = _decoded(place, data).rstrip("\r\n")
                if blank or text.strip():
                    yield place, text
    except FileNotFoundError:
        Place(path, 0, error).refuse("there is no such file; check the path")
    except OSError as problem:
        Place(path, 0, error).refuse(f"cannot be read: {problem.strerror or type(problem).__name__}")


def json_lines(path: Path, error: type[InvalidInput]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Each object of a JSON Lines file."""
    for place, text in lines(path, error):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as problem:
            place.refuse(f"not JSON: {problem}")
        if not isinstance(record, dict):
            place.refuse(f"a JSON object is needed, this is a {type(record).__name__}")
        if halved(text, record):
            place.refuse("holds half of a surrogate pair, which is no character")
        yield place, record


def halved(text: str, value: object) -> bool:
    """Whether a value that was read from JSON text holds half of a surrogate pair, which cannot be written again."""
    if "\\ud" not in text.lower():
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def identifier(value: object, place: Place, key: str) -> str:
    """A string that is not empty, or a whole number, as a string."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        place.refuse(f"{key!r} must be a string that is not empty or a whole number, not {value!r}")
    return str(value)


def string(record: Mapping[str, Any], key: str, place: Place) -> str:
    """The text under a key."""
    if key not in record:
        place.refuse(f"{key!r} is missing")
    value = record[key]
    if not isinstance(value, str):
        place.refuse(f"{key!r} must be a string, not {type(value).__name__}")
    return value


def whole(text: str, place: Place, key: str) -> int:
    """A whole number that a text spells."""
    try:
        return int(text)
    except ValueError:
        place.refuse(f"{key} must be a whole number, not {text!r}")


def _decoded(place: Place, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if place.number == 1 else "utf-8")
    except UnicodeDecodeError as problem:
        place.refuse(f"not valid UTF-8 at byte {problem.start} of the line; convert it to UTF-8")
