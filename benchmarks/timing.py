"""Timing alternatives fairly: interleaved, so that a machine that slows down slows all of them down.

Round by round the order turns around, A B · B A · A B · B A, so that over an even number of rounds each alternative is
as often first as last. A ratio is taken within a round, between neighbours in time, and its median, least and greatest
value over the rounds are reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Clock = Callable[[], float]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the least and the greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Timings:
    """What `interleave` measured.

    Attributes:
        seconds: Of each alternative, its time in each round.
    """

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Seconds that the alternative took, the median of its rounds."""
        return statistics.median(self.seconds[name])

    def speedup(self, name: str, over: str) -> Spread:
        """How many times as fast ``name`` is as ``over``, round by round."""
        pairs = zip(self.seconds[name], self.seconds[over], strict=True)
        return Spread.of([theirs / ours for ours, theirs in pairs])


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    warmups: int = 1,
    clock: Clock = time.perf_counter,
) -> Timings:
    """Time each alternative once a round.

    Args:
        calls: The alternatives by name.
        rounds: How many; an even number cancels a steady drift.
        warmups: Rounds before these that are not counted.
        clock: Returns seconds.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warmups, rounds):
        for name in _order(list(calls), number):
            started = clock()
            calls[name]()
            taken = clock() - started
            if number >= 0:
                seconds[name].append(taken)
    return Timings(seconds)


def latencies(
    calls: Mapping[str, Callable[[Item], object]],
    items: Sequence[Item],
    *,
    rounds: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each alternative on each item, round by round; the first round is a warm-up and not counted.

    The order of the alternatives turns around from item to item, and for each item from round to round.

    Returns:
        Of each alternative ``rounds * len(items)`` times in seconds, those of an item at the same place for all.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-1, rounds):
        for place, item in enumerate(items):
            for name in _order(list(calls), number + place):
                started = clock()
                calls[name](item)
                taken = clock() - started
                if number >= 0:
                    seconds[name].append(taken)
    return seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values do not exceed; 0.5 is the (lower) median."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _order(names: list[str], number: int) -> list[str]:
    return names if number % 2 == 0 else names[::-1]
