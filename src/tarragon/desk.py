"""Where questions of event loops wait for a thread: those that are asked alike are answered together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from tarragon.errors import InvalidInput
from tarragon.receipts import Hits
from tarragon.recipe import SearchRecipe
from tarragon.types import DenseQuery, FloatArray

WORKERS = 2
"""Threads that answer what an event loop asks: one is in the model while the other is in the engine. More would only
wait for the interpreter's lock, and keep the loop waiting for it too: 160 ms with 32 threads."""

TOGETHER = 16
"""Questions that a worker answers at once: they share a run of the model, and none waits long for the others."""


Key: TypeAlias = "tuple[int, str, tuple[int, ...], SearchRecipe | None]"


@dataclass(frozen=True, slots=True)
class Way:
    """How a question is asked. Those that are asked alike can be answered together."""

    k: int
    filter: Mapping[str, Any] | None
    recipe: SearchRecipe | None

    @property
    def key(self) -> Key:
        """What is equal where questions are asked alike. Functions in a filter are told apart by what they are."""
        return self.k, repr(self.filter), tuple(map(id, _functions(self.filter))), self.recipe


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question, and where its answer goes."""

    query: str
    vector: FloatArray | DenseQuery | None
    answer: Future[Hits]


Together: TypeAlias = "Callable[[Sequence[Waiting], Way], list[Hits]]"
"""Answers some questions in one way."""


class Desk:
    """Where questions of event loops wait, each with those that are asked alike, for one of a few threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="tarragon desk")
        self._lock = threading.Lock()
        self._waiting: dict[Key, list[Waiting]] = {}
        self._is_closed = False

    async def ask(self, query: str, vector: FloatArray | DenseQuery | None, way: Way, together: Together) -> Hits:
        """The answer, from whichever thread is free next.

        Raises:
            InvalidInput: The desk is closed.
        """
        import asyncio

        asked = Waiting(query, vector, Future())
        with self._lock:
            if self._is_closed:
                raise InvalidInput("this retriever was closed, or the one that it is a scope of; make a new one")
            line = self._waiting.setdefault(way.key, [])
            line.append(asked)
            is_first = len(line) == 1
        if is_first:
            self._threads.submit(self._serve, way, together)
        return await asyncio.wrap_future(asked.answer)

    def _serve(self, way: Way, together: Together) -> None:
        """Answer the first of a line together; others that stand in it, or join it meanwhile, are served next."""
        with self._lock:
            line = self._waiting.pop(way.key, [])
            now, later = line[:TOGETHER], line[TOGETHER:]
            if later:
                self._waiting[way.key] = later
        if later:
            self._threads.submit(self._serve, way, together)
        self._answer(now, way, together)

    def _answer(self, asked: Sequence[Waiting], way: Way, together: Together) -> None:
        """All together. If they fail, each is asked alone, so that one does not fail the others."""
        try:
            found = together(asked, way)
        except BaseException as error:
            if len(asked) == 1:
                _set(asked[0].answer, None, error)
            else:
                for one in asked:
                    self._answer([one], way, together)
        else:
            for one, hits in zip(asked, found, strict=True):
                _set(one.answer, hits, None)

    def close(self) -> None:
        """Answer what waits, and take nothing more."""
        with self._lock:
            self._is_closed = True
        while True:
            with self._lock:
                if not self._waiting:
                    break
            time.sleep(0.01)
        self._threads.shutdown()


def _functions(filter: Any) -> Iterator[object]:
    """The functions in a filter, in order: two of them may look the same in print."""
    if callable(filter):
        yield filter
    elif isinstance(filter, Mapping | list | tuple):
        for part in filter.values() if isinstance(filter, Mapping) else filter:
            yield from _functions(part)


def _set(answer: Future[Hits], hits: Hits | None, error: BaseException | None) -> None:
    if answer.set_running_or_notify_cancel():
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(hits if hits is not None else Hits())
