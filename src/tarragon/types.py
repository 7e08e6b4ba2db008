"""The values that flow through Tarragon: frozen, without behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metadata = Mapping[str, Any]
"""What JSON can hold: str keys; str, int, float, bool, None, lists and objects of these."""

Format = Literal["markdown", "rst", "code", "text"]
"""How a document's text is structured; decides which parser finds its headings and blocks."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Document:
    """A source text with an id.

    Attributes:
        id: Unique in its source and stable over time, such as a relative path. Never derived from the content.
        text: What is chunked. Spans (`Hit.start`, `Hit.end`) count its characters.
        metadata: Returned with every hit and usable in filters.
        format: How the text is structured. By default the id's suffix decides (``.md``, ``.rst``, ``.py``, ...), and
            an id without a known suffix is read as Markdown, of which plain text is the simplest case.
    """

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    format: Format | None = None


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
        score: Higher is better. Comparable within one result list only.
    """

    document_id: str
    chunk_id: str
    text: str
    start: int
    end: int
    heading: tuple[str, ...]
    metadata: Metadata
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that could not be indexed, and why. Its previous text, if there is one, keeps being served."""

    document_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did.

    Each document of the source is added, changed, unchanged or failed, and the ones that are gone are deleted. Of two
    documents with one id the second fails.

    Attributes:
        chunks_embedded: Distinct new texts that the model was run on.
        chunks_reused: Chunks of added and changed documents whose vector was already there.
        chunks_deleted: Chunks removed, of changed and deleted documents.
        characters_embedded: Characters of the embedded texts.
        tokens_embedded: Tokens the model was given, prompts and special tokens included, padding not.
        tokens_truncated: Tokens of embedded texts beyond the model's limit, which it did not see.
        seconds: Wall time of the whole sync.
        files_skipped: What the source left out on purpose, by reason.
        failures: The failed documents in the order in which they were met.
        model: Name of the model.
        device: The device that really ran it; empty where nothing was embedded.
    """

    documents_added: int = 0
    documents_changed: int = 0
    documents_unchanged: int = 0
    documents_deleted: int = 0
    documents_failed: int = 0
    chunks_embedded: int = 0
    chunks_reused: int = 0
    chunks_deleted: int = 0
    characters_embedded: int = 0
    tokens_embedded: int = 0
    tokens_truncated: int = 0
    seconds: float = 0.0
    files_skipped: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    model: str = ""
    device: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sync has come. Passed to the callback after each step.

    Attributes:
        documents: Documents looked at so far.
        documents_total: All documents of the source; None while it is not known.
        chunks_embedded: Chunks embedded so far.
        tokens_embedded: Tokens embedded so far.
        seconds: Since the start.
    """

    documents: int
    documents_total: int | None
    chunks_embedded: int
    tokens_embedded: int
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """What an index holds.

    Attributes:
        path: Where it is.
        version: The version that serves; empty before the first sync.
        documents: Documents that can be found.
        chunks: Their chunks.
        failures: Documents whose last sync failed.
        unfinished: Documents whose rewrite was interrupted; the next sync completes them.
        model: Name of the model that made the vectors.
        fingerprint: What identifies the space of these vectors.
        dimensions: Length of a vector.
        recipe: What is baked into the stored data.
        bytes: Size on disk.
    """

    path: str
    version: str = ""
    documents: int = 0
    chunks: int = 0
    failures: tuple[Failure, ...] = ()
    unfinished: int = 0
    model: str = ""
    fingerprint: str = ""
    dimensions: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)
