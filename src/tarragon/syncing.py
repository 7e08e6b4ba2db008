"""The write path: a source's documents → chunks → vectors → the store, embedding only what is new.

Documents go through in windows of bounded size. For each window: chunk, find or compute the vectors, then

    intend   the ledger says which documents are about to be rewritten, and which chunks they may have
    upsert   new chunks; unchanged ones are not touched
    delete   chunks no longer wanted
    commit   the ledger says that the documents are as they should be

so that a process killed at any point leaves an index that opens, answers, and is completed by the next sync. Between
the upsert and the delete a search can meet both texts of a document.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias
from unicodedata import normalize
from uuid import UUID

import numpy as np

from tarragon.chunking import Chunker
from tarragon.errors import EmptySource, EncodingFailed, InvalidDocument, TooManyDeletions, UnreadableDocument
from tarragon.identity import content_hash, digest, document_state, metadata_hash
from tarragon.planning import (
    WantedChunk,
    check_document,
    check_id,
    diff_chunks,
    exceeds,
    vanished,
    wanted_chunks,
)
from tarragon.protocols import (
    ChunkRecord,
    DenseEncoder,
    DocumentRecord,
    DocumentWrite,
    EncoderInput,
    Ledger,
    Source,
    SourceItem,
    Store,
    StoredChunk,
)
from tarragon.types import Chunk, Document, Failure, FloatArray, Format, Progress, SyncReport

WINDOW_CHARACTERS = 256 * 1024
"""Text in one window, at least one document: some 300 chunks, enough to sort by length and little to lose."""

_BATCH = 500

_Vectors: TypeAlias = "dict[bytes, FloatArray]"


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What a sync may do.

    Attributes:
        namespace: Keeps the documents of several sources in one index apart.
        prune: Delete documents that the source no longer has.
        max_delete: Largest share of the documents that may be deleted; None: see `tarragon.planning.exceeds`.
        format_of: Format of a document by its id, where it does not say.
        reader: Changes whenever the same file could give another text.
    """

    namespace: str
    prune: bool
    max_delete: float | None
    format_of: Callable[[str], Format]
    reader: str = ""


@dataclass(frozen=True, slots=True)
class _Job:
    """A document that must be written."""

    document: Document
    record: DocumentRecord
    is_new: bool
    was_interrupted: bool


