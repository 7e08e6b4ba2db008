"""Vectors of query texts: made once, kept for a while, and for callers at the same time in one run of the model."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from tarragon.errors import EncodingFailed, InvalidInput
from tarragon.types import FloatArray, SparseVector

ENTRIES = 4_096
"""Vectors that are kept: 16 MB of 1,024 dimensions, or 64 MB of 32 tokens of 128 each."""

TTL = 3_600.0
"""Seconds that a vector is kept."""

MOST_TEXTS = 64
"""In one run of the model: a caller waits for at most the run before its own, and that must not become long."""

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
    cached: bool


@dataclass(frozen=True, slots=True)
class QueryCounts:
    """What `QueryVectors` has done.

    Attributes:
        hits: Texts whose vectors were there already.
        misses: Texts whose vectors were not, whoever then made them.
        embedded: Texts given to models.
        batches: Runs of models.
        entries: Vectors that are kept now.
    """

    hits: int
    misses: int
    embedded: int
    batches: int
    entries: int


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    vector: Any
    truncated: int
    made: float


_Entries = OrderedDict[tuple[SpaceKey, str], _Entry]


@dataclass(slots=True, eq=False)
class _Slot:
    """A text that callers wait for.

    Attributes:
        turn: The place in the queue, see `_Lane.join`.
        callers: How many wait for it.
        entry: What they get.
        failed: A run of several texts failed: each caller tries its own.
    """

    text: str
    turn: tuple[int, int]
    callers: int = 0
    entry: _Entry | None = None
    failed: bool = False

    @property
    def is_done(self) -> bool:
        return self.failed or self.entry is not None


@dataclass(slots=True, eq=False)
class _Lane:
    """The texts of one key that are not done. All of it is guarded by the lock of `QueryVectors`.

    Attributes:
        changed: Tells those who wait that a run is over.
        entries: Where the vectors are kept.
        slots: By text. What a leader did not finish, for whatever reason, is simply still here for the next one.
        leader: Of the run that is going on: an object of that caller's own. None: whoever comes may lead.
        batches: Runs so far.
    """

    changed: threading.Condition
    entries: _Entries
    slots: dict[str, _Slot] = field(default_factory=dict)
    leader: object | None = None
    batches: int = 0

    def join(self, texts: Sequence[str], most: int) -> list[_Slot]:
        """The slots of a caller's texts.

        A text's turn is the run that it would be in if its caller were alone, so that one who asks for a thousand does
        not keep another with one waiting for them all.
        """
        for place, text in enumerate(texts):
            run, place_in_run = divmod(place, most)
            self.slots.setdefault(text, _Slot(text, (self.batches + run, place_in_run))).callers += 1
        return [self.slots[text] for text in texts]

    def leave(self, slots: Sequence[_Slot]) -> None:
        """Forget what nobody waits for any more."""
        for slot in slots:
            slot.callers -= 1
            if not slot.callers and self.slots.get(slot.text) is slot:
                del self.slots[slot.text]

    def finish(self, text: str, entry: _Entry | None) -> None:
        """Hand a text's entry to those who wait for it; None: tell them that the run failed."""
        if slot := self.slots.pop(text, None):
            slot.entry, slot.failed = entry, entry is None


