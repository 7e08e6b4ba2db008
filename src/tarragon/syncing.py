"""The write path: a source's documents → chunks → vectors → the store, embedding only what is new.

Documents go through in windows of bounded size. For each window: chunk, find or compute the vectors, then

    intend   the ledger says which documents are about to be rewritten, and which chunks they may have
    upsert   new chunks; unchanged ones are not touched
    switch   the ledger says, in one transaction, which chunks these documents serve from now on
    payload, delete   chunks that moved get their new place; chunks no longer served are removed
    settle   the ledger says that nothing is left to do

A search asks the ledger about each hit, so that it sees a document's old text before the switch and its new text after
it, never both. A process killed at any point leaves an index that opens, answers, and is completed by the next sync.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from tarragon.errors import EncodingFailed
from tarragon.planning import WantedChunk
from tarragon.preparing import Prepared, Writer, find_sides, find_vectors, prepare
from tarragon.protocols import (
    ChunkRecord,
    DocumentRecord,
    DocumentWrite,
    EncoderInput,
    SideVector,
    Source,
    Store,
    StoredChunk,
)
from tarragon.reports import Failure, Progress, SyncReport
from tarragon.sides import Sides, size_of
from tarragon.survey import Failed, Job, Outcome, Survey, SurveyOptions
from tarragon.types import Chunk, FloatArray

WINDOW_CHARACTERS = 256 * 1024
"""Text in one window, at least one document: some 300 chunks, enough to sort by length and little to lose."""

MOST_WINDOWS = 64
"""Windows that are written as one for an encoder that wants several (`DenseEncoder`): 16 MiB of text."""

SPARE_VECTORS = 20_000
"""Vectors of deleted passages that are kept until the end of a sync: 30 MB of 384 dimensions."""

SPARE_BYTES = 64 << 20
"""The same for the vectors of other models; late ones take some 90 kB a passage."""

_BATCH = 500

_TOLD_EVERY = 50
"""Documents between two calls of the progress callback, where nothing is written."""

_Vectors: TypeAlias = "dict[bytes, FloatArray]"


@dataclass(slots=True)
class Budget:
    """What may be embedded.

    Attributes:
        tokens: What is left of it.
        then_stop: Whether to look no further once a document does not fit. Else what costs nothing is still done.
    """

    tokens: int
    then_stop: bool = False


class Sync:
    """One run of the write path.

    Args:
        writer: What to write with.
        options: What to look at.
        budget: What may be embedded; documents that would go beyond are left. None: no limit.
        on_progress: Called after each step.
    """

    def __init__(
        self,
        writer: Writer,
        options: SurveyOptions,
        *,
        budget: Budget | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._writer = writer
        self._ledger = writer.ledger
        self._spare: _Vectors = {}
        self._spare_sides: Sides = {maker.space.name: {} for maker in writer.sides if not maker.is_derived}
        self._has_spaces = False
        self._options = options
        self._budget = budget
        self._on_progress = on_progress
        self._counts: Counter[str] = Counter()
        self._failures: list[Failure] = []
        self._rehinted: list[DocumentRecord] = []
        self._started = time.perf_counter()
        self._total: int | None = None
        self._seen = 0
        self._embed_seconds = 0.0
        self.touched: set[str] = set()

    def run(self, source: Source) -> SyncReport:
        """Bring the index up to date with the source.

        Raises:
            EmptySource: The source has no documents, but the index has, and ``max_delete`` is below 1.
            TooManyDeletions: More documents are gone than ``max_delete`` allows. Nothing was written.
        """
        survey = Survey(source, self._ledger, self._options)
        survey.guard()
        self._total = len(survey)
        window: list[Job] = []
        characters = 0
        for outcome in survey.outcomes():
            self._seen += 1
            if (job := self._taken(outcome)) is not None:
                window.append(job)
                characters += len(job.document.text)
            if characters >= WINDOW_CHARACTERS and characters >= self._window_characters():
                self._write(window)
                window, characters = [], 0
                self._report_progress()
            elif self._seen % _TOLD_EVERY == 0:
                self._report_progress()
            if self._is_over:
                break
        self._write(window)
        self._record_hints()
        if not self._is_over:
            self._delete(survey.deletions)
        self._report_progress()
        return self._report(source)

    def _window_characters(self) -> int:
        """Text in a window. Asks the encoder, so only where there is something to write."""
        return WINDOW_CHARACTERS * min(getattr(self._writer.encoder, "windows", 1), MOST_WINDOWS)

    @property
    def _store(self) -> Store:
        return self._writer.store

    @property
    def _is_over(self) -> bool:
        """Whether the budget is used up, and nothing more should be looked at."""
        return self._budget is not None and self._budget.then_stop and bool(self._counts["documents_left"])

    @property
    def rate(self) -> float | None:
        """Tokens embedded a second; None where too few were to tell."""
        tokens = self._counts["tokens_embedded"]
        return tokens / self._embed_seconds if tokens >= 1_000 and self._embed_seconds > 0 else None

    # --- outcomes -----------------------------------------------------------------------------------------------------
    def _taken(self, outcome: Outcome) -> Job | None:
        """The job, if it is one; anything else is dealt with at once."""
        if isinstance(outcome, Job):
            return outcome
        if isinstance(outcome, Failed):
            self._fail(outcome)
        else:
            self._counts["documents_unchanged"] += 1
            if outcome.record is not None:
                self._rehinted.append(outcome.record)
        return None

    def _record_hints(self) -> None:
        if self._rehinted:
            self._ledger.record(self._rehinted)
            self._rehinted = []

    def _fail(self, failed: Failed) -> None:
        """Note why a document could not be indexed; what it had before stays."""
        reason = failed.reason.encode("utf-8", "backslashreplace").decode()  # paths can hold what is no text
        self._failures.append(Failure(failed.document_id, reason))
        if not failed.lasting:
            return
        if failed.base is not None:
            if failed.base.failure != reason:
                self._ledger.record([failed.base._replace(failure=reason, hint=None)])
        elif self._ledger.document(failed.document_id) is None:
            namespace = self._options.namespace
            self._ledger.record([DocumentRecord(failed.document_id, namespace, "failed", None, None, reason)])

    # --- writing a window ---------------------------------------------------------------------------------------------
    def _write(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        prepared: Sequence[Prepared] = prepare(jobs, self._options, self._writer)
        distinct = {chunk.hash: chunk.chunk for document in prepared for chunk in document.diff.add}
        spare = {hash_: self._spare[hash_] for hash_ in distinct if hash_ in self._spare}
        found = spare | find_vectors([hash_ for hash_ in distinct if hash_ not in spare], self._writer)
        prepared = self._affordable(prepared, found)
        missing = {chunk.hash for document in prepared for chunk in document.diff.add}.difference(found)
        computed = self._embed({hash_: chunk for hash_, chunk in distinct.items() if hash_ in missing})
        vectors = {**found, **computed}
        sides = self._sides(prepared, vectors)
        made_by_space: list[Mapping[bytes, Any]] = [vectors, *sides.values()]
        whole = []
        for document in prepared:
            if all(chunk.hash in made for chunk in document.diff.add for made in made_by_space):
                whole.append(document)
            else:
                reason = "the model gave NaN, infinity or nothing for a passage of it"
                self._fail(Failed(document.job.document.id, reason, document.job.base))
        self._store_window(whole, vectors, sides)
        self._count(whole, set(computed))

    def _store_window(self, documents: Sequence[Prepared], vectors: Mapping[bytes, FloatArray], sides: Sides) -> None:
        if not documents:
            return
        add = [
            _stored_chunk(chunk, vectors[chunk.hash], {name: made[chunk.hash] for name, made in sides.items()})
            for document in documents
            for chunk in document.diff.add
        ]
        move = {chunk.id: chunk.payload for document in documents for chunk in document.diff.move}
        drop = [id_ for document in documents for id_ in document.diff.drop]
        writes = [_write_of(document) for document in documents]
        ids = [document.job.document.id for document in documents]
        self._writer.before_write(sum(map(_size, add)))
        self.touched.update(ids)
        self._ledger.intend(writes)
        self._store.upsert(add)
        self._store.flush()  # the ledger must never say more than what survives a power cut
        self._ledger.switch(writes)
        if move or drop or any(document.job.was_interrupted for document in documents):
            self._store.set_payload(move)
            self._keep_vectors(documents)
            self._store.delete(drop)
            self._store.flush()
            self._ledger.settle(ids)

    def _keep_vectors(self, documents: Sequence[Prepared]) -> None:
        """Those about to be deleted, for a document further on that their text may have moved to."""
        dropped = {id_: hash_ for document in documents for id_, hash_ in document.dropped.items()}
        if dropped and len(self._spare) < SPARE_VECTORS:
            vectors = self._store.vectors(list(dropped))
            self._spare |= {dropped[id_]: vector for id_, vector in vectors.items()}
            kept = sum(size_of(vector) for space in self._spare_sides.values() for vector in space.values())
            if kept < SPARE_BYTES:
                for maker in self._writer.sides:
                    if not maker.is_derived:
                        sides = self._store.sides(maker.space, list(dropped))
                        self._spare_sides[maker.space.name] |= {dropped[id_]: row for id_, row in sides.items()}

    def _count(self, documents: Sequence[Prepared], computed: set[bytes]) -> None:
        for document in documents:
            self._counts["documents_added" if document.job.is_new else "documents_changed"] += 1
            self._counts["chunks_deleted"] += len(document.diff.drop)
            self._counts["chunks_reused"] += len(document.wanted)
        self._counts["chunks_reused"] -= len(
            computed & {chunk.hash for document in documents for chunk in document.diff.add}
        )

    def _affordable(self, documents: Sequence[Prepared], found: Mapping[bytes, FloatArray]) -> Sequence[Prepared]:
        """Those that the rest of the budget allows, in order; the others are left for the next sync."""
        if self._budget is None:
            return documents
        known, taken = set(found), []
        for document in documents:
            fresh = {chunk.hash: chunk.chunk.tokens for chunk in document.diff.add if chunk.hash not in known}
            if (cost := sum(fresh.values())) <= self._budget.tokens:
                self._budget.tokens -= cost
                known.update(fresh)
                taken.append(document)
            else:
                self._counts["documents_left"] += 1
        return taken

    # --- vectors ------------------------------------------------------------------------------------------------------
    def _sides(self, documents: Sequence[Prepared], dense: Mapping[bytes, FloatArray]) -> Sides:
        """The vectors beside the dense ones of every chunk to be added: stored ones where there are, else made."""
        makers = self._writer.sides
        texts = {chunk.hash: chunk.chunk.embed_text for document in documents for chunk in document.diff.add}
        texts = {hash_: text for hash_, text in texts.items() if hash_ in dense}
        if not makers or not texts:
            return {maker.space.name: {} for maker in makers}
        if not self._has_spaces:
            for maker in makers:
                self._store.add_space(maker.space)
            self._has_spaces = True
        sides: Sides = {}
        for maker in makers:
            name = maker.space.name
            spare = self._spare_sides.get(name, {})
            known = {hash_: spare[hash_] for hash_ in texts if hash_ in spare}
            if not maker.is_derived:
                known |= find_sides(maker.space, [hash_ for hash_ in texts if hash_ not in known], self._writer)
            rest = {hash_: text for hash_, text in texts.items() if hash_ not in known}
            sides[name] = known | self._writer.compute(partial(maker.make, rest, dense))
        return sides

    def _embed(self, chunks: Mapping[bytes, Chunk]) -> _Vectors:
        """The model's vectors by chunk hash; without those that are not finite."""
        if not chunks:
            return {}
        if not self._counts["chunks_embedded"]:
            self._writer.before_embedding()
        begun = time.perf_counter()
        vectors = self._encode(list(chunks.items()))
        self._embed_seconds += time.perf_counter() - begun
        self._counts["chunks_embedded"] += len(chunks)
        self._counts["characters_embedded"] += sum(len(chunk.embed_text) for chunk in chunks.values())
        return {hash_: vector for hash_, vector in vectors.items() if np.isfinite(vector).all()}

    def _encode(self, chunks: Sequence[tuple[bytes, Chunk]]) -> _Vectors:
        """A batch that the encoder refuses is halved until the passage that it cannot take is alone, and left out."""
        inputs = [EncoderInput(chunk.embed_text, chunk.token_ids) for _, chunk in chunks]
        try:
            embeddings = self._writer.compute(partial(self._writer.encoder.encode_documents, inputs))
        except EncodingFailed:
            if len(chunks) == 1:
                return {}
            middle = len(chunks) // 2
            return self._encode(chunks[:middle]) | self._encode(chunks[middle:])
        expected = len(chunks), self._writer.encoder.dimensions
        if embeddings.vectors.shape != expected:
            raise EncodingFailed(
                f"{self._writer.encoder.name} returned vectors of shape {embeddings.vectors.shape} for {len(chunks)} "
                f"texts, not {expected}",
                shape=embeddings.vectors.shape,
            )
        self._counts["tokens_embedded"] += embeddings.tokens
        self._counts["tokens_truncated"] += embeddings.truncated
        return {hash_: vector for (hash_, _), vector in zip(chunks, embeddings.vectors, strict=True)}

    # --- deleting -----------------------------------------------------------------------------------------------------
    def _delete(self, document_ids: Sequence[str]) -> None:
        """Remove documents and their chunks. One that never could be indexed is forgotten without being counted."""
        for batch in _batches(document_ids):
            never = sum(record.status == "failed" for record in map(self._ledger.document, batch) if record)
            chunks = [chunk.id for document_id in batch for chunk in self._ledger.chunks(document_id)]
            self.touched.update(batch)
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
        counts: dict[str, Any] = dict(self._counts)
        return SyncReport(
            **counts,
            documents_failed=len(self._failures),
            seconds=time.perf_counter() - self._started,
            files_skipped=dict(source.skipped()),
            failures=tuple(self._failures),
            device=self._writer.encoder.device if self._counts["chunks_embedded"] else "",
        )


def _write_of(document: Prepared) -> DocumentWrite:
    rows = (ChunkRecord(chunk.id, chunk.hash, chunk.payload_digest, chunk.chunk.tokens) for chunk in document.wanted)
    return DocumentWrite(document.job.record, tuple(rows), {chunk.id: chunk.payload for chunk in document.diff.move})


def _stored_chunk(chunk: WantedChunk, vector: FloatArray, sides: Mapping[str, SideVector]) -> StoredChunk:
    return StoredChunk(chunk.id, vector, {"content": chunk.chunk.embed_text, **chunk.payload}, sides)


def _size(chunk: StoredChunk) -> int:
    return chunk.vector.nbytes + sum(map(size_of, chunk.sides.values())) + 4 * len(chunk.payload["content"])


def _batches(values: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(values)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
