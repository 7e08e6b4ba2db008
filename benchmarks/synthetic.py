"""Made-up vectors that lie as those of embedding models do, and an encoder that hands them out at once.

Such vectors fill their space unevenly. Here the variance along the i-th axis falls as a power of i, the texts of one
subject lie together, a few subjects have most of the texts, and all of them share an offset:

    x = unit(offset + centre(subject) + noise),   variances of centre and noise ~ i^-DECAY

A query is such a vector that was moved a little, so that the text it comes from is among its nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tarragon.protocols import Embeddings, EncoderInput, Tokenizer
from tarragon.types import FloatArray

DECAY = 1.1
"""Exponent of the variances."""

OFFSET, CENTRE, NOISE = 0.45, 0.65, 0.6
"""Lengths of the parts, on average."""

MOVED = 0.7
"""Length by which a query lies away from its text."""

SUBJECTS = 1_000
"""Of which the i-th has a share of texts that falls as 1 / (i + 10)."""


class Cloud:
    """Where such vectors come from.

    Args:
        dimensions: Their length.
        subjects: How many.
    """

    def __init__(self, dimensions: int, subjects: int = SUBJECTS) -> None:
        self.dimensions = dimensions
        random = np.random.default_rng(0)
        spectrum = np.arange(1, dimensions + 1, dtype=np.float64) ** (-DECAY / 2)
        axes, _ = np.linalg.qr(random.standard_normal((dimensions, dimensions)))
        self._turned = (axes * (spectrum / np.linalg.norm(spectrum))).T.astype(np.float32)
        self._offset = OFFSET * axes[:, 0].astype(np.float32)
        self._centres = CENTRE * self._drawn(random, subjects)
        shares = 1.0 / (np.arange(subjects) + 10)
        self._bounds = np.cumsum(shares / shares.sum())

    def members(self, count: int, seed: int = 1) -> FloatArray:
        """Unit vectors, shape ``(count, dimensions)``."""
        random = np.random.default_rng(seed)
        subjects = np.minimum(np.searchsorted(self._bounds, random.random(count)), len(self._centres) - 1)
        rows = np.empty((count, self.dimensions), dtype=np.float32)
        for start in range(0, count, 10_000):
            part = subjects[start : start + 10_000]
            noise = NOISE * self._drawn(random, len(part))
            rows[start : start + len(part)] = _unit(self._offset + self._centres[part] + noise)
        return rows

    def near(self, rows: FloatArray, seed: int = 2) -> FloatArray:
        """For each of these vectors a query."""
        return _unit(rows + MOVED * self._drawn(np.random.default_rng(seed), len(rows)))

    def _drawn(self, random: np.random.Generator, count: int) -> FloatArray:
        drawn: FloatArray = random.standard_normal((count, self.dimensions), dtype=np.float32) @ self._turned
        return drawn


def _unit(rows: NDArray[np.float32]) -> FloatArray:
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


class CloudEncoder:
    """Vectors of a `Cloud` by a hash of the text: quick, and without meaning.

    Args:
        tokenizer: Cuts the chunks.
        dimensions: Of the vectors.
        max_tokens: As a model would take.
    """

    name = "cloud"
    device = "cpu"

    def __init__(self, tokenizer: Tokenizer, dimensions: int = 384, max_tokens: int = 256) -> None:
        self.tokenizer = tokenizer
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self._cloud = Cloud(dimensions)
        self._known = self._cloud.members(1 << 15)

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return {"kind": "cloud", "dimensions": str(self.dimensions), "max_tokens": str(self.max_tokens)}

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encoded([item.text for item in inputs])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> Embeddings:
        """Each the mean of a made-up vector and a tenth of another, so that there are 2^30 of them."""
        seeds = [int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "little") for text in texts]
        first = np.array([seed & 0x7FFF for seed in seeds], dtype=np.int64)
        second = np.array([seed >> 17 for seed in seeds], dtype=np.int64)
        rows = self._known[first] + 0.3 * self._known[second] if texts else np.empty((0, self.dimensions), np.float32)
        return Embeddings(_unit(rows) if texts else rows, len(texts), 0)
