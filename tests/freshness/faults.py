"""Crashes at any call that writes: counted, blown, and left behind as a killed process would."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias

from tarragon.store.edge import EdgeStore
from tarragon.store.folder import IndexFolder
from tarragon.store.ledger import SqliteLedger

WRITES: dict[type, tuple[str, ...]] = {
    EdgeStore: ("upsert", "set_payload", "delete", "flush"),
    SqliteLedger: (
        "intend", "switch", "settle", "record", "intend_deletion", "commit_deletion", "note",
    ),
    IndexFolder: ("reserve", "add", "update", "point_to", "drop"),
}  # fmt: skip
CREATION: dict[type, tuple[str, ...]] = {EdgeStore: ("__init__",), SqliteLedger: ("__init__",)}


PLACES = [
    f"{side} {owner.__name__}.{name}"
    for owner, names in WRITES.items()
    for name in names
    for side in ("before", "after")
]
Boundary: TypeAlias = "int | tuple[str, int]"


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Counts the calls that write, and ends the process before or after one of them.

    Attributes:
        calls: Writes since `reset`, by name.
        blown: Where it blew.
        watch: Called at each boundary with its name, while nothing is armed.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.blown = ""
        self.watch: Callable[[str], None] | None = None
        self._left: int | None = None
        self._place = ""
        self._torn = False
        self._last_words: Callable[[], None] = lambda: None

    def reset(self) -> None:
        self.calls.clear()

    @contextmanager
    def armed(self, boundary: Boundary, *, torn: bool, last_words: Callable[[], None]) -> Iterator[None]:
        """Blow at this boundary: before the first call is 0, after it is 1, and so on; or at the n-th of its name.

        With ``torn``, an `upsert` before which it blows has written half of its points.
        """
        self._place, self._left = ("", boundary) if isinstance(boundary, int) else boundary
        self._torn, self._last_words, self.blown = torn, last_words, ""
        try:
            yield
        finally:
            self._left = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put itself around every method that writes."""
        originals = [
            (owner, name, getattr(owner, name))
            for places in (WRITES, CREATION)
            for owner, names in places.items()
            for name in names
        ]
        try:
            for owner, name, original in originals:
                setattr(owner, name, self._around(f"{owner.__name__}.{name}", original))
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _around(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def fused(itself: Any, *values: Any, **named: Any) -> Any:
            if not name.endswith("__init__"):
                self.calls[name] += 1
            tear = name == "EdgeStore.upsert" and self._torn
            self._pass(f"before {name}", (lambda: original(itself, half(values[0]))) if tear else None)
            result = original(itself, *values, **named)
            self._pass(f"after {name}", None)
            return result

        return fused

    def _pass(self, place: str, tear: Callable[[], Any] | None) -> None:
        if self._left is None:
            if self.watch is not None and not re.search("IndexFolder|__init__", place):
                self.watch(place)
            return
        if self._place not in place:
            return
        if self._left == 0:
            self._left, self.blown = None, place
            if tear is not None:
                tear()
            self._last_words()
            raise Killed(place)
        self._left -= 1


def half(chunks: Any) -> Any:
    return chunks[: (len(chunks) + 1) // 2]


def copy_as_left(source: Path, target: Path) -> None:
    """Copy an open index as a killed process would leave it: what is in its memory only is lost. Holes stay holes."""
    for folder, _, names in os.walk(source):
        made = target / Path(folder).relative_to(source)
        made.mkdir(parents=True, exist_ok=True)
        for name in names:
            _copy_sparse(Path(folder, name), made / name)


def _copy_sparse(source: Path, target: Path) -> None:
    size = source.stat().st_size
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        write.truncate(size)
        place = 0
        while place < size:
            try:
                place = os.lseek(read.fileno(), place, os.SEEK_DATA)
            except OSError:  # nothing but a hole
                return
            end = os.lseek(read.fileno(), place, os.SEEK_HOLE)
            os.lseek(read.fileno(), place, os.SEEK_SET)
            os.lseek(write.fileno(), place, os.SEEK_SET)
            while place < end:
                place += write.write(read.read(end - place))


def remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
