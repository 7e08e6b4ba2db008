"""Learned sparse encoder over any ``SparseEncoder`` of sentence-transformers: SPLADE, inference-free SPLADE, CSR.

The masked language model gives a number for each token and each word of the vocabulary: for BERT's vocabulary 122 KB a
token in float32. So batches are small, the greatest weights are taken where these numbers are, and only they leave the
device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from sentence_transformers import SparseEncoder

from tarragon.encoders.library import choose_device, similarity_of
from tarragon.encoders.side_model import SideModel, Task, load_library
from tarragon.encoders.terms import MAX_TERMS
from tarragon.encoders.token_batches import TOKEN_BUDGET, Rows
from tarragon.errors import InvalidInput
from tarragon.protocols import SparseEmbeddings
from tarragon.types import SparseVector

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

LOGIT_BYTES = {"cpu": 1 << 27, "cuda": 1 << 31, "mps": 1 << 29}
"""Bytes of a batch's numbers, tokens × vocabulary; pooling needs as much again. With BERT's vocabulary on four layers
of 384, 1,100 tokens a batch are as fast on a CPU core as 2,200 (900 tokens/s), with 400 instead of 650 MB beside the
model; the library's own ``splade_pooling_chunk_size`` is slower. CUDA and MPS: not measured."""


class SparseTransformerEncoder:
    """A sentence-transformers ``SparseEncoder`` as a `tarragon.protocols.SparseEncoder`.

    Args:
        model: Name on the model hub or local folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        max_terms: Terms that are kept of a text: those of the greatest weight; of equal weights at the limit, any.
        token_budget: Tokens in a batch, padding included. None: as many as `LOGIT_BYTES` allows.

    Raises:
        InvalidInput: ``max_terms`` is not positive.
        ModelNotFound: The model cannot be loaded, is no sparse one, or has weights that are no safetensors.
        DeviceUnavailable: The device that was asked for is not there.
    """

    def __init__(
        self, model: str, *, device: str | None = None, max_terms: int = MAX_TERMS, token_budget: int | None = None
    ) -> None:
        if max_terms < 1:
            raise InvalidInput(f"max_terms={max_terms} must be at least 1")
        self.name = model
        self.device = choose_device(device)
        self.max_terms = max_terms
        library = load_library(SparseEncoder, model, self.device)
        self._unit = similarity_of(library, model) == "cosine"
        self._model = SideModel(library, model, self.device, token_budget or _budget(library, self.device))

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector."""
        own = {"behaviour": str(BEHAVIOUR_REVISION), "max_terms": str(self.max_terms)}
        return {**self._model.identity("sparse"), **own, "normalisation": "unit" if self._unit else "none"}

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`."""
        return self._encode(texts, "document")

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`. An inference-free model only looks its words up."""
        return self._encode(texts, "query")

    def _encode(self, texts: Sequence[str], task: Task) -> SparseEmbeddings:
        vectors: dict[int, SparseVector] = {}

        def take(batch: Rows, output: dict[str, Any]) -> None:
            weights = output["sentence_embedding"].float()
            if self._unit:
                weights = torch.nn.functional.normalize(weights, p=2, dim=1)
            vectors.update(zip(batch.tolist(), top_terms(weights, self.max_terms), strict=True))

        counts = self._model.run(texts, task, take)
        return SparseEmbeddings([vectors[i] for i in range(len(texts))], counts.tokens, counts.truncated)


def top_terms(weights: torch.Tensor, limit: int) -> list[SparseVector]:
    """The greatest weights of each row, by magnitude as the library counts it, found on the device that they are on.

    Args:
        weights: Shape ``(texts, vocabulary)``. NaN counts as the greatest.
        limit: Terms in a row.
    """
    found = weights.abs().topk(min(limit, weights.shape[1]), dim=1, sorted=False).indices
    found = found.sort(dim=1).values
    kept = weights.gather(1, found)
    indices, values = found.to(torch.int32).cpu().numpy(), kept.cpu().numpy()
    return [SparseVector(row[value != 0], value[value != 0]) for row, value in zip(indices, values, strict=True)]


def _budget(library: Any, device: str) -> int:
    """Tokens whose numbers, one for each word of the vocabulary, fit into `LOGIT_BYTES`."""
    kind = device.split(":")[0]
    size = max(getattr(library.config, "vocab_size", 1), len(library.tokenizer))
    element = (library.dtype or torch.float32).itemsize
    return max(1, min(TOKEN_BUDGET[kind], LOGIT_BYTES[kind] // (size * element)))
