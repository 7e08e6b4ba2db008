"""From values to places in a drawing: where an axis begins and ends, and which numbers stand beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tarragon.evaluation.report_page import Axis

STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Round numbers, times a power of ten, that ticks lie apart."""

MARGIN = 0.06
"""Share of the span that is left free beyond the outermost values."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to lengths.

    Attributes:
        low: Value at the start.
        high: Value at the end; more than ``low``.
        start: Place of ``low``.
        end: Place of ``high``; may be before ``start``.
        log: Equal ratios are equally long.
        ticks: Values that are written beside the axis, ascending.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value lies; what is beyond the ends lies at them."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            share = (inside - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def scale(axis: Axis, values: Iterable[float], start: float, end: float, ticks: int = 5) -> Scale:
    """A scale that holds all values, and the axis' own bounds where it has them."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)]
    low, high = min(finite, default=1.0 if axis.log else 0.0), max(finite, default=1.0)
    if axis.log:
        bounds = _log_bounds(low, high)
        low, high = axis.low or bounds[0], axis.high or bounds[1]
        return Scale(low, high, start, end, True, _log_ticks(low, high))
    margin = (high - low or abs(high) or 1.0) * MARGIN
    low = low - margin if axis.low is None else axis.low
    high = high + margin if axis.high is None else axis.high
    high = high if high > low else low + 1.0
    return Scale(low, high, start, end, False, _round_ticks(low, high, ticks))


def _round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in STEPS if step * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(number * step, 12) for number in range(first, last + 1))


def _log_bounds(low: float, high: float) -> tuple[float, float]:
    """Some room beyond both, and at least a factor of 4 between them."""
    room = max((high / low) ** (2 * MARGIN), 1.1)
    low, high = low / room, high * room
    if high / low < 4:
        middle = math.sqrt(low * high)
        low, high = middle / 2, middle * 2
    return low, high


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = tuple(tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9))
        if len(inside) >= 3:
            return inside
    return _round_ticks(low, high, 4)


def number(value: float) -> str:
    """A value beside an axis: as short as it can be told."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def spread(places: Iterable[float], gap: float, low: float, high: float) -> list[float]:
    """The places, moved as little as needed to lie at least ``gap`` apart between ``low`` and ``high``, in their order.

    Where there is no room for that, they lie as far apart as there is.
    """
    given = list(places)
    order = sorted(range(len(given)), key=lambda i: (given[i], i))
    gap = min(gap, (high - low) / max(len(given) - 1, 1))
    moved = [0.0] * len(given)
    floor = low
    for i in order:
        moved[i] = floor = max(given[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        moved[i] = ceiling = min(moved[i], ceiling)
        ceiling -= gap
    return moved