class QueryVectors:
    """Gives the vectors of query texts, from a cache or from one run of the model for all who ask at the same time.

    While the model is idle a caller runs it at once. Who comes while it is busy waits, and when it is free one of them
    takes all waiting texts of the same key and hands out the results: so the model is never asked to do two things at
    once, and the busier it is the larger its batches are. No thread of its own, and no delay to gather a batch. Safe to
    use from any number of threads.

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
        self._entries: _Entries = OrderedDict()
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
            known = self._known(key, texts)
            missing = [text for text in dict.fromkeys(texts) if text not in known]
            if missing:
                lane = self._lane(key)
                slots = lane.join(missing, self._most_texts)
        made = self._made(key, lane, slots, encode) if missing else {}
        entries = {**known, **made}
        return [QueryVector(entries[text].vector, entries[text].truncated, text in known) for text in texts]

    def counts(self) -> QueryCounts:
        """What was done so far."""
        with self._lock:
            return QueryCounts(self._hits, self._misses, self._embedded, self._batches, len(self._entries))

    def clear(self) -> None:
        """Drop all vectors, also those that are being made: who asks after this gets a vector made after this."""
        with self._lock:
            self._entries, self._lanes = OrderedDict(), {}

    # --- under the lock -----------------------------------------------------------------------------------------------
    def _known(self, key: SpaceKey, texts: Sequence[str]) -> dict[str, _Entry]:
        known: dict[str, _Entry] = {}
        now = self._clock()
        for text in dict.fromkeys(texts):
            entry = self._entries.get((key, text))
            if entry is None:
                continue
            if self._ttl is not None and now - entry.made >= self._ttl:
                del self._entries[key, text]
                continue
            self._entries.move_to_end((key, text))
            known[text] = entry
        hits = sum(text in known for text in texts)
        self._hits, self._misses = self._hits + hits, self._misses + len(texts) - hits
        return known

    def _lane(self, key: SpaceKey) -> _Lane:
        if key not in self._lanes:
            self._lanes[key] = _Lane(threading.Condition(self._lock), self._entries)
        return self._lanes[key]

    def _keep(self, key: SpaceKey, lane: _Lane, entries: Mapping[str, _Entry]) -> None:
        for text, entry in entries.items():
            lane.entries[key, text] = entry
            lane.entries.move_to_end((key, text))
            lane.finish(text, entry)
        while len(lane.entries) > self._most_entries:
            lane.entries.popitem(last=False)

    # --- running the model --------------------------------------------------------------------------------------------
    def _made(self, key: SpaceKey, lane: _Lane, slots: Sequence[_Slot], encode: Encode[V]) -> dict[str, _Entry]:
        """Entries of a caller's slots: from runs with others, and its own run if such a run failed."""
        try:
            while self._lead(key, lane, slots, encode):
                pass
        finally:
            with self._lock:
                lane.leave(slots)
                if not lane.slots and self._lanes.get(key) is lane:
                    del self._lanes[key]
        made = {slot.text: slot.entry for slot in slots if slot.entry is not None}
        alone = [slot.text for slot in slots if slot.text not in made]
        for start in range(0, len(alone), self._most_texts):
            entries = self._run(alone[start : start + self._most_texts], encode)
            with self._lock:
                self._keep(key, lane, entries)
            made.update(entries)
        return made

    def _lead(self, key: SpaceKey, lane: _Lane, slots: Sequence[_Slot], encode: Encode[V]) -> bool:
        """Wait until the model is free and run it on what is due; False: nothing is left to wait for.

        An interrupt, which may come at any call, loses nothing: texts wait in the lane until they are done, and the
        lane is freed by an assignment, in which no interrupt can come.
        """
        me = object()
        try:
            with self._lock:
                while lane.leader is not None and not _is_settled(slots):
                    lane.changed.wait(_PATIENCE)
                if _is_settled(slots):
                    return False
                lane.leader = me
                lane.batches += 1
                due = sorted(lane.slots.values(), key=lambda slot: slot.turn)[: self._most_texts]
            self._run_together(key, lane, [slot.text for slot in due], {slot.text for slot in slots}, encode)
            return True
        finally:
            if lane.leader is me:
                lane.leader = None
                with self._lock:
                    lane.changed.notify_all()

    def _run_together(self, key: SpaceKey, lane: _Lane, due: list[str], own: set[str], encode: Encode[V]) -> None:
        try:
            entries = self._run(due, encode)
        except Exception:
            with self._lock:
                for text in due:
                    lane.finish(text, None)
            if own.issuperset(due):
                raise
            return
        with self._lock:
            self._keep(key, lane, entries)

    def _run(self, texts: Sequence[str], encode: Encode[V]) -> dict[str, _Entry]:
        encoded = self._encoded(texts, encode)
        now = self._clock()
        truncated = self._truncated(texts, encoded.truncated, encode)
        return {
            text: _Entry(_read_only(text, vector), lost, now)
            for text, vector, lost in zip(texts, encoded.vectors, truncated, strict=True)
        }

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
        middle = len(texts) // 2
        first = min(total, self._encoded(texts[:middle], encode).truncated)
        return [
            *self._truncated(texts[:middle], first, encode),
            *self._truncated(texts[middle:], total - first, encode),
        ]


def _is_settled(slots: Sequence[_Slot]) -> bool:
    """Whether all are done, or one has failed, so that the caller goes on alone."""
    return all(slot.is_done for slot in slots) or any(slot.failed for slot in slots)


def _read_only(text: str, vector: FloatArray | SparseVector) -> FloatArray | SparseVector:
    values = vector.values if isinstance(vector, SparseVector) else vector
    if not np.isfinite(values).all():
        raise EncodingFailed(f"the model gave NaN or infinity for the query {text!r:.80}")
    if isinstance(vector, SparseVector):
        return SparseVector(_frozen(vector.indices), _frozen(vector.values))
    return _frozen(vector)


def _frozen(array: Any) -> Any:
    """A view that cannot be made writable, of a copy that does not keep the whole batch alive."""
    owner = np.array(array)
    owner.flags.writeable = False
    return owner.view()
