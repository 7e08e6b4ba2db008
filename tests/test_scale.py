"""What is asked of an index must not grow with all that it holds: the work is counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tarragon import Document, Index
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite
from tarragon.store.ledger import SqliteLedger
from tarragon.testing import WordEncoder

CHUNKS = 20


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "i.tarragon", encoder=WordEncoder()) as opened:
        opened.sync([Document(f"{n}.md", f"Page {n} says this.") for n in range(200)], progress=False)
        opened.sync([Document(f"x/{n}.md", f"Other page {n}.") for n in range(3)], namespace="x", progress=False)
        yield opened


@pytest.fixture
def read_whole(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The namespaces of which all records were read."""
    read: list[str | None] = []
    original = SqliteLedger.documents

    def documents(self: SqliteLedger, namespace: str | None = None) -> dict[str, DocumentRecord]:
        read.append(namespace)
        return original(self, namespace)

    monkeypatch.setattr(SqliteLedger, "documents", documents)
    return read


def test_a_few_documents_are_deleted_without_reading_all_records(index: Index, read_whole: list[str | None]) -> None:
    assert index.delete(["7.md", "x/1.md", "unknown", "\ud800"]) == 2
    assert read_whole == []
    assert index.status().documents == 201
    assert "7.md" not in index.documents()


def test_many_documents_are_deleted_with_one_look(index: Index, read_whole: list[str | None]) -> None:
    assert index.delete(f"{n}.md" for n in range(150)) == 150
    assert read_whole == [None, ""], "once to find their namespaces, once to delete them"
    assert index.status().documents == 53


def test_a_status_does_not_read_all_records(index: Index, read_whole: list[str | None]) -> None:
    index.sync([Document("bad.md", "x", {"a": {1, 2}})], prune=False, progress=False)
    read_whole.clear()
    assert [failure.document_id for failure in index.status().failures] == ["bad.md"]
    assert read_whole == []


def test_stale_hits_are_refreshed_without_reading_all_records(tmp_path: Path, read_whole: list[str | None]) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(20):
        (folder / f"{n}.md").write_text(f"Page {n} says this.")
    with Index.open(tmp_path / "i.tarragon", encoder=WordEncoder()) as index:
        index.sync(folder, progress=False)
        (folder / "7.md").write_text("Page 7 says something else, namely zebra.")
        read_whole.clear()
        (hit, *_) = index.search("Page 7", on_stale="refresh")
        assert (hit.document_id, "zebra" in hit.text, hit.freshness) == ("7.md", True, "fresh")
        assert read_whole == []


def steps(ledger: SqliteLedger, call: Callable[[], object]) -> int:
    """Instructions of SQLite's virtual machine, in hundreds."""
    done = 0

    def count() -> int:
        nonlocal done
        done += 1
        return 0

    ledger._db.set_progress_handler(count, 100)
    try:
        call()
    finally:
        ledger._db.set_progress_handler(None, 0)
    return done


def filled(path: Path, documents: int) -> SqliteLedger:
    ledger = SqliteLedger(path)
    writes = [
        DocumentWrite(
            DocumentRecord(f"{n}.md", "", "ok", bytes(64), None, None),
            tuple(ChunkRecord(UUID(int=n * CHUNKS + i), bytes([i]), b"", 1) for i in range(CHUNKS)),
        )
        for n in range(documents)
    ]
    ledger.switch(writes)
    return ledger


def test_counting_does_not_look_up_the_document_of_every_chunk(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.sqlite", 3)
    asked: list[str] = []
    ledger._db.set_trace_callback(asked.append)
    try:
        assert ledger.counts().chunks == 3 * CHUNKS
        ledger._db.set_trace_callback(None)
        (plan,) = ([row[3] for row in ledger._db.execute(f"EXPLAIN QUERY PLAN {query}")] for query in asked)
    finally:
        ledger.close()
    assert "SCAN chunks" in plan
    assert not [step for step in plan if step.startswith("SEARCH documents")], plan


@pytest.mark.parametrize("name", ["holders", "served", "chunks", "document"])
def test_what_a_sync_and_a_search_ask_does_not_grow(tmp_path: Path, name: str) -> None:
    asked = {}
    for documents in (50, 1_000):
        ledger = filled(tmp_path / f"{documents}.sqlite", documents)
        calls: dict[str, Callable[[], object]] = {
            "holders": lambda: ledger.holders([bytes([i]) for i in range(CHUNKS)]),  # noqa: B023 - called at once
            "served": lambda: ledger.served([UUID(int=i) for i in range(10)]),  # noqa: B023
            "chunks": lambda: [ledger.chunks(f"{n}.md") for n in range(10)],  # noqa: B023
            "document": lambda: [ledger.document(f"{n}.md") for n in range(50)],  # noqa: B023
        }
        try:
            asked[documents] = steps(ledger, calls[name])
        finally:
            ledger.close()
    assert asked[1_000] <= asked[50] + 1, asked
