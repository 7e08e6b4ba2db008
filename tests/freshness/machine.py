"""Random histories of documents, syncs, crashes and versions on the real engine, with the laws checked at each step."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tarragon import Index, IndexRecipe
from tarragon.errors import (
    IndexLocked,
    InvalidInput,
    NotReady,
)
from tarragon.protocols import StoredChunk
from tests.freshness.changing import Changing
from tests.freshness.faults import Boundary
from tests.freshness.laws import (
    State,
    answers,
    pieces,
)
from tests.freshness.model import (
    SALTS,
    TOKENS,
    Change,
    Scope,
    boundaries,
    changes,
    exits,
    ids,
)


class Histories(Changing):
    """Documents in memory."""

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
        if len(self.versions) > 3 or not self.statuses():
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
        if self.unfinished(name):
            return False
        for id_, entry in self.docs.items():
            if entry.readable and mine.get(id_) != entry.state:
                return False
            if not entry.readable and id_ in served and mine.get(id_) != served[id_]:
                return False
        lost = set(served) - set(mine)
        return set(self.statuses(name)) <= set(self.docs) and 2 * len(lost) <= len(served)

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
            excused = unsettled or self.reader  # the same text, read otherwise, is to be written again
            assert not ready or excused, f"{name} is complete and was refused"
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
    @rule()
    def change_the_reader(self) -> None:
        """Tarragon reads the same files otherwise from now on, and begins a new process with that."""
        self.reader += 1
        ending = f"\n\nRead by {self.reader}."
        for entry in self.docs.values():
            entry.state = replace(entry.state, text=entry.state.text.partition("\n\nRead by")[0] + ending)
        self.index.close()
        self.stack.enter_context(patch("tarragon.session.READER", f"reader {self.reader}"))
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
        if any(id_ in self.docs and not self.docs[id_].readable for id_ in held.served):
            return
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
        then, self.known = self.known, True
        right = super().freshness(document_id, served)
        self.known = then
        if document_id not in self.docs:
            return {"missing", "unknown"}
        return right if then else {*right, "unknown"}
