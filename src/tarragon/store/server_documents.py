"""A document in the ledger of a server: its states as pure functions, and its form as the payload of one point.

One point a document, so that a document switches in one write, which is what the ledger promises. Chunks are listed by
the hex form of their ids, so that a reader can ask for just the entries of its hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias
from uuid import UUID

from tarragon.identity import digest
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, ServedChunk

Pending: TypeAlias = "Mapping[UUID, Mapping[str, Any]]"

RECORD_FIELDS = ["document_id", "namespace", "status", "state", "hint", "failure"]
"""Payload keys of a record."""


@dataclass(frozen=True, slots=True)
class LedgerDocument:
    """What the ledger holds of one document.

    Attributes:
        record: Its record.
        served: Chunks that are shown, unless it is being deleted.
        hidden: Chunks that may be stored and are not shown.
        pending: Payloads of served chunks that the store may not have yet.
    """

    record: DocumentRecord
    served: Mapping[UUID, ChunkRecord] = field(default_factory=dict)
    hidden: Mapping[UUID, ChunkRecord] = field(default_factory=dict)
    pending: Pending = field(default_factory=dict)


# --- states -----------------------------------------------------------------------------------------------------------
def intended(document: LedgerDocument | None, write: DocumentWrite) -> LedgerDocument:
    """Its rewrite begins: what it serves stays, and what it may have is more."""
    if document is None:
        id_, namespace = write.record.document_id, write.record.namespace
        document = LedgerDocument(DocumentRecord(id_, namespace, "writing", None, None, None))
    record = document.record._replace(status="writing", namespace=write.record.namespace)
    new = {chunk.id: chunk for chunk in write.chunks if chunk.id not in document.served}
    return replace(document, record=record, hidden={**new, **document.hidden})


def switched(document: LedgerDocument, write: DocumentWrite) -> LedgerDocument:
    """It serves these chunks now; the others are left to clear."""
    served = {chunk.id: chunk for chunk in write.chunks}
    hidden = {id_: chunk for id_, chunk in {**document.hidden, **document.served}.items() if id_ not in served}
    pending = {id_: payload for id_, payload in write.pending.items() if id_ in served}
    record = write.record._replace(status="settling") if hidden or pending else write.record
    return LedgerDocument(record, served, hidden, pending)


def settled(document: LedgerDocument) -> LedgerDocument:
    """Nothing is left to clear."""
    return LedgerDocument(document.record._replace(status="ok"), document.served)


# --- as a point -------------------------------------------------------------------------------------------------------
def point_id(document_id: str) -> UUID:
    """Id of a document's point: of the exact characters of its id."""
    return UUID(bytes=digest("server ledger", "document", document_id.encode("utf-8", "surrogatepass")))


def to_payload(document: LedgerDocument) -> dict[str, Any]:
    """The payload of its point; `from_payload` reads it back.

    ``members`` and ``hashes`` are indexed, to find the document of a chunk and a chunk with a text; ``chunks`` and
    ``tokens`` are counted. What all pending payloads have in common is kept once: the metadata, as a rule.
    """
    record, served = document.record, document.served
    shown = record.status != "deleting"
    holders = {chunk.hash.hex(): id_.hex for id_, chunk in sorted(served.items(), reverse=True)} if shown else {}
    shared = _shared(list(document.pending.values()))
    return {
        **{name: getattr(record, name) for name in RECORD_FIELDS},
        "state": None if record.state is None else record.state.hex(),
        "served": _packed(served),
        "hidden": _packed(document.hidden),
        "pending": {id_.hex: _without(payload, shared) for id_, payload in document.pending.items()},
        "shared": shared,
        "members": [id_.hex for id_ in served] if shown else [],
        "hashes": list(holders),
        "holders": holders,
        "chunks": len(served) if shown else 0,
        "tokens": sum(chunk.tokens for chunk in served.values()) if shown else 0,
    }


def from_payload(payload: Mapping[str, Any]) -> LedgerDocument:
    """Read `to_payload`."""
    pending = {UUID(hex=key): {**payload["shared"], **own} for key, own in payload["pending"].items()}
    return LedgerDocument(to_record(payload), _unpacked(payload["served"]), _unpacked(payload["hidden"]), pending)


def to_record(payload: Mapping[str, Any]) -> DocumentRecord:
    """The record in a payload of which at least `RECORD_FIELDS` were read."""
    state = payload.get("state")
    return DocumentRecord(
        document_id=payload["document_id"],
        namespace=payload["namespace"],
        status=payload["status"],
        state=None if state is None else bytes.fromhex(state),
        hint=payload.get("hint"),
        failure=payload.get("failure"),
    )


def served_fields(ids: Sequence[UUID]) -> list[str]:
    """Payload keys that `served_chunks` needs for these chunks."""
    return [*RECORD_FIELDS, "shared", *(f"served.{id_.hex}" for id_ in ids), *(f"pending.{id_.hex}" for id_ in ids)]


def served_chunks(payload: Mapping[str, Any]) -> dict[UUID, ServedChunk]:
    """What may be served of a document whose `served_fields` were read."""
    record, pending = to_record(payload), payload.get("pending") or {}
    return {
        UUID(hex=key): ServedChunk(
            record, bytes.fromhex(packed[1]), {**payload["shared"], **pending[key]} if key in pending else None
        )
        for key, packed in (payload.get("served") or {}).items()
    }


def _packed(chunks: Mapping[UUID, ChunkRecord]) -> dict[str, list[Any]]:
    return {id_.hex: [chunk.hash.hex(), chunk.payload.hex(), chunk.tokens] for id_, chunk in chunks.items()}


def _unpacked(packed: Mapping[str, Sequence[Any]]) -> dict[UUID, ChunkRecord]:
    chunks = (
        ChunkRecord(UUID(hex=key), bytes.fromhex(hash_), bytes.fromhex(payload), tokens)
        for key, (hash_, payload, tokens) in packed.items()
    )
    return {chunk.id: chunk for chunk in chunks}


def _shared(payloads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not payloads:
        return {}
    first, *others = payloads
    return {key: value for key, value in first.items() if all(key in one and one[key] == value for one in others)}


def _without(payload: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in shared}
