"""A history of an index beside a small model of it, and the laws that hold after each step.

The model: what the source holds, and for each version which state of each document it serves. After a crash a document
may serve its former state or its new one; which of them is looked up once, at once, and must then stay.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from tarragon import Index
from tarragon.background import Foreground
from tarragon.identity import DocumentState, content_hash, metadata_hash
from tarragon.protocols import Source
from tarragon.reports import SyncReport
from tests.freshness.faults import Boundary, Fuse, Killed, copy_as_left, remove
from tests.freshness.laws import (
    EVERYTHING,
    QUERIES,
    Answers,
    State,
    Words,
    answers,
    assert_alike,
    assert_holds,
    build_fresh,
    by_document,
    contents,
    passages,
    shown_by,
    texts_of,
)
from tests.freshness.model import (
    ALL,
    IDS,
    NUMBERS,
    ONLY,
    SALTS,
    Entry,
    Held,
    Memory,
    SavedPlan,
    Scope,
)


def in_step(items: Iterable[Any], name: str) -> Generator[Any, None, None]:
    """In the place of `tarragon.ahead.ahead`: in the same thread."""
    yield from items


class History(RuleBasedStateMachine):
    """One history. Class attributes count over all of them."""

    histories = 0
    finished = 0
    steps = 0
    syncs = 0
    crashes: ClassVar[Counter[str]] = Counter()
    seen: ClassVar[Counter[str]] = Counter()
    has_metadata = has_readers = True

    def __init__(self) -> None:
        super().__init__()
        type(self).histories += 1
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="tarragon-", dir=place))
        self.path = self.folder / "0.tarragon"
        self.encoders = {salt: Words(salt) for salt in SALTS}
        self.docs: dict[str, Entry] = {}
        self.past: dict[str, list[State]] = {}
        self.revision = 0
        self.reader = 0
        self.versions: dict[str, Held] = {}
        self.serving: str | None = None
        self.formers: list[str] = []
        self.known = self.whole = False
        self.saved: SavedPlan | None = None
        self.left: tuple[str, Answers] | None = None
        self.must_look = self.unprobed = False
        self.windowed = False
        self.at_once = 1
        self.hints = False
        self.fuse = Fuse()
        self.stack = ExitStack()
        self.stack.enter_context(self.fuse.installed())
        self.stack.callback(remove, self.folder)
        self.open()

    @initialize(
        window=st.sampled_from((1 << 18, 150, 1)),
        batch=st.sampled_from((1, 2, 500)),
        hints=st.booleans(),
        device=st.sampled_from(("cpu", "elsewhere")),
    )
    def choose_sizes(self, window: int, batch: int, hints: bool, device: str) -> None:
        for encoder in self.encoders.values():
            encoder.device = device
        self.at_once = 1 if device == "cpu" else 2
        self.windowed = window < 1 << 18
        self.hints = hints
        for name in ("tarragon.syncing.WINDOW_CHARACTERS", "tarragon.plans.WINDOW_CHARACTERS"):
            self.stack.enter_context(patch(name, window))
        self.stack.enter_context(patch("tarragon.syncing._BATCH", batch))
        self.stack.enter_context(patch("tarragon.session.Background", Foreground))  # a history must be repeatable
        self.stack.enter_context(patch("tarragon.syncing.ahead", in_step))
        self.stack.enter_context(patch("tarragon.store.edge._WRITE", batch))

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.finish()
        finally:
            with suppress(Exception):
                self.index.close()
            self.stack.close()

    # --- opening ------------------------------------------------------------------------------------------------------
    def open(self) -> None:
        self.source = self.make_source()
        self.index = Index.open(self.path, encoder=list(self.encoders.values()))
        self.known = False
        self.must_look = True

    def make_source(self) -> Any:
        return Memory(self.docs, self.hints)

    def ordered(self, seed: int) -> Source:
        """The source in some order."""
        source = self.make_source()
        source.order = lambda names: random.Random(seed).sample(sorted(names), len(names))
        self.source = source
        return source

    # --- what a sync is to reach --------------------------------------------------------------------------------------
    def goal(self, document_id: str, held: State | None, scope: Scope) -> State | None:
        """What a version that held this is to serve after a sync."""
        entry = self.docs.get(document_id)
        if not scope.meets(document_id):
            return held
        if entry is None:
            return None if scope.prune else held
        return entry.state if entry.readable else held

    def role(self, name: str) -> str:
        return next(info.role for info in self.index.versions() if info.name == name)

    def statuses(self, name: str | None = None) -> dict[str, str]:
        with self.index._opened.reading(name) as version:
            return {id_: record.status for id_, record in version.ledger.documents().items()}

    def unfinished(self, name: str | None = None) -> set[str]:
        return {id_ for id_, status in self.statuses(name).items() if status not in ("ok", "failed")}

    def everyone(self) -> list[str]:
        return sorted({*IDS, *self.docs, *(id_ for held in self.versions.values() for id_ in held.served)})

    # --- looking ------------------------------------------------------------------------------------------------------
    def shown(self, name: str) -> dict[str, frozenset[Any]]:
        with self.index._opened.reading(name) as version:
            return shown_by(version, self.encoders[self.versions[name].salt])

    def settle(self, name: str, possible: Mapping[str, Sequence[State | None]]) -> dict[str, State]:
        """Which of the possible states of each document a version shows: one, never a mixture, never another."""
        limit = self.versions[name].tokens
        shown = self.shown(name)
        strangers = set(shown).difference(possible)
        assert not strangers, f"{name} shows documents that it cannot have: {strangers}"
        served = {}
        for document_id, states in possible.items():
            fitting = [s for s in states if passages(document_id, s, limit) == shown.get(document_id, frozenset())]
            assert fitting, (
                f"{name} shows of {document_id} none of its possible states: {shown.get(document_id)}, not one of "
                f"{[passages(document_id, state, limit) for state in states]} (after {self.fuse.blown or 'no crash'})"
            )
            state = self.recorded(name, document_id, states)
            assert state in fitting, f"{name} shows another state of {document_id} than its ledger says"
            if state is not None:
                served[document_id] = state
        return served

    def recorded(self, name: str, document_id: str, states: Sequence[State | None]) -> State | None:
        """Which of these states the ledger says is served."""
        with self.index._opened.reading(name) as version:
            record = version.ledger.document(document_id)
        if record is None or record.state is None or record.status == "deleting":
            assert None in states, f"{name} has nothing of {document_id}, although it is to be served"
            return None
        if record.status == "writing":
            return states[0]  # the former one
        then = DocumentState.unpack(record.state)[:2]
        for state in states:
            if state is not None:
                document = state.document(document_id)
                if (content_hash(document.text), metadata_hash(document.metadata)) == then:
                    return state
        raise AssertionError(f"{name} says of {document_id} that it is in none of the states {states}")

    def adopt(self, possible: Mapping[str, Mapping[str, Sequence[State | None]]]) -> None:
        """Look what each version serves now, and hold it to that from now on."""
        for name, states in possible.items():
            self.versions[name].served = self.settle(name, states)
            with self.index._opened.reading(name) as version:
                assert_holds(version, self.versions[name].served, self.encoders[self.versions[name].salt])
        self.must_look = True

    def as_is(self, name: str) -> dict[str, list[State | None]]:
        return {id_: [self.versions[name].served.get(id_)] for id_ in self.everyone()}

    def discover(self) -> None:
        """Take in versions that a crash left, and which of them serves."""
        catalog = self.index._opened.catalog
        for record in catalog.versions():
            if record.name not in self.versions:
                salt = record.contract.identity["salt"]
                self.versions[record.name] = Held(salt, record.contract.recipe.chunk_tokens)
        for name in set(self.versions) - {record.name for record in catalog.versions()}:
            del self.versions[name]
        self.serving = catalog.serving()
        self.formers = list(catalog.former())

    # --- laws after each step -----------------------------------------------------------------------------------------
    @invariant()
    def answers_are_whole_and_labelled(self) -> None:
        type(self).steps += 1
        assert self.index._opened.catalog.serving() == self.serving, "the pointer moved by itself"
        if self.serving is None:
            assert self.index.search("keys") == []
            return
        held = self.versions[self.serving]
        hits = self.index.search(QUERIES[self.steps % 3], EVERYTHING, mode="dense")
        shown = by_document(hits)
        for document_id in self.everyone():
            wanted = passages(document_id, held.served.get(document_id), held.tokens)
            assert shown.get(document_id, frozenset()) == wanted, f"{document_id} is not shown as it was a moment ago"
        assert {hit.version for hit in hits} <= {self.serving}
        for hit in hits:
            state = held.served[hit.document_id]
            assert hit.freshness in self.freshness(hit.document_id, state), f"{hit} while it is {self.docs}"
        if self.must_look:
            self.must_look = False
            for mode in ("hybrid", "lexical"):
                some = by_document(self.index.search(QUERIES[self.steps % 5], 6, mode=mode))  # type: ignore[arg-type]
                assert all(found <= shown[document_id] for document_id, found in some.items())
            german = self.index.search("keys", EVERYTHING, filter={"lang": "de"})
            assert all(hit.metadata.get("lang") == "de" for hit in german)
            if not self.unfinished():
                count = sum(len(found) for id_, found in shown.items() if '"de"' in held.served[id_].metadata)
                assert len(german) == count

    def freshness(self, document_id: str, served: State) -> set[str]:
        """The labels that are right for what is served of a document."""
        if not self.known:
            return {"unknown"}
        entry = self.docs.get(document_id)
        if entry is None:
            return {"missing" if self.whole else "unknown"}
        if not entry.readable:
            return {"unknown"}
        return {"fresh" if entry.state == served else "stale"}

    # --- syncing ------------------------------------------------------------------------------------------------------
    def possible_after(self, scope: Scope, *, crashed: bool) -> dict[str, dict[str, list[State | None]]]:
        """For each version and document the states that it may serve after a sync that ended, or crashed."""
        serving, roles = self.serving, {info.name: info.role for info in self.index.versions()}
        found: dict[str, dict[str, list[State | None]]] = {}
        touched = set() if serving is None else {
            id_
            for id_ in self.everyone()
            if self.versions[serving].served.get(id_)
            != self.goal(id_, self.versions[serving].served.get(id_), scope)
        }  # fmt: skip
        for name, held in self.versions.items():
            states = found[name] = {}
            for id_ in self.everyone():
                former = held.served.get(id_)
                goal = self.goal(id_, former, scope)
                if roles[name] == "retired":
                    states[id_] = [former]
                elif crashed or (roles[name] == "building" and id_ not in touched):
                    states[id_] = [former, goal]
                else:
                    states[id_] = [goal]
        return found

    def run(
        self,
        act: Callable[[], Any],
        scope: Scope,
        *,
        fuse: Boundary | None = None,
        exit: str = "stay",
        torn: bool = False,
        peek: bool = False,
        syncs: bool = True,
    ) -> Any:
        """Do something that writes, perhaps until the fuse blows: the result, or None after a crash."""
        self.fuse.reset()
        for encoder in self.encoders.values():
            encoder.batches.clear()
        self.unprobed = any(not record.canaries for record in self.index._opened.catalog.versions())
        copy = self.folder / f"{next(NUMBERS)}.tarragon"
        try:
            with ExitStack() as stack:
                if fuse is not None:
                    words = partial(copy_as_left, self.path, copy) if exit == "kill" else lambda: None
                    stack.enter_context(self.fuse.armed(fuse, torn=torn, last_words=words))
                elif peek:
                    self.fuse.watch = partial(self.peek, scope, {})
                result = act()
        except Killed:
            self.crashes[self.fuse.blown] += 1
            self.left = None
            if exit != "stay":
                self.index.close()
                if exit == "kill":
                    remove(self.path)
                    self.path = copy
                self.open()
            self.discover()
            kept = self.index._opened.origins._sources.get("")  # a version may have been done before the crash
            self.known, self.whole = kept is not None, kept is not None and kept[1]
            return None
        finally:
            self.fuse.watch = None
        self.left = None if syncs else self.left
        return result

    def peek(self, scope: Scope, seen: dict[str, State | None], place: str) -> None:
        """A search in the middle of a sync: of each document one state, the old one or the new one, and never back."""
        if self.serving is None or self.index._opened.catalog.serving() != self.serving:
            return
        held = self.versions[self.serving]
        self.fuse.watch, watch = None, self.fuse.watch
        with self.index._opened.reading() as version:
            shown = shown_by(version, self.encoders[held.salt])
        for id_ in self.everyone():
            former, goal = held.served.get(id_), self.goal(id_, held.served.get(id_), scope)
            states = [seen[id_]] if id_ in seen else [former, goal]
            fits = [s for s in states if passages(id_, s, held.tokens) == shown.get(id_, frozenset())]
            assert fits, f"a search {place} sees {shown.get(id_)} of {id_}, neither its old text nor its new one"
            if former != goal and fits == [goal]:
                seen[id_] = goal
        self.fuse.watch = watch

    def cached(self) -> dict[str, set[str]]:
        """Texts whose vectors are there, by encoder."""
        found: dict[str, set[str]] = {salt: set() for salt in SALTS}
        for held in self.versions.values():
            found[held.salt] |= texts_of(held.served, held.tokens)
        return found

    def check_embedded(self, before: Mapping[str, set[str]], kept: Mapping[str, set[str]], crashed: bool) -> int:
        """Each text at most once, none that was there already; of a crashed sync only the last batch may be lost;
        where a model elsewhere computes the next one while a batch is stored, the last two.
        """
        total = 0
        after = self.cached()
        for salt, encoder in self.encoders.items():
            texts = [text for batch in encoder.batches for text in batch]
            total += len(texts)
            several = sum(held.salt == salt for held in self.versions.values()) > 1
            again = set(texts) & (kept[salt] if several else before[salt])  # one may drop what another one then wants
            assert not again, f"embedded although the vector was there: {again}"
            if not self.unprobed:  # a version that was killed before its canaries were kept gives no vectors away
                assert len(texts) == len(set(texts)), f"embedded twice in one sync: {texts}"
            if crashed:
                lost = {text for batch in encoder.batches[: -self.at_once] for text in batch} - after[salt]
                assert not lost, f"more than {self.at_once} batches are lost: {lost}"
        return total

    def kept_texts(self, possible: Mapping[str, Mapping[str, Sequence[State | None]]]) -> dict[str, set[str]]:
        """Texts of documents that a sync does not change, by encoder."""
        found: dict[str, set[str]] = {salt: set() for salt in SALTS}
        for name, states in possible.items():
            held = self.versions[name]
            same = {id_: state for id_, state in held.served.items() if set(states[id_]) == {state}}
            found[held.salt] |= texts_of(same, held.tokens)
        return found

    def full_sync(self, scope: Scope = ALL, *, seed: int = 0, again: bool = True, **how: Any) -> SyncReport | None:
        """Sync, then see that everything is as it must be."""
        type(self).syncs += 1
        source = self.ordered(seed)
        sync = partial(self.index.sync, source, only=scope.only, prune=scope.prune, max_delete=1.0)
        before, possible = self.cached(), self.possible_after(scope, crashed=False)
        kept = self.kept_texts(possible)
        maybe = self.possible_after(scope, crashed=True)
        planned = None
        if again and self.serving is not None and not self.windowed:
            planned = self.index.plan(source, only=scope.only, prune=scope.prune, max_delete=1.0).embeddings
        report: SyncReport | None = self.run(sync, scope, **how)
        if report is None:
            self.after_crash(maybe, scope)
            self.check_embedded(before, kept, crashed=True)
            return None
        if not scope.only:
            self.known, self.whole = True, scope.prune
        if self.serving is None:
            possible = self.first_version(scope)
        self.adopt(possible)
        embedded = self.check_embedded(before, kept, crashed=False)
        assert embedded == report.chunks_embedded + sum(other.chunks_embedded for other in report.others)
        self.check_counts(report, scope)
        assert planned in (None, report.chunks_embedded), f"{planned} embeddings were planned"
        left = {id_ for id_ in self.unfinished() if scope.meets(id_)}
        assert all((id_ in self.docs and not self.docs[id_].readable) or not scope.prune for id_ in left), left
        if again:
            self.check_at_rest(scope)
        return report

    def first_version(self, scope: Scope) -> dict[str, dict[str, list[State | None]]]:
        self.discover()
        return {name: {id_: [self.goal(id_, None, scope)] for id_ in self.everyone()} for name in self.versions}

    def after_crash(self, maybe: dict[str, dict[str, list[State | None]]], scope: Scope) -> None:
        for name in self.versions:
            if name not in maybe:
                maybe[name] = {id_: [None, self.goal(id_, None, scope)] for id_ in self.everyone()}
        self.adopt({name: states for name, states in maybe.items() if name in self.versions})

    def check_counts(self, report: SyncReport, scope: Scope) -> None:
        meant = [id_ for id_ in self.docs if ONLY[scope.only](id_) and scope.meets(id_)]
        assert (
            report.documents_added
            + report.documents_changed
            + report.documents_unchanged
            + report.documents_failed
            + report.documents_left
        ) == len(meant)
        assert report.version == self.serving
        assert {failure.document_id for failure in report.failures} == {
            id_ for id_ in meant if not self.docs[id_].readable
        }

    def check_at_rest(self, scope: Scope) -> None:
        """An empty plan; another sync embeds nothing and writes nothing."""
        how: dict[str, Any] = {"only": scope.only, "prune": scope.prune, "max_delete": 1.0}
        plan = self.index.plan(self.source, **how)
        assert plan.is_empty, f"{plan.changes} {plan.deletions} after a sync"
        assert plan.embeddings == plan.tokens == plan.orphans == 0
        self.fuse.reset()
        batches = [len(encoder.batches) for encoder in self.encoders.values()]
        report = self.index.sync(self.source, **how)
        assert [len(encoder.batches) for encoder in self.encoders.values()] == batches, "a second sync embeds"
        assert not self.fuse.calls, f"a second sync writes: {self.fuse.calls}"
        assert report.documents_added == report.documents_changed == report.documents_deleted == 0

    # --- the end of a history -----------------------------------------------------------------------------------------
    def finish(self) -> None:
        """A last sync, and an index built anew: the same chunks and the same answers."""
        self.full_sync()
        self.answers_are_whole_and_labelled()
        type(self).finished += 1
        held = self.versions[self.serving or ""]
        wanted, right = build_fresh(self.folder / "fresh.tarragon", held.served, held.salt, held.tokens)
        if self.unfinished():
            return  # what is stored of a document that cannot be read any more, and not served, still counts as text
        with self.index._opened.reading() as version:
            assert contents(version) == wanted
        assert_alike(answers(self.index), right, "a fresh build answers otherwise")
