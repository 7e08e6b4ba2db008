"""What may be served of what is stored: the ledger has the last word, after the texts were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tarragon.filters import Filter, matches
from tarragon.protocols import OpenVersion, ServedChunk
from tarragon.types import Hit

PAGE = 500
"""Chunks looked up at once; SQLite takes 999 values in a query, or more."""


def current_payload(payload: Mapping[str, Any], chunk: ServedChunk) -> Mapping[str, Any] | None:
    """The payload that the ledger wants served; None if it was replaced after it was read, or is damaged."""
    if payload.get("digest") == chunk.payload.hex():
        return payload
    return {**payload, **chunk.pending} if chunk.pending is not None else None


def served_payloads(version: OpenVersion, ids: Sequence[UUID]) -> dict[UUID, Mapping[str, Any]]:
    """Payloads of those of these chunks that may be served now, at most `PAGE`; perhaps of two states of a document."""
    found = _read(version, ids).items()
    return {id_: payload for id_, (_, payload) in found if payload is not None}


def passes(version: OpenVersion, chunk: UUID, filter: Filter | None) -> bool:
    """Whether a chunk is served, and its document's metadata pass."""
    current = served_payloads(version, [chunk]).get(chunk)
    return current is not None and (filter is None or matches(filter, current["metadata"]))


def served_document(version: OpenVersion, document_id: str) -> dict[UUID, Mapping[str, Any]]:
    """Payloads of a document's chunks, all of one state of it; empty if nothing of it is served.

    A document that is rewritten meanwhile is read again, until it rests. What is the same the second time stays so: a
    chunk that the store has lost, or whose payload is damaged, is left out.
    """
    former, look = None, _look(version, document_id)
    while look.is_mixture or (look.unread and look != former):
        former, look = look, _look(version, document_id)
    return look.payloads


def hit_of(id_: UUID, score: float, payload: Mapping[str, Any], version: str) -> Hit:
    """A stored chunk as a hit."""
    return Hit(
        document_id=payload["document_id"],
        chunk_id=str(id_),
        text=payload["content"][payload["offset"] :],
        start=payload["start"],
        end=payload["end"],
        heading=tuple(payload["heading"]),
        metadata=payload["metadata"],
        score=score,
        version=version,
        previous=payload.get("previous") or None,
        next=payload.get("next") or None,
    )


# --- reading a document -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a document.

    Attributes:
        payloads: That may be served.
        unread: Chunks whose payload came, or was replaced, while it was read; or which the store has not, or damaged.
        is_mixture: Whether the document was rewritten while it was read.
    """

    payloads: dict[UUID, Mapping[str, Any]]
    unread: frozenset[UUID]
    is_mixture: bool


def _look(version: OpenVersion, document_id: str) -> _Look:
    ids = [record.id for record in version.ledger.chunks(document_id)]
    found: dict[UUID, tuple[ServedChunk, Mapping[str, Any] | None]] = {}
    for start in range(0, len(ids), PAGE):
        found |= _read(version, ids[start : start + PAGE])
    states = {chunk.record.state for chunk, _ in found.values()}
    after = {record.id for record in version.ledger.chunks(document_id)}
    payloads = {id_: payload for id_, (_, payload) in found.items() if payload is not None}
    return _Look(payloads, frozenset(found.keys() - payloads.keys()), len(states) > 1 or set(ids) != after)


def _read(version: OpenVersion, ids: Sequence[UUID]) -> dict[UUID, tuple[ServedChunk, Mapping[str, Any] | None]]:
    """What the ledger says of those that may be served, and the payload; None: replaced meanwhile, lost or damaged."""
    payloads = version.store.payloads(ids)
    served = version.ledger.served(ids)  # after the payloads: what it says is at least as new
    return {
        id_: (chunk, current_payload(payloads[id_], chunk) if id_ in payloads else None)
        for id_, chunk in served.items()
    }
