"""What makes vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tarragon.types import FloatArray, IntArray, SparseVector


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """A text to embed, with its token ids where they are known already."""

    text: str
    token_ids: IntArray | None = None


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What an encoder returns.

    Attributes:
        vectors: Shape ``(texts, dimensions)``, float32, in the order of the texts.
        tokens: Tokens the model was given, special tokens and prompts included, padding not.
        truncated: Tokens beyond the model's limit, which it did not see.
    """

    vectors: FloatArray
    tokens: int
    truncated: int


class Tokenizer(Protocol):
    """Counts in the units of an encoder."""

    @property
    def sliceable(self) -> bool:
        """Whether the ids of texts joined by white space are their ids, joined."""
        ...

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """The ids of each text, in order: untruncated, without special tokens, shape ``(tokens,)``."""
        ...


class Model(Protocol):
    """What every encoder says of itself."""

    @property
    def name(self) -> str:
        """For people; no part of the identity."""
        ...

    @property
    def device(self) -> str:
        """Where it really runs."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that changes a document's vectors, and nothing else: see `tarragon.identity.fingerprint`."""
        ...


class DenseEncoder(Model, Protocol):
    """Text → one vector.

    The same text gives the same row (cosine ≥ .99999) in any batch and any order.

    An encoder that does several things at a time may have an attribute ``windows``, a whole number: how many windows of
    text a call should hold to keep it busy. A sync then gathers up to that many, and at most 64. Without it: one.
    """

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens that a text may have without being truncated: special tokens and prompt are subtracted."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts in its tokens."""
        ...

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """One row per input. A row may hold NaN if the model gave NaN: the caller decides."""
        ...

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """One row per query. ``prompt`` replaces the model's own query prompt."""
        ...


@dataclass(frozen=True, slots=True)
class SparseEmbeddings:
    """What a sparse encoder returns.

    Attributes:
        vectors: One per text, in the order of the texts.
        tokens: As in `Embeddings`.
        truncated: As in `Embeddings`.
    """

    vectors: Sequence[SparseVector]
    tokens: int
    truncated: int


class SparseEncoder(Model, Protocol):
    """Text → weights of few terms out of many, such as SPLADE. Two texts are compared by the dot product."""

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        """One vector per text; a value may be NaN if the model gave NaN: the caller decides."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        """One vector per query."""
        ...


@dataclass(frozen=True, slots=True)
class LateEmbeddings:
    """What a late-interaction encoder returns.

    Attributes:
        vectors: One array per text, in the order of the texts, of shape ``(its tokens, dimensions)``, float32.
        tokens: As in `Embeddings`.
        truncated: As in `Embeddings`.
    """

    vectors: Sequence[FloatArray]
    tokens: int
    truncated: int


class LateEncoder(Model, Protocol):
    """Text → one vector a token, such as ColBERT. Two texts are compared by MaxSim: Σ over the query's tokens of the
    largest dot product with any of the document's.
    """  # noqa: D205

    @property
    def dimensions(self) -> int:
        """Length of each vector."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        """One array per text, of at least one row."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        """One array per query, of at least one row."""
        ...
