"""Small batches on CUDA as one recorded graph instead of hundreds of launches.

A question of 16 tokens is 0.1 ms of arithmetic in a BERT and 240 launches of 5 µs or more. A graph is recorded once for
each size of batch, rounded up: what is left over are texts that nobody reads, so that every recorded batch is full.
Offsets and ids are read from the same places at each replay, so that the same graph serves any lengths.

In half precision only, since only there attention is one call that reads the lengths of the texts on the device. Where
recording fails, or a replay is not what the model itself gives, the model runs without graphs.

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

_RECORDING = threading.Lock()
"""A process records one graph at a time."""

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
        self._pool: Any = None
        self._works = True

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The same states, of the batch's own tokens."""
        room = room_for(packed)
        if room is None or not self._works:
            return self._forward(packed)
        key = room, packed.types is not None
        with self._lock, torch.cuda.device(packed.ids.device):
            if key not in self._recorded:
                return self._recording(key, packed)
            return self._replayed(self._recorded[key], packed, room)

    def _replayed(self, recorded: _Recorded, packed: Packed, room: Room) -> torch.Tensor:
        _copy(filled(packed, room), recorded.batch)
        recorded.graph.replay()
        return recorded.states[: len(packed.ids)].clone()

    def _recording(self, key: tuple[Room, bool], packed: Packed) -> torch.Tensor:
        """The batch by the model itself; and this size recorded, if a replay gives the same."""
        states = self._forward(packed)
        if states.dtype not in (torch.bfloat16, torch.float16):
            self._works = False
            return states
        room, _ = key
        try:
            with _RECORDING:
                recorded = self._record(room, filled(packed, room))
            # on other ids than it was recorded with, or a graph that holds nothing would pass
            again = self._replayed(recorded, packed, room)
            if not torch.allclose(again.float(), states.float(), rtol=1e-2, atol=1e-2):
                raise RuntimeError("a replay gives other states than the model")
            self._recorded[key] = recorded
        except (RuntimeError, TypeError, ValueError) as reason:
            self._works = False
            _log.warning("runs without CUDA graphs: %s", reason)
        return states

    def _record(self, room: Room, batch: Packed) -> _Recorded:
        # any lengths may come later, so the longest that there can be bounds them all
        fixed = Packed(
            torch.ones_like(batch.ids),
            None if batch.types is None else batch.types.clone(),
            batch.offsets.clone(),
            (room.tokens, *(0,) * (room.places - 1)),
        )
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._forward(fixed)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile, and replays take turns, so that all sizes can share their memory
        with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
            states = self._forward(fixed)
        self._pool = graph.pool()
        return _Recorded(graph, fixed, states)


def _copy(source: Packed, target: Packed) -> None:
    target.ids.copy_(source.ids)
    target.offsets.copy_(source.offsets)
    if target.types is not None and source.types is not None:
        target.types.copy_(source.types)