class Sync:
    """One run of the write path.

    Args:
        store: Receives the chunks.
        ledger: Knows what is there.
        encoder: Makes the vectors.
        chunker: Cuts the documents.
        options: What may be done.
        before_write: Called with the bytes about to be written, before each window; may raise `DiskFull`.
        on_progress: Called after each step.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        encoder: DenseEncoder,
        chunker: Chunker,
        options: SyncOptions,
        *,
        before_write: Callable[[int], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._encoder = encoder
        self._chunker = chunker
        self._options = options
        self._before_write = before_write
        self._on_progress = on_progress
        self._contract = digest("contract", chunker.identity, options.reader).hex()
        self._counts: Counter[str] = Counter()
        self._failures: list[Failure] = []
        self._started = time.perf_counter()
        self._total: int | None = None
        self._seen = 0

    def run(self, source: Source) -> SyncReport:
        """Bring the index up to date with the source.

        Raises:
            EmptySource: The source has no documents, but the index has, and ``max_delete`` is below 1.
            TooManyDeletions: More documents are gone than ``max_delete`` allows. Nothing was written.
        """
        items = [_under_nfc_id(item) for item in source.items() if self._has_good_id(item)]
        self._total = len(items)
        known = self._ledger.documents(self._options.namespace)
        gone = self._deletions(items, known, source)
        window: list[_Job] = []
        characters = 0
        for item in self._distinct(items):
            if job := self._examine(item, known.get(item.document_id)):
                window.append(job)
                characters += len(job.document.text)
            if characters >= WINDOW_CHARACTERS:
                self._write(window)
                window, characters = [], 0
            self._report_progress()
        self._write(window)
        self._delete(gone)
        self._report_progress()
        return self._report(source)

    # --- what there is to do ------------------------------------------------------------------------------------------
    def _deletions(self, items: Sequence[SourceItem], known: dict[str, DocumentRecord], source: Source) -> list[str]:
        if not self._options.prune:
            return []
        hidden = [item.hides for item in items if item.hides is not None]
        gone = vanished(known, {item.document_id for item in items}, hidden)
        share = self._options.max_delete
        if not items and share != 1 and known:
            raise EmptySource(
                f"the source has no documents{_left_out(source)}, and the index holds {len(known)} from it. Check the "
                "path; to really empty the index, allow it with max_delete=1.0 (--max-delete 1.0)",
                documents=len(known),
            )
        if exceeds(len(gone), len(known), share):
            raise TooManyDeletions(
                f"{len(gone)} of {len(known)} documents are no longer in the source ({', '.join(gone[:3])}, ...); that "
                "many are not deleted without being told to. Check the path; another source needs its own "
                "namespace (--namespace); to delete them, raise max_delete (--max-delete); to keep them, prune=False "
                "(--no-prune)",
                deletions=len(gone),
                documents=len(known),
            )
        return gone

    def _has_good_id(self, item: SourceItem) -> bool:
        """Whether the id can be stored; if not, the document is reported and otherwise as if it were not there."""
        try:
            check_id(item.document_id)
        except InvalidDocument as error:
            self._failures.append(Failure(str(item.document_id).encode("utf-8", "replace").decode(), str(error)))
            return False
        return True

    def _distinct(self, items: Sequence[SourceItem]) -> Iterator[SourceItem]:
        seen: set[str] = set()
        for item in items:
            self._seen += 1
            if item.document_id in seen:
                self._failures.append(Failure(item.document_id, "another document of the source has the same id"))
                continue
            seen.add(item.document_id)
            yield item

    def _examine(self, item: SourceItem, record: DocumentRecord | None) -> _Job | None:
        """Read a document unless its hint shows that it is unchanged; None if there is nothing to write."""
        settled = record is not None and record.status == "ok" and record.failure is None
        if settled and record and item.hint is not None and record.hint == f"{self._contract} {item.hint}":
            self._counts["documents_unchanged"] += 1
            return None
        try:
            document = item.load()
            check_document(document)
            self._check_owner(item.document_id, record)
        except (UnreadableDocument, InvalidDocument) as error:
            self._fail(item.document_id, str(error), record)
            return None
        state = document_state(
            content_hash(document.text), metadata_hash(document.metadata), self._state_contract(document)
        )
        hint = None if item.hint is None else f"{self._contract} {item.hint}"
        wanted = DocumentRecord(item.document_id, self._options.namespace, "ok", state, hint, None)
        if record is not None and record.status == "ok" and record.state == state:
            self._counts["documents_unchanged"] += 1
            if record != wanted:
                self._ledger.record([wanted])
            return None
        document = replace(document, id=item.document_id)
        is_new = record is None or record.state is None
        return _Job(document, wanted, is_new, record is not None and record.status in ("writing", "deleting"))

    def _state_contract(self, document: Document) -> str:
        return f"{self._contract} {self._format(document)}"

    def _format(self, document: Document) -> Format:
        return document.format or self._options.format_of(document.id)

    def _check_owner(self, document_id: str, record: DocumentRecord | None) -> None:
        if record is None and (other := self._ledger.document(document_id)) and other.status != "failed":
            raise InvalidDocument(
                f"{document_id!r} is already in the index from the source with namespace {other.namespace!r}, and this "
                f"one has namespace {self._options.namespace!r}"
            )

    def _fail(self, document_id: str, reason: str, record: DocumentRecord | None) -> None:
        """Note why a document could not be indexed; what it had before stays."""
        reason = reason.encode("utf-8", "backslashreplace").decode()  # paths can hold what is no text
        self._failures.append(Failure(document_id, reason))
        if record is None:
            other = self._ledger.document(document_id)
            if other is None:
                self._ledger.record(
                    [DocumentRecord(document_id, self._options.namespace, "failed", None, None, reason)]
                )
        else:
            self._ledger.record([replace(record, failure=reason, hint=None)])

    # --- doing it -----------------------------------------------------------------------------------------------------
    def _write(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        chunks = self._chunker.chunk([(job.document, self._format(job.document)) for job in jobs])
        wanted = [wanted_chunks(job.document, found) for job, found in zip(jobs, chunks, strict=True)]
        stored = [self._stored(job) for job in jobs]
        diffs = [diff_chunks(want, have) for want, have in zip(wanted, stored, strict=True)]
        stored_vectors, computed = self._vectors([chunk for diff in diffs for chunk in diff.add])
        vectors = stored_vectors | computed
        good = [i for i, diff in enumerate(diffs) if all(chunk.hash in vectors for chunk in diff.add)]
        for i in set(range(len(jobs))).difference(good):
            reason = "the model gave NaN or infinity for a passage of it"
            self._fail(jobs[i].document.id, reason, self._ledger.document(jobs[i].document.id))
        writes = [DocumentWrite(jobs[i].record, tuple(_row(chunk) for chunk in wanted[i])) for i in good]
        add = [_stored_chunk(chunk, vectors[chunk.hash]) for i in good for chunk in diffs[i].add]
        drop = [id_ for i in good for id_ in diffs[i].drop]
        self._before_write(sum(chunk.vector.nbytes + 4 * len(chunk.payload["content"]) for chunk in add))
        self._ledger.intend(writes)
        self._store.upsert(add)
        self._store.set_payload({chunk.id: chunk.payload for i in good for chunk in diffs[i].move})
        self._store.delete(drop)
        self._store.flush()  # the ledger must never say more than what survives a power cut
        self._ledger.commit(writes)
        for i in good:
            self._counts["documents_added" if jobs[i].is_new else "documents_changed"] += 1
        self._counts["chunks_reused"] += sum(len(wanted[i]) for i in good) - len(
            computed.keys() & {chunk.hash for i in good for chunk in diffs[i].add}
        )
        self._counts["chunks_deleted"] += len(drop)

    def _stored(self, job: _Job) -> dict[UUID, bytes]:
        """Chunks of the document that are stored: id → digest of the payload.

        After an interruption the rows name chunks that may not be there, with payloads that may not be the recorded
        ones: then the store is asked, and every payload is written again.
        """
        rows = {} if job.is_new and not job.was_interrupted else self._ledger.chunks(job.document.id)
        if not job.was_interrupted:
            return {row.id: row.payload for row in rows}
        present = self._store.vectors([row.id for row in rows])
        return {row.id: b"" for row in rows if row.id in present}

    def _vectors(self, chunks: Sequence[WantedChunk]) -> tuple[_Vectors, _Vectors]:
        """Vectors by chunk hash: those found wherever the same text is stored, and those the model made.

        A hash for which the model gave no finite vector is in neither.
        """
        distinct = {chunk.hash: chunk.chunk for chunk in chunks}
        holders = self._ledger.holders(distinct)
        stored = self._store.vectors(list(holders.values()))
        found = {hash_: stored[id_] for hash_, id_ in holders.items() if id_ in stored}
        missing = [hash_ for hash_ in distinct if hash_ not in found]
        return found, self._embed(missing, [distinct[hash_] for hash_ in missing])

    def _embed(self, hashes: Sequence[bytes], chunks: Sequence[Chunk]) -> _Vectors:
        if not chunks:
            return {}
        embeddings = self._encoder.encode_documents(
            [EncoderInput(chunk.embed_text, chunk.token_ids) for chunk in chunks]
        )
        self._check_shape(embeddings.vectors, len(chunks))
        self._counts["chunks_embedded"] += len(chunks)
        self._counts["characters_embedded"] += sum(len(chunk.embed_text) for chunk in chunks)
        self._counts["tokens_embedded"] += embeddings.tokens
        self._counts["tokens_truncated"] += embeddings.truncated
        rows = zip(hashes, embeddings.vectors, strict=True)
        return {hash_: vector for hash_, vector in rows if np.isfinite(vector).all()}

    def _check_shape(self, vectors: FloatArray, count: int) -> None:
        expected = count, self._encoder.dimensions
        if vectors.shape != expected:
            raise EncodingFailed(
                f"{self._encoder.name} returned vectors of shape {vectors.shape} for {count} texts, not {expected}",
                shape=vectors.shape,
            )

    def _delete(self, document_ids: Sequence[str]) -> None:
        """Remove documents and their chunks. One that never could be indexed is forgotten without being counted."""
        remaining = iter(document_ids)
        while batch := list(islice(remaining, _BATCH)):
            never = sum(record.status == "failed" for record in map(self._ledger.document, batch) if record)
            chunks = [chunk.id for document_id in batch for chunk in self._ledger.chunks(document_id)]
            self._ledger.intend_deletion(batch)
            self._store.delete(chunks)
            self._store.flush()
            self._ledger.commit_deletion(batch)
            self._counts["documents_deleted"] += len(batch) - never
            self._counts["chunks_deleted"] += len(chunks)

    # --- telling ------------------------------------------------------------------------------------------------------
    def _report_progress(self) -> None:
        counts = self._counts
        seconds = time.perf_counter() - self._started
        self._on_progress(
            Progress(self._seen, self._total, counts["chunks_embedded"], counts["tokens_embedded"], seconds)
        )

    def _report(self, source: Source) -> SyncReport:
        return SyncReport(
            **self._counts,
            documents_failed=len(self._failures),
            seconds=time.perf_counter() - self._started,
            files_skipped=dict(source.skipped()),
            failures=tuple(self._failures),
            model=self._encoder.name,
            device=self._encoder.device if self._counts["chunks_embedded"] else "",
        )


def _under_nfc_id(item: SourceItem) -> SourceItem:
    """Ids that differ in Unicode normalisation only are one id, as file systems have it."""
    return replace(item, document_id=normalize("NFC", item.document_id))


def _row(chunk: WantedChunk) -> ChunkRecord:
    return ChunkRecord(chunk.id, chunk.hash, chunk.payload_digest)


def _stored_chunk(chunk: WantedChunk, vector: FloatArray) -> StoredChunk:
    return StoredChunk(chunk.id, vector, {"content": chunk.chunk.embed_text, **chunk.payload})


def _left_out(source: Source) -> str:
    skipped = source.skipped()
    return f" ({', '.join(f'{count} {reason}' for reason, count in skipped.items())})" if skipped else ""
