"""Vectors of query texts: made once, kept for a while, and for callers at the same time in one run of the model."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np

from tarragon.errors import EncodingFailed, InvalidInput
from tarragon.types import FloatArray, SparseVector

ENTRIES = 4_096
"""Vectors that are kept: 16 MB of 1,024 dimensions, or 64 MB of 32 tokens of 128 each."""

TTL = 3_600.0
"""Seconds that a vector is kept."""

MOST_TEXTS = 64
"""In one run of the model: a caller waits for the run before its own, and that must not become long."""

_PATIENCE = 1.0
"""Seconds after which a waiting caller looks for itself, in case the one that led was stopped before it could tell."""

V = TypeVar("V", bound="FloatArray | SparseVector")


@dataclass(frozen=True, slots=True)
class SpaceKey:
    """Which vectors are asked for. Those of two keys are never made in one run, nor wait for each other.

    Attributes:
        fingerprint: Of the model.
        role: What it makes: ``dense``, ``sparse``, ``late``.
        prompt: That replaces the model's own query prompt; None: its own.
    """

    fingerprint: str
    role: str = "dense"
    prompt: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Encoded(Generic[V]):
    """What a run of a model gives: ``Encoded(list(e.vectors), e.truncated)`` of any encoder's embeddings.

    Attributes:
        vectors: One per text, in the order of the texts.
        truncated: Tokens of all texts together that the model did not see.
    """

    vectors: Sequence[V]
    truncated: int = 0


Encode = Callable[[Sequence[str]], Encoded[V]]


@dataclass(frozen=True, slots=True, eq=False)
class QueryVector(Generic[V]):
    """The vector of one text.

    Attributes:
        vector: Its arrays are read-only views, shared by all who ask.
        truncated: Tokens of this text that the model did not see.
        cached: Whether it was there already.
    """

    vector: V
    truncated: int
    cached: bool = False


@dataclass(frozen=True, slots=True)
class QueryCounts:
    """What `QueryVectors` has done: texts whose vectors were there already, texts whose vectors were not, texts given
    to models, runs of models; and how many vectors are kept now.
    """  # noqa: D205

    hits: int
    misses: int
    embedded: int
    batches: int
    entries: int


_Kept = OrderedDict[tuple[SpaceKey, str], tuple[float, QueryVector[Any]]]


@dataclass(slots=True, eq=False)
class _Slot:
    """A text that so many callers wait for; failed: a run of several texts failed, each caller tries its own."""

    text: str
    turn: tuple[int, int]
    callers: int = 0
    made: QueryVector[Any] | None = None
    failed: bool = False


@dataclass(slots=True, eq=False)
class _Lane:
    """The texts of one key that are not done. All of it is guarded by the lock of `QueryVectors`.

    Attributes:
        key: Of the texts.
        kept: Where the vectors go.
        slots: By text. What a leader did not finish, for whatever reason, is simply still here for the next one.
        leader: Of the run that is going on: an object of that caller's own. None: whoever comes may lead.
        bells: One locked lock for each who waits; released when the run is over.
        batches: Runs so far.
    """

    key: SpaceKey
    kept: _Kept
    slots: dict[str, _Slot] = field(default_factory=dict)
    leader: object | None = None
    bells: list[threading.Lock] = field(default_factory=list)
    batches: int = 0

    def join(self, texts: Sequence[str], most: int) -> list[_Slot]:
        """The slots of a caller's texts.

        A text's turn is the run that it would be in if its caller were alone, so that one who asks for a thousand does
        not keep another with one waiting for them all.
        """
        joined = []
        for place, text in enumerate(texts):
            turn = self.batches + place // most, place % most
            slot = self.slots.setdefault(text, _Slot(text, turn))
            slot.turn, slot.callers = min(slot.turn, turn), slot.callers + 1
            joined.append(slot)
        return joined

    def leave(self, slots: Sequence[_Slot]) -> None:
        """Forget what nobody waits for any more."""
        for slot in slots:
            slot.callers -= 1
            if not slot.callers and self.slots.get(slot.text) is slot:
                del self.slots[slot.text]

    def finish(self, text: str, made: QueryVector[Any] | None) -> None:
        """Hand a text's vector to those who wait for it; None: tell them that the run failed."""
        if slot := self.slots.pop(text, None):
            slot.made, slot.failed = made, made is None


