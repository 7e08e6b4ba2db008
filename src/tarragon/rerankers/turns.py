"""Who computes next on a device, where several questions are reranked at once.

Two that run at the same time take twice as long each, and both may miss their deadlines. So they take turns, a batch
at a time, and whoever's time is over first goes on until it is done. Questions that are embedded do not wait here: they
are short, and share the device better than they would wait for a batch of pairs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Condition
from typing import NamedTuple

PATIENCE = 10.0
"""Seconds after which a question without a deadline is as urgent as one whose time is over then, so that it is not
overtaken for ever."""

Ticket = tuple[float, int]
Turn = Callable[[], AbstractContextManager[bool]]


class Share(NamedTuple):
    """A question's share of a device: what makes its turns, and what says when its time is over."""

    turn: Turn
    is_over: Callable[[], bool]


class Turns:
    """A line of questions, the most urgent first, of equally urgent ones the first that came."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._numbers = itertools.count()
        self._line: set[Ticket] = set()
        self._is_taken = False

    @contextmanager
    def line(self, remaining: float) -> Iterator[Turn]:
        """Stand in line for as long as the block lasts, also between turns: others wait meanwhile.

        The block gets what makes a turn: a block of its own that nobody else is in, told whether it had to wait.

        Args:
            remaining: Seconds until its time is over; infinity: never.
        """
        ticket = time.perf_counter() + min(remaining, PATIENCE), next(self._numbers)
        with self._changed:
            self._line.add(ticket)
        try:
            yield lambda: self._turn(ticket)
        finally:
            with self._changed:
                self._line.discard(ticket)
                self._changed.notify_all()

    @contextmanager
    def _turn(self, ticket: Ticket) -> Iterator[bool]:
        def is_mine() -> bool:
            return not self._is_taken and min(self._line, default=ticket) == ticket

        with self._changed:
            has_waited = not is_mine()
            self._changed.wait_for(is_mine)
            self._is_taken = True
        try:
            yield has_waited
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()


@cache
def turns_of(device: str) -> Turns:
    """Those of a device, which all models of a process share, and so all rerankers."""
    return Turns()
