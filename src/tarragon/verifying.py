"""Does the index hold what its ledger says, and is that what its texts say?"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

import numpy as np

from tarragon import canaries
from tarragon.identity import chunk_hash, payload_digest
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, EncoderInput, OpenVersion, StoredChunk
from tarragon.reports import VerifyReport
from tarragon.session import Session
from tarragon.sides import complete
from tarragon.types import FloatArray
from tarragon.updating import Callback, refresh

PAGE = 500
"""Chunks read at once."""


@dataclass(slots=True)
class _Findings:
    """What is wrong, by chunk: the document, what its ledger says, and why."""

    missing: dict[UUID, str] = field(default_factory=dict)
    payloads: dict[UUID, str] = field(default_factory=dict)
    texts: dict[UUID, str] = field(default_factory=dict)
    vectors: dict[UUID, str] = field(default_factory=dict)
    mended: dict[UUID, FloatArray] = field(default_factory=dict)
    incomplete: dict[UUID, str] = field(default_factory=dict)
    orphans: list[UUID] = field(default_factory=list)
    unfinished: set[str] = field(default_factory=set)

    @property
    def documents(self) -> set[str]:
        """Documents that only their source can mend."""
        wrong = (self.missing, self.payloads, self.texts)
        return self.unfinished.union(*(found.values() for found in wrong))


def verify(
    session: Session, *, deep: bool, sample: int, repair: bool, seed: int, on_progress: Callback
) -> VerifyReport:
    """Compare ledger, chunks and, if ``deep``, vectors of the serving version; with ``repair`` mend what is wrong."""
    with session.reading() as version:
        name = version.record.name
        records = version.ledger.documents()
        rows = {id_: (document_id, row) for document_id in records for id_, row in _rows(version, document_id)}
        found = _compare(version, records, rows)
        makers = session.writer(version).sides
        lacking = {id_ for maker in makers for id_ in version.store.without(maker.space)}
        found.incomplete = {id_: rows[id_][0] for id_ in lacking if id_ in rows}
        checked = _check_vectors(session, version, rows, found, sample, seed) if deep else 0
        if repair and (found.orphans or found.documents or found.vectors):
            _clear(version, records, rows, found)
        if repair and (found.incomplete or found.vectors):
            complete(version.store, makers)
    unrepaired: tuple[str, ...] = ()
    if repair and found.documents:
        by_namespace: dict[str, set[str]] = defaultdict(set)
        for document_id in found.documents:
            by_namespace[records[document_id].namespace].add(document_id)
        refresh(session, name, by_namespace, on_progress)
        with session.reading(name) as version:
            after = version.ledger.documents()
        unrepaired = tuple(sorted(id_ for id_ in found.documents if id_ in after and after[id_].status != "ok"))
    return VerifyReport(
        version=name,
        documents=len(records),
        chunks=len(rows),
        vectors_checked=checked,
        orphans=len(found.orphans),
        missing=len(found.missing),
        wrong_payloads=len(found.payloads),
        wrong_texts=len(found.texts),
        wrong_vectors=len(found.vectors),
        unfinished=len(found.unfinished),
        incomplete=len(found.incomplete),
        affected=tuple(sorted(found.documents.union(found.vectors.values(), found.incomplete.values()))),
        repaired=repair,
        unrepaired=unrepaired,
    )


def _rows(version: OpenVersion, document_id: str) -> Iterator[tuple[UUID, ChunkRecord]]:
    return ((row.id, row) for row in version.ledger.chunks(document_id))


def _compare(
    version: OpenVersion, records: dict[str, DocumentRecord], rows: dict[UUID, tuple[str, ChunkRecord]]
) -> _Findings:
    found = _Findings(unfinished={id_ for id_, record in records.items() if record.status not in ("ok", "failed")})
    stored = set(version.store.ids())
    found.orphans = sorted(stored.difference(rows), key=lambda id_: id_.int)
    for page in _pages(rows):
        payloads = version.store.payloads(page)
        for id_ in page:
            document_id, row = rows[id_]
            if document_id in found.unfinished:
                continue
            payload = payloads.get(id_)
            if payload is None:
                found.missing[id_] = document_id
            elif chunk_hash(payload.get("content", "")) != row.hash:
                found.texts[id_] = document_id
            elif _digest(payload) != row.payload or payload.get("digest") != row.payload.hex():
                found.payloads[id_] = document_id
    return found


def _digest(payload: dict[str, object]) -> bytes:
    return payload_digest({key: value for key, value in payload.items() if key not in ("content", "digest")})


def _check_vectors(
    session: Session,
    version: OpenVersion,
    rows: dict[UUID, tuple[str, ChunkRecord]],
    found: _Findings,
    sample: int,
    seed: int,
) -> int:
    """Embed a random sample again; how many. All chunks of a text whose vector is wrong count as wrong."""
    whole = (id_ for id_, (document_id, _) in rows.items() if document_id not in found.unfinished)
    good = sorted(set(whole).difference(found.missing, found.texts), key=lambda id_: id_.int)
    chosen = random.Random(seed).sample(good, min(sample, len(good)))  # noqa: S311 - a sample, not a secret
    encoder = session.trusted_encoder(version, again=True)
    wrong: dict[bytes, FloatArray] = {}
    for page in _pages(chosen):
        payloads, vectors = version.store.payloads(page), version.store.vectors(page)
        now = encoder.encode_documents([EncoderInput(payloads[id_]["content"]) for id_ in page]).vectors
        for id_, row in zip(page, now, strict=True):
            then = vectors[id_].astype(np.float64)
            cosine = float(then @ row / max(np.linalg.norm(then) * np.linalg.norm(row), 1e-30))
            if not cosine >= canaries.WARN:
                wrong[rows[id_][1].hash] = row
    found.vectors = {id_: document_id for id_, (document_id, row) in rows.items() if row.hash in wrong}
    found.mended = {id_: wrong[rows[id_][1].hash] for id_ in found.vectors}
    return len(chosen)


def _clear(
    version: OpenVersion,
    records: dict[str, DocumentRecord],
    rows: dict[UUID, tuple[str, ChunkRecord]],
    found: _Findings,
) -> None:
    """Replace wrong vectors, remove what else is wrong, and mark its documents so that a sync writes them again."""
    documents = sorted(found.documents)
    if documents:
        version.ledger.intend([DocumentWrite(records[document_id], ()) for document_id in documents])
    for page in _pages([*found.orphans, *found.texts]):
        version.store.delete(page)
    for page in _pages(found.mended):
        payloads = version.store.payloads(page)
        version.store.upsert([StoredChunk(id_, found.mended[id_], payloads[id_]) for id_ in page if id_ in payloads])
    version.store.flush()


def _pages(ids: Iterable[UUID]) -> Iterator[Sequence[UUID]]:
    remaining = iter(ids)
    while page := list(islice(remaining, PAGE)):
        yield page
