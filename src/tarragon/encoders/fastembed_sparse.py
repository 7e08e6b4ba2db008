"""Learned sparse encoder over fastembed: SPLADE in ONNX, without torch.

Found in fastembed 0.9: its BM25, BM42 and miniCOIL give weights without the words' rarity, which a store that counts
documents must add. They are refused: the lexical leg is BM25 already. Its SPLADE weighs special tokens too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from fastembed import SparseTextEmbedding

from tarragon.encoders.fastembed_side import FastembedModel
from tarragon.encoders.terms import MAX_TERMS, greatest_terms
from tarragon.errors import InvalidInput
from tarragon.protocols import SparseEmbeddings

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""


class FastembedSparseEncoder:
    """A fastembed ``SparseTextEmbedding`` as a `tarragon.protocols.SparseEncoder`.

    Args:
        model: A name that fastembed knows, or a local folder called like one.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where onnxruntime has it.
        max_terms: Terms that are kept of a text: those of the greatest weight.

    Raises:
        InvalidInput: ``max_terms`` is not positive.
        ModelNotFound: The model is unknown or cannot be loaded.
        DeviceUnavailable: The device is not there.
    """

    def __init__(self, model: str, *, device: str | None = None, max_terms: int = MAX_TERMS) -> None:
        if max_terms < 1:
            raise InvalidInput(f"max_terms={max_terms} must be at least 1")
        known = [entry["model"] for entry in SparseTextEmbedding.list_supported_models() if not entry["requires_idf"]]
        self._model = FastembedModel(SparseTextEmbedding, model, device, known)
        self.name, self.device, self.max_terms = model, self._model.device, max_terms

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector."""
        own = {"behaviour": str(BEHAVIOUR_REVISION), "max_terms": str(self.max_terms)}
        return {**self._model.identity("sparse"), **own}

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`."""
        return self._encode(texts, lambda batch: self._model.library.embed(batch, batch_size=len(batch)))

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`. An inference-free model only looks its words up."""
        return self._encode(texts, lambda batch: self._model.library.query_embed(batch))

    def _encode(self, texts: Sequence[str], embed: Callable[[list[str]], Iterable[Any]]) -> SparseEmbeddings:
        counted = self._model.count(texts)
        rows = self._model.run(texts, counted, embed)
        vectors = [greatest_terms(row.indices, row.values, self.max_terms) for row in rows]
        return SparseEmbeddings(vectors, counted.tokens, counted.truncated)
