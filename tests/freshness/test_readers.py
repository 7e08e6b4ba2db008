"""Searches beside a sync, in threads of their own: each sees every document in one of its states of that moment."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tarragon import Index
from tests.freshness.laws import EVERYTHING, Passage, State, Words, by_document, passages
from tests.freshness.model import SENTENCES, Entry, Memory

SECONDS = 4.0
SYNCS, LOOKS = 6, 20
"""At least so many, however slow the disk: pytest's own time limit ends what never gets there."""

LIMIT = 256


class Timeline:
    """Which states of each document may be seen when: from the start of the sync that brings it to the end of the one
    that replaces it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[str, list[tuple[State | None, float, float]]] = {}

    def begin(self, wanted: dict[str, State | None]) -> None:
        now = time.perf_counter()
        with self._lock:
            for document_id, state in wanted.items():
                spans = self._spans.setdefault(document_id, [(None, 0.0, float("inf"))])
                if spans[-1][0] != state:
                    spans.append((state, now, float("inf")))

    def end(self) -> None:
        now = time.perf_counter()
        with self._lock:
            for spans in self._spans.values():
                spans[:-1] = [(state, first, min(last, now)) for state, first, last in spans[:-1]]

    def visible(self, document_id: str, begun: float, ended: float) -> list[State | None]:
        with self._lock:
            spans = self._spans.get(document_id, [])
            return [state for state, first, last in spans if first <= ended and last >= begun]

    def names(self) -> list[str]:
        with self._lock:
            return list(self._spans)


def text(chance: random.Random) -> str:
    parts = [f"# Part {chance.randrange(4)}\n\n{chance.choice(SENTENCES)}" for _ in range(chance.randint(1, 5))]
    return "\n\n".join(parts)


def test_searches_beside_syncs_see_each_document_in_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 400)
    chance, timeline, stop = random.Random(5), Timeline(), threading.Event()
    names = [f"{number}.md" for number in range(8)]
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    looks: list[int] = []

    with Index.open(tmp_path / "i", encoder=Words()) as index:

        def sync() -> None:
            wanted = {name: entries[name].state if name in entries else None for name in names}
            timeline.begin(wanted)
            index.sync(Memory(dict(entries), hints=False), max_delete=1.0)
            timeline.end()

        def look(query: str) -> None:
            try:
                while not stop.is_set():
                    begun = time.perf_counter()
                    hits = index.search(query, EVERYTHING, mode="dense")
                    shown, ended = by_document(hits), time.perf_counter()
                    problems.extend(wrong(timeline, shown, begun, ended))
                    looks.append(len(hits))
            except BaseException as error:
                problems.append(repr(error))

        entries["0.md"] = Entry(State(text(chance)), 0)
        sync()
        readers = [threading.Thread(target=look, args=(query,)) for query in ("keys rotate", "the walls")]
        for reader in readers:
            reader.start()
        until = time.perf_counter() + SECONDS
        syncs = 0
        while not problems and (time.perf_counter() < until or syncs < SYNCS or len(looks) < LOOKS):
            for name in chance.sample(names, 4):
                if name in entries and chance.random() < 0.3:
                    del entries[name]
                else:
                    entries[name] = Entry(State(text(chance), f'{{"n": {chance.randrange(3)}}}'), 0)
            sync()
            syncs += 1
        stop.set()
        for reader in readers:
            reader.join()
    assert not problems, problems[0]


def wrong(timeline: Timeline, shown: dict[str, frozenset[Passage]], begun: float, ended: float) -> list[str]:
    """What an answer has that no state of that moment explains."""
    found = []
    for name in timeline.names():
        states = timeline.visible(name, begun, ended)
        wanted = [passages(name, state, LIMIT) for state in states]
        if not any(shown.get(name, frozenset()) == whole for whole in wanted):
            found.append(f"{name}: {shown.get(name)} is none of {wanted}")
    return found
