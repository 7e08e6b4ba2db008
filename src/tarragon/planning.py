"""What a sync has to do, as pure functions of what is wanted and what is recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from uuid import UUID

from tarragon.errors import InvalidDocument
from tarragon.identity import DocumentState, canonical_json, chunk_hash, chunk_ids, payload_digest
from tarragon.reports import Change, Plan
from tarragon.types import Chunk, Document, Format

MAX_DELETE = 0.2
"""Share of the documents that is deleted without asking, where the caller names none."""

SMALL_DELETION = 10
"""Up to this many are deleted without asking too, if they are at most half."""

METADATA_DEPTH = 32
"""Objects and lists inside one another. The engine's log cannot be read back beyond 120."""

METADATA_BYTES = 64 * 1024
"""Of a document's metadata as JSON; it is stored with every passage."""

_INTEGERS = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class WantedChunk:
    """A chunk that a document is to have, under its keys.

    Attributes:
        payload: What is stored beside the vector and the text, its own digest included.
        payload_digest: Of ``payload``, to see whether it must be written again.
    """

    id: UUID
    hash: bytes
    chunk: Chunk
    payload: Mapping[str, Any]
    payload_digest: bytes


@dataclass(frozen=True, slots=True)
class ChunkDiff:
    """How to get from the recorded chunks of a document to the wanted ones.

    Attributes:
        add: Chunks to store, in text order.
        move: Stored chunks whose place, heading or metadata changed: no vector is touched.
        drop: Stored chunks that are no longer wanted.
    """

    add: tuple[WantedChunk, ...]
    move: tuple[WantedChunk, ...]
    drop: tuple[UUID, ...]


def wanted_chunks(document: Document, chunks: Sequence[Chunk]) -> list[WantedChunk]:
    """The chunks of a document under their keys, in text order."""
    hashes = [chunk_hash(chunk.embed_text) for chunk in chunks]
    ids = chunk_ids(document.id, hashes)
    names = ["", *map(str, ids), ""]  # not null, which the engine takes for a key to remove
    wanted = []
    for place, (id_, hash_, chunk) in enumerate(zip(ids, hashes, chunks, strict=True)):
        payload = {
            "document_id": document.id,
            "offset": len(chunk.embed_text) - len(chunk.text),
            "start": chunk.start,
            "end": chunk.end,
            "ordinal": chunk.ordinal,
            "heading": list(chunk.heading),
            "previous": names[place],
            "next": names[place + 2],
            "metadata": dict(document.metadata),
        }
        digest = payload_digest(payload)
        wanted.append(WantedChunk(id_, hash_, chunk, {**payload, "digest": digest.hex()}, digest))
    return wanted


def diff_chunks(wanted: Sequence[WantedChunk], stored: Mapping[UUID, bytes]) -> ChunkDiff:
    """Compare with what is stored: chunk id → digest of its payload."""
    kept = {chunk.id for chunk in wanted}
    return ChunkDiff(
        add=tuple(chunk for chunk in wanted if chunk.id not in stored),
        move=tuple(chunk for chunk in wanted if stored.get(chunk.id, chunk.payload_digest) != chunk.payload_digest),
        drop=tuple(id_ for id_ in stored if id_ not in kept),
    )


def change_of(base: bytes | None, wanted: DocumentState) -> Change:
    """Why a document whose recorded state is not the wanted one must be written: the first part that differs."""
    if base is None:
        return "new"
    former = DocumentState.unpack(base)
    if former.content != wanted.content:
        return "content"
    if former.parser != wanted.parser:
        return "parser"
    return "chunker" if former.chunker != wanted.chunker else "metadata"


def outdated(saved: Plan, now: Plan) -> list[str]:
    """Documents for which a saved plan no longer holds, by id: the index's or the source's side has moved."""
    wanted, found = _ends(saved), _ends(now)
    return sorted(document_id for document_id, parts in wanted.items() if found.get(document_id) != parts)


