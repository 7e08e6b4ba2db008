"""An iteration that is one step ahead of whoever consumes it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 0.1
"""Seconds between two looks whether anybody still wants what has been made."""


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    item: T


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def ahead(items: Iterable[T], name: str) -> Generator[T, None, None]:
    """The same items in the same order, made in a thread of their own while the one before is consumed.

    At most one item waits and one more is being made. What goes wrong while an item is made is raised in its place,
    after the items before it. Whoever stops early closes the generator, as leaving a loop by an exception does once it
    is collected: then nothing more is made, and the thread has ended when `close` returns.

    Args:
        items: Iterated over in that thread only.
        name: Of the thread.
    """
    handed: Queue[_Made[T] | _End] = Queue(1)
    unwanted = Event()
    thread = Thread(target=_make, args=(items, handed, unwanted), name=name, daemon=True)
    thread.start()
    try:
        while isinstance(got := handed.get(), _Made):
            yield got.item
        if got.error is not None:
            raise got.error
    finally:
        unwanted.set()
        with suppress(Empty):
            handed.get_nowait()
        thread.join()


def _make(items: Iterable[T], handed: Queue[_Made[T] | _End], unwanted: Event) -> None:
    error: BaseException | None = None
    try:
        for item in items:
            if not _hand_over(_Made(item), handed, unwanted):
                return
    except BaseException as caught:  # raised again by whoever consumes
        error = caught
    _hand_over(_End(error), handed, unwanted)


def _hand_over(step: _Made[T] | _End, handed: Queue[_Made[T] | _End], unwanted: Event) -> bool:
    """Whether it was taken or may still be."""
    while not unwanted.is_set():
        try:
            handed.put(step, timeout=_PATIENCE)
        except Full:
            continue
        return True
    return False
