"""Where the time of a search goes, as shares."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tarragon.receipts import Hits
from tarragon.store.edge import EdgeStore


class TimedShard:
    """The engine's shard, and the seconds spent inside it."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard
        self.searching = self.reading = 0.0

    def query_batch(self, request: Any) -> Any:
        """Timed."""
        begun = time.perf_counter()
        found = self._shard.query_batch(request)
        self.searching += time.perf_counter() - begun
        return found

    def retrieve(self, *arguments: Any) -> Any:
        """Timed."""
        begun = time.perf_counter()
        found = self._shard.retrieve(*arguments)
        self.reading += time.perf_counter() - begun
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)


def engine_share(store: EdgeStore | None, run: Callable[[], object]) -> dict[str, float]:
    """What share of a run is spent in the engine's searches, in its reading of texts, and in Python."""
    assert store is not None
    real = store._shard
    timed = store._shard = TimedShard(real)
    try:
        begun = time.perf_counter()
        run()
        whole = time.perf_counter() - begun
    finally:
        store._shard = real
    searching, reading = timed.searching / whole, timed.reading / whole
    return {"engine's search": searching, "engine's texts": reading, "Python": 1 - searching - reading}


def receipt_shares(answers: Sequence[Hits]) -> dict[str, float]:
    """By stage of the receipts, the share of all their seconds."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for hits in answers:
        for stage in hits.receipt.stages:
            seconds[stage.name] += stage.seconds
    whole = sum(hits.receipt.seconds for hits in answers)
    return {name: value / whole for name, value in seconds.items()} | {"other": 1 - sum(seconds.values()) / whole}
