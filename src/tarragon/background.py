"""Computing without keeping anybody waiting."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19
"""Priority of a thread that gets the processor when nobody else wants it (Linux: nice)."""


class Foreground:
    """Runs a call where it is asked for."""

    def __call__(self, call: Callable[[], T]) -> T:
        """The result of the call."""
        return call()


class Background:
    """A thread of the lowest priority, and with it the threads that a model starts from there.

    While a model embeds documents on all cores, a question to the same model would wait several times as long as alone;
    from here it hardly does (benchmarks/README.md). Priorities of single threads exist on Linux only; elsewhere it is a
    thread like any other.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="tarragon-embedding", initializer=_give_way)

    def __call__(self, call: Callable[[], T]) -> T:
        """The result of the call, which runs there."""
        return self._executor.submit(call).result()

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
