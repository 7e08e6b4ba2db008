"""The chunks of a version as a collection of a Qdrant server, behind the `Store` protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

import numpy as np

from tarragon.contract import Contract
from tarragon.protocols import LegScores, SearchRequest, SideSpace, SideVector, StoredChunk
from tarragon.recipe import Language
from tarragon.store.server_client import QdrantClient, ServerConnection, models
from tarragon.store.server_spaces import add_space, build_queries, native, ours, spaces
from tarragon.types import FloatArray, SparseVector

T = TypeVar("T")

TEXT = "content"
"""Payload key of the text that BM25 searches."""

BATCH_BYTES = 4_000_000
"""Most bytes of a request, as JSON. A server takes 32 MB; smaller ones are cheaper to repeat."""

BATCH_POINTS = 256
"""Most points of a request."""

PAGE = 1_000
"""Ids or records asked for at once."""

_FLOAT_BYTES = 21
"""Of a number of a vector as JSON, comma included."""


class ServerStore:
    """The chunks of one version. Safe to use from several threads.

    Args:
        connection: To the server.
        collection: Its name there; made by `create_collection`.
        space: Name of the dense vectors.
        guard: Called before each write; raises if this process may not write (any more).
    """

    parallel = 16
    """The server has its own threads; what bounds us is the wait for it."""

    def __init__(
        self, connection: ServerConnection, collection: str, space: str, *, guard: Callable[[], object]
    ) -> None:
        self._connection = connection
        self._collection = collection
        self._space = space
        self._guard = guard

    # --- writing ------------------------------------------------------------------------------------------------------
    def upsert(self, chunks: Sequence[StoredChunk]) -> None:
        """See `tarragon.protocols.Store`."""
        for part in batches(chunks, _chunk_bytes):
            self._upsert(part)

    def _upsert(self, chunks: Sequence[StoredChunk]) -> None:
        points = [
            models.PointStruct(id=str(one.id), vector=self._vectors(one), payload=dict(one.payload)) for one in chunks
        ]
        self._write(f"store {len(points)} chunks", lambda client: client.upsert(self._collection, points))

    def _vectors(self, chunk: StoredChunk) -> Any:
        return {self._space: chunk.vector.tolist()} | {name: native(vector) for name, vector in chunk.sides.items()}

    def add_space(self, space: SideSpace) -> None:
        """See `tarragon.protocols.Store`."""
        add_space(self._connection, self._collection, space)

    def drop_space(self, name: str) -> None:
        """See `tarragon.protocols.Store`."""
        if name in spaces(self._connection, self._collection):
            self._write(f"drop {name}", lambda client: client.delete_vector_name(self._collection, name))

    def set_sides(self, space: SideSpace, vectors: Mapping[UUID, SideVector]) -> None:
        """See `tarragon.protocols.Store`."""
        known = retrieve(self._connection, self._collection, list(vectors))
        here = [(id_, vector) for id_, vector in vectors.items() if id_ in known]
        for part in batches(here, lambda entry: _FLOAT_BYTES * _numbers(entry[1])):
            self._set_sides([models.PointVectors(id=str(id_), vector={space.name: native(row)}) for id_, row in part])

    def _set_sides(self, points: list[models.PointVectors]) -> None:
        what = f"store {len(points)} vectors"
        self._write(what, lambda client: client.update_vectors(self._collection, points))

    def set_payload(self, payloads: Mapping[UUID, Mapping[str, Any]]) -> None:
        """See `tarragon.protocols.Store`."""
        for part in batches(payloads.items(), lambda entry: json_bytes(entry[1])):
            self._set_payload(part)

    def _set_payload(self, payloads: Sequence[tuple[UUID, Mapping[str, Any]]]) -> None:
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=dict(payload), points=[str(id_)]))
            for id_, payload in payloads
        ]
        what = f"replace {len(operations)} payloads"
        self._write(what, lambda client: client.batch_update_points(self._collection, operations))

    def delete(self, ids: Sequence[UUID]) -> None:
        """See `tarragon.protocols.Store`."""
        for part in slices(ids, PAGE):
            self._delete(models.PointIdsList(points=[str(id_) for id_ in part]))

    def _delete(self, points: models.PointIdsList) -> None:
        what = f"delete {len(points.points)} chunks"
        self._write(what, lambda client: client.delete(self._collection, points))

    def _write(self, what: str, request: Callable[[QdrantClient], object]) -> None:
        self._connection.call(what, request, guard=self._guard)

    # --- reading ------------------------------------------------------------------------------------------------------
    def vectors(self, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
        """See `tarragon.protocols.Store`."""
        records = retrieve(self._connection, self._collection, ids, with_vectors=[self._space])
        return {id_: np.asarray(record.vector[self._space], dtype=np.float32) for id_, record in records.items()}

    def sides(self, space: SideSpace, ids: Sequence[UUID]) -> dict[UUID, SideVector]:
        """See `tarragon.protocols.Store`."""
        records = retrieve(self._connection, self._collection, ids, with_vectors=[space.name])
        found = {
            id_: record.vector[space.name] for id_, record in records.items() if space.name in (record.vector or {})
        }
        return {id_: ours(vector) for id_, vector in found.items()}

    def without(self, space: SideSpace) -> Iterator[UUID]:
        """See `tarragon.protocols.Store`."""
        missing = models.Filter(must_not=[models.HasVectorCondition(has_vector=space.name)])
        for record in scroll(self._connection, self._collection, filter=missing, with_payload=False):
            yield UUID(str(record.id))

    def payloads(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """See `tarragon.protocols.Store`."""
        records = retrieve(self._connection, self._collection, ids, with_payload=True)
        return {id_: record.payload or {} for id_, record in records.items()}

    def ids(self) -> Iterator[UUID]:
        """See `tarragon.protocols.Store`."""
        for record in scroll(self._connection, self._collection, with_payload=False):
            yield UUID(str(record.id))

    def count(self) -> int:
        """See `tarragon.protocols.Store`."""
        return self._connection.call(
            "count the chunks", lambda client: client.count(self._collection, exact=True)
        ).count

    def indexed_vectors(self) -> int:
        """See `tarragon.protocols.Store`."""
        found = self._connection.call("look at the collection", lambda client: client.get_collection(self._collection))
        return found.indexed_vectors_count or 0

    def search(self, request: SearchRequest) -> LegScores:
        """See `tarragon.protocols.Store`.

        The legs are prefetches of one another's queries: each space scores the union of all legs' candidates, as far as
        the engine can (BM25 over a text index scores only what it finds). All queries go to the server as one request.
        """
        queries = dict(build_queries(request, self._space, TEXT, has_graph=not self._connection.is_local))
        answers = self._connection.call(
            "search", lambda client: client.query_batch_points(self._collection, list(queries.values()))
        )
        scores = {
            name: {UUID(str(point.id)): point.score for point in answer.points}
            for name, answer in zip(queries, answers, strict=True)
        }
        return LegScores(scores.get("dense"), scores.get("lexical"), scores.get("sparse"), scores.get("late"))

    # --- upkeep -------------------------------------------------------------------------------------------------------
    def flush(self) -> None:
        """See `tarragon.protocols.Store`. Nothing to do: a write that returned is in the log of the server."""

    def close(self) -> None:
        """See `tarragon.protocols.Store`. The catalog closes the connection, which all versions share."""


def create_collection(connection: ServerConnection, collection: str, contract: Contract) -> None:
    """Make the collection of a version's chunks, and the index of their words."""
    options = connection.options
    vectors = models.VectorParams(
        size=contract.dimensions,
        distance=models.Distance.DOT,
        on_disk=options.on_disk,
        datatype=models.Datatype(options.datatype) if options.datatype else None,
        hnsw_config=options.hnsw_config,
        quantization_config=options.quantization_config,
    )
    make_collection(connection, collection, {contract.space: vectors}, shard_number=options.shard_number)
    index_field(connection, collection, TEXT, text_index(contract.recipe.language))


