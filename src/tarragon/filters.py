"""Filters on metadata: parsed once into a small tree, which stores compile and `matches` defines.

    {"lang": "en"}                                  equal (or, for a list in the metadata, an element is)
    {"year": {"$gte": 2020, "$lt": 2024}}           a range of numbers, or of dates given as text: see `parse_datetime`
    {"lang": {"$in": ["en", "de"]}}                 one of; also "$nin"
    {"lang": {"$ne": "en"}}                         anything else, a missing key included
    {"author": {"$exists": true}}                   has a value: not missing, not null, not an empty list
    {"$and": [...]}, {"$or": [...]}, {"$not": {...}}
    {"$where": predicate}                           a function of the metadata that returns True or False

Several keys in one object must all hold. A dot goes down into an object (``author.name``); a key that itself holds a
dot is written in double quotes (``"a.b"``). Types are kept apart: ``True`` is not ``1``, ``"1"`` is not ``1``; whole
numbers and fractions compare as numbers, in double precision, but a whole number from 2**53 on equals only that whole
number. What cannot be parsed raises `InvalidFilter`; nothing is ever ignored.

``$where`` is for what the engine cannot judge. It is asked of passages in the order in which they rank, from as deep as
it takes to fill up, so a function that few documents pass costs a look at many: put what can be said otherwise beside
it, ``{"team": "storage", "$where": predicate}``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeAlias

from tarragon.errors import InvalidFilter

Scalar: TypeAlias = "str | int | float | bool"
Path: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True, slots=True)
class In:
    """The value, or an element of the list that is the value, equals one of these."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The value, or an element of it, lies between the bounds: all numbers or all datetimes."""

    path: Path
    gte: float | datetime | None = None
    gt: float | datetime | None = None
    lte: float | datetime | None = None
    lt: float | datetime | None = None

    @property
    def bounds(self) -> dict[str, float | datetime]:
        """The bounds that are set, by name."""
        named = {"gte": self.gte, "gt": self.gt, "lte": self.lte, "lt": self.lt}
        return {name: bound for name, bound in named.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class Exists:
    """There is a value: the key is not missing, not null and not an empty list."""

    path: Path


@dataclass(frozen=True, slots=True)
class And:
    """All of these; true when there are none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of these; false when there are none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Not this."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class Where:
    """What this function of the metadata says. Engines cannot judge it: see `relaxed`."""

    predicate: Callable[[Mapping[str, Any]], bool]


Filter: TypeAlias = "In | Range | Exists | And | Or | Not | Where"

EXACT_INTEGERS = 1 << 53
"""Below this, whole numbers and doubles are the same numbers."""

_INTEGERS = range(-(1 << 63), 1 << 63)
_PART = re.compile(r'"([^"\\]+)"|([^".\[\]\\]+)')
_ORDER = ("$gte", "$gt", "$lte", "$lt")


def parse(spec: Mapping[str, Any]) -> Filter:
    """Parse the form shown at the top of this module.

    Raises:
        InvalidFilter: An unknown operator, a value of a type that no operator takes, or a malformed key.
    """
    if not isinstance(spec, Mapping):
        raise InvalidFilter(f"a filter is an object such as {{'lang': 'en'}}, not {type(spec).__name__}: {spec!r}")
    return _all([_parse_entry(key, value) for key, value in spec.items()])


def _all(filters: Sequence[Filter]) -> Filter:
    return filters[0] if len(filters) == 1 else And(tuple(filters))


def _parse_entry(key: str, value: Any) -> Filter:
    if key in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise InvalidFilter(f"{key} takes a list of at least one filter, not {value!r}")
        parts = tuple(parse(part) for part in value)
        return And(parts) if key == "$and" else Or(parts)
    if key == "$not":
        return Not(parse(value))
    if key == "$where":
        if not callable(value):
            raise InvalidFilter(f"$where takes a function of the metadata, not {type(value).__name__} {value!r:.80}")
        return Where(value)
    path = parse_path(key)
    if isinstance(value, Mapping):
        if not value:
            raise InvalidFilter(f"no operator for {key!r}; for example {{{key!r}: {{'$gte': 1}}}}")
        return _parse_operators(path, value)
    return In(path, (_scalar(value, key),))


def parse_path(key: str) -> Path:
    """Split ``a."b.c".d`` into its parts. Keys with a double quote or a backslash cannot be named.

    Raises:
        InvalidFilter: The key starts with ``$``, or is malformed.
    """
    if not isinstance(key, str) or key.startswith("$"):
        known = "$and, $or, $not, $where at the top; $in, $nin, $ne, $eq, $gte, $gt, $lte, $lt, $exists below a key"
        raise InvalidFilter(f"unknown operator {key!r}; known are {known}")
    _check_text(key)
    parts, position = [], 0
    while match := _PART.match(key, position):
        parts.append(match[1] or match[2])
        position = match.end()
        if position == len(key):
            return tuple(parts)
        if key[position] != ".":
            break
        position += 1
    rule = 'parts are joined by dots; one with a dot or bracket stands in "quotes"; none may hold a quote or backslash'
    raise InvalidFilter(f"malformed key {key!r}: {rule}")


def _parse_operators(path: Path, operators: Mapping[str, Any]) -> Filter:
    name = ".".join(path)
    single: dict[str, Callable[[Any], Filter]] = {
        "$eq": lambda value: In(path, (_scalar(value, name),)),
        "$ne": lambda value: Not(In(path, (_scalar(value, name),))),
        "$in": lambda value: In(path, _scalars(value, name)),
        "$nin": lambda value: Not(In(path, _scalars(value, name))),
        "$exists": lambda value: _exists(path, value),
    }
    filters = [single[operator](value) for operator, value in operators.items() if operator in single]
    bounds = {operator[1:]: value for operator, value in operators.items() if operator in _ORDER}
    if unknown := [operator for operator in operators if operator not in single and operator not in _ORDER]:
        raise InvalidFilter(f"unknown operator {unknown[0]!r} for {name!r}; known are {', '.join([*single, *_ORDER])}")
    if bounds:
        filters.append(_range(path, bounds))
    return _all(filters)


def _exists(path: Path, value: Any) -> Filter:
    if not isinstance(value, bool):
        raise InvalidFilter(f"$exists takes true or false, not {value!r}")
    return Exists(path) if value else Not(Exists(path))


def _scalar(value: Any, name: str) -> Scalar:
    if value is None:
        raise InvalidFilter(f"{name!r} cannot be compared with null; use {{{name!r}: {{'$exists': false}}}}")
    if not isinstance(value, (str, int, float)) or value != value:
        raise InvalidFilter(f"{name!r} cannot be compared with {type(value).__name__} {value!r}")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, int) and value not in _INTEGERS:
        raise InvalidFilter(f"{value} does not fit into 64 bits, so that no {name!r} is equal to it")
    return value


def _check_text(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidFilter(f"{text!r} holds a lone surrogate, which no metadata can")


def _scalars(value: Any, name: str) -> tuple[Scalar, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise InvalidFilter(f"$in and $nin take a list of values for {name!r}, not {value!r}")
    return tuple(_scalar(element, name) for element in value)


def _range(path: Path, bounds: Mapping[str, Any]) -> Range:
    name = ".".join(path)
    if all(isinstance(bound, str) for bound in bounds.values()):
        parsed: dict[str, Any] = {key: parse_datetime(bound) for key, bound in bounds.items()}
        if None in parsed.values():
            raise InvalidFilter(f"a range of {name!r} takes numbers or ISO 8601 dates, not {dict(bounds)!r}")
        return Range(path, **parsed)
    for bound in bounds.values():
        if not _is_number(bound) or bound != bound:
            raise InvalidFilter(f"a range of {name!r} takes numbers or ISO 8601 dates, not {dict(bounds)!r}")
    try:
        return Range(path, **{key: float(bound) for key, bound in bounds.items()})
    except OverflowError:
        raise InvalidFilter(f"a bound of {name!r} is too large for a number: {dict(bounds)!r}") from None


_DATETIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d)(?:(:\d\d)(?:\.(\d{1,6})\d*)?([Zz]|[+-]\d\d(?::?\d\d)?)?)?)?", re.ASCII
)


def parse_datetime(text: str) -> datetime | None:
    """A date as text: ``2024-01-31``, ``2024-01-31T10:00``, ``2024-01-31T10:00:00[.000000][Z|+01:00|+0100|+01]``.

    A space may stand for the ``T``. No zone means UTC, and a zone needs the seconds. Digits after the sixth are cut.
    None for anything else. The engine reads some sloppier spellings in metadata as well (``2024-1-31``, a leap second):
    whether a range holds for those is not defined.
    """
    if not (match := _DATETIME.fullmatch(text)):
        return None
    day, minutes, seconds, fraction, zone = match.groups()
    zone = "+0000" if zone in (None, "Z", "z") else zone.replace(":", "").ljust(5, "0")
    try:
        moment = datetime.fromisoformat(f"{day}T{minutes or '00:00'}{seconds or ':00'}")
        offset = datetime.strptime(zone, "%z").tzinfo
        moment = moment.replace(microsecond=int((fraction or "0").ljust(6, "0")), tzinfo=offset)
        return moment.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def matches(filter: Filter, metadata: Mapping[str, Any]) -> bool:
    """Whether this metadata passes: the definition that every store's compiled filter is tested against."""
    if isinstance(filter, And):
        return all(matches(part, metadata) for part in filter.filters)
    if isinstance(filter, Or):
        return any(matches(part, metadata) for part in filter.filters)
    if isinstance(filter, Not):
        return not matches(filter.filter, metadata)
    if isinstance(filter, Where):
        return bool(filter.predicate(metadata))
    value = _value(metadata, filter.path)
    if isinstance(filter, Exists):
        return value is not None and value != []
    values = value if isinstance(value, list) else [value]
    if isinstance(filter, In):
        return any(_equal(value, wanted) for value in values for wanted in filter.values)
    return any(_within(value, filter) for value in values)


def relaxed(filter: Filter, *, is_wanted: bool = True) -> Filter:
    """A filter that passes all that this one passes, and perhaps more, without any `Where`: what an engine can judge.

    Args:
        filter: The filter.
        is_wanted: False under a negation, where less must pass for more to pass above it.
    """
    if isinstance(filter, Where):
        return And(()) if is_wanted else Or(())
    if isinstance(filter, Not):
        return Not(relaxed(filter.filter, is_wanted=not is_wanted))
    if isinstance(filter, And | Or):
        return type(filter)(tuple(relaxed(part, is_wanted=is_wanted) for part in filter.filters))
    return filter


def has_where(filter: Filter) -> bool:
    """Whether a `Where` is part of it, so that what an engine passes has to be looked at again."""
    if isinstance(filter, And | Or):
        return any(map(has_where, filter.filters))
    return has_where(filter.filter) if isinstance(filter, Not) else isinstance(filter, Where)


def _value(metadata: Any, path: Path) -> Any:
    for part in path:
        if not isinstance(metadata, Mapping):
            return None
        metadata = metadata.get(part)
    return metadata


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _equal(value: Any, wanted: Scalar) -> bool:
    if _is_number(value) and _is_number(wanted):
        if isinstance(wanted, int) and abs(wanted) >= EXACT_INTEGERS:
            return isinstance(value, int) and value == wanted
        return float(value) == float(wanted)
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    return isinstance(value, str) and value == wanted


def _within(value: Any, range_: Range) -> bool:
    bounds = range_.bounds
    if isinstance(next(iter(bounds.values())), datetime):
        value = parse_datetime(value) if isinstance(value, str) else None
    else:
        value = float(value) if _is_number(value) else None
    compare = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}
    return value is not None and all(compare[name](value, bound) for name, bound in bounds.items())
