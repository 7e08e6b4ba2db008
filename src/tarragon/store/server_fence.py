"""Records as points of a server, written only while they are as they were read.

A server runs no transaction over several requests, and says ``completed`` whether a condition held or not. So every
write leaves a stamp of its own, is conditional on the stamp that was read, and is read back:

- a point that was there is updated only if it still has the stamp that was read, and a fence not above ours;
- a point that was not there is inserted only if it is still missing;
- what has another stamp afterwards was refused.

Both are decided where the point is stored, in the order of the shard's log. A request that is repeated because its
answer was lost changes nothing more. Writes go through the shard's leader and are read back from most replicas.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID, uuid4

from tarragon.store.server import batches, index_field, json_bytes, make_collection, retrieve
from tarragon.store.server_client import ServerConnection, models

STAMP, FENCE = "stamp", "fence"

Payload = dict[str, Any]

_VECTOR: Any = {"none": [0.0]}
"""A server takes points without a vector through REST; through gRPC it is said to drop them (qdrant/qdrant#6128)."""


class FencedPoints:
    """The records in one collection, made by `create_records`. Safe to use from several threads.

    Args:
        connection: To the server.
        collection: Its name there.
    """

    def __init__(self, connection: ServerConnection, collection: str) -> None:
        self.connection = connection
        self.collection = collection

    def read(
        self, ids: Collection[UUID], *, with_payload: Any = True, all_replicas: bool = False
    ) -> dict[UUID, Payload]:
        """Payloads of those that exist."""
        consistency = models.ReadConsistencyType.MAJORITY if all_replicas else None
        records = retrieve(
            self.connection, self.collection, list(ids), with_payload=with_payload, consistency=consistency
        )
        return {id_: record.payload or {} for id_, record in records.items()}

    def write(self, points: Mapping[UUID, Payload], seen: Mapping[UUID, Payload], fence: int = 0) -> set[UUID]:
        """Replace or insert points.

        Args:
            points: Their new payloads.
            seen: What was read of those among them that were there; only the stamp counts.
            fence: No point with a higher one is touched. The points have it afterwards.

        Returns:
            Those that were refused, because another writer was there meanwhile.
        """
        stamp = uuid4().hex
        stamped = {id_: {**payload, STAMP: stamp, FENCE: fence} for id_, payload in points.items()}
        for part in batches(stamped.items(), lambda entry: json_bytes(entry[1])):
            known = {id_: payload for id_, payload in part if id_ in seen}
            unknown = {id_: payload for id_, payload in part if id_ not in seen}
            if known:
                unchanged = _unchanged([seen[id_] for id_ in known], fence)
                self._upsert(known, update_mode=models.UpdateMode.UPDATE_ONLY, update_filter=unchanged)
            if unknown:
                self._upsert(unknown, update_mode=models.UpdateMode.INSERT_ONLY)
        now = self.read(stamped, with_payload=[STAMP], all_replicas=True)
        return {id_ for id_ in stamped if now.get(id_, {}).get(STAMP) != stamp}

    def _upsert(self, payloads: Mapping[UUID, Payload], **condition: Any) -> None:
        points = [models.PointStruct(id=str(id_), vector=_VECTOR, payload=payload) for id_, payload in payloads.items()]
        self.connection.call(
            f"write {len(points)} records of {self.collection}",
            lambda client: client.upsert(self.collection, points, ordering=models.WriteOrdering.STRONG, **condition),
        )

    def delete(self, seen: Mapping[UUID, Payload], fence: int = 0) -> set[UUID]:
        """Delete points that are as they were read. Returns those that were refused."""
        if not seen:
            return set()
        condition = _unchanged(list(seen.values()), fence)
        is_one = models.HasIdCondition(has_id=[str(id_) for id_ in seen])
        selector = models.FilterSelector(filter=models.Filter(must=[is_one, condition]))
        self.connection.call(
            f"delete {len(seen)} records of {self.collection}",
            lambda client: client.delete(self.collection, selector, ordering=models.WriteOrdering.STRONG),
        )
        return set(self.read(seen, with_payload=False, all_replicas=True))


def create_records(
    connection: ServerConnection, collection: str, *, shard_number: int | None = None, indexed: Collection[str] = ()
) -> None:
    """Make a collection for records, with indexes of these keys of their payloads."""
    no_graph = models.HnswConfigDiff(m=0)
    vector = models.VectorParams(size=1, distance=models.Distance.DOT, on_disk=True, hnsw_config=no_graph)
    make_collection(connection, collection, {"none": vector}, shard_number=shard_number)
    for key in indexed:
        schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, on_disk=True)
        index_field(connection, collection, key, schema)


def _unchanged(seen: Collection[Payload], fence: int) -> models.Filter:
    """Stamps are never used twice, so that one list serves for all points of a request."""
    stamps = sorted({payload[STAMP] for payload in seen})
    return models.Filter(
        must=[
            models.FieldCondition(key=STAMP, match=models.MatchAny(any=stamps)),
            models.FieldCondition(key=FENCE, range=models.Range(lte=fence)),
        ]
    )
