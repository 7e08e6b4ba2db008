"""Late-interaction encoder over fastembed: ColBERT in ONNX, without torch.

Found in fastembed 0.9: ColBERT's query vectors come as the network gives them, its document vectors at unit length;
here both have unit length, as in the paper (arXiv 2004.12832). Queries are run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from fastembed import LateInteractionTextEmbedding

from tarragon.encoders.fastembed_side import FastembedModel
from tarragon.protocols import LateEmbeddings
from tarragon.types import FloatArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""


class FastembedLateEncoder:
    """A fastembed ``LateInteractionTextEmbedding`` as a `tarragon.protocols.LateEncoder`.

    Args:
        model: A name that fastembed knows, or a local folder called like one.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where onnxruntime has it.

    Raises:
        ModelNotFound: The model is unknown or cannot be loaded.
        DeviceUnavailable: The device is not there.
    """

    def __init__(self, model: str, *, device: str | None = None) -> None:
        known = [entry["model"] for entry in LateInteractionTextEmbedding.list_supported_models()]
        self._model = FastembedModel(LateInteractionTextEmbedding, model, device, known)
        self.name, self.device = model, self._model.device
        # asked of the network itself: a folder may hold another width than fastembed's list says
        self.dimensions = int(next(iter(self._model.library.query_embed("a"))).shape[1])

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vectors."""
        own = {"behaviour": str(BEHAVIOUR_REVISION), "dimensions": str(self.dimensions), "normalisation": "unit"}
        return {**self._model.identity("late"), **own}

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`. Punctuation is left out."""
        return self._encode(texts, lambda batch: self._model.library.embed(batch, batch_size=len(batch)))

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`. Short queries are filled up with mask tokens, which count too."""
        return self._encode(texts, self._model.library.query_embed)

    def _encode(self, texts: Sequence[str], embed: Callable[[list[str]], Iterable[Any]]) -> LateEmbeddings:
        counted = self._model.count(texts)
        vectors = [_unit(rows) for rows in self._model.run(texts, counted, embed)]
        # fastembed puts a marker token in front of each text, after counting its limit
        return LateEmbeddings(vectors, counted.tokens + len(texts), counted.truncated)


def _unit(rows: Any) -> FloatArray:
    """Each row at unit length, a row of zeros as it is; at least one row."""
    vectors = np.asarray(rows, dtype=np.float32)
    if not len(vectors):
        return np.zeros((1, vectors.shape[1]), dtype=np.float32)
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return unit
