"""What a sync would do and cost, found by the same survey and the same preparation as the sync itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from uuid import UUID

from tarragon.errors import SourceProblem
from tarragon.identity import DocumentState
from tarragon.preparing import Prepared, Writer, has_vectors, prepare
from tarragon.protocols import ChunkRecord, DocumentRecord, LedgerCounts, Source
from tarragon.reports import Change, Plan, PlannedDeletion, PlannedDocument
from tarragon.survey import Failed, Job, Survey, SurveyOptions, Unchanged
from tarragon.syncing import WINDOW_CHARACTERS
from tarragon.types import FloatArray
from tarragon.windows import chunked


def make_plan(
    source: Source, writer: Writer, options: SurveyOptions, *, header: Plan, explain: Callable[[str], Change] | None
) -> Plan:
    """The plan for a source; nothing is written.

    Args:
        source: The documents.
        writer: What the sync would write with. Its encoder is loaded only if there is something to chunk.
        options: What to look at.
        header: The fields that this does not find out.
        explain: Why a document is new in this version, by its id, where that is known; None: it is new.
    """
    survey = Survey(source, writer.ledger, options)
    draft = _Draft(writer, survey, options, explain)
    for outcome in map(survey.owned, survey.outcomes()):
        draft.take(outcome)
    draft.flush()
    counts = writer.ledger.counts()
    own = sum(record.state is not None and record.status != "deleting" for record in survey.known.values())
    documents = len(survey)
    deletions = tuple(_deletion(id_, survey.known[id_], writer) for id_ in survey.deletions)
    blocked = _refusal(survey)
    del survey  # the shard, opened now to count its chunks, takes as much memory again
    return replace(
        header,
        documents=documents,
        by_stat=draft.by_stat,
        hashed=draft.hashed,
        changes=tuple(draft.changes),
        deletions=deletions,
        foreign=counts.documents - own if options.only is None else 0,
        orphans=0 if counts.unfinished else max(0, writer.store.count() - counts.chunks),
        embeddings=len(draft.fresh),
        tokens=sum(draft.fresh.values()),
        blocked=blocked,
    )


class _Draft:
    """A plan in the making.

    Attributes:
        fresh: Texts to embed: chunk hash → tokens.
    """

    def __init__(
        self, writer: Writer, survey: Survey, options: SurveyOptions, explain: Callable[[str], Change] | None
    ) -> None:
        self._writer = writer
        self._options = options
        self._explain = explain
        self._gone = dict(_contents(survey))
        self._window: list[Job] = []
        self._characters = 0
        self.fresh: dict[bytes, int] = {}
        self.changes: list[PlannedDocument] = []
        self.by_stat = self.hashed = 0

    def take(self, outcome: Job | Unchanged | Failed) -> None:
        """Take in what is to be done about one more document."""
        if isinstance(outcome, Unchanged):
            self.by_stat += outcome.by_stat
            self.hashed += not outcome.by_stat
        elif isinstance(outcome, Failed):
            self.flush()
            base = _hex(outcome.base)
            self.changes.append(PlannedDocument(outcome.document_id, "failed", reason=outcome.reason, base=base))
        else:
            self.hashed += 1
            self._window.append(outcome)
            self._characters += len(outcome.document.text)
            if self._characters >= WINDOW_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        """Chunk what is waiting, and find out what it costs."""
        if not self._window:
            return
        window = chunked(self._window, self._options, self._writer)
        prepared = [prepare(*parts, self._writer) for parts in zip(window.jobs, window.wanted, strict=True)]
        hashes = {chunk.hash for document in prepared for chunk in document.diff.add}.difference(self.fresh)
        missing = hashes.difference(has_vectors(hashes, self._writer))
        self.changes.extend(self._planned(document, missing) for document in prepared)
        self._window, self._characters = [], 0

    def _planned(self, document: Prepared, missing: set[bytes]) -> PlannedDocument:
        job, added = document.job, document.diff.add
        unknown = missing.difference(self.fresh)
        fresh = {chunk.hash: chunk.chunk.tokens for chunk in added if chunk.hash in unknown}
        self.fresh |= fresh
        state = job.record.state or b""
        change, moved_from = job.change, ""
        if change == "new" and self._explain is not None:
            change = self._explain(job.document.id)
        if change == "new" and (moved_from := self._gone.get(DocumentState.unpack(state).content, "")):
            change = "moved"
        return PlannedDocument(
            job.document.id,
            change,
            chunks=len(document.wanted),
            embed=len(fresh),
            tokens=sum(fresh.values()),
            moved_from=moved_from,
            base=_hex(job.base),
            wanted=state.hex(),
        )


def _contents(survey: Survey) -> Iterator[tuple[bytes, str]]:
    """Content → id of the documents that are gone."""
    for document_id in survey.deletions:
        if (state := survey.known[document_id].state) is not None:
            yield DocumentState.unpack(state).content, document_id


def _deletion(document_id: str, record: DocumentRecord, writer: Writer) -> PlannedDeletion:
    return PlannedDeletion(document_id, len(writer.ledger.chunks(document_id)), _hex(record))


def _hex(record: DocumentRecord | None) -> str:
    """What the index has of a document, as text; an interrupted rewrite is told apart."""
    if record is None or record.state is None:
        return ""
    return record.state.hex() if record.status == "ok" else f"{record.status} {record.state.hex()}"


def _refusal(survey: Survey) -> str:
    try:
        survey.guard()
    except SourceProblem as error:
        return str(error)
    return ""


class NoVersion:
    """A version that is not made yet."""

    def __init__(self) -> None:
        self.store = NoStore()
        self.ledger = NoLedger()


class NoStore:
    """Its store."""

    def vectors(self, ids: Sequence[UUID]) -> dict[UUID, FloatArray]:
        """None."""
        return {}

    def count(self) -> int:
        """None."""
        return 0


class NoLedger:
    """Its ledger."""

    def documents(self, namespace: str | None = None) -> dict[str, DocumentRecord]:
        """None."""
        return {}

    def document(self, document_id: str) -> DocumentRecord | None:
        """None."""
        return None

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """None."""
        return []

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """None."""
        return {}

    def counts(self) -> LedgerCounts:
        """None."""
        return LedgerCounts(0, 0, 0, 0)

    def notes(self) -> dict[str, str]:
        """None."""
        return {}

    def attachment(self, key: str) -> str | None:
        """None."""
        return None
