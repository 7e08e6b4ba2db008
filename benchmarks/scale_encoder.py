"""An encoder without a model for `benchmarks.scale`: vectors from a hash of the text, spread as real ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
from tokenizers import Tokenizer

from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.tokens import FastTokenizer
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.types import FloatArray

OFFSET, DECAY = 8, 1.3
"""Variance along the k-th axis, as (k + OFFSET) ** -DECAY. MiniLM-L6 on 2,500 chunks of AWS documentation: shares of
.053, .021, .0078 and .0016 at k = 1, 8, 32 and 128; this gives .048, .023, .0069 and .0014."""

MEAN, CENTRE, OWN = 0.445, 0.663, 0.6
"""Lengths of a row's parts, which make 1 together. Measured on the same: the mean has length .445, two chunks a median
cosine of .20; the nearest of 2,500 has .82, the tenth .60, and here rows of one cluster have .64."""

CLUSTERS = 2_000

QUERY_NOISE = 1.1
"""Makes a cosine of .67 between a question and its passage."""


class SpectrumEncoder:
    """Same text, same row, on every machine; nothing is learnt about what the text means.

    A row is the mean of the space, a cluster's centre and a part of its own, each drawn from a normal distribution
    whose variance falls along the axes by a power law; then the axes are turned, and the row gets unit length. The
    tokenizer is the bundled model's, so that chunks are cut as they would be for it.

    Args:
        dimensions: Length of the vectors.
    """

    name = "synthetic spectrum"
    device = "cpu"
    max_tokens = 254

    def __init__(self, dimensions: int = 384) -> None:
        self.dimensions = dimensions
        self.tokenizer = FastTokenizer(Tokenizer.from_file(str(bundled_model_path() / "tokenizer.json")))
        chance = np.random.default_rng(0)
        scales = (np.arange(1, dimensions + 1) + OFFSET) ** (-DECAY / 2)
        self._scales = (scales / np.linalg.norm(scales)).astype(np.float32)
        self._axes = np.linalg.qr(chance.standard_normal((dimensions, dimensions)))[0].astype(np.float32)
        self._centres = chance.standard_normal((CLUSTERS, dimensions), dtype=np.float32)
        self._mean = _unit(chance.standard_normal((1, dimensions), dtype=np.float32))

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return {"kind": "synthetic spectrum", "dimensions": str(self.dimensions), "revision": "1"}

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        tokens = sum(len(item.text) // 4 if item.token_ids is None else len(item.token_ids) for item in inputs)
        return Embeddings(self._rows([item.text for item in inputs]), tokens, 0)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return Embeddings(self._rows(list(texts)), 0, 0)

    def near(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of questions that these passages answer: about as near to theirs as real ones are."""
        noise = self._drawn([_seed(f"question {text}") for text in texts]) * self._scales
        return _unit(self._rows(texts) + QUERY_NOISE * (noise @ self._axes))

    def _rows(self, texts: Sequence[str]) -> FloatArray:
        seeds = [_seed(text) for text in texts]
        centres = self._centres[[seed % CLUSTERS for seed in seeds]]
        spread = (CENTRE * centres + OWN * self._drawn(seeds)) * self._scales
        return _unit(spread @ self._axes + MEAN * self._mean)

    def _drawn(self, seeds: Sequence[int]) -> FloatArray:
        rows = np.empty((len(seeds), self.dimensions), dtype=np.float32)
        for row, seed in zip(rows, seeds, strict=True):
            np.random.default_rng(seed).standard_normal(out=row, dtype=np.float32)
        return rows


def _seed(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit
