"""``SentenceTransformer.encode``, the peer of the encoder, at its default and at its best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from tarragon.encoders.bundled import bundled_model_path
from tarragon.recipe import BUNDLED
from tarragon.types import FloatArray

DEFAULT_BATCH = 32
"""Of ``SentenceTransformer.encode``."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A model with a batch size.

    Attributes:
        dtype: ``float32`` or ``bfloat16``.
        batch_size: Texts in a batch.
        prompt: Put before each text.
    """

    model: Any = field(repr=False)
    dtype: str
    batch_size: int
    prompt: str = ""

    @property
    def name(self) -> str:
        """For tables."""
        return f"SentenceTransformer.encode, {self.dtype}, batch {self.batch_size}"

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Shape ``(texts, dimensions)``, unit length."""
        vectors: FloatArray = self.model.encode(
            list(texts),
            batch_size=self.batch_size,
            prompt=self.prompt or None,
            show_progress_bar=False,
            normalize_embeddings=True,
        )
        return vectors


def load_peers(model: str | None, device: str, batches: Sequence[int], prompt: str = "") -> list[Peer]:
    """The same weights as ours in each batch size; on CUDA in single precision, its default, and in bfloat16, ours."""
    path = str(bundled_model_path()) if model in (None, BUNDLED) else str(model)
    dtypes = ["float32", "bfloat16"] if device.startswith("cuda") else ["float32"]
    peers = []
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for dtype in dtypes:
        settings = {"use_safetensors": True, "dtype": getattr(torch, dtype)}
        loaded = SentenceTransformer(path, device=device, trust_remote_code=False, model_kwargs=settings)
        peers += [Peer(loaded, dtype, batch, prompt) for batch in batches]
    return peers


def default_peer(peers: Sequence[Peer]) -> Peer:
    """The one that ``encode`` is without options."""
    return next(peer for peer in peers if (peer.dtype, peer.batch_size) == ("float32", DEFAULT_BATCH))


def fastest_peer(peers: Sequence[Peer], texts: Sequence[str], repeats: int = 2) -> tuple[Peer, Mapping[str, float]]:
    """The fastest on these texts, and the texts per second of each: the best of the repeats, after a warm-up."""
    rates = {}
    for peer in peers:
        peer.encode(texts[: 2 * peer.batch_size])
        rates[peer.name] = max(_rate(peer, texts) for _ in range(repeats))
    return max(peers, key=lambda peer: rates[peer.name]), rates


def _rate(peer: Peer, texts: Sequence[str]) -> float:
    started = time.perf_counter()
    peer.encode(texts)
    return len(texts) / (time.perf_counter() - started)


def least_cosine(first: FloatArray, second: FloatArray) -> float:
    """The smallest cosine between rows of the same number."""
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (first, second))
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.min())


def required_cosine(device: str) -> float:
    """What two ways to run the same model must agree to: single precision, or bfloat16 on CUDA."""
    return 0.999 if device.startswith("cuda") else 0.99999