def make_collection(connection: ServerConnection, collection: str, vectors: Any, *, shard_number: int | None) -> None:
    """Make a collection if it is not there; also when an earlier try made it and its answer was lost."""

    def make(client: QdrantClient) -> None:
        if not client.collection_exists(collection):
            client.create_collection(
                collection,
                vectors_config=vectors,
                shard_number=shard_number,
                replication_factor=connection.options.replication_factor,
                write_consistency_factor=connection.options.write_consistency_factor,
                on_disk_payload=connection.options.on_disk_payload,
                metadata={"made_by": "tarragon"},
            )

    connection.call(f"make the collection {collection}", make)


def index_field(connection: ServerConnection, collection: str, field: str, schema: Any) -> None:
    """Index a key of the payloads."""
    connection.call(
        f"index {field} in {collection}",
        lambda client: client.create_payload_index(collection, field, field_schema=schema, wait=True),
    )


def text_index(language: Language) -> models.TextIndexParams:
    """Index of the words with lengths and frequencies, as the embedded engine has it: see `tarragon.store.edge`."""
    text = models.TextIndexType.TEXT
    if language == "neutral":
        tokenizer = models.TokenizerType.MULTILINGUAL
        return models.TextIndexParams(
            type=text, tokenizer=tokenizer, lowercase=True, ascii_folding=True, scoring=True, enable_hnsw=False
        )
    return models.TextIndexParams(
        type=text,
        tokenizer=models.TokenizerType.WORD,
        lowercase=True,
        ascii_folding=language == "english",
        stopwords=models.Language(language),
        stemmer=models.SnowballParams(type=models.Snowball.SNOWBALL, language=models.SnowballLanguage(language)),
        scoring=True,
        enable_hnsw=False,
    )


