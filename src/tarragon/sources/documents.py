"""Documents that the caller has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any
from unicodedata import normalize

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
        return map(_item, self._documents)

    def skipped(self) -> Mapping[str, int]:
        """Nothing is skipped."""
        return {}

    def find(self, document_id: str) -> SourceItem | None:
        """The first document with this id. Ids that differ in Unicode normalisation only are one id."""
        document = self._by_id.get(normalize("NFC", document_id))
        return None if document is None else _item(document)

    def describe(self) -> Mapping[str, Any] | None:
        """None: no other process can have these documents."""
        return None

    @cached_property
    def _by_id(self) -> dict[str, Document]:
        strings = (document for document in reversed(self._documents) if isinstance(document.id, str))
        return {normalize("NFC", document.id): document for document in strings}


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


def _item(document: Document) -> SourceItem:
    return SourceItem(document.id, None, partial(_same, document))


def _same(document: Document) -> Document:
    return document
