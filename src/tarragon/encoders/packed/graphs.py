"""Small batches on CUDA as one recorded graph instead of hundreds of launches.

A question of 16 tokens is 0.1 ms of arithmetic in a BERT and 240 launches of 5 µs or more. A graph is recorded once for
each size of batch, rounded up: what is left over are texts that nobody reads, so that every recorded batch is full.
Offsets and ids are read from the same places at each replay, so that the same graph serves any lengths.

Where recording fails, or a graph's first result is not the model's own, the model runs without graphs.

Written for CUDA and not yet run on one; the rounding is tested on the CPU, where nothing is recorded.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from tarragon.encoders.packed.choosing import Forward
from tarragon.encoders.packed.layout import Packed

TOKENS = (16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192)
"""Sizes that are recorded. Above them the arithmetic takes longer than the launches."""

TEXTS = (1, 8, 32, 128)
"""Most texts in a recorded batch, besides those that fill it."""

FILLER = 32
"""Tokens of a text that fills a batch: no model has fewer positions, and short ones cost attention little."""

WARM_UP = 2
"""Runs before recording, in which libraries choose their kernels."""

_log = logging.getLogger(__name__)


class Room(NamedTuple):
    """Size of a recorded batch: its tokens, and the texts that it has room for."""

    tokens: int
    texts: int

    @property
    def places(self) -> int:
        """Texts that it always has, with those that fill it and with empty ones."""
        return self.texts + -(-self.tokens // FILLER)


def room_for(packed: Packed) -> Room | None:
    """The least size that holds a batch; None: none does."""
    tokens = next((size for size in TOKENS if size >= len(packed.ids)), None)
    texts = next((size for size in TEXTS if size >= len(packed.lengths)), None)
    return Room(tokens, texts) if tokens is not None and texts is not None else None


def filled(packed: Packed, room: Room) -> Packed:
    """The batch with texts of what is left, and empty ones up to the room's number of places."""
    used = len(packed.ids)
    left = room.tokens - used
    ids = torch.nn.functional.pad(packed.ids, (0, left))
    types = None if packed.types is None else torch.nn.functional.pad(packed.types, (0, left))
    ends = [min(used + FILLER * (number + 1), room.tokens) for number in range(room.places - len(packed.lengths))]
    offsets = torch.cat([packed.offsets, packed.offsets.new_tensor(ends)])
    fillers = (end - begin for begin, end in pairwise([used, *ends]))
    return Packed(ids, types, offsets, (*packed.lengths, *fillers))


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: Any
    batch: Packed
    states: torch.Tensor


class Graphs:
    """A packed transformer that replays graphs for small batches. Thread-safe: one replay at a time.

    Args:
        forward: The transformer: batch → states, shape ``(tokens, hidden)``.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._recorded: dict[tuple[Room, bool], _Recorded] = {}
        self._lock = threading.Lock()
        self._works = True

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The same states, of the batch's own tokens."""
        room = room_for(packed)
        if room is None or not self._works:
            return self._forward(packed)
        key = room, packed.types is not None
        with self._lock:
            if key not in self._recorded and not self._record(key, filled(packed, room)):
                return self._forward(packed)
            recorded = self._recorded[key]
            _copy(filled(packed, room), recorded.batch)
            recorded.graph.replay()
            return recorded.states[: len(packed.ids)].clone()

    def _record(self, key: tuple[Room, bool], batch: Packed) -> bool:
        """Record this size on a batch of it; False, and never again, where that does not work."""
        room, _ = key
        # any lengths may come later, so the longest that there can be bounds them all
        fixed = Packed(
            batch.ids.clone(),
            None if batch.types is None else batch.types.clone(),
            batch.offsets.clone(),
            (room.tokens, *(0,) * (room.places - 1)),
        )
        try:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    expected = self._forward(fixed)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                states = self._forward(fixed)
            graph.replay()
            torch.cuda.synchronize()
            if not torch.allclose(states.float(), expected.float(), rtol=1e-2, atol=1e-2):
                raise RuntimeError("a replay gives other states than the model")
        except (RuntimeError, ValueError) as reason:
            self._works = False
            _log.warning("runs without CUDA graphs: %s", reason)
            return False
        self._recorded[key] = _Recorded(graph, fixed, states)
        return True


def _copy(source: Packed, target: Packed) -> None:
    target.ids.copy_(source.ids)
    target.offsets.copy_(source.offsets)
    if target.types is not None and source.types is not None:
        target.types.copy_(source.types)
