"""A sync that goes on while a search runs: at every two of its steps, the engine is asked at one, the texts are read at
the other. Each document is shown in its old state or its new one.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest

from tarragon import Index
from tarragon.store.edge import EdgeStore
from tests.freshness.faults import Fuse
from tests.freshness.laws import EVERYTHING, State, Words, by_document, passages
from tests.freshness.model import Entry, Memory

LIMIT = 256
PATIENCE = 60.0

STEPS = 12
"""More than a sync of one document writes."""

OLD = State("# A\n\nThe key is kept.\n\n# B\n\nIt is rotated in spring.\n\n# C\n\nNobody asks.")
MORE = "# Z\n\nA beginning that was not there before.\n\n"
NEW = {
    "a chunk more": State(MORE + OLD.text),
    "a chunk more, and metadata": State(f"{OLD.text}\n\n{MORE}", '{"n": 1}'),
    "the first chunk": State(MORE + OLD.text[OLD.text.index("# B") :]),
    "all chunks": State("# E\n\nThe door is shut.\n\n# F\n\nIt is opened at noon."),
}


class Steps:
    """A sync in a thread of its own that goes on step by step: a step ends where something was written."""

    def __init__(self, sync: Callable[[], object], fuse: Fuse) -> None:
        self._go, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(sync,))
        self.is_over = False
        self.taken = 0
        fuse.watch = self.rest
        self._thread.start()
        assert self._rests.acquire(timeout=PATIENCE)

    def _run(self, sync: Callable[[], object]) -> None:
        try:
            sync()
        finally:
            self.is_over = True
            self._rests.release()

    def rest(self, place: str) -> None:
        """Called at each boundary of the fuse: waits, if it is the sync's."""
        if threading.current_thread() is self._thread and place.startswith("after"):
            self._rests.release()
            assert self._go.acquire(timeout=PATIENCE)

    def advance(self, step: int) -> None:
        """Until it has taken so many steps, or is over."""
        while self.taken < step and not self.is_over:
            self._go.release()
            assert self._rests.acquire(timeout=PATIENCE)
            self.taken += 1

    def finish(self) -> None:
        self.advance(10_000)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextmanager
def asked_between(monkeypatch: pytest.MonkeyPatch, steps: Steps, engine: int, texts: int) -> Iterator[None]:
    """The first time that the engine is asked, the sync is at one step then, and at the other when it has answered."""
    search = EdgeStore.search

    def interrupted(store: Any, request: Any) -> Any:
        steps.advance(engine)
        found = search(store, request)
        steps.advance(texts)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(EdgeStore, "search", interrupted)
        yield


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that no disk slows down, where there is one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="tarragon-", dir=place) as folder:
        yield Path(folder)


@pytest.mark.parametrize("changed", NEW)
def test_a_search_beside_a_sync_shows_each_document_in_one_state(
    memory: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    states, fuse = (OLD, NEW[changed]), Fuse()
    wholes = [passages("a", state, LIMIT) for state in states]
    entries = {"a": Entry(OLD, 0), "b": Entry(State("Another document."), 0)}
    wrong: list[tuple[int, int]] = []
    with fuse.installed(), Index.open(memory / "i", encoder=Words()) as index:
        index.sync(Memory(entries, hints=False))
        for (engine, texts), state in product(combinations(range(STEPS), 2), reversed(states)):
            entries["a"] = Entry(state, 0)
            steps = Steps(lambda: index.sync(Memory(entries, hints=False)), fuse)
            with asked_between(monkeypatch, steps, engine, texts):
                shown = by_document(index.search("keys", EVERYTHING, mode="dense"))["a"]
            if shown not in wholes:
                wrong.append((engine, texts))
            steps.finish()
            assert steps.taken <= STEPS, "too few steps are looked at"
    assert not wrong


def test_a_search_that_is_overtaken_again_and_again_ends_with_the_last_state(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [OLD, State(MORE + OLD.text), State(f"# Y\n\nOnce more.\n\n{MORE}{OLD.text}")]
    entries = {"a": Entry(OLD, 0)}
    search, left = EdgeStore.search, states[1:]
    with Index.open(memory / "i", encoder=Words()) as index:
        index.sync(Memory(entries, hints=False))

        def overtaken(store: Any, request: Any) -> Any:
            found = search(store, request)
            if left:
                entries["a"] = Entry(left.pop(0), 0)
                index.sync(Memory(entries, hints=False))
            return found

        monkeypatch.setattr(EdgeStore, "search", overtaken)
        shown = by_document(index.search("keys", EVERYTHING, mode="dense"))["a"]
    assert shown == passages("a", states[-1], LIMIT)