def _ends(plan: Plan) -> dict[str, tuple[str, str]]:
    """By document: what the index has of it, and what it is to have; nothing is another end than unreadable."""
    ends = {change.document_id: (change.base, change.wanted or change.change) for change in plan.changes}
    return ends | {deletion.document_id: (deletion.base, "") for deletion in plan.deletions}


def vanished(recorded: Collection[str], listed: Collection[str], hidden: Sequence[str]) -> list[str]:
    """Recorded documents that the source no longer lists, in order of their ids.

    Those with a ``hidden`` prefix could not be listed, and are not known to be gone.
    """
    gone = set(recorded).difference(listed)
    return sorted(document_id for document_id in gone if not document_id.startswith(tuple(hidden)))


def exceeds(deletions: int, documents: int, share: float | None) -> bool:
    """Whether so many deletions need the caller's word.

    With a ``share`` exactly that many are allowed; without, `MAX_DELETE`, or a handful that is at most half.
    """
    if share is not None:
        return deletions > share * documents
    return deletions > MAX_DELETE * documents and (deletions > SMALL_DELETION or 2 * deletions > documents)


def check_id(document_id: str) -> None:
    """Raise `InvalidDocument` for an id that cannot be stored."""
    if not isinstance(document_id, str) or not document_id:
        raise InvalidDocument(f"a document needs an id that is a str and not empty, not {document_id!r}")
    _check_encodable(document_id, f"the id {document_id!r}")


def check_document(document: Document) -> None:
    """Raise `InvalidDocument` for what cannot be stored."""
    check_id(document.id)
    if not isinstance(document.text, str):
        raise InvalidDocument(f"the text of document {document.id!r} is {type(document.text).__name__}, not str")
    _check_encodable(document.text, f"document {document.id!r}")
    if not isinstance(document.context, str):
        raise InvalidDocument(f"the context of document {document.id!r} is {type(document.context).__name__}, not str")
    _check_encodable(document.context, f"the context of document {document.id!r}")
    if document.format is not None and document.format not in get_args(Format):
        known = ", ".join(get_args(Format))
        raise InvalidDocument(f"format={document.format!r} of document {document.id!r} is not one of {known}")
    if not isinstance(document.metadata, dict):
        kind = type(document.metadata).__name__
        raise InvalidDocument(f"the metadata of document {document.id!r} is {kind}, not a dict")
    if not document.metadata:
        return
    _check_json(document.metadata, document.id, "metadata", METADATA_DEPTH)
    size = len(canonical_json(document.metadata).encode("utf-8"))
    if size > METADATA_BYTES:
        raise InvalidDocument(
            f"the metadata of document {document.id!r} is {size} bytes of JSON, and at most {METADATA_BYTES} are kept, "
            "because they are stored with each of its passages. Keep large values elsewhere, under the document's id"
        )


def _check_encodable(text: str, what: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidDocument(f"{what} has a lone surrogate at character {error.start}, which is no text") from None


def _check_json(value: Any, document_id: str, place: str, depth: int) -> None:
    if depth < 0:
        raise InvalidDocument(f"the metadata of document {document_id!r} is nested deeper than {METADATA_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InvalidDocument(f"{place} of document {document_id!r} has the key {key!r}, which is not str")
            _check_encodable(key, f"a key of {place} of document {document_id!r}")
            _check_json(inner, document_id, f"{place}.{key}", depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _check_json(inner, document_id, place, depth - 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        if value not in _INTEGERS:
            raise InvalidDocument(
                f"{place} of document {document_id!r}: {value} does not fit into 64 bits; make it str"
            )
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidDocument(f"{place} of document {document_id!r} is {value}; use null or leave it out")
    elif isinstance(value, str):
        _check_encodable(value, f"{place} of document {document_id!r}")
    elif value is not None and not isinstance(value, bool):
        kind = type(value).__name__
        raise InvalidDocument(f"{place} of document {document_id!r} is {kind}; JSON holds str, numbers, bool and lists")
