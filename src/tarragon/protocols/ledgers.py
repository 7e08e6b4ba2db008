"""What a version holds of each document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias
from uuid import UUID

DocumentStatus: TypeAlias = Literal["ok", "writing", "settling", "deleting", "failed"]


class DocumentRecord(NamedTuple):
    """What an index knows of a document. A tuple, because a ledger makes one of every row.

    Attributes:
        document_id: The document.
        namespace: Of the source that it came from.
        status: ``ok``: committed. ``writing``: a rewrite has begun, the former chunks are served. ``settling``: the new
            chunks are served, leftovers are not cleared yet. ``deleting``: nothing of it is served. ``failed``: never
            indexed. All but ``ok`` and ``failed`` were interrupted, unless it is happening now.
        state: What it was last indexed from, see `tarragon.identity.DocumentState`; None before the first time.
        hint: Of the source when it was read; None where only reading can tell.
        failure: Why the last sync could not index it; its former text keeps being served.
    """

    document_id: str
    namespace: str
    status: DocumentStatus
    state: bytes | None
    hint: str | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A chunk that a document has or may have.

    Attributes:
        id: Its id in the store.
        hash: Of its embed text: equal texts have equal vectors.
        payload: Digest of what is stored beside the vector.
        tokens: Of its embed text.
    """

    id: UUID
    hash: bytes
    payload: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """A document about to be rewritten.

    Attributes:
        record: Its new record.
        chunks: All chunks it is to have.
        pending: Payloads of chunks that are stored already and get another one: place or metadata changed.
    """

    record: DocumentRecord
    chunks: tuple[ChunkRecord, ...]
    pending: Mapping[UUID, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServedChunk:
    """What the ledger says of a chunk that may be served.

    Attributes:
        record: Of its document.
        payload: Digest of the payload that it is to be served with.
        pending: That payload, while the store may still have the former one.
    """

    record: DocumentRecord
    payload: bytes
    pending: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """How much a version holds.

    Attributes:
        documents: Documents that can be found.
        chunks: Chunks that can be found.
        tokens: Tokens of these chunks' embed texts.
        unfinished: Documents whose rewrite or deletion was interrupted or is happening.
    """

    documents: int
    chunks: int
    tokens: int
    unfinished: int


class Ledger(Protocol):
    """What a version holds of each document.

    The law that keeps it true: a document's record says so before the first of its chunks is touched, and its chunk
    records always name at least the chunks that are stored. So after a crash at any point the next sync knows which
    documents to redo and which chunks may be there; and a reader that asks `served` sees a document's old chunks or its
    new ones, switched in one transaction, never both. Each method is one transaction.

    A rewrite: `intend` → new chunks are stored → `switch` → payloads are replaced, old chunks deleted → `settle`.
    A deletion: `intend_deletion` → the chunks are deleted → `commit_deletion`.
    """

    def documents(self, namespace: str | None = None) -> dict[str, DocumentRecord]:
        """All records, or those of one namespace, by document id."""
        ...

    def document(self, document_id: str) -> DocumentRecord | None:
        """The record of one document, whatever its namespace."""
        ...

    def failures(self) -> dict[str, str]:
        """By document id, why the last sync could not index it: `documents` has all, of which these are few."""
        ...

    def namespaces(self) -> set[str]:
        """Of all records."""
        ...

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """Every chunk that the document has or may have."""
        ...

    def served(self, ids: Sequence[UUID]) -> dict[UUID, ServedChunk]:
        """Those of these chunks that may be served now. Called for each search, also beside a writer: must be fast."""
        ...

    def revision(self) -> int | None:
        """Another number after anyone has changed anything. None: not known without asking a server.

        Called twice for each search: must be faster still than `served`.
        """
        ...

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """For each of these chunk hashes that a document serves: the id of one such chunk."""
        ...

    def counts(self) -> LedgerCounts:
        """How much can be found."""
        ...

    def intend(self, writes: Sequence[DocumentWrite]) -> None:
        """Record that these documents are about to be rewritten, and which chunks they may have from now on.

        What they serve stays: a new document serves nothing yet, and one whose deletion was interrupted nothing more.
        """
        ...

    def switch(self, writes: Sequence[DocumentWrite]) -> None:
        """Serve exactly these chunks of these documents from now on, with the pending payloads where there are any.

        A document with nothing left to clear (no pending payload, no chunk beyond the served ones) is ``ok`` at once,
        the others are ``settling``.
        """
        ...

    def settle(self, document_ids: Sequence[str]) -> None:
        """Record that these documents have their payloads and no other chunks than those they serve."""
        ...

    def record(self, records: Iterable[DocumentRecord]) -> None:
        """Replace records whose chunks do not change: a new hint, a failure."""
        ...

    def intend_deletion(self, document_ids: Sequence[str]) -> None:
        """Record that these documents are about to be deleted: nothing of them is served from now on."""
        ...

    def commit_deletion(self, document_ids: Sequence[str]) -> None:
        """Forget these documents, whose chunks are gone."""
        ...

    def note(self, key: str, value: str | None) -> None:
        """Keep a small text beside the records, such as where a source is; None removes it."""
        ...

    def notes(self) -> dict[str, str]:
        """All that `note` kept."""
        ...

    def attach(self, key: str, text: str | None) -> None:
        """Keep a large text, which `notes` does not bring along; None removes it."""
        ...

    def attachment(self, key: str) -> str | None:
        """What `attach` kept."""
        ...

    def close(self) -> None:
        """Release the file or connection."""
        ...
