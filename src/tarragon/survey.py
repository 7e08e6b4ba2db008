"""What a source holds against what the ledger knows: read by both `Plan` and sync, writing nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias
from unicodedata import normalize

from tarragon.errors import EmptySource, InvalidDocument, TooManyDeletions, UnreadableDocument
from tarragon.identity import DocumentState, content_hash, digest, metadata_hash
from tarragon.planning import change_of, check_document, check_id, exceeds, vanished
from tarragon.protocols import DocumentRecord, Ledger, Source, SourceItem
from tarragon.reports import Change
from tarragon.types import Document, Format


@dataclass(frozen=True, slots=True)
class SurveyOptions:
    """What to look at, and by which rules.

    Attributes:
        namespace: Keeps the documents of several sources in one index apart.
        prune: Whether documents that the source no longer has are to be deleted.
        max_delete: Largest share of the documents that may be deleted; None: see `tarragon.planning.exceeds`.
        format_of: Format of a document by its id, where it does not say.
        reader: Changes whenever the same file could give another text.
        chunker: Changes whenever the same text could be cut in other places.
        only: Documents to look at; the others are as if neither the source nor the index had them. None: all.
        ids: Those that ``only`` can let pass, where they are known. None: not known.
    """

    namespace: str
    prune: bool
    max_delete: float | None
    format_of: Callable[[str], Format]
    reader: str
    chunker: str
    only: Callable[[str], bool] | None = None
    ids: Collection[str] | None = None

    @property
    def contract(self) -> str:
        """Put before each recorded hint: another reader or chunker makes the hint worthless."""
        return digest("contract", self.chunker, self.reader).hex()


@dataclass(frozen=True, slots=True)
class Job:
    """A document that must be written.

    Attributes:
        document: As it was read.
        record: Its record when it is written.
        base: Its record now; None if there is none.
        change: Why it must be written.
    """

    document: Document
    record: DocumentRecord
    base: DocumentRecord | None
    change: Change

    @property
    def is_new(self) -> bool:
        """Whether it has never been indexed whole."""
        return self.base is None or self.base.state is None

    @property
    def was_interrupted(self) -> bool:
        """Whether the store may hold something other than the ledger says."""
        return self.base is not None and self.base.status in ("writing", "settling", "deleting")


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A document that is as the index has it.

    Attributes:
        by_stat: Known without reading it.
        record: Its record, where only the hint is new and should be recorded; else None.
    """

    by_stat: bool
    record: DocumentRecord | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A document that cannot be indexed, and why.

    Attributes:
        base: Its record now; None if there is none.
        lasting: Whether it is to be recorded: not of an id that cannot be stored, nor of the second of two documents.
    """

    document_id: str
    reason: str
    base: DocumentRecord | None = None
    lasting: bool = True


_BY_STAT = Unchanged(by_stat=True)

Outcome: TypeAlias = "Job | Unchanged | Failed"

SINGLY = 100
"""Documents up to which a ledger is asked for one after the other. For more it is read whole: .2 s for 100,000 in a
folder, and on a server a request for each thousand, whereas a look-up is a request too."""


class Survey:
    """One look at a source. The source is listed when this is made, and read by `outcomes`.

    Args:
        source: The documents.
        ledger: What the index knows.
        options: What to look at.
    """

    def __init__(self, source: Source, ledger: Ledger, options: SurveyOptions) -> None:
        self._source = source
        self._ledger = ledger
        self._options = options
        self._contract = options.contract
        self._items = [item for item in map(_under_nfc_id, source.items()) if self._is_meant(item)]
        known = records_of(ledger, options.ids, options.namespace)
        self.known: Mapping[str, DocumentRecord] = (
            known if options.only is None else {id_: record for id_, record in known.items() if options.only(id_)}
        )
        self.deletions = self._vanished() if options.prune else []

    def __len__(self) -> int:
        return len(self._items)

    def _is_meant(self, item: SourceItem) -> bool:
        """What hides documents is looked at in any case: those are not known to be gone."""
        return self._options.only is None or item.hides is not None or self._options.only(item.document_id)

    def _vanished(self) -> list[str]:
        hidden = [item.hides for item in self._items if item.hides is not None]
        return vanished(self.known, {item.document_id for item in self._items}, hidden)

    def guard(self) -> None:
        """Refuse what looks like a mistake.

        Raises:
            EmptySource: The source has no documents, but the index has, and ``max_delete`` is below 1.
            TooManyDeletions: More documents are gone than ``max_delete`` allows.
        """
        share, gone, known = self._options.max_delete, self.deletions, len(self.known)
        if not self._items and gone and share != 1 and self._options.only is None:
            raise EmptySource(
                f"the source has no documents{self._left_out()}, and the index holds {known} from it. Check the "
                "path; to really empty the index, allow it with max_delete=1.0 (--max-delete 1.0)",
                documents=known,
            )
        if exceeds(len(gone), known, share):
            raise TooManyDeletions(
                f"{len(gone)} of {known} documents are no longer in the source ({', '.join(gone[:3])}, ...); that "
                "many are not deleted without being told to. Check the path; another source needs its own "
                "namespace (--namespace); to delete them, raise max_delete (--max-delete); to keep them, prune=False "
                "(--no-prune)",
                deletions=len(gone),
                documents=known,
            )

    def _left_out(self) -> str:
        skipped = self._source.skipped()
        return f" ({', '.join(f'{count} {reason}' for reason, count in skipped.items())})" if skipped else ""

    # --- each document ------------------------------------------------------------------------------------------------
    def outcomes(self) -> Iterator[Outcome]:
        """What is to be done about each document, in the order of the source; of two with one id the second fails.

        Asks nobody but the source, so that it may be iterated over in another thread.
        """
        seen: set[str] = set()
        for item in self._items:
            document_id = item.document_id
            base = self.known.get(document_id)
            if base is None and (bad := _bad_id(document_id)):
                yield bad
            elif document_id in seen:
                yield Failed(document_id, "another document of the source has the same id", lasting=False)
            else:
                seen.add(document_id)
                yield self._outcome(item, base)

    def _outcome(self, item: SourceItem, base: DocumentRecord | None) -> Outcome:
        settled = base is not None and base.status == "ok" and base.failure is None
        hint = None if item.hint is None else f"{self._contract} {item.hint}"
        if settled and base and hint is not None and base.hint == hint:
            return _BY_STAT
        try:
            document = item.load()
            check_document(document)
        except (UnreadableDocument, InvalidDocument) as error:
            return Failed(item.document_id, str(error), base)
        state = state_of(document, self._options)
        record = DocumentRecord(item.document_id, self._options.namespace, "ok", state.pack(), hint, None)
        if base is not None and base.status == "ok" and base.state == record.state:
            return Unchanged(by_stat=False, record=record if record != base else None)
        if base is not None and base.status in ("writing", "settling", "deleting"):
            change: Change = "unfinished"
        else:
            change = change_of(base.state if base else None, state)
        return Job(replace(document, id=item.document_id), record, base, change)

    def owned(self, outcome: Outcome) -> Outcome:
        """The same, or that the document is another source's already. Asks the ledger, for each that is new."""
        if not isinstance(outcome, Job) or outcome.base is not None:
            return outcome
        document_id = outcome.document.id
        other = self._ledger.document(document_id)
        if other is None or other.status == "failed":
            return outcome
        reason = (
            f"{document_id!r} is already in the index from the source with namespace {other.namespace!r}, and this one "
            f"has namespace {self._options.namespace!r}"
        )
        return Failed(document_id, reason)


