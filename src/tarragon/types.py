"""The values that flow through Tarragon: frozen, without behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import InvalidInput

Metadata = Mapping[str, Any]
"""What JSON can hold: str keys; str, int, float, bool, None, lists and objects of these."""

Format = Literal["markdown", "rst", "code", "text", "whole"]
"""How a document's text is structured; decides which parser finds its headings and blocks. ``whole``: it is not cut."""

Freshness: TypeAlias = Literal["fresh", "stale", "missing", "unknown"]
"""Of a hit: its source says the same as when it was indexed; says something else; is gone; cannot be asked."""

OnStale: TypeAlias = Literal["flag", "drop", "refresh"]
"""What a search does with hits whose source has changed or gone: tell, leave them out, or sync them first."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """Weights of a few terms.

    Attributes:
        indices: Of the terms, ascending and distinct, shape ``(terms,)``.
        values: Their weights, none of them 0, shape ``(terms,)``.
    """

    indices: IntArray
    values: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class DenseQuery:
    """What the dense leg is asked, where that is not the query's own text. Words and rerankers keep to the query.

    Attributes:
        texts: Embedded instead of the query, such as a hypothetical answer (HyDE: Gao et al., "Precise Zero-Shot Dense
            Retrieval without Relevance Labels", 2022). Of several, the mean of their vectors is searched.
        vector: An embedding that is known already, shape ``(dimensions,)``; ``texts`` are not looked at then.
        fingerprint: Of the space that ``vector`` is in. In a version of another space it is not used, and the text
            embedded instead. None: the caller answers for it.
    """

    texts: tuple[str, ...] = ()
    vector: FloatArray | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise InvalidInput(f"texts={self.texts!r:.80} is one text; give a tuple of texts: ({self.texts!r:.40},)")


@dataclass(frozen=True, slots=True)
class Document:
    """A source text with an id.

    Attributes:
        id: Unique in its source and stable over time, such as a relative path. Never derived from the content.
        text: What is chunked. Spans (`Hit.start`, `Hit.end`) count its characters.
        metadata: Returned with every hit and usable in filters.
        format: How the text is structured. By default the id's suffix decides (``.md``, ``.rst``, ``.py``, ...), and
            an id without a known suffix is read as Markdown, of which plain text is the simplest case. ``whole``: as
            one chunk, whatever its length.
        context: Stands before the text of each chunk when it is embedded and searched by words, as headings do: a
            title, what the document is about. No part of a hit's text. Of one with more than half of a chunk's tokens
            it is the beginning.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    format: Format | None = None
    context: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document.

    Attributes:
        start: First character of the slice in the document's text.
        end: One past its last character: ``document.text[start:end] == chunk.text``.
        ordinal: The chunk's place among the chunks of its document, from 0.
        heading: The headings that the slice stands under, outermost first.
        text: The slice.
        embed_text: What is embedded and searched: the headings that are not in the slice itself, then the slice.
        token_ids: The encoder's ids of `embed_text`, without special tokens and prompt, shape ``(tokens,)``; None where
            the tokenizer's ids cannot be joined and the encoder must tokenise `embed_text` itself.
        tokens: How many tokens `embed_text` has. An estimate where `token_ids` is None.
    """

    start: int
    end: int
    ordinal: int
    heading: tuple[str, ...]
    text: str
    embed_text: str
    token_ids: IntArray | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result.

    Attributes:
        document_id: The id of the document that the passage is from.
        chunk_id: The passage's own id: the same as long as its text is, wherever it moves within the document.
        text: The passage, ``document.text[start:end]``.
        start: First character in the document's text.
        end: One past the last.
        heading: The headings that it stands under, outermost first.
        metadata: The document's.
        score: Higher is better. With calibrated fusion it means the same for every question; else it is comparable
            within one result list only.
        freshness: Whether the document is still what it was when it was indexed: ``fresh``, ``stale`` (changed since),
            ``missing`` (gone) or ``unknown`` (its source cannot be asked).
        version: The version of the index that it is from.
        bridge: Empty, unless the query crossed from one model's space into another's: then how. See docs/bridges.md.
        previous: Id of the chunk before it in the document; None for the first.
        next: Id of the chunk after it; None for the last.
    """

    document_id: str
    chunk_id: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    metadata: Metadata
    score: float
    freshness: Freshness = "unknown"
    version: str = ""
    bridge: str = ""
    previous: str | None = None
    next: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)
