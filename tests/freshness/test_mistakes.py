"""Mistakes that random histories have found, each as short as it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tarragon import Document, Index, IndexRecipe
from tarragon.errors import NotReady, PlanOutdated
from tarragon.store.edge import EdgeStore
from tarragon.store.folder import IndexFolder
from tarragon.store.ledger import SqliteLedger
from tests.freshness.faults import Killed
from tests.freshness.laws import State, Words
from tests.freshness.model import Entry, Memory

A, B = Document("a", "Some text."), Document("b", "Another one.")


def blow(*_: object, **__: object) -> None:
    raise Killed


def roles(index: Index) -> dict[str, str]:
    return {version.name: version.role for version in index.versions()}


@pytest.mark.parametrize("first", [True, False], ids=["the first version", "an upgrade"])
def test_a_version_that_was_killed_while_its_files_were_made_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    words = Words()
    with Index.open(tmp_path / "i", encoder=words) as index:
        if not first:
            index.sync([A])
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(EdgeStore, "__init__", blow)
            if first:
                index.sync([A])
            else:
                index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words, sources={"": [A]})
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([A])
        assert list(roles(index).values()) == ["serving"]


def test_a_handle_that_was_opened_with_a_recipe_can_use_the_version_that_it_promotes(tmp_path: Path) -> None:
    words = Words()
    with Index.open(tmp_path / "i", encoder=words, recipe=IndexRecipe(chunk_tokens=40)) as index:
        index.sync([A])
        index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words, sources={"": [A]})
        index.promote("v2", sources={"": [A]})
        assert index.search("some text")[0].version == "v2"


def test_a_plan_that_keeps_an_unreadable_document_does_not_delete_it(tmp_path: Path) -> None:
    entries = {"a": Entry(State("Some text."), 1), "b": Entry(State("Another one."), 2)}
    source = Memory(entries, hints=False)
    with Index.open(tmp_path / "i", encoder=Words()) as index:
        index.sync(source)
        entries["a"].readable = False
        plan = index.plan(source)
        assert [(change.document_id, change.change) for change in plan.changes] == [("a", "failed")]
        del entries["a"]
        with pytest.raises(PlanOutdated):
            index.sync(source, plan=plan)
        assert {hit.document_id for hit in index.search("some text")} == {"a", "b"}


def test_a_version_that_a_killed_rollback_let_serve_is_kept_up_to_date_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, sources = Words(), {"": [A]}
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([A])
        for tokens, name in ((16, "v2"), (17, "v3")):
            index.upgrade(IndexRecipe(chunk_tokens=tokens), encoder=words, sources=sources)
            index.promote(name, sources=sources)
        index.rollback()
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(IndexFolder, "update", blow)
            index.rollback()
        assert roles(index)["v2"] == "serving"
        assert index.rollback()[0] == "v1"
        index.upgrade(IndexRecipe(chunk_tokens=18), encoder=words, sources=sources)
        index.promote("v4", sources=sources)
        index.sync([A, B])
        assert index.rollback() == ("v1", 0)


def test_a_version_that_is_behind_its_source_does_not_serve_even_if_the_index_is_empty(tmp_path: Path) -> None:
    words = Words()
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([])
        index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words)
        with pytest.raises(NotReady):
            index.promote("v2", sources={"": [A]})


def test_a_version_without_a_document_that_is_served_and_cannot_be_read_now_does_not_serve(tmp_path: Path) -> None:
    words = Words()
    entries = {"a": Entry(State("Some text."), 1), "b": Entry(State("Another one."), 2)}
    source = Memory(entries, hints=False)
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(source)
        entries["a"].readable = False
        index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words, sources={"": source})
        with pytest.raises(NotReady):
            index.promote("v2", sources={"": source})


def test_a_version_with_an_older_text_of_a_document_that_cannot_be_read_now_does_not_serve(tmp_path: Path) -> None:
    words = Words()
    entries = {"a": Entry(State("Some text."), 1)}
    source = Memory(entries, hints=False)
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(source)
        index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words, sources={"": source})
        entries["a"].state = State("Some newer text.")
        assert index.search("some text", on_stale="refresh")[0].text == "Some newer text."
        entries["a"].readable = False
        with pytest.raises(NotReady):
            index.promote("v2", sources={"": source})


def test_repairing_a_vector_keeps_the_passage_of_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    words = Words()
    entries = {"a": Entry(State("Some text."), 1)}
    source = Memory(entries, hints=False)
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(source)
        with index._opened.reading() as version:
            (chunk,) = version.store.ids()
            from tarragon.protocols import StoredChunk

            payload = version.store.payloads([chunk])[chunk]
            version.store.upsert([StoredChunk(chunk, -words.vector("Some text."), payload)])
        entries["a"].readable = False
        index.verify(deep=True, repair=True)
        assert [hit.text for hit in index.search("some text")] == ["Some text."]


def test_text_that_moves_to_a_later_document_is_not_embedded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1)
    words = Words()
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([Document("a", "# Keys\n\nOne.\n\n# Doors\n\nTwo."), Document("b", "# Walls\n\nThree.")])
        report = index.sync([Document("a", "# Keys\n\nOne."), Document("b", "# Walls\n\nThree.\n\n# Doors\n\nTwo.")])
        assert report.chunks_embedded == 0


def test_a_version_that_was_killed_before_a_document_that_cannot_be_read_now_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Words()
    entries = {name: Entry(State(f"Some text {name}."), 1) for name in "abc"}
    source = Memory(entries, hints=False)
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(source)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(SqliteLedger, "intend", blow)
            index.upgrade(IndexRecipe(chunk_tokens=16), encoder=words, sources={"": source})
        for name in "ab":
            entries[name].state = State(f"Some newer text {name}.")
        index.sync(source)
        entries["c"].readable = False
        with pytest.raises(NotReady):
            index.promote("v2", sources={"": source})
