"""Rules: documents change, and syncs of every kind, plans and searches follow, whole or until they crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tarragon.errors import (
    EmptySource,
    PlanOutdated,
    TooManyDeletions,
)
from tarragon.reports import Plan
from tests.freshness.faults import Boundary
from tests.freshness.history import History
from tests.freshness.laws import (
    EVERYTHING,
    QUERIES,
    State,
    assert_nearest,
    by_document,
    passages,
)
from tests.freshness.model import (
    DELETING,
    IDS,
    ONLY,
    REWRITING,
    SENTENCES,
    WRITING,
    Change,
    Entry,
    SavedPlan,
    Scope,
    boundaries,
    changes,
    exits,
    ids,
    metadata,
    texts,
)


class Changing(History):
    """One version, whatever happens to its documents."""

    @initialize(documents=st.dictionaries(ids, texts, min_size=1))
    def begin(self, documents: dict[str, str]) -> None:
        for document_id, text in documents.items():
            self.write(document_id, State(text))

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

    # --- syncing ------------------------------------------------------------------------------------------------------
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

    @rule(
        changes=changes,
        fuse=st.one_of(st.tuples(st.sampled_from(WRITING), st.integers(0, 1)), boundaries),
        exit=exits,
        torn=st.booleans(),
        mended=st.booleans(),
    )
    def change_and_crash(self, changes: list[Change], fuse: Boundary, exit: str, torn: bool, mended: bool) -> None:
        """Changes that are the only ones, so that the crash is among their writes."""
        if self.serving is None or any(not entry.readable for entry in self.docs.values()):
            self.full_sync(again=False)
        self.change(changes)
        self.full_sync(fuse=fuse, exit=exit, torn=torn, again=False)
        if mended:
            self.full_sync()

    @rule(document_id=ids, text=texts, first=st.sampled_from(DELETING), then=st.sampled_from(REWRITING), exit=exits)
    def delete_and_write_again(self, document_id: str, text: str, first: str, then: str, exit: str) -> None:
        """A document whose deletion crashed is there again, and its rewrite crashes too."""
        self.have(document_id)
        self.forget(document_id)
        self.full_sync(fuse=(first, 0), exit=exit, again=False)
        self.put_(document_id, State(text))
        self.full_sync(fuse=(then, 0), exit=exit, again=False)

    def have(self, document_id: str) -> None:
        """See to it that a document is there and indexed."""
        if document_id not in self.docs or not self.docs[document_id].readable:
            self.put_(document_id, State(SENTENCES[0]))
        self.full_sync(again=False)

    @rule(changes=changes)
    def change_and_look(self, changes: list[Change]) -> None:
        """Changes, and a search between any two writes of their sync."""
        self.change(changes)
        self.full_sync(peek=True, again=False)

    @rule(document_id=ids, place=st.sampled_from(DELETING), exit=exits)
    def delete_and_crash(self, document_id: str, place: str, exit: str) -> None:
        self.have(document_id)
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
        assert sum(one.tokens_embedded for one in (report, *report.others)) <= budget
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
            if goal == served.get(id_) and statuses.get(id_, "ok") == "ok" and not self.reader:
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
        source = self.source
        sync = partial(
            self.index.sync, source, only=scope.only, prune=scope.prune, max_delete=1.0, plan=saved.plan
        )  # fmt: skip
        possible, maybe = self.possible_after(scope, crashed=False), self.possible_after(scope, crashed=True)
        before, kept = self.cached(), self.kept_texts(possible)
        self.fuse.reset()
        contract = self.index.status().fingerprint
        outdated: PlanOutdated | None = None
        try:
            report = self.run(sync, scope, fuse=fuse, exit=exit)
        except PlanOutdated as error:
            outdated = error
        if outdated is not None:
            assert not self.fuse.calls, "an outdated plan was begun"
            assert saved.place != (self.serving, contract) or outdated.data["documents"] == moved
            self.saved = None
            self.seen["plan outdated"] += 1
            return
        if report is None:
            self.after_crash(maybe, scope)
            self.check_embedded(before, kept, crashed=True)
            return
        assert saved.place == (self.serving, contract)
        assert not moved, f"the plan was applied although these moved: {moved}"
        self.saved = None
        if not scope.only:
            self.known, self.whole = True, scope.prune
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
                    [new] if k == EVERYTHING and passages(id_, before[id_], held.tokens) else [before[id_], new]
                )
            self.adopt({self.serving or "": possible})
        if k == EVERYTHING:
            fine = {
                id_ for id_, state in held.served.items() if self.freshness(id_, state) <= {"fresh", "unknown"}
            }  # fmt: skip
            wanted = {id_: passages(id_, held.served[id_], held.tokens) for id_ in fine}
            assert by_document(hits) == {id_: found for id_, found in wanted.items() if found}
