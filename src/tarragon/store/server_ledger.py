"""The ledger as a collection of records beside a version's chunks: one point a document, one for the notes.

A collection of its own for each version, not one for all: dropping a version is dropping two collections, ids need no
version in them, and no query needs a condition on it.

Each method is one transaction *a document*. A request to a server is not atomic over several points, so that a crash
in the middle of a `switch` of many documents leaves some switched and some not: each of them is whole, and the next
sync completes the rest, which is all that the protocol is there for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from tarragon.errors import StorageProblem
from tarragon.identity import digest
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, LedgerCounts, ServedChunk
from tarragon.store.server import PAGE, scroll, slices
from tarragon.store.server_client import ServerConnection, models
from tarragon.store.server_documents import (
    RECORD_FIELDS,
    LedgerDocument,
    from_payload,
    intended,
    point_id,
    served_chunks,
    served_fields,
    settled,
    switched,
    to_payload,
    to_record,
)
from tarragon.store.server_fence import FENCE, STAMP, FencedPoints, create_records
from tarragon.store.server_lease import ServerLease

NOTES = UUID(bytes=digest("server ledger", "notes"))

ATTACHMENT = "attachment"
"""Payload key of a large text; documents do not have it."""

_TOGETHER = 64
"""Documents read, changed and written back at once."""

_QUERIES = 128
"""Hashes or chunk ids asked for in one request."""

Change = Callable[[str, "LedgerDocument | None"], "LedgerDocument | None"]


class ServerLedger:
    """Reads and writes the ledger of one version. Safe to use from several threads.

    Args:
        connection: To the server.
        collection: Its name there; made by `create_ledger`.
        lease: To write under.
    """

    def __init__(self, connection: ServerConnection, collection: str, lease: ServerLease) -> None:
        self._connection = connection
        self._points = FencedPoints(connection, collection)
        self._collection = collection
        self._lease = lease

    # --- reading ------------------------------------------------------------------------------------------------------
    def documents(self, namespace: str | None = None) -> dict[str, DocumentRecord]:
        """See `tarragon.protocols.Ledger`."""
        wanted = [_equals("namespace", namespace)] if namespace is not None else []
        records = (to_record(payload) for payload in self._payloads(wanted, RECORD_FIELDS))
        return {record.document_id: record for record in records}

    def document(self, document_id: str) -> DocumentRecord | None:
        """See `tarragon.protocols.Ledger`."""
        id_ = point_id(document_id)
        payload = self._points.read([id_], with_payload=RECORD_FIELDS).get(id_)
        return None if payload is None else to_record(payload)

    def failures(self) -> dict[str, str]:
        """See `tarragon.protocols.Ledger`."""
        failed = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="failure"))])
        payloads = self._payloads([failed], ["document_id", "failure"])
        return {payload["document_id"]: payload["failure"] for payload in payloads}

    def namespaces(self) -> set[str]:
        """See `tarragon.protocols.Ledger`."""
        return {payload["namespace"] for payload in self._payloads([], ["namespace"])}

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """See `tarragon.protocols.Ledger`."""
        id_ = point_id(document_id)
        payload = self._points.read([id_]).get(id_)
        if payload is None:
            return []
        document = from_payload(payload)
        return [*document.served.values(), *document.hidden.values()]

    def served(self, ids: Sequence[UUID]) -> dict[UUID, ServedChunk]:
        """See `tarragon.protocols.Ledger`. One request for up to 128 ids; only their own entries come back."""
        found: dict[UUID, ServedChunk] = {}
        for part in slices(ids, _QUERIES):
            members = models.FieldCondition(key="members", match=models.MatchAny(any=[id_.hex for id_ in part]))
            for payload in self._payloads([members], served_fields(part)):
                found.update(served_chunks(payload))
        return found

    def revision(self) -> None:
        """Not known: it would be two more requests for each search, and the server counts no changes.

        So a search that a whole rewrite overtakes, between its two requests for scores and for texts, may show a
        document's kept chunks without its new ones.
        """

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """See `tarragon.protocols.Ledger`. Of each hash one document is asked for, however many have that text."""
        found: dict[bytes, UUID] = {}
        for part in slices(list(dict.fromkeys(hashes)), _QUERIES):
            for hash_, points in zip(part, self._holders(part), strict=True):
                if points:
                    found[hash_] = UUID(hex=points[0].payload["holders"][hash_.hex()])
        return found

    def _holders(self, hashes: Sequence[bytes]) -> list[list[Any]]:
        queries = [
            models.QueryRequest(
                filter=models.Filter(must=[_equals("hashes", hash_.hex())]),
                limit=1,
                with_payload=[f"holders.{hash_.hex()}"],
            )
            for hash_ in hashes
        ]
        answers = self._connection.call(
            f"find {len(hashes)} texts", lambda client: client.query_batch_points(self._collection, queries)
        )
        return [answer.points for answer in answers]

    def counts(self) -> LedgerCounts:
        """See `tarragon.protocols.Ledger`. Pages through all documents: for a status, not for a search."""
        documents = chunks = tokens = unfinished = 0
        for payload in self._payloads([], ["status", "state", "chunks", "tokens"]):
            documents += payload["state"] is not None and payload["status"] != "deleting"
            chunks += payload["chunks"]
            tokens += payload["tokens"]
            unfinished += payload["status"] in ("writing", "settling", "deleting")
        return LedgerCounts(documents, chunks, tokens, unfinished)

    def notes(self) -> dict[str, str]:
        """See `tarragon.protocols.Ledger`."""
        return dict(self._points.read([NOTES]).get(NOTES, {}).get("notes", {}))

    def attachment(self, key: str) -> str | None:
        """See `tarragon.protocols.Ledger`."""
        id_ = _attachment_id(key)
        text = self._points.read([id_]).get(id_, {}).get(ATTACHMENT)
        return None if text is None else str(text)

    def _payloads(self, conditions: list[Any], fields: list[str]) -> Iterable[dict[str, Any]]:
        is_document = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="document_id"))])
        documents = models.Filter(must=[*conditions, is_document])
        for record in scroll(self._connection, self._collection, filter=documents, with_payload=fields):
            yield record.payload or {}

    # --- writing ------------------------------------------------------------------------------------------------------
    def intend(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        wanted = {write.record.document_id: write for write in writes}
        self._change(list(wanted), lambda id_, document: intended(document, wanted[id_]))

    def switch(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        wanted = {write.record.document_id: write for write in writes}
        self._change(list(wanted), lambda id_, document: switched(self._known(id_, document), wanted[id_]))

    def settle(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""
        self._change(document_ids, lambda _, document: settled(document) if document else None)

    def record(self, records: Iterable[DocumentRecord]) -> None:
        """See `tarragon.protocols.Ledger`."""
        wanted = {record.document_id: record for record in records}

        def recorded(id_: str, document: LedgerDocument | None) -> LedgerDocument:
            return replace(document, record=wanted[id_]) if document else LedgerDocument(wanted[id_])

        self._change(list(wanted), recorded)

    def intend_deletion(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""

        def deleting(_: str, document: LedgerDocument | None) -> LedgerDocument | None:
            return replace(document, record=document.record._replace(status="deleting")) if document else None

        self._change(document_ids, deleting)

    def commit_deletion(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""
        for part in slices(document_ids, PAGE):
            token = self._lease.check()
            seen = self._points.read([point_id(id_) for id_ in part], with_payload=[STAMP, FENCE])
            self._require(self._points.delete(seen, token))

    def note(self, key: str, value: str | None) -> None:
        """See `tarragon.protocols.Ledger`."""
        token = self._lease.check()
        seen = self._points.read([NOTES])
        notes = {**seen.get(NOTES, {}).get("notes", {}), key: value}
        kept = {name: text for name, text in notes.items() if text is not None}
        self._require(self._points.write({NOTES: {"notes": kept}}, seen, token))

    def attach(self, key: str, text: str | None) -> None:
        """See `tarragon.protocols.Ledger`."""
        token = self._lease.check()
        id_ = _attachment_id(key)
        seen = self._points.read([id_])
        if text is None:
            self._require(self._points.delete(seen, token))
        else:
            self._require(self._points.write({id_: {ATTACHMENT: text}}, seen, token))

    def close(self) -> None:
        """See `tarragon.protocols.Ledger`. The catalog closes the connection, which all versions share."""

    def _change(self, document_ids: Sequence[str], change: Change) -> None:
        """Read documents, change each, and write those back that nobody else has written meanwhile."""
        for part in slices(document_ids, _TOGETHER):
            token = self._lease.check()
            ids = {id_: point_id(id_) for id_ in part}
            seen = self._points.read(list(ids.values()))
            found = {id_: from_payload(seen[point]) for id_, point in ids.items() if point in seen}
            changed = {point: change(id_, found.get(id_)) for id_, point in ids.items()}
            points = {point: to_payload(document) for point, document in changed.items() if document is not None}
            self._require(self._points.write(points, seen, token))

    def _require(self, refused: set[UUID]) -> None:
        if refused:
            raise self._lease.lost()

    def _known(self, document_id: str, document: LedgerDocument | None) -> LedgerDocument:
        if document is None:
            raise StorageProblem(
                f"{self._connection.location}: the ledger has no record of {document_id!r}, which is about to be "
                "served. Was it deleted by another process? Sync again",
                document_id=document_id,
            )
        return document


def create_ledger(connection: ServerConnection, collection: str) -> None:
    """Make the collection of a version's ledger, and the indexes that its queries need."""
    keys = ("members", "hashes", "namespace", STAMP)
    create_records(connection, collection, shard_number=connection.options.shard_number, indexed=keys)


def _equals(key: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _attachment_id(key: str) -> UUID:
    return UUID(bytes=digest("server ledger", "attachment", key))
