"""What was made of a passage once: kept, up to so many bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tarragon.identity import content_hash

Array = TypeVar("Array", bound=NDArray[Any])

_ENTRY = 300
"""Bytes that an entry takes beside its array's data: two objects, a key, a place in the dict."""


class Memo(Generic[Array]):
    """Arrays by text; those used longest ago are given up first. Safe to use from several threads.

    Args:
        limit: Bytes that all entries may take. 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._arrays: OrderedDict[bytes, Array] = OrderedDict()
        self._lock = Lock()

    def rows(self, texts: Sequence[str], make: Callable[[list[str]], Sequence[Array]]) -> list[Array]:
        """One array per text, in order. ``make`` is called at most once, with the distinct texts that are not kept."""
        keys = [content_hash(text) for text in texts]
        with self._lock:
            known = {key: self._arrays[key] for key in keys if key in self._arrays}
            for key in known:
                self._arrays.move_to_end(key)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            made = dict(zip(missing, make(list(missing.values())), strict=True))
            known.update(made)
            with self._lock:
                self._keep(made)
        return [known[key] for key in keys]

    def _keep(self, arrays: dict[bytes, Array]) -> None:
        for key, array in arrays.items():
            if key not in self._arrays:  # another thread may have been faster
                self._size += _size(array)
            self._arrays[key] = array
            self._arrays.move_to_end(key)
        while self._size > self._limit:
            _, array = self._arrays.popitem(last=False)
            self._size -= _size(array)

    @property
    def size(self) -> int:
        """Bytes that the entries take now."""
        return self._size


def _size(array: NDArray[Any]) -> int:
    return _ENTRY + int(np.asarray(array).nbytes)
