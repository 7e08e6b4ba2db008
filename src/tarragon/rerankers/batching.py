"""Which passages go to a model together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH_STEP = 8
"""Batches are padded to a multiple of this, so that they come in few shapes, for each of which torch prepares anew."""

CHARACTERS_PER_TOKEN = 4
"""Of English text in word pieces; only to make groups of about the right size."""

FIRST_SHARE = 8
"""The first group before a deadline is this part of a batch, each one after it twice the one before, up to a batch:
so a model too slow for the time given ends late by about the time it has taken."""


def never() -> bool:
    """Time is not over: what a reranker takes for ``is_over`` by default, and then need not go best first."""
    return False


def remaining(is_over: Callable[[], bool]) -> float:
    """Seconds left, where ``is_over`` can tell, as `tarragon.reranking.Deadline` can; else infinity."""
    tell = getattr(is_over, "remaining", None)
    return math.inf if tell is None else float(tell())


def groups(passages: Sequence[str], budget: int, is_over: Callable[[], bool]) -> Iterator[range]:
    """Consecutive passages, asking before each group whether time is over.

    Args:
        passages: The best first.
        budget: Tokens in a batch.
        is_over: `never` gives one group of all, which is fastest; anything else small ones.
    """
    if is_over is never:
        yield range(len(passages))
        return
    start, size = 0, budget // FIRST_SHARE
    while start < len(passages) and not is_over():
        end, tokens = start, 0
        while end < len(passages) and (end == start or tokens < size):
            tokens += len(passages[end]) // CHARACTERS_PER_TOKEN + 1
            end += 1
        yield range(start, end)
        start, size = end, min(2 * size, budget)


def batches(lengths: Sequence[int], budget: int, limit: int) -> Iterator[NDArray[np.int64]]:
    """Positions, longest first, so that memory peaks at once; each batch padded within the budget, or one passage."""
    measured = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-measured, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // padded(int(measured[order[start]]), limit))
        yield order[start : start + size]
        start += size


def padded(length: int, limit: int) -> int:
    """The width of a batch whose longest row is so long."""
    return min(-(-max(1, length) // WIDTH_STEP) * WIDTH_STEP, max(limit, length))
