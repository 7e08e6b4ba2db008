"""Filters as a Qdrant server takes them; `tarragon.filters.matches` is their definition.

JSON has no infinity: it would arrive as null, that is, as no bound at all. So a bound that is infinite becomes the
largest double, or a condition that nothing meets.
"""

from __future__ import annotations

import math
import sys
from datetime import datetime
from typing import Any

from tarragon.filters import EXACT_INTEGERS, And, Exists, Filter, In, Not, Or, Range, Scalar, Where
from tarragon.store.server_client import models

NOTHING = models.Filter(must=[models.HasIdCondition(has_id=[])])
"""No point passes. An empty ``should`` would let all of them pass."""

_LARGEST = sys.float_info.max


def compile_filter(filter: Filter) -> models.Filter:
    """The server's form of a filter."""
    if isinstance(filter, And):
        return models.Filter(must=[compile_filter(part) for part in filter.filters])
    if isinstance(filter, Or):
        return _any([compile_filter(part) for part in filter.filters])
    if isinstance(filter, Not):
        return models.Filter(must_not=[compile_filter(filter.filter)])
    assert not isinstance(filter, Where), "relax a filter before it is compiled"
    key = ".".join(["metadata", *(f'"{part}"' for part in filter.path)])
    if isinstance(filter, Exists):
        return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
    if isinstance(filter, In):
        return _any([_equals(key, value) for value in filter.values])
    return _range(key, filter)


def _any(conditions: list[Any]) -> models.Filter:
    return models.Filter(should=conditions) if conditions else NOTHING


def _equals(key: str, value: Scalar) -> models.Filter | models.FieldCondition:
    if isinstance(value, (bool, str)) or (isinstance(value, int) and abs(value) >= EXACT_INTEGERS):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    if math.isinf(value):
        return NOTHING
    return models.FieldCondition(key=key, range=models.Range(gte=float(value), lte=float(value)))


def _range(key: str, range_: Range) -> models.Filter:
    bounds: dict[str, Any] = {}
    for name, bound in range_.bounds.items():
        if isinstance(bound, datetime) or math.isfinite(bound):
            bounds[name] = bound
        elif (bound > 0) == name.startswith("g"):
            return NOTHING  # above infinity, or below minus infinity: no number in JSON is
        else:
            bounds.setdefault(f"{name[0]}te", math.copysign(_LARGEST, bound))
    dates = any(isinstance(bound, datetime) for bound in bounds.values())
    condition = models.DatetimeRange(**bounds) if dates else models.Range(**bounds)
    return models.Filter(must=[models.FieldCondition(key=key, range=condition)])
