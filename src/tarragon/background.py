"""Computing without keeping anybody waiting."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19
"""Priority of a thread that gets the processor when nobody else wants it (Linux: nice)."""


class Foreground:
    """Runs a call where and when it is asked for; takes the place of a `Background`."""

    def __init__(self, *, gives_way: bool = False) -> None:
        """It never gives way."""

    def __enter__(self) -> Foreground:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to do."""

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Its result, or what it raised."""
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # raised again by whoever asks for the result
            future.set_exception(error)
        return future


class Background:
    """A thread for one call after the other, and with it the threads that a model starts from there.

    While a model embeds documents on all cores, a question to the same model would wait several times as long as alone;
    from a thread of the lowest priority it hardly does (benchmarks/README.md). Priorities of single threads exist on
    Linux only; elsewhere it is a thread like any other.

    Args:
        gives_way: Whether the thread has the lowest priority.
    """

    def __init__(self, *, gives_way: bool = True) -> None:
        initializer = _give_way if gives_way else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tarragon-embedding", initializer=initializer)

    def start(self, call: Callable[[], T]) -> Future[T]:
        """The result that it will have; calls run in the order in which they were started."""
        return self._executor.submit(call)

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)


def _give_way() -> None:
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
