"""Is a hit still true? Asked of its source, by looking only at the documents that were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tarragon.errors import SourceProblem, TarragonError
from tarragon.identity import DocumentState
from tarragon.protocols import DocumentRecord, FindableAtOnce, FindableSource, SourceItem
from tarragon.types import Document, Freshness

SEEN = 4_096
"""Documents whose state is remembered by their hint, so that a changed file is read once and not for each search."""


class FreshnessCheck:
    """Compares documents with their sources.

    Args:
        state_of: What a document would be indexed from.
        prefix: Put before each recorded hint: see `tarragon.survey.SurveyOptions.contract`.
    """

    def __init__(self, state_of: Callable[[Document], DocumentState], prefix: str) -> None:
        self._state_of = state_of
        self._prefix = prefix
        self._seen: dict[tuple[str, str, str], DocumentState] = {}

    def judge(self, record: DocumentRecord, source: FindableSource | None, whole: bool) -> Freshness:
        """Whether the source still says what the index serves of this document.

        If the source is not the ``whole`` of its namespace, a document that it does not have may be in another one.
        """
        if source is None or record.state is None:
            return "unknown"
        try:
            return self._judged(record, source.find(record.document_id), whole)
        except (SourceProblem, OSError, TarragonError):
            return "unknown"

    def judge_all(
        self, records: Sequence[DocumentRecord], source: FindableSource | None, whole: bool
    ) -> list[Freshness]:
        """The same for documents of one source; looked for at once, if the source can."""
        if isinstance(source, FindableAtOnce) and len(records) > 1:
            try:
                items = source.find_all([record.document_id for record in records])
                return [self._judged(record, item, whole) for record, item in zip(records, items, strict=True)]
            except (SourceProblem, OSError, TarragonError):  # perhaps of one of them only
                pass
        return [self.judge(record, source, whole) for record in records]

    def _judged(self, record: DocumentRecord, item: SourceItem | None, whole: bool) -> Freshness:
        if record.state is None:
            return "unknown"
        if item is None:
            return "missing" if whole else "unknown"
        if item.hint is not None and record.hint == f"{self._prefix} {item.hint}":
            return "fresh"
        now = self._state(record, item)
        then = DocumentState.unpack(record.state)
        return "fresh" if (now.content, now.metadata) == (then.content, then.metadata) else "stale"

    def _state(self, record: DocumentRecord, item: SourceItem) -> DocumentState:
        if item.hint is None:
            return self._state_of(item.load())
        key = record.namespace, record.document_id, item.hint
        if key not in self._seen:
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen[key] = self._state_of(item.load())
        return self._seen[key]
