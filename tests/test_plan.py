"""Plan: what changed and why, what it would cost, and a saved plan that only applies while it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handbook import HANDBOOK, version_of, write

from tarragon import Document, Index, IndexRecipe
from tarragon.errors import InvalidInput, PlanOutdated
from tarragon.reports import Plan
from tarragon.store import ledger
from tarragon.testing import WordEncoder


def changes(plan: Plan) -> dict[str, str]:
    return {change.document_id: change.change for change in plan.changes}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time and content, but SQLite's shared memory, which readers write to."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


# --- what it says -----------------------------------------------------------------------------------------------------
def test_a_plan_tells_each_change_and_its_cost_and_writes_nothing(
    tmp_path: Path, index: Index, handbook: Path, words: WordEncoder
) -> None:
    write(handbook / "old.md", "# Old\n\nIt will move.\n")
    index.sync(handbook)
    (handbook / "old.md").rename(handbook / "moved.md")
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
    write(handbook / "new.md", "# New\n\nA new one.\n\n# Old\n\nIt will move.\n")
    write(handbook / "broken.txt", b"\xff\xfe\xfa")
    (handbook / "backup.md").unlink()
    before = files(tmp_path / "test.tarragon")
    plan = index.plan(handbook)
    assert files(tmp_path / "test.tarragon") == before
    assert changes(plan) == {"broken.txt": "failed", "keys.md": "content", "moved.md": "moved", "new.md": "new"}
    assert [deletion.document_id for deletion in plan.deletions] == ["backup.md", "old.md"]
    by_id = {change.document_id: change for change in plan.changes}
    assert by_id["moved.md"].moved_from == "old.md"
    assert "UTF-8" in by_id["broken.txt"].reason
    assert (by_id["keys.md"].chunks, by_id["keys.md"].embed) == (3, 1)
    assert (by_id["new.md"].chunks, by_id["new.md"].embed) == (2, 1), "one of its passages is stored already"
    assert (plan.documents, plan.by_stat, plan.hashed) == (5, 1, 3)
    assert plan.embeddings == 2
    assert plan.tokens == sum(change.tokens for change in plan.changes) > 10
    assert plan.seconds > 0
    assert "same: minimum cosine 1.0" in plan.canaries
    report = index.sync(handbook)
    assert (report.chunks_embedded, report.documents_added, report.documents_deleted) == (2, 2, 2)
    assert index.plan(handbook).is_empty


def test_the_plan_of_a_new_index_is_its_first_sync(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        plan = index.plan(handbook)
        assert not (tmp_path / "i").exists()
        assert set(changes(plan).values()) == {"new"}
        assert plan.version == ""
        assert plan.embeddings == index.sync(handbook).chunks_embedded == 6


def test_a_text_that_comes_twice_is_embedded_once(index: Index) -> None:
    plan = index.plan([Document("a", "The same text."), Document("b", "The same text.")])
    assert [change.embed for change in plan.changes] == [1, 0]
    assert plan.embeddings == 1


def test_metadata_parser_and_chunker_are_told_apart(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch, words: WordEncoder
) -> None:
    document = Document("a.md", "# A\n\nA text.\n", {"v": 1})
    index.sync([document])
    assert changes(index.plan([Document("a.md", document.text, {"v": 2})])) == {"a.md": "metadata"}
    assert changes(index.plan([Document("a.md", document.text, {"v": 1}, format="text")])) == {"a.md": "parser"}
    with monkeypatch.context() as patch:
        patch.setattr("tarragon.chunking.CHUNKER_REVISION", 99)
        plan = index.plan([document])
        assert changes(plan) == {"a.md": "chunker"}
        assert plan.embeddings == 0, "it cuts alike"
        assert index.sync([document]).chunks_embedded == 0
        assert index.plan([document]).is_empty
    monkeypatch.setattr("tarragon.session.READER", "another reader")
    assert changes(index.plan([document])) == {"a.md": "parser"}


def test_unfinished_documents_foreign_ones_and_orphans_are_counted(
    index: Index, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.sync(handbook)
    index.sync([Document("w", "Another source.")], namespace="wiki")
    assert index.plan(handbook).foreign == 1
    assert index.plan([Document("w", "Another source.")], namespace="wiki").foreign == 3
    with version_of_store(index) as store:
        (chunk,) = store.vectors([next(iter(store.ids()))]).values()
        from uuid import UUID

        from tarragon.protocols import StoredChunk

        store.upsert([StoredChunk(UUID(int=7), chunk, {"content": "x"})])
    assert index.plan(handbook).orphans == 1
    write(handbook / "keys.md", "# Other\n\nText.\n")

    def fused(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger.SqliteLedger, "switch", fused)
        index.sync(handbook)
    assert changes(index.plan(handbook)) == {"keys.md": "unfinished"}


class version_of_store:  # noqa: N801
    def __init__(self, index: Index) -> None:
        self._store = version_of(index).store

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.flush()


def test_a_plan_says_when_the_sync_would_be_refused(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    plan = index.plan([])
    assert "has no documents" in plan.blocked
    assert len(plan.deletions) == 3
    assert index.plan([], max_delete=1.0).blocked == ""


def test_an_unchanged_source_needs_no_model(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(handbook)
    with pytest.MonkeyPatch.context() as patch, Index.open(tmp_path / "i") as index:
        patch.setattr("tarragon.session.load_encoder", lambda *_: pytest.fail("the model was loaded"))
        assert index.plan(handbook).is_empty
        assert index.sync(handbook).documents_unchanged == 3
        (handbook / "backup.md").unlink()
        assert index.sync(handbook).documents_deleted == 1


# --- applying a saved one ---------------------------------------------------------------------------------------------
def test_a_saved_plan_does_exactly_what_it_says(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
    (handbook / "backup.md").unlink()
    plan = Plan.from_dict(json.loads(json.dumps(index.plan(handbook).to_dict())))
    write(handbook / "later.md", "# Later\n\nWritten after the plan.\n")
    report = index.sync(handbook, plan=plan)
    assert (report.documents_changed, report.documents_deleted, report.documents_added) == (1, 1, 0)
    assert changes(index.plan(handbook)) == {"later.md": "new"}


def test_a_plan_that_no_longer_holds_names_the_documents_that_moved(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    write(handbook / "keys.md", "# Other\n\nText.\n")
    write(handbook / "new.md", "# New\n\nA new one.\n")
    plan = index.plan(handbook)
    write(handbook / "new.md", "# New\n\nYet another.\n")
    with pytest.raises(PlanOutdated, match=r"1 documents have changed .*: new.md\. Nothing was written") as caught:
        index.sync(handbook, plan=plan)
    assert caught.value.data == {"documents": ["new.md"]}
    index.sync(handbook)
    with pytest.raises(PlanOutdated, match=r"keys\.md, new\.md"):
        index.sync(handbook, plan=plan)
    with pytest.raises(PlanOutdated, match="namespace"):
        index.sync(handbook, plan=plan, namespace="other")


# --- parts of a source ------------------------------------------------------------------------------------------------
def test_only_leaves_other_documents_as_they_are(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    write(handbook / "keys.md", "# Other\n\nText.\n")
    write(handbook / "guide" / "oncall.txt", "Now somebody else is on call.")
    (handbook / "backup.md").unlink()
    report = index.sync(handbook, only=["guide/"])
    assert (report.documents_changed, report.documents_deleted) == (1, 0)
    report = index.sync(handbook, only=["*.md"], max_delete=0.5)
    assert (report.documents_changed, report.documents_deleted) == (1, 1)
    with pytest.raises(InvalidInput, match=r"only='\*.md' is a string"):
        index.sync(handbook, only="*.md")


def test_a_budget_is_kept_and_the_rest_is_left_for_the_next_sync(index: Index, words: WordEncoder) -> None:
    documents = [Document(f"{n}", f"Text number {n} has seven words here.") for n in range(10)]
    tokens = index.plan(documents).changes[0].tokens
    report = index.sync(documents, budget=3 * tokens + 1)
    assert (report.documents_added, report.documents_left, report.chunks_embedded) == (3, 7, 3)
    assert index.sync(documents, budget=0).documents_left == 7
    moved = [*documents[:2], Document("copy", documents[2].text)]
    assert index.sync(moved, budget=0, max_delete=1.0).documents_added == 1, "what costs nothing is done"
    assert index.sync(documents, max_delete=1.0).documents_left == 0
    with pytest.raises(InvalidInput, match="budget=-1"):
        index.sync(documents, budget=-1)


def test_the_recipe_of_a_new_version_is_explained(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    write(handbook / "new.md", "# New\n\nA new one.\n")
    found = changes(index.plan_upgrade(IndexRecipe(chunk_tokens=24))[0])
    assert found == {**dict.fromkeys(HANDBOOK, "chunker"), "new.md": "new"}


def test_the_plan_of_a_new_index_can_be_applied(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        plan = index.plan(handbook)
        write(handbook / "keys.md", "# Other\n")
        with pytest.raises(PlanOutdated, match=r"keys\.md"):
            index.sync(handbook, plan=plan)
        assert not (tmp_path / "i" / "versions").exists()
        write(handbook / "keys.md", HANDBOOK["keys.md"])
        assert index.sync(handbook, plan=index.plan(handbook)).documents_added == 3
