"""Encoders around an encoder: one counts what it is asked for, the other also runs the model once for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput, Tokenizer
from tarragon.types import FloatArray


class CountingEncoder:
    """Another encoder, with note taken of the documents' texts.

    Args:
        inner: Makes the vectors.

    Attributes:
        asked: The texts of documents asked for since `forget`, in order.
    """

    def __init__(self, inner: DenseEncoder) -> None:
        self._inner = inner
        self.asked: list[str] = []

    def forget(self) -> None:
        """Begin to count anew."""
        self.asked = []

    @property
    def name(self) -> str:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.name

    @property
    def device(self) -> str:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.device

    @property
    def dimensions(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.dimensions

    @property
    def max_tokens(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.tokenizer

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.identity

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        self.asked += [item.text for item in inputs]
        return self._inner.encode_documents(inputs)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._inner.encode_queries(texts, prompt)


class MemoisedEncoder(CountingEncoder):
    """Keeps all vectors in memory, so that a build that is made only to be compared with costs no second run.

    Tokens are counted for the texts that the model really ran on.

    Args:
        inner: Makes the vectors.
    """

    def __init__(self, inner: DenseEncoder) -> None:
        super().__init__(inner)
        self._documents: dict[str, FloatArray] = {}
        self._queries: dict[tuple[str, str | None], FloatArray] = {}

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        missing = list({item.text: item for item in inputs if item.text not in self._documents}.values())
        made = self._inner.encode_documents(missing)
        self.asked += [item.text for item in inputs]
        self._documents |= zip((item.text for item in missing), made.vectors, strict=True)
        rows = [self._documents[item.text] for item in inputs]
        return Embeddings(self._stacked(rows), made.tokens, made.truncated)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        missing = [text for text in dict.fromkeys(texts) if (text, prompt) not in self._queries]
        made = self._inner.encode_queries(missing, prompt)
        self._queries |= zip(((text, prompt) for text in missing), made.vectors, strict=True)
        rows = [self._queries[text, prompt] for text in texts]
        return Embeddings(self._stacked(rows), made.tokens, made.truncated)

    def _stacked(self, rows: Sequence[FloatArray]) -> FloatArray:
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.dimensions)
