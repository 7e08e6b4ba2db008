"""What a user or a back-end plugs in: the contracts between the rooms.

Encoders, stores and sources are written against these; nothing here imports a library beyond numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

from tarragon.contract import Contract, VersionRecord
from tarragon.filters import Filter
from tarragon.types import Document, FloatArray, IntArray

DocumentStatus: TypeAlias = Literal["ok", "writing", "settling", "deleting", "failed"]


# --- sources ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SourceItem:
    """A document that a source can deliver.

    Attributes:
        document_id: Unique in the source and stable over time.
        hint: Changes whenever the content may have changed (size, modification time and inode of a file); None where
            only reading can tell, as for a file so recently changed that its time stamp may not show the next change.
        load: Reads the document. Raises `UnreadableDocument` with the reason if it cannot be.
        hides: Prefix of the document ids that may exist and cannot be listed because this item is unreadable: of a
            folder its path with a slash, of a line whose id is unknown the empty string. They are not known to be gone.
    """

    document_id: str
    hint: str | None
    load: Callable[[], Document]
    hides: str | None = None


class Source(Protocol):
    """Where documents come from."""

    def items(self) -> Iterable[SourceItem]:
        """Each document once, in a stable order. Raises `SourceProblem` if there is nothing that can be listed."""
        ...

    def skipped(self) -> Mapping[str, int]:
        """What the last `items` left out on purpose: reason → count. Complete once that is used up."""
        ...


@runtime_checkable
class FindableSource(Source, Protocol):
    """A source that can look at single documents, so that a search can tell whether its hits are still true."""

    def find(self, document_id: str) -> SourceItem | None:
        """The item that `items` would give for this id; None if it would give none.

        Raises:
            SourceProblem: The source as a whole cannot be reached, so that nothing is known.
        """
        ...

    def describe(self) -> Mapping[str, Any] | None:
        """What `tarragon.sources.reopen` needs to open the same source in another process, as JSON; None if nothing
        can."""
        ...


# --- encoders ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class EncoderInput:
    """A text to embed, with its token ids where they are known already."""

    text: str
    token_ids: IntArray | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What an encoder returns.

    Attributes:
        vectors: Shape ``(texts, dimensions)``, float32, in the order of the texts.
        tokens: Tokens the model was given, special tokens and prompts included, padding not.
        truncated: Tokens beyond the model's limit, which it did not see.
    """

    vectors: FloatArray
    tokens: int
    truncated: int


class Tokenizer(Protocol):
    """Counts in the units of an encoder."""

    @property
    def sliceable(self) -> bool:
        """Whether the ids of texts joined by white space are their ids, joined."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """The ids of each text, in order: untruncated, without special tokens, shape ``(tokens,)``."""
        ...


class DenseEncoder(Protocol):
    """Text → one vector.

    The same text gives the same row (cosine ≥ .99999) in any batch and any order.
    """

    @property
    def name(self) -> str:
        """For people; no part of the identity."""
        ...

    @property
    def device(self) -> str:
        """Where it really runs."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens that a text may have without being truncated: special tokens and prompt are subtracted."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts in its tokens."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that changes a document's vector, and nothing else: see `tarragon.identity.fingerprint`."""
        ...

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """One row per input. A row may hold NaN if the model gave NaN: the caller decides."""
        ...

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """One row per query. ``prompt`` replaces the model's own query prompt."""
        ...


# --- ledgers ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What an index knows of a document.

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

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """Every chunk that the document has or may have."""
        ...

    def served(self, ids: Sequence[UUID]) -> dict[UUID, ServedChunk]:
        """Those of these chunks that may be served now. Called for each search, also beside a writer: must be fast."""
        ...

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """For each of these chunk hashes that a document serves: the id of one such chunk."""
        ...

    def counts(self) -> LedgerCounts:
        """How much can be found."""
        ...

    def intend(self, writes: Sequence[DocumentWrite]) -> None:
        """Record that these documents are about to be rewritten, and which chunks they may have from now on.

        What they serve stays: a new document serves nothing yet.
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

    def close(self) -> None:
        """Release the file or connection."""
        ...


# --- stores -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as the store keeps it: its id, its vector and all that a hit needs."""

    id: UUID
    vector: FloatArray
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DenseLeg:
    """Search by vector: the ``limit`` nearest."""

    vector: FloatArray
    limit: int


