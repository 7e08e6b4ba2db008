"""Where the time goes: objects that pass every call on, and add up how long it took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tarragon.protocols import Source, SourceItem


class Stopwatch:
    """Seconds by label."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def call(self, label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function; its time goes to the label."""
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.seconds[label] += time.perf_counter() - started

    def watch(self, inner: Any, label: str) -> Any:
        """The same object for its users; the time of all its methods goes to the label."""
        return _Watched(inner, label, self)


class _Watched:
    def __init__(self, inner: Any, label: str, stopwatch: Stopwatch) -> None:
        self._inner = inner
        self._label = label
        self._stopwatch = stopwatch

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._stopwatch.call(self._label, value, *args, **kwargs)


class WatchedSource:
    """A source whose listing and loading go to a label."""

    def __init__(self, inner: Source, label: str, stopwatch: Stopwatch) -> None:
        self._inner = inner
        self._label = label
        self._stopwatch = stopwatch

    def items(self) -> Iterable[SourceItem]:
        """See `tarragon.protocols.Source`."""
        items: list[SourceItem] = self._stopwatch.call(self._label, lambda: list(self._inner.items()))
        return [item._replace(load=self._watched(item.load)) for item in items]

    def skipped(self) -> Mapping[str, int]:
        """See `tarragon.protocols.Source`."""
        return self._inner.skipped()

    def _watched(self, load: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: self._stopwatch.call(self._label, load)
