"""Random histories of documents, syncs, crashes and versions; after each step the laws are checked on the real engine.

The model is small: what the source holds, and for each version which state of each document it serves. After a crash a
document may serve its former state or its new one; which of them is looked up once, at once, and must then stay.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tarragon import Document, Index, IndexRecipe
from tarragon.errors import (
    EmptySource,
    IndexLocked,
    InvalidInput,
    NotReady,
    PlanOutdated,
    TooManyDeletions,
    UnreadableDocument,
)
from tarragon.identity import DocumentState, content_hash, metadata_hash
from tarragon.protocols import Source, SourceItem, StoredChunk
from tarragon.reports import Plan, SyncReport
from tests.freshness.faults import PLACES, UNMENDED, Boundary, Fuse, Killed, copy_as_left, remove
from tests.freshness.laws import (
    EVERYTHING,
    QUERIES,
    Answers,
    State,
    Words,
    answers,
    assert_alike,
    assert_holds,
    assert_nearest,
    build_fresh,
    by_document,
    contents,
    passages,
    pieces,
    shown_by,
    texts_of,
)

IDS = ("a.md", "b.md", "c.txt", "sub/d.md", "sub/e.md", "f.md")
SALTS = ("", "other")
TOKENS = (16, 256)
SENTENCES = (
    "Keys rotate at night.",
    "The walls are cold and the doors are shut.",
    "Who answers the phone on Sunday?",
    "A backup takes an hour.",
    "Doors open at noon, and keys are handed out.",
    "Nobody knows the roof.",
    "Restore from the cold storage first.",
    "The engineer on call sleeps at noon.",
)
HEADINGS = ("# Keys\n\n", "# Doors\n\n", "## Night\n\n", "")
ONLY: Mapping[tuple[str, ...], Callable[[str], bool]] = {
    (): lambda _: True,
    ("sub/",): lambda id_: id_.startswith("sub/"),
    ("*.md",): lambda id_: id_.endswith(".md"),
    ("a.md", "c.txt"): lambda id_: id_ in ("a.md", "c.txt"),
}

paragraphs = st.builds(
    lambda heading, said: heading + " ".join(said),
    st.sampled_from(HEADINGS),
    st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3),
)
texts = st.one_of(st.lists(paragraphs, min_size=1, max_size=4).map("\n\n".join), st.just(" \n\n"))
metadata = st.sampled_from(('{}', '{"lang": "de"}', '{"lang": "en"}', '{"lang": "en", "n": [1, null]}'))  # fmt: skip
ids = st.sampled_from(IDS)
exits = st.sampled_from(("stay", "close", "kill"))
changes = st.lists(
    st.tuples(
        ids, st.sampled_from(("put", "describe", "insert", "shorten", "remove", "break", "copy")), texts, metadata
    ),
    min_size=1,
    max_size=3,
)
Change: TypeAlias = "tuple[str, str, str, str]"
DELETING = ("before SqliteLedger.commit_deletion", "after EdgeStore.delete", "after SqliteLedger.intend_deletion")
boundaries = st.one_of(st.integers(0, 30), st.tuples(st.sampled_from(PLACES), st.integers(0, 2)))

TAKEN_ALIKE = {("unreadable", None), (None, "unreadable")}

_numbers = itertools.count()


@dataclass
class Entry:
    """A document of the source."""

    state: State
    revision: int
    readable: bool = True


@dataclass
class Held:
    """A version of the index: under what it was built, and what it serves."""

    salt: str
    tokens: int
    served: dict[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class Scope:
    """Which documents a sync may touch."""

    only: tuple[str, ...] = ()
    prune: bool = True
    planned: frozenset[str] | None = None

    def meets(self, document_id: str) -> bool:
        return ONLY[self.only](document_id) and (self.planned is None or document_id in self.planned)


@dataclass(frozen=True)
class SavedPlan:
    """A plan, and what it was made from: for each of its documents what the index had and what the source had."""

    plan: Plan
    parts: Mapping[str, tuple[Any, Any]]
    place: tuple[str, str]
    scope: Scope


class Memory:
    """The model's documents as a source: live, in any order, with hints or without."""

    def __init__(self, entries: Mapping[str, Entry], hints: bool) -> None:
        self._entries = entries
        self._hints = hints
        self.order: Callable[[list[str]], list[str]] = sorted

    def items(self) -> Iterator[SourceItem]:
        return iter([self._item(document_id) for document_id in self.order(list(self._entries))])

    def skipped(self) -> Mapping[str, int]:
        return {}

    def find(self, document_id: str) -> SourceItem | None:
        return self._item(document_id) if document_id in self._entries else None

    def describe(self) -> None:
        return None

    def _item(self, document_id: str) -> SourceItem:
        entry = self._entries[document_id]
        hint = str(entry.revision) if self._hints else None
        return SourceItem(document_id, hint, partial(self._load, document_id))

    def _load(self, document_id: str) -> Document:
        entry = self._entries[document_id]
        if not entry.readable:
            raise UnreadableDocument(f"{document_id} cannot be read")
        return entry.state.document(document_id)


