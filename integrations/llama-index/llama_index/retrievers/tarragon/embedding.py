"""Embedding models across the border: Tarragon's in LlamaIndex, LlamaIndex's in Tarragon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.utils import get_tokenizer

from tarragon import IndexRecipe
from tarragon.encoders.loading import load_encoder
from tarragon.errors import EncodingFailed
from tarragon.identity import fingerprint
from tarragon.protocols import DenseEncoder, Embeddings, EncoderInput
from tarragon.types import FloatArray, IntArray

TELLS_ITSELF = "llama-index: "
"""Begins the name of an encoder that emits LlamaIndex's events itself."""

BATCH = 256
"""Texts in one call: the encoder sorts them by length, and makes its own batches of them."""


class SpaceEmbedding(list[float]):
    """An embedding that knows which space it is in.

    Attributes:
        fingerprint: Of the space: see `tarragon.identity.fingerprint`.
    """

    def __init__(self, values: Sequence[float], fingerprint: str) -> None:
        super().__init__(values)
        self.fingerprint = fingerprint

    def __reduce__(self) -> tuple[Any, ...]:
        return SpaceEmbedding, (list(self), self.fingerprint)


class TarragonEmbedding(BaseEmbedding):
    """An encoder of Tarragon as LlamaIndex's embedding model: any that docs/models.md tells of, or your own.

    Embeddings of queries say which space they are in, so that a `TarragonRetriever` of that space can use them.

    Args:
        model: As in `tarragon.IndexRecipe`. None: the bundled one.
        encoder: Your own, instead.
        device: Where it runs; None: the best there is.
        settings: Of `BaseEmbedding`.
    """

    _encoder: DenseEncoder = PrivateAttr()
    _fingerprint: str = PrivateAttr()

    def __init__(
        self,
        model: str | None = None,
        *,
        encoder: DenseEncoder | None = None,
        device: str | None = None,
        embed_batch_size: int = BATCH,
        **settings: Any,
    ) -> None:
        loaded = encoder or load_encoder(IndexRecipe(model=model), device)
        super().__init__(model_name=loaded.name, embed_batch_size=embed_batch_size, **settings)
        self._encoder, self._fingerprint = loaded, fingerprint(loaded.identity)

    @classmethod
    def class_name(cls) -> str:
        """For LlamaIndex's files."""
        return "TarragonEmbedding"

    @property
    def encoder(self) -> DenseEncoder:
        """What makes the vectors."""
        return self._encoder

    def get_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> SpaceEmbedding:
        """The mean of the queries' embeddings, in this space too."""
        return self._marked(super().get_agg_embedding_from_queries(queries, agg_fn))

    async def aget_agg_embedding_from_queries(self, queries: list[str], agg_fn: Any = None) -> SpaceEmbedding:
        """The mean of the queries' embeddings, in this space too."""
        return self._marked(await super().aget_agg_embedding_from_queries(queries, agg_fn))

    def _get_query_embedding(self, query: str) -> SpaceEmbedding:
        return self._marked(self._encoder.encode_queries([query]).vectors[0].tolist())

    async def _aget_query_embedding(self, query: str) -> SpaceEmbedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._encoder.encode_documents(
            [EncoderInput(text) for text in texts]
        ).vectors.tolist()
        return rows

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def _marked(self, values: Sequence[float]) -> SpaceEmbedding:
        return SpaceEmbedding(values, self._fingerprint)


class _Tokens:
    """Counts in the tokens of LlamaIndex's own settings, which are not the model's."""

    sliceable = False

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """See `tarragon.protocols.Tokenizer`."""
        tokens = get_tokenizer()
        return [np.fromiter(map(hash, tokens(text)), dtype=np.int64).astype(np.int32) for text in texts]


class EncoderOfEmbedding:
    """An embedding model of LlamaIndex as Tarragon's encoder; its vectors are brought to unit length.

    The weights cannot be seen from here: the model is known by class, name, instructions and dimensions, and the
    canaries tell when it changes under its name.

    Args:
        model: The embedding model.
        max_tokens: Most tokens that it takes, in the tokens of LlamaIndex's settings.
    """

    device = "llama-index"
    tokenizer = _Tokens()

    def __init__(self, model: BaseEmbedding, max_tokens: int = 8_192) -> None:
        self._model = model
        self.max_tokens = max_tokens
        self.name = f"{TELLS_ITSELF}{model.model_name}"

    @cached_property
    def dimensions(self) -> int:
        """See `tarragon.protocols.DenseEncoder`; found by embedding a word."""
        return len(self._model.get_text_embedding("dimensions"))

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        instruction = getattr(self._model, "text_instruction", None)
        return {
            "kind": "llama-index",
            "class": type(self._model).__name__,
            "model": self._model.model_name,
            "document prompt": str(instruction or ""),
            "dimensions": str(self.dimensions),
            "normalised": "unit",
        }

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        texts = [one.text for one in inputs]
        return self._made(self._model.get_text_embedding_batch(texts) if texts else [], texts)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._made([self._model.get_query_embedding(f"{prompt or ''}{text}") for text in texts], texts)

    def _made(self, rows: Sequence[Sequence[float]], texts: Sequence[str]) -> Embeddings:
        vectors = unit(np.array(rows, dtype=np.float32).reshape(len(texts), self.dimensions))
        return Embeddings(vectors, sum(len(ids) for ids in self.tokenizer.tokenize(texts)), 0)


def unit(vectors: FloatArray) -> FloatArray:
    """Rows of unit length; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    rows: FloatArray = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return rows


class KnownVectors:
    """An encoder that takes the vectors of some texts from those who have them.

    Args:
        encoder: For all other texts.
    """

    def __init__(self, encoder: DenseEncoder) -> None:
        self._encoder = encoder
        self.known: dict[str, FloatArray] = {}
        self.name, self.device = encoder.name, encoder.device
        self.max_tokens, self.tokenizer = encoder.max_tokens, encoder.tokenizer

    @property
    def dimensions(self) -> int:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encoder.dimensions

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encoder.identity

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        given = [self.known.get(one.text) for one in inputs]
        made = self._encoder.encode_documents([one for one, row in zip(inputs, given, strict=True) if row is None])
        rest = iter(made.vectors)
        rows = [next(rest) if row is None else row for row in given]
        if wrong := [row.shape for row in rows if row.shape != (self.dimensions,)]:
            raise EncodingFailed(f"{self.name} has {self.dimensions} dimensions, and a node's embedding {wrong[0][0]}")
        vectors = np.array(rows, dtype=np.float32).reshape(len(inputs), self.dimensions)
        return Embeddings(vectors, made.tokens, made.truncated)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encoder.encode_queries(texts, prompt)


def encoder_of(model: BaseEmbedding) -> DenseEncoder:
    """The encoder behind an embedding model, or one made of it."""
    return model.encoder if isinstance(model, TarragonEmbedding) else EncoderOfEmbedding(model)
