"""Texts end to end in one row of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from tarragon.types import IntArray


class Run(NamedTuple):
    """Neighbours of equal length: `texts` of `length` tokens each, from token `start` on."""

    start: int
    texts: int
    length: int

    def view(self, tokens: torch.Tensor) -> torch.Tensor:
        """Their part of a tensor over all tokens, shape ``(texts, length, ...)``, without a copy."""
        part = tokens[self.start : self.start + self.texts * self.length]
        return part.view(self.texts, self.length, *part.shape[1:])


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A batch of texts.

    Attributes:
        ids: Token ids of all texts, shape ``(tokens,)``, int32, on the model's device.
        types: Which part of a pair each token is from, shape ``(tokens,)``; None: all from the first.
        offsets: Where each text begins, and the end of the last, shape ``(texts + 1,)``, int32, on the device.
        lengths: Tokens of each text, on the host. Only texts at the end may have none.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    offsets: torch.Tensor
    lengths: tuple[int, ...]

    @property
    def segments(self) -> torch.Tensor:
        """The number of each token's text, shape ``(tokens,)``."""
        numbers = torch.arange(len(self.lengths), device=self.ids.device)
        return torch.repeat_interleave(numbers, self.offsets.diff(), output_size=len(self.ids))

    @property
    def positions(self) -> torch.Tensor:
        """The place of each token in its text, from 0, shape ``(tokens,)``."""
        places = torch.arange(len(self.ids), device=self.ids.device)
        return places if len(self.lengths) == 1 else places - self.offsets[self.segments]

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(self.lengths)

    def runs(self) -> Iterator[Run]:
        """Neighbours of equal length, in order."""
        start = 0
        for length, group in groupby(filter(None, self.lengths)):
            texts = sum(1 for _ in group)
            yield Run(start, texts, length)
            start += texts * length

    def first(self, states: torch.Tensor) -> torch.Tensor:
        """The state of each text's first token, shape ``(texts, ...)``."""
        return states[self.offsets[:-1]]

    def last(self, states: torch.Tensor) -> torch.Tensor:
        """The state of each text's last token, shape ``(texts, ...)``."""
        return states[self.offsets[1:] - 1]

    def mean(self, states: torch.Tensor) -> torch.Tensor:
        """The mean of each text's states, in single precision, shape ``(texts, dimensions)``."""
        if len(self.lengths) == 1:
            return states.float().mean(0, keepdim=True)
        sums = torch.zeros(len(self.lengths), states.shape[1], device=states.device, dtype=torch.float32)
        sums.index_add_(0, self.segments, states.float())
        return sums / self.offsets.diff().unsqueeze(1)


def pack(rows: Sequence[IntArray], device: str, types: Sequence[IntArray] | None = None) -> Packed:
    """Lay rows of ids end to end, in their order, and bring them to the device in one transfer.

    Args:
        rows: At least one, none of them empty.
        device: Of the model.
        types: Beside each row, which part of a pair its tokens are from.
    """
    lengths = tuple(map(len, rows))
    tokens, texts = sum(lengths), len(lengths)
    parts = [np.concatenate([[0], np.cumsum(lengths)]), *rows, *(types or ())]
    buffer = torch.empty(texts + 1 + tokens * (2 if types else 1), dtype=torch.int32, pin_memory=device[:4] == "cuda")
    np.concatenate(parts, out=buffer.numpy(), casting="unsafe")
    moved = buffer.to(device, non_blocking=True)
    offsets, ids, rest = moved[: texts + 1], moved[texts + 1 : texts + 1 + tokens], moved[texts + 1 + tokens :]
    return Packed(ids, rest if types else None, offsets, lengths)
