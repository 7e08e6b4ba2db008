"""Late-interaction encoder over any ``MultiVectorEncoder`` of sentence-transformers: ColBERT and its kin.

Which tokens count is the model's own business, in its modules: prefix tokens as prompts, query expansion by ``[MASK]``,
punctuation that is skipped in documents, pooling of tokens. Here each vector is brought to unit length, which changes
nothing in a model that does it itself but the rounding of bf16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder

from tarragon.encoders.library import choose_device
from tarragon.encoders.side_model import SideModel, Task, load_library
from tarragon.encoders.token_batches import Rows
from tarragon.errors import ModelNotFound
from tarragon.protocols import LateEmbeddings
from tarragon.types import FloatArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""


class LateTransformerEncoder:
    """A sentence-transformers ``MultiVectorEncoder`` as a `tarragon.protocols.LateEncoder`.

    Args:
        model: Name on the model hub or local folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        token_budget: Tokens in a batch, padding included. Halved for good when the device runs out of memory.

    Raises:
        ModelNotFound: The model cannot be loaded, is no late-interaction one, or has weights that are no safetensors.
        DeviceUnavailable: The device that was asked for is not there.
    """

    def __init__(self, model: str, *, device: str | None = None, token_budget: int | None = None) -> None:
        self.name = model
        self.device = choose_device(device)
        library = load_library(MultiVectorEncoder, model, self.device)
        dimensions = library.get_embedding_dimension()
        if dimensions is None:
            raise ModelNotFound(f"{model} does not say how long its vectors are")
        self.dimensions = int(dimensions)
        self._model = SideModel(library, model, self.device, token_budget)

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vectors."""
        own = {"behaviour": str(BEHAVIOUR_REVISION), "dimensions": str(self.dimensions), "normalisation": "unit"}
        return {**self._model.identity("late"), **own}

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`. A text without any token that counts gets one vector of zeros."""
        return self._encode(texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`. A text without any token that counts gets one vector of zeros."""
        return self._encode(texts, "query")

    def _encode(self, texts: Sequence[str], task: Task) -> LateEmbeddings:
        vectors: dict[int, FloatArray] = {}

        def take(batch: Rows, output: dict[str, Any]) -> None:
            rows = token_vectors(output["token_embeddings"], output["attention_mask"])
            vectors.update(zip(batch.tolist(), rows, strict=True))

        counts = self._model.run(texts, task, take)
        return LateEmbeddings([vectors[i] for i in range(len(texts))], counts.tokens, counts.truncated)


def token_vectors(states: torch.Tensor, mask: torch.Tensor) -> list[FloatArray]:
    """Unit vectors of the tokens that count; only these leave the device, in one copy.

    Args:
        states: Shape ``(texts, tokens, dimensions)``.
        mask: Shape ``(texts, tokens)``; not 0 where a token counts.

    Returns:
        An array a text, of shape ``(its tokens, dimensions)``; where none counts, one vector of zeros.
    """
    keep = mask.bool()
    flat = torch.nn.functional.normalize(states[keep].float(), p=2, dim=1).cpu().numpy()
    ends = np.cumsum(keep.sum(dim=1).cpu().numpy())
    none = np.zeros((1, states.shape[2]), dtype=np.float32)
    # copies, so that a caller who keeps one text does not keep its whole batch
    return [part.copy() if len(part) else none.copy() for part in np.split(flat, ends[:-1])]
