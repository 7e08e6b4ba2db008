"""What makes vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tarragon.types import FloatArray, IntArray


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


class DenseEncoder(Protocol):
    """Text → one vector.

    The same text gives the same row (cosine ≥ .99999) in any batch and any order.
    """

    @property
    def name(self) -> str:
        """For people; no part of the identity."""
        ...

    @property
    def device(self) -> str:
        """Where it really runs."""
        ...

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

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything that changes a document's vector, and nothing else: see `tarragon.identity.fingerprint`."""
        ...

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """One row per input. A row may hold NaN if the model gave NaN: the caller decides."""
        ...

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """One row per query. ``prompt`` replaces the model's own query prompt."""
        ...
