"""Documents that the caller has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from tarragon.errors import InvalidInput
from tarragon.protocols import SourceItem
from tarragon.types import Document


class DocumentsSource:
    """An iterable of documents, in its own order. It is read once, at once, so that a generator lists the same twice.

    Raises:
        InvalidInput: An element is not a `Document`.
    """

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = tuple(_checked(documents))

    def items(self) -> Iterator[SourceItem]:
        """Each document. Only reading tells whether one changed, so hints are None."""
        return (SourceItem(document.id, None, partial(_same, document)) for document in self._documents)

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise InvalidInput(
                f"element {position} is a {type(document).__name__}, not a Document; "
                "make it one with Document(id, text)",
                position=position,
                type=type(document).__name__,
            )
        yield document


def _same(document: Document) -> Document:
    return document
