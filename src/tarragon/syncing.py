"""The write path: a source's documents → chunks → vectors → the store, embedding only what is new.

Documents go through in windows of bounded size. Where the model runs elsewhere, on a GPU or a server, one window is
read and chunked (`windows`) while it computes the one before (`vectors`) and the one before that is stored, so that
memory is bounded by three. All that asks the ledger or the store runs in one thread, in a fixed order. For each window:

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tarragon.ahead import ahead
from tarragon.planning import WantedChunk
from tarragon.preparing import Prepared, Writer, prepare
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, SideVector, Source, Store, StoredChunk
from tarragon.reports import Failure, Progress, SyncReport
from tarragon.sides import Sides, size_of
from tarragon.survey import Failed, Survey, SurveyOptions, Unchanged
from tarragon.types import FloatArray
from tarragon.vectors import Flight, Vectors
from tarragon.windows import Seen, Window, windows

WINDOW_CHARACTERS = 256 * 1024
"""Text in one window, at least one document: some 300 chunks, enough to sort by length. A sync that is killed loses the
vectors of one; where the model runs elsewhere of two, the one that is computed and the one that is stored meanwhile."""

MOST_WINDOWS = 64
"""Windows that are written as one for an encoder that wants several (`DenseEncoder`): 16 MiB of text."""

_BATCH = 500


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
        self._vectors = Vectors(writer)
        self._flight: Flight | None = None
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

        Where the model runs elsewhere, the source is read and chunked in a thread of its own, a window ahead. What goes
        wrong there is raised after the windows before it are stored.

        Raises:
            EmptySource: The source has no documents, but the index has, and ``max_delete`` is below 1.
            TooManyDeletions: More documents are gone than ``max_delete`` allows. Nothing was written.
        """
        survey = Survey(source, self._ledger, self._options)
        survey.guard()
        self._total = len(survey)
        with ExitStack() as stack:
            steps = windows(survey, self._options, self._writer, self._window_characters)
            is_ahead = False
            while not self._is_over and (step := self._next(steps)) is not None:
                if isinstance(step, Window):
                    if not is_ahead and self._overlaps:
                        steps = stack.enter_context(closing(ahead(steps, "tarragon-reading")))
                        is_ahead = True
                    self._launch(step, survey)
                else:
                    self._look_at(step)
                self._report_progress()
        self._land()
        self._record_hints()
        if not self._is_over:
            self._delete(survey.deletions)
        self._report_progress()
        return self._report(source)

    def _next(self, ready: Iterator[Seen | Window]) -> Seen | Window | None:
        """What was read next; None at the end."""
        try:
            return next(ready, None)
        except Exception:
            self._land()
            raise

    def _window_characters(self) -> int:
        """Text in a window. Asks the encoder, so only where there is something to write."""
        return WINDOW_CHARACTERS * min(getattr(self._writer.encoder, "windows", 1), MOST_WINDOWS)

    @property
    def _overlaps(self) -> bool:
        """Whether to do something else while the model computes. Asks the encoder, so only where it is needed.

        On the CPU nothing is gained: reading takes the processor, and the interpreter's lock, from a model that uses
        all of it. A sync of 982 chunks on two cores took 13.8 s one after the other and 14.6 s at once.
        """
        return set(self._writer.encoder.device.split(",")) != {"cpu"}

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
    def _look_at(self, seen: Seen) -> None:
        """Deal with what needs no writing of chunks."""
        self._seen += len(seen)
        for outcome in seen:
            if isinstance(outcome, Failed):
                self._fail(outcome)
            elif isinstance(outcome, Unchanged):
                self._counts["documents_unchanged"] += 1
                if outcome.record is not None:
                    self._rehinted.append(outcome.record)

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
    def _launch(self, window: Window, survey: Survey) -> None:
        """Have the models begin with a window, and store the one before meanwhile."""
        documents: list[Prepared] = []
        for job, wanted in zip(window.jobs, window.wanted, strict=True):
            if isinstance(outcome := survey.owned(job), Failed):
                self._fail(outcome)
            else:
                documents.append(prepare(job, wanted, self._writer))
        before = self._flight
        found = self._vectors.known(documents, before)
        flight = self._vectors.launch(self._affordable(documents, found), found, before)
        self._land()
        self._flight = flight
        if not self._overlaps:
            self._land()

    def _land(self) -> None:
        """Store the window whose vectors are being made."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        computed = flight.computed.result()
        self._counts.update(computed.counts)
        self._embed_seconds += computed.seconds
        made_by_space: list[Mapping[bytes, Any]] = [computed.vectors, *computed.sides.values()]
        whole = []
        for document in flight.documents:
            if all(chunk.hash in made for chunk in document.diff.add for made in made_by_space):
                whole.append(document)
            else:
                reason = "the model gave NaN, infinity or nothing for a passage of it"
                self._fail(Failed(document.job.document.id, reason, document.job.base))
        self._store_window(whole, computed.vectors, computed.sides)
        self._count(whole, computed.vectors.keys() & flight.missing.keys())

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
            self._vectors.keep(documents)
            self._store.delete(drop)
            self._store.flush()
            self._ledger.settle(ids)

    def _count(self, documents: Sequence[Prepared], computed: Collection[bytes]) -> None:
        for document in documents:
            self._counts["documents_added" if document.job.is_new else "documents_changed"] += 1
            self._counts["chunks_deleted"] += len(document.diff.drop)
            self._counts["chunks_reused"] += len(document.wanted)
        self._counts["chunks_reused"] -= len(
            {chunk.hash for document in documents for chunk in document.diff.add}.intersection(computed)
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
