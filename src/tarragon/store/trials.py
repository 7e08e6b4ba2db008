"""Ways to search dense vectors, tried side by side in the embedded engine on a throw-away copy of the vectors.

Beside `tarragon.store.edge` the only file that imports the engine. Nothing of an index is touched.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as q

from tarragon.types import FloatArray, IntArray

QUANTIZATIONS: Mapping[str, tuple[Any, float]] = {
    "": (None, 4.0),
    "int8": (q.ScalarQuantizationConfig(q.ScalarType.Int8, quantile=0.99, always_ram=True), 1.0),
    "turbo 4 bits": (q.TurboQuantQuantizationConfig(always_ram=True, bits=q.TurboQuantBitSize.Bits4), 0.5),
    "turbo 1 bit": (q.TurboQuantQuantizationConfig(always_ram=True, bits=q.TurboQuantBitSize.Bits1), 0.125),
    "binary": (q.BinaryQuantizationConfig(always_ram=True), 0.125),
}
"""What the full vector is reduced to, and its bytes for each number. Full vectors score the candidates again."""

_FULL = "full"
_SCAN = q.HnswIndexConfig(m=0, ef_construct=4, full_scan_threshold=1_000_000_000)
_ALWAYS = q.EdgeOptimizersConfig(indexing_threshold=1)
"""In kB. By default the engine applies int8 only when it optimizes more than 10 MB of vectors; Turbo and binary it
applies as it writes."""

_WRITE = 500
_WARM = 3


@dataclass(frozen=True, slots=True)
class Way:
    """One way to find the nearest vectors.

    Attributes:
        quantization: One of `QUANTIZATIONS`.
        oversampling: Candidates of the reduced vectors for each that is wanted.
        short: Length of the prefix that is searched first; 0: none.
        depth: Candidates that the prefix gives for each that is wanted.
    """

    quantization: str = ""
    oversampling: float = 1.0
    short: int = 0
    depth: float = 1.0


class Trials:
    """Vectors in a throw-away shard, built anew for each quantization that is asked for. A context manager.

    One at a time: with all five of them at once, 30,000 vectors of 384 dimensions took 2.7 GB.

    Args:
        vectors: Shape ``(n, dimensions)``.
        shorts: By length, the short forms of the same vectors.
    """

    def __init__(self, vectors: FloatArray, shorts: Mapping[int, FloatArray]) -> None:
        self._vectors, self._shorts = vectors, shorts
        self._stack = ExitStack()
        self._shard: tuple[str, Any] | None = None

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, way: Way, queries: FloatArray, shorts: FloatArray | None, limit: int) -> tuple[IntArray, float]:
        """Ask each query, shape ``(queries, dimensions)``; a first pass needs their short forms too.

        Returns:
            Rows of the best ``limit`` vectors of each, -1 where there are fewer, and the median seconds of a query.
        """
        shard = self._built(way.quantization)
        found = np.full((len(queries), limit), -1, dtype=np.int32)
        seconds = []
        for number, query in enumerate([*queries[:_WARM], *queries]):
            row = number - min(_WARM, len(queries))
            request = _request(way, query, None if shorts is None else shorts[row if row >= 0 else number], limit)
            begun = time.perf_counter()
            points = shard.query(request)
            if row >= 0:
                seconds.append(time.perf_counter() - begun)
                found[row, : len(points)] = [point.id for point in points]
        return found, float(np.median(seconds))

    def _built(self, quantization: str) -> Any:
        if self._shard is None or self._shard[0] != quantization:
            self._shard = None
            self._stack.close()  # the former one, with its files
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tarragon-tune-"))
            self._shard = quantization, self._build(Path(folder), quantization)
        return self._shard[1]

    def _build(self, path: Path, quantization: str) -> Any:
        config, _ = QUANTIZATIONS[quantization]
        sizes = {_FULL: self._vectors.shape[1]} | {_name(length): length for length in self._shorts}
        spaces = {
            name: q.EdgeVectorParams(
                size=size,
                distance=q.Distance.Dot,
                hnsw_config=_SCAN,
                quantization_config=config if name == _FULL else None,
            )
            for name, size in sizes.items()
        }
        settings = q.EdgeConfig(vectors=spaces, wal_enabled=False, optimizers=_ALWAYS)
        shard = q.EdgeShard.create(str(path), settings)
        self._stack.callback(shard.close)
        for start in range(0, len(self._vectors), _WRITE):
            rows = range(start, min(start + _WRITE, len(self._vectors)))
            points = [
                q.Point(row, {_FULL: self._vectors[row]} | {_name(n): rows_[row] for n, rows_ in self._shorts.items()})
                for row in rows
            ]
            shard.update(q.UpdateOperation.upsert_points(points))
        shard.optimize()
        return shard


def _name(length: int) -> str:
    return f"short {length}"


def _request(way: Way, query: FloatArray, short: FloatArray | None, limit: int) -> q.QueryRequest:
    params = None
    if way.quantization:
        reduced = q.QuantizationSearchParams(ignore=False, rescore=True, oversampling=way.oversampling)
        params = q.SearchParams(quantization=reduced)
    nearest = q.Query.Nearest(query, using=_FULL)
    if not way.short:
        return q.QueryRequest(limit=limit, query=nearest, params=params)
    first = q.Query.Nearest(short, using=_name(way.short))
    depth = int(np.ceil(way.depth * limit))
    prefetch = q.Prefetch(limit=depth, query=first)
    return q.QueryRequest(limit=limit, query=nearest, params=params, prefetches=[prefetch])


def bytes_of(way: Way, dimensions: int) -> float:
    """Bytes a vector that a search reads for every chunk."""
    return 4.0 * way.short if way.short else QUANTIZATIONS[way.quantization][1] * dimensions


def exact(vectors: FloatArray, queries: FloatArray, limit: int, leave_out: Sequence[int] = ()) -> IntArray:
    """Rows of the best ``limit`` vectors of each query, best first, ties by row; for query i not ``leave_out[i]``."""
    found = np.full((len(queries), limit), -1, dtype=np.int32)
    for number, query in enumerate(queries):
        scores = vectors @ query
        if leave_out:
            scores[leave_out[number]] = -np.inf
        least = np.partition(scores, -limit)[-limit] if limit < len(scores) else -np.inf
        near = np.flatnonzero((scores >= least) & (scores > -np.inf))
        best = sorted(near.tolist(), key=lambda row: (-scores[row], row))[:limit]
        found[number, : len(best)] = best
    return found
