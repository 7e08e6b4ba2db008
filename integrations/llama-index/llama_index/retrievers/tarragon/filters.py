"""`MetadataFilters` as Tarragon takes them, with the meaning that LlamaIndex gives them.

The meaning is that of core 0.14 (`llama_index.core.vector_stores.utils.build_metadata_filter_fn`), on 0.13 too, and of
nested filters what follows from it: a missing or null key passes ``NE``, ``NIN`` and ``IS_EMPTY`` only; ``TEXT_MATCH``
is a substring; a list is equal to a list and never to its element; values that cannot be compared do not pass, where
core raises a ``TypeError``.

The engine is asked for all that may pass, which for tenants, ids and numbers is just what does; `Passes` has the last
word on each passage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.retrievers.tarragon.nodes import KEPT

from tarragon.errors import InvalidFilter
from tarragon.filters import EXACT_INTEGERS

Spec = Mapping[str, Any]

EVERYTHING: Spec = {}

_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_ORDERS = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)
_PRESENT: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.EQ: lambda has, wanted: bool(has == wanted),
    FilterOperator.NE: lambda has, wanted: bool(has != wanted),
    FilterOperator.GT: lambda has, wanted: bool(has > wanted),
    FilterOperator.GTE: lambda has, wanted: bool(has >= wanted),
    FilterOperator.LT: lambda has, wanted: bool(has < wanted),
    FilterOperator.LTE: lambda has, wanted: bool(has <= wanted),
    FilterOperator.IN: lambda has, wanted: has in wanted,
    FilterOperator.NIN: lambda has, wanted: has not in wanted,
    FilterOperator.CONTAINS: lambda has, wanted: wanted in has,
    FilterOperator.ALL: lambda has, wanted: all(one in has for one in wanted),
    FilterOperator.ANY: lambda has, wanted: any(one in has for one in wanted),
    FilterOperator.TEXT_MATCH: lambda has, wanted: isinstance(has, str) and wanted in has,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda has, wanted: isinstance(has, str) and wanted.lower() in has.lower(),
}
"""Of a value that is there."""


def compile_filters(filters: MetadataFilters | None) -> Spec | None:
    """The same as a filter of Tarragon; None where everything passes.

    Raises:
        InvalidFilter: An operator cannot take its value, or is unknown. Nothing is ever ignored.
    """
    if filters is None or not filters.filters:
        return None
    _check(filters)
    return {"$and": [_wider(filters), {"$where": Passes(filters)}]}


@dataclass(frozen=True)
class Passes:
    """Whether metadata pass the filters."""

    filters: MetadataFilters

    def __call__(self, metadata: Mapping[str, Any]) -> bool:
        """See `passes`."""
        return passes(self.filters, metadata)


def passes(filters: MetadataFilters, metadata: Mapping[str, Any]) -> bool:
    """Whether metadata pass: what the module's docstring says, by looking."""
    if not filters.filters:
        return True
    each = (
        passes(one, metadata) if isinstance(one, MetadataFilters) else _passes(one, metadata) for one in filters.filters
    )
    condition = _condition(filters)
    if condition is FilterCondition.NOT:
        return not any(each)
    return any(each) if condition is FilterCondition.OR else all(each)


def _passes(filter: MetadataFilter, metadata: Mapping[str, Any]) -> bool:
    has = metadata.get(filter.key) if filter.key != KEPT else None
    if filter.operator is FilterOperator.IS_EMPTY:
        return has is None or has == "" or has == []
    if has is None:
        return filter.operator in (FilterOperator.NE, FilterOperator.NIN)
    try:
        return _PRESENT[filter.operator](has, filter.value)
    except TypeError:  # values that cannot be compared
        return False


def _condition(filters: MetadataFilters) -> FilterCondition:
    return filters.condition or FilterCondition.AND


# --- what is refused --------------------------------------------------------------------------------------------------
def _check(filters: MetadataFilters) -> None:
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            _check(one)
        elif problem := _problem(one):
            raise InvalidFilter(f"{one.key!r} {one.operator.value} {one.value!r}: {problem}", key=one.key)


def _problem(filter: MetadataFilter) -> str:
    operator, value = filter.operator, filter.value
    if operator is FilterOperator.IS_EMPTY:
        return ""
    if operator not in _PRESENT:
        return f"the operator is unknown; known are {', '.join(one.value for one in [*_PRESENT, operator.IS_EMPTY])}"
    if value is None:
        return "nothing is compared with null; to find missing values use the operator is_empty"
    if operator in _LISTS and not isinstance(value, list):
        return "the operator takes a list of values"
    if operator in _TEXTS and not isinstance(value, str):
        return "the operator takes a text"
    if (operator in _ORDERS or operator is FilterOperator.CONTAINS) and isinstance(value, list):
        return "the operator takes one value, not a list"
    return ""


# --- what the engine is asked -----------------------------------------------------------------------------------------
def _wider(filters: MetadataFilters) -> Spec:
    """A filter that passes all that pass ``filters``, as narrow as the engine can judge."""
    if not filters.filters or _condition(filters) is FilterCondition.NOT:
        return EVERYTHING
    parts = [_wider(one) if isinstance(one, MetadataFilters) else _wider_one(one) for one in filters.filters]
    return {"$or" if _condition(filters) is FilterCondition.OR else "$and": parts}


def _wider_one(filter: MetadataFilter) -> Spec:
    if not filter.key or any(sign in filter.key for sign in '"\\'):
        return EVERYTHING  # no path can name it
    path, operator, value = f'"{filter.key}"', filter.operator, filter.value
    if value == []:
        return EVERYTHING  # an empty list, too, equals it and has all of it; to the engine it is nothing
    there = {path: {"$exists": True}}
    if operator in (FilterOperator.NE, FilterOperator.NIN):
        return EVERYTHING
    if operator is FilterOperator.IS_EMPTY:
        return {"$or": [{path: {"$exists": False}}, {path: ""}]}
    if operator in _ORDERS and not isinstance(value, str):
        return {"$or": [{path: {_ORDERS[operator]: value}}, {path: {"$in": [True, False]}}]} if _plain(value) else there
    if operator is FilterOperator.EQ:
        return _one_of(path, [value])
    if operator is FilterOperator.IN and isinstance(value, list):
        return _one_of(path, value)
    if operator in (FilterOperator.CONTAINS, FilterOperator.ANY) and not _has_text(value):
        return _one_of(path, value if isinstance(value, list) else [value])
    return there


def _one_of(path: str, values: Sequence[Any]) -> Spec:
    """The key has one of these values, or an element that is one. To Python, True is 1 and False is 0."""
    if not all(map(_plain, values)):
        return {path: {"$exists": True}}
    return {path: {"$in": [*values, *({True for one in values if one == 1} | {False for one in values if one == 0})]}}


def _plain(value: Any) -> bool:
    """Whether the engine compares it as Python does."""
    if isinstance(value, float):
        return abs(value) < EXACT_INTEGERS
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < EXACT_INTEGERS)


def _has_text(value: Any) -> bool:
    """Whether it can be a part of a text, or a key of an object."""
    return any(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
