"""The embedded engine, qdrant-edge, behind the `Store` protocol. The only file that imports it.

Found in qdrant-edge-py 0.9.0 and handled here: every failure is a bare ``Exception``; ``MatchValue(True)`` arrives as
the integer 1, and only a NumPy bool stays a bool; an empty ``should`` matches everything; NaN is stored without
complaint; BM25 over a text index cannot rescore a prefetch; ``HasIdCondition`` takes a set.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import qdrant_edge as q

from tarragon.background import LOWEST
from tarragon.errors import DiskFull, IndexLocked, StorageProblem
from tarragon.filters import EXACT_INTEGERS, And, Exists, Filter, In, Not, Or, Range, Scalar, Where, relaxed
from tarragon.protocols import (
    LEXICAL_DECIMALS,
    SEARCH_WIDTH,
    LegScores,
    SearchRequest,
    SideSpace,
    SideVector,
    StoredChunk,
)
from tarragon.recipe import Language
from tarragon.types import FloatArray, SparseVector

TEXT = "content"
"""Payload key of the text that BM25 searches."""

HNSW = q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000)
"""The engine's own defaults. `optimize` builds the graph once a segment holds over 10 MB of vectors (6,600 of 384
dimensions); below, a scan is as fast (benchmarks/README.md)."""

DATATYPES = {"float32": "Float32", "float16": "Float16", "int8": "Turbo8"}
"""How the numbers of a vector are kept. The engine's own 8 bits are TurboQuant's: they need no range of values."""

_PAGE = 1_000

_WRITE = 32
"""Chunks written in one call: searches of other threads wait for some 10 ms instead of 180 ms with 500, at the same
speed."""

T = TypeVar("T")


class EdgeStore:
    """The chunks of one version in a shard folder.

    Args:
        path: The shard's folder. It is made if it is not there.
        space: Name of the dense vectors.
        dimensions: Their length.
        language: How the lexical leg reads words.

    Raises:
        IndexLocked: Another process has the shard open.
        StorageProblem: The shard cannot be opened, or has other vectors.
    """

    parallel = 1
    """The engine holds the interpreter's lock while it searches: two threads are no faster, and eight leave a third
    (an event loop, say) waiting for seconds."""

    def __init__(self, path: Path, *, space: str, dimensions: int, language: Language) -> None:
        self._path = path
        self._space = space
        self._searching = threading.Lock()
        with _engine_errors(path):
            if (path / "segments").is_dir():
                self._shard = q.EdgeShard.load(str(path))
            else:
                path.mkdir(parents=True, exist_ok=True)
                vectors = {space: q.EdgeVectorParams(size=dimensions, distance=q.Distance.Dot, hnsw_config=HNSW)}
                self._shard = q.EdgeShard.create(str(path), q.EdgeConfig(vectors=vectors))
            known = self._shard.info().payload_schema.get(TEXT)
            if known is None or known.params.enable_hnsw is not False:  # of an earlier release
                self._shard.update(q.UpdateOperation.create_field_index(TEXT, _text_index(language)))

    # --- writing ------------------------------------------------------------------------------------------------------
    def upsert(self, chunks: Sequence[StoredChunk]) -> None:
        """See `tarragon.protocols.Store`."""
        points = [q.Point(chunk.id, self._vectors(chunk), dict(chunk.payload)) for chunk in chunks]
        self._update(q.UpdateOperation.upsert_points(part) for part in _slices(points))

    def _vectors(self, chunk: StoredChunk) -> dict[str, Any]:
        return {self._space: chunk.vector} | {name: _native(vector) for name, vector in chunk.sides.items()}

    def set_payload(self, payloads: Mapping[UUID, Mapping[str, Any]]) -> None:
        """See `tarragon.protocols.Store`."""
        self._update(q.UpdateOperation.set_payload([id_], dict(payload)) for id_, payload in payloads.items())

    def delete(self, ids: Sequence[UUID]) -> None:
        """See `tarragon.protocols.Store`."""
        self._update(q.UpdateOperation.delete_points(list(ids)) for _ in ids[:1])

    def add_space(self, space: SideSpace) -> None:
        """See `tarragon.protocols.Store`."""
        operation = q.UpdateOperation
        if space.kind == "sparse":
            self._update(iter([operation.create_sparse_vector(space.name)]))
            return
        several = q.MultiVectorConfig(q.MultiVectorComparator.MaxSim) if space.kind == "late" else None
        datatype = getattr(q.VectorStorageDatatype, DATATYPES[space.datatype])
        dense = operation.create_dense_vector(space.name, space.dimensions, q.Distance.Dot, several, datatype)
        self._update(iter([dense]))

    def drop_space(self, name: str) -> None:
        """See `tarragon.protocols.Store`."""
        self._update(iter([q.UpdateOperation.delete_vector_name(name)]))

    def set_sides(self, space: SideSpace, vectors: Mapping[UUID, SideVector]) -> None:
        """See `tarragon.protocols.Store`."""
        known = self._ids_of(list(vectors))  # the engine refuses a whole call that names an unknown id
        points = [q.PointVectors(id_, {space.name: _native(vectors[id_])}) for id_ in vectors if id_ in known]
        self._update(q.UpdateOperation.update_vectors(part) for part in _slices(points))

    def _ids_of(self, ids: Sequence[UUID]) -> set[UUID]:
        with _engine_errors(self._path):
            return {record.id for record in self._shard.retrieve(list(ids), False, False)}

    def _update(self, operations: Iterator[Any]) -> None:
        with _engine_errors(self._path):
            for operation in operations:
                self._shard.update(operation)

    # --- reading ------------------------------------------------------------------------------------------------------
    def vectors(self, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            records = self._shard.retrieve(list(ids), False, [self._space])
        return {record.id: np.asarray(record.vector[self._space], dtype=np.float32) for record in records}

    def sides(self, space: SideSpace, ids: Sequence[UUID]) -> dict[UUID, SideVector]:
        """See `tarragon.protocols.Store`."""
        try:
            with _engine_errors(self._path):
                records = self._shard.retrieve(list(ids), False, [space.name])
        except StorageProblem as error:
            if "Not existing vector name" in str(error):  # what the engine says of a space that was never made
                return {}
            raise
        found = {record.id: record.vector[space.name] for record in records if space.name in (record.vector or {})}
        return {id_: _ours(vector) for id_, vector in found.items()}

    def without(self, space: SideSpace) -> Iterator[UUID]:
        """See `tarragon.protocols.Store`."""
        return self._scroll(q.Filter(must_not=[q.HasVectorCondition(space.name)]))

    def payloads(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            return {record.id: record.payload or {} for record in self._shard.retrieve(list(ids), True, False)}

    def ids(self) -> Iterator[UUID]:
        """See `tarragon.protocols.Store`."""
        return self._scroll(None)

    def _scroll(self, filter_: Any) -> Iterator[UUID]:
        offset = None
        while True:
            with _engine_errors(self._path):
                request = q.ScrollRequest(
                    offset=offset, limit=_PAGE, filter=filter_, with_payload=False, with_vector=False
                )
                records, offset = self._shard.scroll(request)
            yield from (record.id for record in records)
            if offset is None:
                return

    def count(self) -> int:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            return int(self._shard.info().points_count)

    def indexed_vectors(self) -> int:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            return int(self._shard.info().indexed_vectors_count)

    def search(self, request: SearchRequest) -> LegScores:
        """See `tarragon.protocols.Store`.

        First each leg alone, all in one batch; then each space scores the candidates that only the others have found
        (BM25 over a text index cannot). As prefetches of one another's queries the legs would be searched twice: at
        100,000 chunks that takes half as long again.
        """
        with self._searching, _engine_errors(self._path):
            scores = self._answers(_legs(request, self._space))
            for name, others in self._answers(_others(request, self._space, scores)).items():
                scores[name] = scores.get(name, {}) | others
        if request.late is not None:
            scores.setdefault("late", {})
        return LegScores(scores.get("dense"), scores.get("lexical"), scores.get("sparse"), scores.get("late"))

    def _answers(self, queries: Mapping[str, q.QueryRequest]) -> dict[str, dict[UUID, float]]:
        """By leg what was found, best first."""
        if not queries:
            return {}
        answers = self._shard.query_batch(q.QueryBatchRequest(list(queries.values())))
        return {
            name: {point.id: point.score for point in points} for name, points in zip(queries, answers, strict=True)
        }

    # --- upkeep -------------------------------------------------------------------------------------------------------
    def optimize(self) -> bool:
        """Build the vector index and drop what is deleted; True if there was work.

        Holds the interpreter's lock for its whole run: see `optimize_shard` for a process of its own.
        """
        with _engine_errors(self._path):
            return bool(self._shard.optimize())

    def flush(self) -> None:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            self._shard.flush()

    def close(self) -> None:
        """See `tarragon.protocols.Store`."""
        with _engine_errors(self._path):
            self._shard.close()


def _legs(request: SearchRequest, space: str) -> dict[str, q.QueryRequest]:
    """Each leg alone."""
    filter_ = compile_filter(relaxed(request.filter)) if request.filter is not None else None
    dense, lexical, sparse = request.dense, request.lexical, request.sparse
    legs = {}
    if dense is not None:
        nearest = q.Query.Nearest(dense.vector, using=space)
        if dense.first is None:
            legs["dense"] = q.QueryRequest(limit=dense.limit, query=nearest, filter=filter_, params=_wide(dense.limit))
        else:
            short = q.Query.Nearest(dense.first.vector, using=dense.first.space)
            depth = dense.first.limit
            first = q.Prefetch(limit=depth, query=short, filter=filter_, params=_wide(depth))
            legs["dense"] = q.QueryRequest(limit=dense.limit, query=nearest, prefetches=[first])
    if lexical is not None:
        told, words = max(lexical.limit, lexical.scores), q.TextQuery(TEXT, lexical.text)
        legs["lexical"] = q.QueryRequest(limit=told, query=words, filter=filter_)
    if sparse is not None:
        terms = q.Query.Nearest(_native(sparse.vector), using=sparse.space)
        legs["sparse"] = q.QueryRequest(limit=sparse.limit, query=terms, filter=filter_)
    return legs


def _wide(limit: int) -> q.SearchParams:
    return q.SearchParams(hnsw_ef=max(SEARCH_WIDTH, limit))


def _others(
    request: SearchRequest, space: str, scores: Mapping[str, Mapping[UUID, float]]
) -> dict[str, q.QueryRequest]:
    """For each space, a query for the candidates that it has not scored yet; none where it has scored all."""
    if len(scores) == 1 and request.late is None:
        return {}
    found: dict[UUID, object] = {}
    for name, leg in scores.items():
        found |= _with_ties(leg, request.lexical.limit) if name == "lexical" and request.lexical else dict(leg)
    vectors: dict[str, tuple[Any, str]] = {}
    if request.dense is not None:
        vectors["dense"] = request.dense.vector, space
    if request.sparse is not None:
        vectors["sparse"] = _native(request.sparse.vector), request.sparse.space
    if request.late is not None:
        vectors["late"] = request.late.vectors, request.late.space
    queries = {}
    for name, (vector, using) in vectors.items():
        known = scores.get(name, {})
        if left := {id_ for id_ in found if id_ not in known}:
            only = q.Filter(must=[q.HasIdCondition(left)])
            queries[name] = q.QueryRequest(limit=len(left), query=q.Query.Nearest(vector, using=using), filter=only)
    return queries


def _with_ties(scores: Mapping[UUID, float], limit: int) -> dict[UUID, object]:
    """The first so many of a leg that comes best first, and all that score like the last of them when rounded."""
    if len(scores) <= limit:
        return dict.fromkeys(scores)
    values = list(scores.values())
    least = values[limit - 1] - 10**-LEXICAL_DECIMALS
    while limit < len(values) and values[limit] > least:
        limit += 1
    return dict.fromkeys(islice(scores, limit))


def _native(vector: SideVector) -> Any:
    if isinstance(vector, SparseVector):
        return q.SparseVector(vector.indices.tolist(), vector.values.tolist())
    return vector


def _ours(vector: Any) -> SideVector:
    if isinstance(vector, q.SparseVector):
        order = np.argsort(vector.indices)
        indices, values = np.asarray(vector.indices, dtype=np.int32), np.asarray(vector.values, dtype=np.float32)
        return SparseVector(indices[order], values[order])
    return np.asarray(vector, dtype=np.float32)


def _slices(points: list[T]) -> Iterator[list[T]]:
    return (points[start : start + _WRITE] for start in range(0, len(points), _WRITE))


def _text_index(language: Language) -> q.TextIndexParams:
    """Index of the words with lengths and frequencies, which BM25 needs from the first chunk on.

    Without links of their own for each frequent word in the graph of the vectors (``enable_hnsw``), which only a filter
    on words would use: for 100,000 chunks they took 155 of 221 processor seconds of `optimize`.
    """
    if language == "neutral":
        return q.TextIndexParams(
            tokenizer=q.TokenizerType.Multilingual,
            lowercase=True,
            ascii_folding=True,
            scoring=True,
            enable_hnsw=False,
        )
    return q.TextIndexParams(
        tokenizer=q.TokenizerType.Word,
        lowercase=True,
        ascii_folding=language == "english",
        stopwords=getattr(q.Language, language.capitalize()),
        stemmer=q.SnowballParams(getattr(q.SnowballLanguage, language.capitalize())),
        scoring=True,
        enable_hnsw=False,
    )


def compile_filter(filter: Filter) -> q.Filter:
    """The engine's form of a filter; `tarragon.filters.matches` is its definition."""
    if isinstance(filter, And):
        return q.Filter(must=[compile_filter(part) for part in filter.filters])
    if isinstance(filter, Or):
        return _any([compile_filter(part) for part in filter.filters])
    if isinstance(filter, Not):
        return q.Filter(must_not=[compile_filter(filter.filter)])
    assert not isinstance(filter, Where), "relax a filter before it is compiled"
    key = ".".join(["metadata", *(f'"{part}"' for part in filter.path)])
    if isinstance(filter, Exists):
        return q.Filter(must_not=[q.IsEmptyCondition(key)])
    if isinstance(filter, In):
        return _any([_equals(key, value) for value in filter.values])
    return q.Filter(must=[q.FieldCondition(key, range=_range(filter))])


