"""How the texts of one call are spread over several encoders, and their rows put back in order. No I/O, no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tarragon.protocols import Embeddings, EncoderInput

BLOCKS_EACH = 8
"""Blocks for each encoder in a call: the last ones end within an eighth of its share of each other. Not measured on
GPUs."""

LEAST_TOKENS = 1_024
"""Fewer in a block cost more to hand over than they even out: half a batch on the CPU (``TOKEN_BUDGET``)."""

CHARACTERS_A_TOKEN = 4
"""Where a text comes without its ids, an estimate is enough: it decides who gets it, not what it becomes."""

Rows = NDArray[np.int64]
"""Which texts, by their place in the call."""


def blocks_of(inputs: Sequence[EncoderInput], encoders: int) -> list[Rows]:
    """Which texts go together: neighbours in length, longest first, of about the same number of tokens.

    Whoever is free takes the next one, so that the short blocks at the end let all finish together. Every text is in
    exactly one block. Texts of the same length keep their order.
    """
    lengths = np.array([_length(item) for item in inputs], dtype=np.int64)
    target = max(LEAST_TOKENS, int(lengths.sum()) // (encoders * BLOCKS_EACH))
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    numbers = (ends - lengths[order]) // target
    cuts = np.flatnonzero(np.diff(numbers)) + 1
    return [block for block in np.split(order, cuts) if len(block)]


def gathered(parts: Iterable[tuple[Rows, Embeddings]], count: int, dimensions: int) -> Embeddings:
    """One result of the blocks', in whatever order they come; the rows in the order of the call's ``count`` texts."""
    vectors = np.empty((count, dimensions), dtype=np.float32)
    tokens = truncated = 0
    for rows, part in parts:
        vectors[rows] = part.vectors
        tokens += part.tokens
        truncated += part.truncated
    return Embeddings(vectors, tokens, truncated)


def _length(item: EncoderInput) -> int:
    """Tokens; at least one, so that empty texts count too."""
    known = len(item.text) // CHARACTERS_A_TOKEN if item.token_ids is None else len(item.token_ids)
    return max(1, known)
