"""For tests of code that uses Tarragon: an encoder without a model, and a check for encoders of your own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput
from tarragon.types import FloatArray, IntArray

_WORD = re.compile(r"\w+|[^\w\s]")


class WordTokenizer:
    """Words and punctuation marks, each its own token; an id is a hash of the word."""

    sliceable = True

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """See `tarragon.protocols.Tokenizer`."""
        return [np.array([_word_id(word) for word in _WORD.findall(text)], dtype=np.int32) for text in texts]


class WordEncoder:
    """Vectors from the words of a text, without a model: texts that share words are near. Deterministic everywhere.

    Args:
        dimensions: Length of the vectors.
        max_tokens: Words beyond are not seen.
        salt: Another salt is another space, as another model would be.
    """

    name = "words"
    device = "cpu"

    def __init__(self, dimensions: int = 64, *, max_tokens: int = 256, salt: str = "") -> None:
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.tokenizer = WordTokenizer()
        self._salt = salt
        self.documents_encoded = 0

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return {
            "kind": "words",
            "salt": self._salt,
            "dimensions": str(self.dimensions),
            "max_tokens": str(self.max_tokens),
        }

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. Counts the texts in ``documents_encoded``."""
        self.documents_encoded += len(inputs)
        return self._encode([item.text for item in inputs])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encode([(prompt or "") + text for text in texts])

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        ids = self.tokenizer.tokenize(texts)
        rows = [self._vector(row[: self.max_tokens]) for row in ids]
        used = sum(min(len(row), self.max_tokens) for row in ids)
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), self.dimensions)
        return Embeddings(vectors, used, sum(len(row) for row in ids) - used)

    def _vector(self, ids: IntArray) -> FloatArray:
        total = np.full(self.dimensions, 1e-3)
        for id_ in ids.tolist():
            seed = blake2b(f"{self._salt}:{id_}".encode(), digest_size=8).digest()
            total += np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(self.dimensions)
        unit: FloatArray = (total / np.linalg.norm(total)).astype(np.float32)
        return unit


def _word_id(word: str) -> int:
    return int.from_bytes(blake2b(word.lower().encode("utf-8", "surrogatepass"), digest_size=4).digest(), "little") >> 1


def check_encoder(encoder: DenseEncoder, texts: Sequence[str] = ("one", "two words", "x " * 400, "日本語", "")) -> None:
    """Assert what the types of `DenseEncoder` cannot say; call it in a test of your own encoder.

    Shape, dtype and finiteness; the same row for the same text in any batch and order; counts; a stable identity.
    """
    inputs = [EncoderInput(text) for text in texts]
    together = encoder.encode_documents(inputs)
    vectors = together.vectors
    assert vectors.shape == (len(texts), encoder.dimensions), f"shape {vectors.shape}"
    assert vectors.dtype == np.float32, f"dtype {vectors.dtype}"
    assert np.isfinite(vectors).all(), "vectors hold NaN or infinity"
    assert together.tokens >= 0
    assert together.truncated >= 0
    backwards = encoder.encode_documents(inputs[::-1]).vectors[::-1]
    alone = np.concatenate([encoder.encode_documents([item]).vectors for item in inputs])
    for name, others in (("in another order", backwards), ("alone", alone)):
        worst = float(_cosines(vectors, others).min())
        assert worst >= 0.99999, f"a text encoded {name} gives another vector: cosine {worst:.6f}"
    assert encoder.encode_documents([]).vectors.shape == (0, encoder.dimensions)
    assert encoder.encode_queries(list(texts)).vectors.shape == vectors.shape
    assert dict(encoder.identity) == dict(encoder.identity)
    assert len(encoder.tokenizer.tokenize(list(texts))) == len(texts)
    assert encoder.max_tokens > 0


def _cosines(first: FloatArray, second: FloatArray) -> FloatArray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: FloatArray = (first * second).sum(axis=1) / norms
    return cosines
