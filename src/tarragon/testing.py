"""For tests of code that uses Tarragon: encoders without a model, and a check for encoders of your own.

`WordEncoder` is a dense one, `SparseWordEncoder` a learned sparse one, `LateWordEncoder` one for late interaction. All
see the words of a text and nothing else, so that a test can say what is found: texts that share words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np

from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput, LateEmbeddings, SparseEmbeddings
from tarragon.types import FloatArray, IntArray, SparseVector

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


class SparseWordEncoder:
    """A learned sparse model's place without a model: a word weighs as often as it stands in the text.

    The score of two texts is the number of pairs of equal words. A text without words has an empty vector.

    Args:
        query_tokens: Words of a query beyond are not seen, but counted as truncated. Documents are seen whole.
    """

    name = "sparse words"
    device = "cpu"

    def __init__(self, *, query_tokens: int = 256) -> None:
        self._query_tokens = query_tokens

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.SparseEncoder`."""
        return {"kind": "sparse words"}

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`."""
        return self._encode(texts, None)

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`."""
        return self._encode(texts, self._query_tokens)

    def _encode(self, texts: Sequence[str], most: int | None) -> SparseEmbeddings:
        rows = WordTokenizer().tokenize(texts)
        seen = [row[:most] for row in rows]
        used = sum(map(len, seen))
        return SparseEmbeddings([_counts(row) for row in seen], used, sum(map(len, rows)) - used)


class LateWordEncoder:
    """A late-interaction model's place without a model: a vector a word, that which `WordEncoder` gives it alone.

    A text without words has one vector, as an empty text has.

    Args:
        dimensions: Length of the vectors.
    """

    name = "late words"
    device = "cpu"

    def __init__(self, dimensions: int = 16) -> None:
        self.dimensions = dimensions
        self._words = WordEncoder(dimensions)

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.LateEncoder`."""
        return {"kind": "late words", "dimensions": str(self.dimensions)}

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`."""
        made = [self._words.encode_queries(_WORD.findall(text) or [""]) for text in texts]
        return LateEmbeddings([one.vectors for one in made], sum(one.tokens for one in made), 0)

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`."""
        return self.encode_documents(texts)


def _counts(ids: IntArray) -> SparseVector:
    terms, counts = np.unique(ids, return_counts=True)
    return SparseVector(terms.astype(np.int32), counts.astype(np.float32))


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
