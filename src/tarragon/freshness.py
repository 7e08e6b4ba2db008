"""Is a hit still true? Asked of its source, by looking only at the documents that were found."""

from __future__ import annotations

from collections.abc import Callable

from tarragon.errors import SourceProblem, TarragonError
from tarragon.identity import DocumentState
from tarragon.protocols import DocumentRecord, FindableSource, SourceItem
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
            item = source.find(record.document_id)
            if item is None:
                return "missing" if whole else "unknown"
            if item.hint is not None and record.hint == f"{self._prefix} {item.hint}":
                return "fresh"
            now = self._state(record, item)
        except (SourceProblem, OSError, TarragonError):
            return "unknown"
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