@dataclass(frozen=True, slots=True)
class LexicalLeg:
    """Search by words: the ``limit`` best by BM25."""

    text: str
    limit: int


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One query as data; at least one leg. The filter applies inside every leg, before its limit."""

    dense: DenseLeg | None = None
    lexical: LexicalLeg | None = None
    filter: Filter | None = None


Scores = Mapping[UUID, float]


@dataclass(frozen=True, slots=True)
class LegScores:
    """What the legs found.

    Attributes:
        dense: With both legs, the score of every candidate of either; with one, of its own hits. None without the leg.
        lexical: Of every candidate that the lexical leg found; all others have 0. None without the leg.
    """

    dense: Scores | None
    lexical: Scores | None


class Store(Protocol):
    """The chunks of one version, in one space."""

    def upsert(self, chunks: Sequence[StoredChunk]) -> None:
        """Insert or replace. Durable against a killed process when it returns."""
        ...

    def set_payload(self, payloads: Mapping[UUID, Mapping[str, Any]]) -> None:
        """Replace the named payload keys of existing chunks; their vectors are not touched."""
        ...

    def delete(self, ids: Sequence[UUID]) -> None:
        """Remove chunks. Unknown ids are ignored."""
        ...

    def vectors(self, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
        """Vectors of those that exist, each of shape ``(dimensions,)``."""
        ...

    def payloads(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """Payloads of those that exist."""
        ...

    def ids(self) -> Iterator[UUID]:
        """Every chunk's id."""
        ...

    def count(self) -> int:
        """How many chunks are stored."""
        ...

    def search(self, request: SearchRequest) -> LegScores:
        """Run all legs of the request in one call of the engine."""
        ...

    def flush(self) -> None:
        """Durable against a power cut when it returns."""
        ...

    def close(self) -> None:
        """Release the files. The store cannot be used afterwards."""
        ...


# --- catalogs ---------------------------------------------------------------------------------------------------------
class OpenVersion(Protocol):
    """The data of a version, open."""

    @property
    def record(self) -> VersionRecord:
        """What it is."""
        ...

    @property
    def store(self) -> Store:
        """Its chunks."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Its records."""
        ...


class Catalog(Protocol):
    """Where an index lives: its versions, and the pointer that says which of them serves.

    Safe to use from several threads. Nothing is written before the first `create`.
    """

    @property
    def location(self) -> str:
        """The path or URL, without secrets."""
        ...

    def versions(self) -> list[VersionRecord]:
        """All versions, oldest first."""
        ...

    def serving(self) -> str | None:
        """Name of the version that serves; None before the first one."""
        ...

    def former(self) -> tuple[str, ...]:
        """Names of the versions that served before, the last one last; those that were dropped are left out."""
        ...

    def create(self, contract: Contract, *, serve: bool) -> VersionRecord:
        """Make an empty version. With ``serve`` the pointer moves to it; only for the first one."""
        ...

    def update(self, record: VersionRecord) -> None:
        """Replace the record of this name in one step."""
        ...

    def point_to(self, name: str, *, former: Sequence[str]) -> None:
        """Let this version serve from now on, in one atomic step; ``former`` is what `former` returns afterwards."""
        ...

    def drop(self, name: str) -> None:
        """Delete a version's data and record. Never the serving one: raises `InvalidInput`."""
        ...

    def reading(self, name: str | None = None) -> AbstractContextManager[OpenVersion | None]:
        """The version of this name, or the serving one (None before the first), open at least until the block ends.

        While it is being read, a version may stop serving or be compacted, but it is not closed.
        """
        ...

    def writing(self) -> AbstractContextManager[None]:
        """One writer at a time. Raises `IndexLocked` if another thread, or another process, is writing already."""
        ...

    def require_room(self, needed: int) -> None:
        """Raise `DiskFull` if there is less room than so many bytes. Does nothing where that cannot be known."""
        ...

    def size(self, name: str) -> int:
        """Bytes that a version takes; 0 where that cannot be known."""
        ...

    def compact(self) -> bool:
        """Build the vector index of the serving version and free what deleted chunks took; searches do not wait.

        True if there was work.
        """
        ...

    def close(self) -> None:
        """Release files, connections and locks. The catalog cannot be used afterwards."""
        ...