class Histories(RuleBasedStateMachine):
    """One history. Class attributes count over all of them."""

    histories = 0
    finished = 0
    steps = 0
    syncs = 0
    crashes: Counter[str] = Counter()
    seen: Counter[str] = Counter()
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
        self.versions: dict[str, Held] = {}
        self.serving: str | None = None
        self.formers: list[str] = []
        self.known = self.whole = False
        self.saved: SavedPlan | None = None
        self.left: tuple[str, Answers] | None = None
        self.must_look = False
        self.windowed = False
        self.hints = False
        self.fuse = Fuse()
        self.stack = ExitStack()
        self.stack.enter_context(self.fuse.installed())
        self.stack.callback(remove, self.folder)
        self.open()

    @initialize(documents=st.dictionaries(ids, texts, min_size=1))
    def begin(self, documents: dict[str, str]) -> None:
        for document_id, text in documents.items():
            self.write(document_id, State(text))

    @initialize(window=st.sampled_from((1 << 18, 150, 1)), batch=st.sampled_from((1, 2, 500)), hints=st.booleans())
    def choose_sizes(self, window: int, batch: int, hints: bool) -> None:
        self.windowed = window < 1 << 18
        self.hints = hints
        for name in ("tarragon.syncing.WINDOW_CHARACTERS", "tarragon.plans.WINDOW_CHARACTERS"):
            self.stack.enter_context(patch(name, window))
        self.stack.enter_context(patch("tarragon.syncing._BATCH", batch))
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

    # --- the source ---------------------------------------------------------------------------------------------------
    def write(self, document_id: str, state: State) -> None:
        if document_id in self.docs:
            self.past.setdefault(document_id, []).append(self.docs[document_id].state)
        self.revision += 1
        self.docs[document_id] = Entry(state, self.revision)

    def forget(self, document_id: str) -> None:
        del self.docs[document_id]

    def spoil(self, document_id: str) -> None:
        self.revision += 1
        self.docs[document_id].readable = False
        self.docs[document_id].revision = self.revision

    @rule(document_id=ids, text=texts, about=metadata)
    def put(self, document_id: str, text: str, about: str) -> None:
        self.write(document_id, State(text, about if self.has_metadata else "{}"))

    @rule(document_id=ids, place=st.integers(0, 5), said=st.sampled_from(SENTENCES), how=st.sampled_from("ria~"))
    def edit(self, document_id: str, place: int, said: str, how: str) -> None:
        """Replace, insert, append to or swap the paragraphs of a document."""
        if document_id not in self.docs:
            return self.write(document_id, State(said))
        state = self.docs[document_id].state
        parts = state.text.split("\n\n")
        place %= len(parts)
        if how == "r":
            parts[place] = said
        elif how == "i":
            parts.insert(place, said)
        elif how == "a":
            parts.append(said)
        else:
            parts = parts[place:] + parts[:place]
        return self.write(document_id, State("\n\n".join(parts), state.metadata))

    @rule(document_id=ids)
    def take_back(self, document_id: str) -> None:
        """A → B → A."""
        if self.past.get(document_id):
            self.write(document_id, self.past[document_id].pop())

    @rule(document_id=ids, about=metadata)
    def describe(self, document_id: str, about: str) -> None:
        if document_id in self.docs and self.has_metadata:
            self.write(document_id, State(self.docs[document_id].state.text, about))

    @rule(first=ids, second=ids, copied=st.booleans())
    def rename(self, first: str, second: str, copied: bool) -> None:
        if first in self.docs and first != second:
            self.write(second, self.docs[first].state)
            if not copied:
                self.forget(first)

    @rule(first=ids, second=ids)
    def move_text(self, first: str, second: str) -> None:
        """The last paragraph of a document goes to another one."""
        if first in self.docs and second in self.docs and first != second:
            one, two = self.docs[first].state, self.docs[second].state
            rest, _, last = one.text.rpartition("\n\n")
            self.write(first, State(rest, one.metadata))
            self.write(second, State(f"{two.text}\n\n{last}", two.metadata))

    @rule(document_id=ids)
    def remove(self, document_id: str) -> None:
        if document_id in self.docs:
            self.forget(document_id)

    @rule(document_id=ids)
    def break_or_mend(self, document_id: str) -> None:
        if document_id in self.docs:
            if self.docs[document_id].readable:
                self.spoil(document_id)
            else:
                self.write(document_id, self.docs[document_id].state)

    def change(self, changes: Sequence[Change]) -> None:
        """Several changes at once."""
        for document_id, kind, text, about in changes:
            held = self.docs.get(document_id)
            if held is None or kind == "put":
                self.put_(document_id, State(text, about))
            elif kind == "describe":
                self.put_(document_id, State(held.state.text, about))
            elif kind == "insert":
                self.put_(document_id, State(f"{text}\n\n{held.state.text}", held.state.metadata))
            elif kind == "shorten":
                self.put_(document_id, State(held.state.text.partition("\n\n")[2], held.state.metadata))
            elif kind == "copy":
                self.put_(IDS[-1], held.state)
            elif kind == "remove":
                self.forget(document_id)
            else:
                self.spoil(document_id)

    def put_(self, document_id: str, state: State) -> None:
        self.write(document_id, state if self.has_metadata else replace(state, metadata="{}"))

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
        """Which of the possible states of each document a version shows: exactly one, never a mixture, never another."""
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
        copy = self.folder / f"{next(_numbers)}.tarragon"
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
        """Each text at most once, none that was there already; of a crashed sync only the last batch may be lost."""
        total = 0
        after = self.cached()
        for salt, encoder in self.encoders.items():
            texts = [text for batch in encoder.batches for text in batch]
            total += len(texts)
            moves = self.windowed or sum(held.salt == salt for held in self.versions.values()) > 1
            again = set(texts) & (kept[salt] if moves else before[salt])  # a text may go before its new place is read
            assert not again, f"embedded although the vector was there: {again}"
            assert len(texts) == len(set(texts)), f"embedded twice in one sync: {texts}"
            if crashed:
                lost = {text for batch in encoder.batches[:-1] for text in batch} - after[salt]
                assert not lost, f"more than one batch is lost: {lost}"
        return total

    def kept_texts(self, possible: Mapping[str, Mapping[str, Sequence[State | None]]]) -> dict[str, set[str]]:
        """Texts of documents that a sync does not change, by encoder."""
        found: dict[str, set[str]] = {salt: set() for salt in SALTS}
        for name, states in possible.items():
            held = self.versions[name]
            same = {id_: state for id_, state in held.served.items() if set(states[id_]) == {state}}
            found[held.salt] |= texts_of(same, held.tokens)
        return found

    def full_sync(self, scope: Scope = Scope(), *, seed: int = 0, again: bool = True, **how: Any) -> SyncReport | None:
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
        self.known, self.whole = True, scope.prune
        if self.serving is None:
            possible = self.first_version(scope)
        self.adopt(possible)
        embedded = self.check_embedded(before, kept, crashed=False)
        assert embedded == report.chunks_embedded + sum(other.chunks_embedded for other in report.others)
        self.check_counts(report, scope)
        assert planned in (None, report.chunks_embedded), f"{planned} embeddings were planned"
        left = {id_ for id_ in self.unfinished() if scope.meets(id_)}
        assert all(id_ in self.docs and not self.docs[id_].readable or not scope.prune for id_ in left), left
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

    @rule(seed=st.integers(0, 5), peek=st.booleans(), again=st.booleans())
    def sync(self, seed: int, peek: bool, again: bool) -> None:
        self.full_sync(seed=seed, peek=peek, again=again)
        if self.serving is not None:
            held = self.versions[self.serving]
            query = QUERIES[seed % len(QUERIES)]
            assert_nearest(self.index, query, held.served, held.tokens, self.encoders[held.salt])

    @rule(seed=st.integers(0, 5), fuse=boundaries, exit=exits, torn=st.booleans())
    def sync_and_crash(self, seed: int, fuse: Boundary, exit: str, torn: bool) -> None:
        self.full_sync(seed=seed, fuse=fuse, exit=exit, torn=torn, again=False)

    @rule(changes=changes, fuse=boundaries, exit=exits, torn=st.booleans())
    def change_and_crash(self, changes: list[Change], fuse: Boundary, exit: str, torn: bool) -> None:
        """Changes that are the only ones, so that the crash is among their writes."""
        if self.serving is None or any(not entry.readable for entry in self.docs.values()):
            self.full_sync(again=False)
        self.change(changes)
        self.full_sync(fuse=fuse, exit=exit, torn=torn, again=False)

    @rule(changes=changes)
    def change_and_look(self, changes: list[Change]) -> None:
        """Changes, and a search between any two writes of their sync."""
        self.change(changes)
        self.full_sync(peek=True, again=False)

    @rule(document_id=ids, place=st.sampled_from(DELETING), exit=exits)
    def delete_and_crash(self, document_id: str, place: str, exit: str) -> None:
        if document_id in self.docs:
            self.forget(document_id)
            self.full_sync(fuse=(place, 0), exit=exit, again=False)

    @rule(fuses=st.lists(boundaries, min_size=2, max_size=3), exit=exits)
    def sync_and_crash_again(self, fuses: list[Boundary], exit: str) -> None:
        for fuse in fuses:
            self.full_sync(fuse=fuse, exit=exit, again=False)
        self.full_sync()

    @rule(only=st.sampled_from([*ONLY][1:]), prune=st.booleans(), seed=st.integers(0, 5))
    def sync_some(self, only: tuple[str, ...], prune: bool, seed: int) -> None:
        self.full_sync(Scope(only, prune), seed=seed)

    @rule(seed=st.integers(0, 5))
    def sync_without_deleting(self, seed: int) -> None:
        self.full_sync(Scope(prune=False), seed=seed)

    @rule(budget=st.integers(0, 40), seed=st.integers(0, 5))
    def sync_with_a_budget(self, budget: int, seed: int) -> None:
        if self.serving is None:
            return
        source = self.ordered(seed)
        possible, complete = self.possible_after(Scope(), crashed=True), self.possible_after(Scope(), crashed=False)
        before, kept = self.cached(), self.kept_texts(complete)
        report = self.run(lambda: self.index.sync(source, max_delete=1.0, budget=budget), Scope())
        self.known = self.whole = True
        left = {report.version: report.documents_left, **{one.version: one.documents_left for one in report.others}}
        assert all(one.tokens_embedded <= budget for one in (report, *report.others))
        for name in possible:
            if self.role(name) in ("serving", "standby") and not left[name]:
                possible[name] = complete[name]
        self.adopt(possible)
        self.check_embedded(before, kept, crashed=False)

    @rule()
    def sync_under_guard(self) -> None:
        """A sync that would delete too much is refused, and nothing is written."""
        if self.serving is None:
            return
        known = set(self.statuses())
        gone = known.difference(self.docs)
        self.fuse.reset()
        try:
            plan = self.index.plan(self.source)
            self.index.sync(self.source)
        except (EmptySource, TooManyDeletions):
            refused = True
            assert not self.fuse.calls
            assert plan.blocked
        else:
            refused = False
            assert not plan.blocked
        empty = bool(gone) and not self.docs
        assert refused == (empty or (5 * len(gone) > len(known) and 2 * len(gone) > len(known)))
        if not refused:
            self.known, self.whole, self.left = True, True, None
            self.adopt(self.possible_after(Scope(), crashed=False))

    # --- plans --------------------------------------------------------------------------------------------------------
    def parts(self, document_ids: Sequence[str]) -> dict[str, tuple[Any, Any]]:
        """What the index has of these documents, and what the source has."""
        with self.index._opened.reading() as version:
            records = version.ledger.documents()
        found = {}
        for id_ in document_ids:
            record, entry = records.get(id_), self.docs.get(id_)
            base = None if record is None or record.state is None else (record.status, record.state)
            found[id_] = (base, None if entry is None else (entry.state if entry.readable else "unreadable"))
        return found

    @precondition(lambda self: self.serving is not None)
    @rule(only=st.sampled_from([*ONLY]), prune=st.booleans())
    def make_plan(self, only: tuple[str, ...], prune: bool) -> None:
        self.save_plan(Scope(only, prune))

    def save_plan(self, scope: Scope) -> None:
        """Make a plan, see that it names what must be done, and keep it."""
        prune = scope.prune
        self.fuse.reset()
        plan = self.index.plan(self.source, only=scope.only, prune=prune, max_delete=1.0)
        assert not self.fuse.calls, "a plan writes"
        changed = {change.document_id for change in plan.changes if change.change != "failed"}
        deleted = {gone.document_id for gone in plan.deletions}
        served, statuses = self.versions[self.serving or ""].served, self.statuses()
        for id_ in self.everyone():
            goal = self.goal(id_, served.get(id_), scope)
            entry = self.docs.get(id_)
            if goal != served.get(id_) and goal is not None:
                assert id_ in changed, f"{id_} is not planned"
            if scope.meets(id_) and entry is None and prune and id_ in statuses:
                assert id_ in deleted
            if goal == served.get(id_) and statuses.get(id_, "ok") == "ok":
                assert id_ not in changed | deleted, f"{id_} is planned for nothing"
        again = Plan.from_dict(plan.to_dict())
        assert again == plan
        everything = [change.document_id for change in plan.changes] + sorted(deleted)
        self.saved = SavedPlan(again, self.parts(everything), (plan.version, plan.fingerprint), scope)

    @precondition(lambda self: self.saved is not None and self.serving is not None)
    @rule(fuse=st.one_of(st.none(), boundaries), exit=exits)
    def apply_plan(self, fuse: Boundary | None, exit: str) -> None:
        self.apply_saved(fuse, exit)

    def apply_saved(self, fuse: Boundary | None, exit: str) -> None:
        """Sync by the saved plan: refused, naming what has moved, or done."""
        saved = self.saved
        assert saved is not None
        assert self.serving is not None
        planned = frozenset(saved.parts)
        scope = Scope(saved.scope.only, saved.scope.prune, planned)
        now = self.parts(sorted(planned))
        moved = sorted(id_ for id_ in planned if now[id_] != saved.parts[id_])
        if "failed in a plan" in UNMENDED and {(saved.parts[id_][1], now[id_][1]) for id_ in moved} & TAKEN_ALIKE:
            return
        source = self.source
        sync = partial(
            self.index.sync, source, only=scope.only, prune=scope.prune, max_delete=1.0, plan=saved.plan
        )  # fmt: skip
        possible, maybe = self.possible_after(scope, crashed=False), self.possible_after(scope, crashed=True)
        before, kept = self.cached(), self.kept_texts(possible)
        self.fuse.reset()
        contract = self.index.status().fingerprint
        try:
            report = self.run(sync, scope, fuse=fuse, exit=exit)
        except PlanOutdated as error:
            assert not self.fuse.calls, "an outdated plan was begun"
            if saved.place == (self.serving, contract):
                assert error.data["documents"] == moved
            self.saved = None
            self.seen["plan outdated"] += 1
            return
        if report is None:
            self.after_crash(maybe, scope)
            self.check_embedded(before, kept, crashed=True)
            return
        assert saved.place == (self.serving, contract)
        assert not moved, f"the plan was applied although these moved: {moved}"
        self.known, self.whole, self.saved = True, scope.prune, None
        self.seen["plan applied"] += 1
        self.adopt(possible)
        self.check_embedded(before, kept, crashed=False)
        if not self.windowed:
            assert report.chunks_embedded == saved.plan.embeddings

    @precondition(lambda self: self.serving is not None)
    @rule(before=changes, after=st.one_of(st.just([]), changes), synced=st.booleans())
    def plan_and_apply(self, before: list[Change], after: list[Change], synced: bool) -> None:
        """Changes, a plan, more changes, perhaps synced already; then the plan is applied."""
        self.change(before)
        self.save_plan(Scope())
        self.change(after)
        if synced:
            self.full_sync(Scope(("sub/",)), again=False)
        self.apply_saved(None, "stay")

    # --- searches that write ------------------------------------------------------------------------------------------
    @precondition(lambda self: self.serving is not None)
    @rule(how=st.sampled_from(("drop", "refresh")), k=st.sampled_from((3, EVERYTHING)))
    def search_for_what_is_fresh(self, how: Any, k: int) -> None:
        held = self.versions[self.serving or ""]
        before = dict(held.served)
        hits = self.run(lambda: self.index.search("keys", k, on_stale=how, mode="dense"), Scope())
        assert {hit.freshness for hit in hits} <= {"fresh", "unknown"}
        stale = {id_ for id_, state in before.items() if self.freshness(id_, state) == {"stale"}}
        if how == "refresh" and self.known:
            possible = self.as_is(self.serving or "")
            for id_ in stale:
                new = self.goal(id_, before[id_], Scope())
                possible[id_] = (
                    [new] if k == EVERYTHING and passages(id_, before[id_], held.tokens) else [new, before[id_]]
                )
            self.adopt({self.serving or "": possible})
        if k == EVERYTHING:
            fine = {
                id_ for id_, state in held.served.items() if self.freshness(id_, state) <= {"fresh", "unknown"}
            }  # fmt: skip
            wanted = {id_: passages(id_, held.served[id_], held.tokens) for id_ in fine}
            assert by_document(hits) == {id_: found for id_, found in wanted.items() if found}

    # --- versions -----------------------------------------------------------------------------------------------------
    @precondition(lambda self: self.serving is not None)
    @rule(which=st.integers(0, 12), fuse=st.one_of(st.none(), boundaries), exit=exits)
    def upgrade(self, which: int, fuse: Boundary | None, exit: str) -> None:
        self.build(which, fuse, exit)

    @precondition(lambda self: self.serving is not None)
    @rule(which=st.integers(0, 2))
    def upgrade_and_promote(self, which: int) -> None:
        self.full_sync(again=False)
        if name := self.build(which, None, "stay"):
            self.let_serve(name, None, "stay")

    def build(self, which: int, fuse: Boundary | None, exit: str) -> str | None:
        """Build a version, perhaps until a crash; one that was begun goes on. Its name if it was done."""
        held = self.versions[self.serving or ""]
        recipes = [(salt, tokens) for salt in SALTS for tokens in TOKENS]
        recipes.remove((held.salt, held.tokens))
        salt, tokens = (*recipes[which % 3],) if which < 12 else (held.salt, held.tokens)
        if len(self.versions) > 3:
            return None
        source = self.ordered(tokens)
        act = partial(
            self.index.upgrade, IndexRecipe(chunk_tokens=tokens), encoder=self.encoders[salt], sources={"": source}
        )
        if (salt, tokens) == (held.salt, held.tokens):
            try:
                act()
            except InvalidInput:
                return None
            raise AssertionError("an upgrade to the same recipe")
        before = self.cached()
        kept = self.kept_texts({name: self.as_is(name) for name in self.versions})
        report = self.run(act, Scope(), fuse=fuse, exit=exit, syncs=False)
        crashed = report is None
        self.seen["upgrade crashed" if crashed else "upgraded"] += 1
        if not crashed:
            self.known = self.whole = True
            self.discover()
        possible: dict[str, dict[str, list[State | None]]] = {}
        for name, version in self.versions.items():
            possible[name] = self.as_is(name)
            mine = (version.salt, version.tokens) == (salt, tokens) and self.role(name) == "building"
            if mine if crashed else report.version == name:
                for id_ in self.everyone():
                    former = version.served.get(id_)
                    goal = self.goal(id_, former, Scope())
                    possible[name][id_] = [former, goal] if crashed else [goal]
        self.adopt(possible)
        self.check_embedded(before, kept, crashed)
        if not crashed:
            assert self.index._opened.catalog.serving() == self.serving, "an upgrade moves no pointer"
        return None if crashed else report.version

    def is_ready(self, name: str) -> bool:
        """Whether a version is whole and says what the serving one and the source say."""
        served, mine = self.versions[self.serving or ""].served, self.versions[name].served
        goal = {id_: self.goal(id_, mine.get(id_), Scope()) for id_ in self.everyone()}
        if "unchecked when empty" in UNMENDED and not self.statuses():
            return not mine and not self.unfinished(name)
        return (
            not self.unfinished(name)
            and set(self.statuses(name)) <= set(self.docs)
            and all(mine.get(id_) == served.get(id_) for id_ in self.everyone())
            and all(mine.get(id_) == goal[id_] for id_ in self.everyone())
        )

    @precondition(lambda self: self.serving is not None)
    @rule(which=st.integers(0, 2), changes=changes, fuse=st.one_of(st.none(), boundaries))
    def upgrade_and_change(self, which: int, changes: list[Change], fuse: Boundary | None) -> None:
        """A version that is interrupted, or behind, is not let serve."""
        self.full_sync(again=False)
        names = set(self.versions)
        self.build(which, fuse, "stay")
        if fuse is None:
            self.change(changes)
        for name in sorted(set(self.versions) - names):
            self.let_serve(name, None, "stay")

    @precondition(lambda self: len(self.versions) > 1 and self.serving is not None)
    @rule(choice=st.integers(0, 3), fuse=st.one_of(st.none(), st.integers(0, 6)), exit=exits)
    def promote(self, choice: int, fuse: Boundary | None, exit: str) -> None:
        others = sorted(set(self.versions) - {self.serving})
        self.let_serve(others[choice % len(others)], fuse, exit)

    def let_serve(self, name: str, fuse: Boundary | None, exit: str) -> None:
        before = self.serving
        assert before is not None
        ready, unsettled = self.is_ready(name), bool(self.unfinished())
        left = answers(self.index)
        act = partial(self.index.promote, name, sources={"": self.source})
        try:
            done = self.run(lambda: act() or True, Scope(), fuse=fuse, exit=exit, syncs=False)
        except NotReady:
            assert not ready or unsettled, f"{name} is complete and was refused"
            self.seen["not promoted"] += 1
            return
        assert ready or done is None, f"{name} was promoted, and is not complete"
        if done is None:
            assert self.serving in (before, name)
            assert ready or self.serving == before
            self.adopt({version: self.as_is(version) for version in self.versions})
            return
        self.formers = [*(former for former in self.formers if former != name), before]
        self.serving, self.left = name, (before, left)
        self.seen["promoted"] += 1
        assert list(self.index._opened.catalog.former()) == self.formers
        if "retired rollback" not in UNMENDED:
            assert self.role(before) == "standby", "what a rollback goes back to must be kept up to date"
        assert all(self.role(former) == "retired" for former in self.formers[:-1])
        self.adopt({version: self.as_is(version) for version in self.versions})

    @precondition(lambda self: self.serving is not None)
    @rule(fuse=st.one_of(st.none(), st.integers(0, 4)), exit=exits)
    def roll_back(self, fuse: Boundary | None, exit: str) -> None:
        before, left = self.serving, self.left
        then = self.formers[-1] if self.formers else None
        try:
            found = self.run(self.index.rollback, Scope(), fuse=fuse, exit=exit, syncs=False)
        except NotReady:
            assert then is None
            return
        if found is None:
            assert self.serving in (before, then)
        else:
            assert then is not None
            assert found[0] == then
            now, old = self.versions[before or ""].served, self.versions[then].served
            if not self.unfinished(before) and not self.unfinished(then):
                assert found[1] == sum(now.get(id_) != old.get(id_) for id_ in self.everyone())
            self.serving = self.index._opened.catalog.serving()
            assert self.serving == then
            self.formers.pop()
            assert list(self.index._opened.catalog.former()) == self.formers
            self.seen["rolled back"] += 1
            if left is not None and left[0] == then:
                self.seen["rolled back, answers compared"] += 1
                assert answers(self.index) == left[1], "a rollback gives other answers than before the promotion"
        self.left = None
        self.adopt({version: self.as_is(version) for version in self.versions})

    @precondition(lambda self: len(self.versions) > 1)
    @rule(keep=st.integers(0, 2), fuse=st.one_of(st.none(), st.integers(0, 3)), exit=exits)
    def collect_garbage(self, keep: int, fuse: Boundary | None, exit: str) -> None:
        names = sorted(self.versions, key=lambda name: int(name[1:]))
        kept = {self.serving, *(self.formers[-keep:] if keep else ())}
        newer = names[names.index(self.serving) :] if self.serving in names else names
        wanted = [
            name for name in names if name not in kept and not (self.role(name) == "building" and name in newer)
        ]  # fmt: skip
        found = self.run(lambda: self.index.gc(keep=keep), Scope(), fuse=fuse, exit=exit, syncs=False)
        if found is not None:
            self.seen["versions dropped"] += len(found)
            assert found == wanted
            for name in found:
                del self.versions[name]
            self.formers = [name for name in self.formers if name not in found]
        assert set(names) - set(self.versions) <= set(wanted)
        if self.left is not None and self.left[0] not in self.versions:
            self.left = None
        self.adopt({version: self.as_is(version) for version in self.versions})

    # --- upkeep -------------------------------------------------------------------------------------------------------
    @rule(wiped=st.booleans())
    def reopen(self, wiped: bool) -> None:
        """Close and open; or just forget what was remembered to be faster."""
        if wiped:
            self.index._answers._checks.clear()
            self.index._opened._trusted.clear()
        else:
            self.index.close()
            self.open()
            self.discover()

    @precondition(lambda self: self.has_readers and self.serving is not None)
    @rule(number=st.integers(0, 1))
    def change_the_reader(self, number: int) -> None:
        """Tarragon reads the same files otherwise from now on, and begins a new process with that."""
        ending = f"\n\nRead by {number}."
        for entry in self.docs.values():
            entry.state = replace(entry.state, text=entry.state.text.partition("\n\nRead by")[0] + ending)
        self.index.close()
        self.stack.enter_context(patch("tarragon.session.READER", f"reader {number}"))
        self.open()
        self.discover()

    @rule(document_id=ids)
    def use_two_handles(self, document_id: str) -> None:
        """Only one may write at a time; both see the same."""
        if self.serving is None or any(self.role(name) == "building" for name in self.versions):
            return
        with Index.open(self.path, encoder=list(self.encoders.values())) as other:
            with self.index._opened.catalog.writing():
                for writing in (lambda: other.sync(self.source), lambda: self.index.sync(self.source)):
                    try:
                        writing()
                    except IndexLocked:
                        continue
                    raise AssertionError("two writers at once")
            self.left = None
            possible = self.possible_after(Scope(), crashed=False)
            other.sync(self.source, max_delete=1.0)
            self.adopt(possible)

    @precondition(lambda self: self.serving is not None)
    @rule(kind=st.sampled_from(("missing", "foreign", "payload", "text", "vector")), place=st.integers(0, 20))
    def damage_and_repair(self, kind: str, place: int) -> None:
        """Verification is clean after a sync, finds what is damaged, and mends it."""
        self.full_sync(again=False)
        clean = self.index.verify(deep=True)
        unreadable = self.unfinished()
        assert clean.is_sound == (not unreadable), clean
        assert clean.unfinished == len(unreadable)
        held = self.versions[self.serving or ""]
        good = {id_: s for id_, s in held.served.items() if id_ in self.docs and self.docs[id_].readable}
        chunks = [(id_, piece) for id_ in sorted(good) for piece in pieces(id_, good[id_], held.tokens)]
        if not chunks:
            return
        document_id, piece = chunks[place % len(chunks)]
        chunk = UUID(piece.passage.chunk_id)
        with self.index._opened.reading() as version:
            store = version.store
            if kind == "missing":
                store.delete([chunk])
            elif kind == "foreign":
                vector = self.encoders[held.salt].vector("keys rotate")
                store.upsert([StoredChunk(UUID(int=place), vector, dict(store.payloads([chunk])[chunk]))])
            elif kind == "payload":
                store.set_payload({chunk: {"start": 9_999}})
            elif kind == "text":
                store.set_payload({chunk: {"content": "Something else."}})
            else:
                vector = -self.encoders[held.salt].vector(piece.embed_text)
                store.upsert([StoredChunk(chunk, vector, dict(store.payloads([chunk])[chunk]))])
        self.seen[f"damage: {kind}"] += 1
        found = self.index.verify(deep=True)
        name = {
            "missing": "missing", "foreign": "orphans", "payload": "wrong_payloads", "text": "wrong_texts",
            "vector": "wrong_vectors",
        }[kind]  # fmt: skip
        assert not found.is_sound
        assert getattr(found, name) >= 1
        if kind == "foreign":
            assert self.shown(self.serving or "").keys() <= held.served.keys()
            self.settle(self.serving or "", self.as_is(self.serving or ""))
            assert self.index.plan(self.source).orphans == 1 or unreadable
        else:
            assert document_id in found.affected
        self.left = None
        mended = self.index.verify(deep=True, repair=True)
        assert mended.is_sound or unreadable
        assert self.index.verify(deep=True).is_sound or unreadable
        self.adopt({self.serving or "": self.as_is(self.serving or "")})

    # --- the end of a history -----------------------------------------------------------------------------------------
    def finish(self) -> None:
        """A last sync, and an index built anew: the same chunks and the same answers."""
        self.full_sync()
        self.answers_are_whole_and_labelled()
        type(self).finished += 1
        held = self.versions[self.serving or ""]
        wanted, right = build_fresh(self.folder / "fresh.tarragon", held.served, held.salt, held.tokens)
        if not self.unfinished():
            with self.index._opened.reading() as version:
                assert contents(version) == wanted
        assert_alike(answers(self.index), right, "a fresh build answers otherwise")
        for name in self.versions:
            if name != self.serving and self.role(name) == "standby":
                assert self.versions[name].served.keys() >= set()