def _any(conditions: list[Any]) -> q.Filter:
    return q.Filter(should=conditions) if conditions else q.Filter(must=[q.HasIdCondition(set())])


def _equals(key: str, value: Scalar) -> q.FieldCondition:
    if isinstance(value, bool):
        return q.FieldCondition(key, match=q.MatchValue(np.bool_(value)))
    if isinstance(value, str) or (isinstance(value, int) and abs(value) >= EXACT_INTEGERS):
        return q.FieldCondition(key, match=q.MatchValue(value))
    return q.FieldCondition(key, range=q.RangeFloat(gte=float(value), lte=float(value)))


def _range(range_: Range) -> Any:
    bounds = range_.bounds
    if any(isinstance(bound, datetime) for bound in bounds.values()):
        return q.RangeDateTime(**{name: bound.isoformat() for name, bound in bounds.items()})  # type: ignore[union-attr]
    return q.RangeFloat(**bounds)


@contextmanager
def _engine_errors(path: Path) -> Iterator[None]:
    """Every failure of the engine as one of ours; the engine itself raises bare exceptions, so this must be broad."""
    try:
        yield
    except Exception as error:
        if "WouldBlock" in str(error):
            raise IndexLocked(f"{path} is open in another process; close it there first", path=path) from error
        if any(sign in str(error) for sign in ("No space left", "os error 28", "StorageFull")):
            raise DiskFull(f"the disk that holds {path} is full; free some room and sync again", path=path) from error
        raise StorageProblem(f"{path}: {error}", path=path) from error


def optimize_shard(path: str) -> bool:
    """Optimize a shard that nobody has open, giving way to other processes; True if there was work."""
    if hasattr(os, "nice"):
        os.nice(LOWEST)
    with _engine_errors(Path(path)):
        shard = q.EdgeShard.load(path)
        worked = bool(shard.optimize())
        shard.flush()
        shard.close()
    return worked


if __name__ == "__main__":  # run by `EmbeddedCatalog.compact`: exit code 0 after work, 1 if there was none
    sys.exit(0 if optimize_shard(sys.argv[1]) else 1)