class QueryVectors:
    """Vectors of query texts, from a cache or from one run of the model for all who ask at the same time.

    While the model is idle a caller runs it at once. Who comes while it is busy waits, and when it is free one of them
    takes the waiting texts of the same key and hands out the results: the busier the model, the larger its batches. No
    thread of its own, and no delay to gather a batch. Safe to use from any number of threads.

    Args:
        entries: Vectors kept; the least recently used go first. 0: none, callers still share runs.
        ttl: Seconds that a vector is kept. None: for ever.
        most_texts: In one run.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        entries: int = ENTRIES,
        ttl: float | None = TTL,
        *,
        most_texts: int = MOST_TEXTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if entries < 0:
            raise InvalidInput(f"entries={entries} must not be negative; 0 keeps no vectors", entries=entries)
        if ttl is not None and not ttl > 0:
            raise InvalidInput(f"ttl={ttl} must be positive; None keeps vectors for ever", ttl=ttl)
        if most_texts < 1:
            raise InvalidInput(f"most_texts={most_texts} must be at least 1", most_texts=most_texts)
        self._most_entries, self._ttl, self._most_texts, self._clock = entries, ttl, most_texts, clock
        self._lock = threading.Lock()
        self._kept: _Kept = OrderedDict()
        self._lanes: dict[SpaceKey, _Lane] = {}
        self._hits = self._misses = self._embedded = self._batches = 0

    def vectors(self, key: SpaceKey, texts: Sequence[str], encode: Encode[V]) -> list[QueryVector[V]]:
        """One per text, in order. A text that is asked for twice is embedded once.

        Args:
            key: What decides a text's vector, beside the text.
            texts: Query texts.
            encode: Runs the model on some of the texts and, for others who wait, on theirs. It must depend on nothing
                but the key, and not ask for vectors of this key itself.

        Raises:
            EncodingFailed: The model gave another number of vectors than texts, or NaN or infinity.
            Exception: Whatever ``encode`` raises. If it fails on texts of several callers, each of them tries its own
                again, all at the same time, so that a text that no model takes fails only who asked for it.
        """
        with self._lock:
            found = self._known(key, texts)
            if missing := [text for text in dict.fromkeys(texts) if text not in found]:
                lane = self._lanes.setdefault(key, _Lane(key, self._kept))
                slots = lane.join(missing, self._most_texts)
        if missing:
            found |= self._made(lane, slots, encode)
        return [found[text] for text in texts]

    def counts(self) -> QueryCounts:
        """What was done so far."""
        with self._lock:
            return QueryCounts(self._hits, self._misses, self._embedded, self._batches, len(self._kept))

    def clear(self) -> None:
        """Drop all vectors, also those that are being made: who asks after this gets a vector made after this."""
        with self._lock:
            self._kept, self._lanes = OrderedDict(), {}

    def _known(self, key: SpaceKey, texts: Sequence[str]) -> dict[str, QueryVector[Any]]:
        """Those that are kept and not too old, by text. Under the lock."""
        known: dict[str, QueryVector[Any]] = {}
        now = self._clock()
        for text in dict.fromkeys(texts):
            made_at, vector = self._kept.get((key, text), (now, None))
            if vector is not None and (self._ttl is None or now - made_at < self._ttl):
                self._kept.move_to_end((key, text))
                known[text] = replace(vector, cached=True)
        hits = sum(text in known for text in texts)
        self._hits, self._misses = self._hits + hits, self._misses + len(texts) - hits
        return known

    def _made(self, lane: _Lane, slots: Sequence[_Slot], encode: Encode[V]) -> dict[str, QueryVector[Any]]:
        """A caller's vectors by text: from runs with others, and from its own run where such a run failed."""
        try:
            while self._advance(lane, slots, encode):
                pass
        finally:
            with self._lock:
                lane.leave(slots)
                if not lane.slots and self._lanes.get(lane.key) is lane:
                    del self._lanes[lane.key]
        made = {slot.text: slot.made for slot in slots if slot.made is not None}
        alone = [slot.text for slot in slots if slot.made is None]
        for start in range(0, len(alone), self._most_texts):
            made |= self._run(lane, alone[start : start + self._most_texts], encode)
        return made

    def _advance(self, lane: _Lane, slots: Sequence[_Slot], encode: Encode[V]) -> bool:
        """Run the model on what is due, or wait while another caller does; False: there is nothing left to wait for.

        An interrupt, which may come at any call, loses nothing: texts stay in the lane until they are done, and the
        lane is freed by an assignment, in which no interrupt can come. `threading.Condition` would not do: interrupted
        in `wait`, it can release a lock that another thread holds.
        """
        me, bell = object(), threading.Lock()
        try:
            with self._lock:
                if _is_settled(slots):
                    return False
                if is_free := lane.leader is None:
                    lane.leader = me
                    lane.batches += 1
                    due = sorted(lane.slots.values(), key=lambda slot: slot.turn)[: self._most_texts]
                else:
                    bell.acquire()
                    lane.bells.append(bell)
            if is_free:
                self._run_together(lane, [slot.text for slot in due], {slot.text for slot in slots}, encode)
            else:
                bell.acquire(timeout=_PATIENCE)
            return True
        finally:
            if lane.leader is me:
                lane.leader = None
                self._ring(lane)

    def _ring(self, lane: _Lane) -> None:
        with self._lock:
            bells, lane.bells = lane.bells, []
        for bell in bells:
            bell.release()

    def _run_together(self, lane: _Lane, due: Sequence[str], own: set[str], encode: Encode[V]) -> None:
        try:
            self._run(lane, due, encode)
        except Exception:
            with self._lock:
                for text in due:
                    lane.finish(text, None)
            if own.issuperset(due):
                raise

    def _run(self, lane: _Lane, texts: Sequence[str], encode: Encode[V]) -> dict[str, QueryVector[V]]:
        encoded = self._encoded(texts, encode)
        made_at = self._clock()
        lost = self._truncated(texts, encoded.truncated, encode)
        rows = zip(texts, encoded.vectors, lost, strict=True)
        made = {text: QueryVector(_read_only(text, vector), truncated) for text, vector, truncated in rows}
        with self._lock:
            for text, vector in made.items():
                lane.kept[lane.key, text] = made_at, vector
                lane.kept.move_to_end((lane.key, text))
                lane.finish(text, vector)
            while len(lane.kept) > self._most_entries:
                lane.kept.popitem(last=False)
        return made

    def _encoded(self, texts: Sequence[str], encode: Encode[V]) -> Encoded[V]:
        with self._lock:
            self._embedded, self._batches = self._embedded + len(texts), self._batches + 1
        encoded = encode(texts)
        if len(encoded.vectors) != len(texts):
            raise EncodingFailed(f"the model gave {len(encoded.vectors)} vectors for {len(texts)} queries")
        return encoded

    def _truncated(self, texts: Sequence[str], total: int, encode: Encode[V]) -> list[int]:
        """Truncated tokens of each text, where the model tells only their sum.

        A sum that is not 0, which is rare, is traced by running the first half again: log2(texts) runs for one text.
        """
        if not total or len(texts) == 1:
            return [total] * len(texts)
        half = len(texts) // 2
        first = min(total, self._encoded(texts[:half], encode).truncated)
        return self._truncated(texts[:half], first, encode) + self._truncated(texts[half:], total - first, encode)


def _is_settled(slots: Sequence[_Slot]) -> bool:
    """Whether all are made, or one has failed, so that the caller goes on alone."""
    return any(slot.failed for slot in slots) or all(slot.made is not None for slot in slots)


def _read_only(text: str, vector: V) -> V:
    """The same, in views that cannot be made writable, of copies that do not keep the whole batch alive."""
    parts = (vector.indices, vector.values) if isinstance(vector, SparseVector) else (vector,)
    if not all(np.isfinite(part).all() for part in parts):
        raise EncodingFailed(f"the model gave NaN or infinity for the query {text!r:.80}")
    copies = [np.array(part) for part in parts]
    for copy in copies:
        copy.flags.writeable = False
    views: Any = [copy.view() for copy in copies]
    return cast("V", SparseVector(*views) if isinstance(vector, SparseVector) else views[0])
