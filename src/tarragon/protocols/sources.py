"""Where documents come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from tarragon.types import Document


class SourceItem(NamedTuple):
    """A document that a source can deliver. A tuple, because a folder makes one of every file.

    Attributes:
        document_id: Unique in the source and stable over time.
        hint: Changes whenever the content may have changed (size, modification time and inode of a file); None where
            only reading can tell, as for a file so recently changed that its time stamp may not show the next change.
        load: Reads the document. Raises `UnreadableDocument` with the reason if it cannot be. May be called from
            another thread than the one that asked for the items, one document at a time.
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
        """What `tarragon.sources.reopen` needs to open the same source elsewhere, as JSON; None if nothing can."""
        ...


@runtime_checkable
class FindableAtOnce(FindableSource, Protocol):
    """A source that finds many documents sooner together than one by one."""

    def find_all(self, document_ids: Sequence[str]) -> list[SourceItem | None]:
        """What `find` gives for each. Raises as it does."""
        ...