def records_of(
    ledger: Ledger, ids: Collection[str] | None, namespace: str | None = None
) -> Mapping[str, DocumentRecord]:
    """Records by document id: at least those of ``ids`` (None: all) that there are in the namespace (None: in any)."""
    if ids is None or len(ids) > SINGLY:
        return ledger.documents(namespace)
    found = (ledger.document(id_) for id_ in sorted(ids) if not _bad_id(id_))
    return {one.document_id: one for one in found if one is not None and namespace in (None, one.namespace)}


def state_of(document: Document, options: SurveyOptions) -> DocumentState:
    """What this document would be indexed from."""
    parser = _digest_of("parser", options.reader, format_of(document, options))
    return DocumentState(
        content_hash(document.text, document.context),
        metadata_hash(document.metadata),
        parser,
        _digest_of("chunker", options.chunker),
    )


@cache
def _digest_of(domain: str, *fields: str) -> bytes:
    """The same few for every document."""
    return digest(domain, *fields)


def format_of(document: Document, options: SurveyOptions) -> Format:
    """How a document's text is structured."""
    return document.format or options.format_of(document.id)


def _bad_id(document_id: str) -> Failed | None:
    try:
        check_id(document_id)
    except InvalidDocument as error:
        return Failed(str(document_id).encode("utf-8", "replace").decode(), str(error), lasting=False)
    return None


def _under_nfc_id(item: SourceItem) -> SourceItem:
    """Ids that differ in Unicode normalisation only are one id, as file systems have it."""
    document_id = item.document_id
    if not isinstance(document_id, str) or document_id.isascii():
        return item
    return item._replace(document_id=normalize("NFC", document_id))
