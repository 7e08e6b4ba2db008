"""Texts of many lengths, run in batches that a device can hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tarragon.encoders.heap import release_free_memory
from tarragon.errors import EncodingFailed
from tarragon.types import IntArray

TOKEN_BUDGET = {"cpu": 2_048, "cuda": 65_536, "mps": 8_192}
"""Tokens in a batch. CPU: best of 512 to 16,384 for MiniLM on two cores (``benchmarks.encoder --sweep``). CUDA: from
the launch cost against the arithmetic of a small model; not measured. MPS: a guess between the two, not measured."""

WIDTH_STEP = 8
"""Batches are padded to a multiple of this, so that they come in few shapes, for each of which torch prepares anew."""

RELEASE_EVERY = 4
"""Batches on the CPU between giving freed memory back."""

Rows = NDArray[np.int64]
"""Which texts, by their place in the call; or one number for each of them."""

_log = logging.getLogger(__name__)


class TokenBatches:
    """Sorts texts by their true length and batches them under a token budget.

    Args:
        device: Where the batches run.
        budget: Tokens in a batch. Halved for good when the device runs out of memory.
        limit: Most tokens in a text.

    Attributes:
        padded: Whether padding counts; to be set to False where batches are run without.
    """

    def __init__(self, device: str, budget: int, limit: int) -> None:
        self._device = device
        self._budget = budget
        self._limit = limit
        self.padded = True

    def run(self, lengths: Rows, forward: Callable[[Rows], None]) -> None:
        """Call ``forward`` with the texts of each batch.

        Raises:
            EncodingFailed: The device has too little memory for a single text.
        """
        for number, batch in enumerate(self._batches(lengths), start=1):
            self._run_halving(forward, batch)
            if self._device == "cpu" and number % RELEASE_EVERY == 0:
                release_free_memory()

    def width(self, length: int) -> int:
        """Padded length of a batch whose longest text is ``length``: rounded up, so that there are few shapes."""
        return min(-(-max(1, length) // WIDTH_STEP) * WIDTH_STEP, self._limit)

    def _batches(self, lengths: Rows) -> Iterator[Rows]:
        """Longest first, so that memory peaks at once; each batch within the budget, or one text."""
        order = np.argsort(-lengths, kind="stable")
        ends = np.cumsum(lengths[order])
        start = 0
        while start < len(order):
            if self.padded:
                size = self._budget // self.width(int(lengths[order[start]]))
            else:
                before = ends[start] - lengths[order[start]]
                size = int(np.searchsorted(ends, before + self._budget, side="right")) - start
            yield order[start : start + max(1, size)]
            start += max(1, size)

    def _run_halving(self, forward: Callable[[Rows], None], batch: Rows) -> None:
        try:
            forward(batch)
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncodingFailed(f"{self._device} has too little memory for a single text: {error}") from error
        if self._device.startswith("cuda"):
            torch.cuda.empty_cache()
        self._budget = max(1, self._budget // 2)
        _log.warning("out of memory on %s: continuing with %d tokens a batch", self._device, self._budget)
        middle = len(batch) // 2
        self._run_halving(forward, batch[:middle])
        self._run_halving(forward, batch[middle:])


def usable_positions(config: Any) -> int | None:
    """Most tokens that a transformer has positions for: RoBERTa and its kin leave the first ones out. None: any."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions and "roberta" in str(getattr(config, "model_type", "")):
        positions -= config.pad_token_id + 1
    return positions


def cut_row(row: IntArray, width: int, tail: int) -> IntArray:
    """A row of ids that is too long, without what is before its last ``tail`` ids and beyond the width."""
    return row if len(row) <= width else np.concatenate([row[: width - tail], row[len(row) - tail :]])


def pad_rows(rows: Sequence[IntArray], width: int, *, pad: int, tail: int, left: bool = False) -> tuple[Rows, Rows]:
    """Ids and attention mask, each of shape ``(rows, width)``; a longer row is cut before its last ``tail`` ids."""
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        row = cut_row(row, width, tail)
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had too little memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in ("out of memory", "not enough memory", "can't allocate memory"))