class FolderHistories(Histories):
    """The same with files in a folder, old enough for their time stamps to be trusted."""

    has_metadata = has_readers = False

    def __init__(self) -> None:
        super().__init__()

    @property
    def root(self) -> Path:
        root = self.folder / "documents"
        root.mkdir(exist_ok=True)
        return root

    def make_source(self) -> Any:
        from tarragon.sources import FolderSource

        return FolderSource(self.root)

    def open(self) -> None:
        super().open()
        self.known = False

    def _stamp(self, document_id: str, data: bytes) -> None:
        path = self.root / document_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        stamp = 1_700_000_000 + self.revision
        os.utime(path, (stamp, stamp))

    def write(self, document_id: str, state: State) -> None:
        super().write(document_id, state)
        self._stamp(document_id, state.text.encode())

    def forget(self, document_id: str) -> None:
        super().forget(document_id)
        (self.root / document_id).unlink()

    def spoil(self, document_id: str) -> None:
        super().spoil(document_id)
        self._stamp(document_id, b"\xfa\xfb broken")

    def freshness(self, document_id: str, served: State) -> set[str]:
        """A folder can be opened again from what the index remembers, where a sync has ended since it was made."""
        known, self.known = self.known, True
        right = super().freshness(document_id, served)
        self.known = known
        return right if known else {*right, "unknown"}


__all__ = ["FolderHistories", "Histories", "shutil"]