def retrieve(
    connection: ServerConnection,
    collection: str,
    ids: Sequence[UUID],
    *,
    with_payload: Any = False,
    with_vectors: Any = False,
    consistency: Any = None,
) -> dict[UUID, Any]:
    """The points that exist, by id."""

    def page(part: Sequence[UUID]) -> list[models.Record]:
        names = [str(id_) for id_ in part]
        return connection.call(
            f"read {len(names)} points of {collection}",
            lambda client: client.retrieve(
                collection, names, with_payload=with_payload, with_vectors=with_vectors, consistency=consistency
            ),
        )

    return {UUID(str(record.id)): record for part in slices(ids, BATCH_POINTS) for record in page(part)}


def scroll(
    connection: ServerConnection, collection: str, *, filter: models.Filter | None = None, with_payload: Any
) -> Iterator[models.Record]:
    """Every point that passes, page by page, in order of their ids."""

    def page(offset: Any) -> tuple[list[models.Record], Any]:
        return connection.call(
            f"page through {collection}",
            lambda client: client.scroll(
                collection, scroll_filter=filter, limit=PAGE, offset=offset, with_payload=with_payload
            ),
        )

    offset: Any = None
    while True:
        records, offset = page(offset)
        yield from records
        if offset is None:
            return


def slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in parts of at most this many."""
    return (items[start : start + size] for start in range(0, len(items), size))


def batches(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in parts of at most `BATCH_POINTS` items and `BATCH_BYTES` bytes; a larger item stands alone."""
    part: list[T] = []
    total = 0
    for item in items:
        bytes_ = size(item)
        if part and (len(part) == BATCH_POINTS or total + bytes_ > BATCH_BYTES):
            yield part
            part, total = [], 0
        part.append(item)
        total += bytes_
    if part:
        yield part


def json_bytes(payload: Mapping[str, Any]) -> int:
    """How many bytes a payload takes in a request."""
    return len(json.dumps(payload, ensure_ascii=False).encode("utf-8")) + 64


def _chunk_bytes(chunk: StoredChunk) -> int:
    numbers = chunk.vector.size + sum(map(_numbers, chunk.sides.values()))
    return _FLOAT_BYTES * numbers + json_bytes(chunk.payload)


def _numbers(vector: SideVector) -> int:
    """Of a vector in a request; a sparse one has an index with each."""
    return 2 * vector.values.size if isinstance(vector, SparseVector) else vector.size
