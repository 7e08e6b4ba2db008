"""A whole index on a server: it answers as a folder does, also where answers of requests are lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import Fault, QdrantStub, Seen

from tarragon import Document, Index
from tarragon.recipe import IndexRecipe
from tarragon.store import server_client
from tarragon.testing import WordEncoder

RECIPE = IndexRecipe(language="neutral")
FIRST = [Document(f"d{n}", f"# Title {n}\n\nw{n} words about topic {n % 3}.\n\nMore text {n}.") for n in range(12)]
SECOND = [Document("d0", "# Title 0\n\nchanged words entirely."), *FIRST[2:], Document("new", "a new document")]
QUERIES = ["words about topic 1", "w7", "changed", "new document", "absent"]


@pytest.fixture
def stub() -> Iterator[QdrantStub]:
    with QdrantStub() as running:
        yield running


def answers(index: Index) -> list[list[Any]]:
    return [[(hit.chunk_id, hit.text, hit.metadata) for hit in index.search(query, 5)] for query in QUERIES]


def opened(where: object) -> Index:
    return Index.open(where, recipe=RECIPE, encoder=WordEncoder())  # type: ignore[arg-type]


def test_a_server_answers_as_a_folder_does(stub: QdrantStub, tmp_path: Path) -> None:
    with opened(tmp_path / "i.tarragon") as folder, opened(f"{stub.url}/handbook") as server:
        for documents in (FIRST, SECOND):
            reports = [index.sync(documents, max_delete=1.0) for index in (folder, server)]
            names = ("added", "changed", "deleted", "unchanged", "failed")
            counts = [[getattr(report, f"documents_{name}") for name in names] for report in reports]
            assert reports[0].chunks_embedded == reports[1].chunks_embedded
            assert reports[0].chunks_reused == reports[1].chunks_reused
            assert counts[0] == counts[1]
            assert answers(folder) == answers(server)
        assert folder.status().documents == server.status().documents == len(SECOND)
        assert server.sync(SECOND).documents_unchanged == len(SECOND)
    with opened(f"{stub.url}/handbook") as again:
        assert again.search("changed")[0].document_id == "d0"


def test_a_sync_survives_a_server_that_loses_every_fifth_answer(
    stub: QdrantStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_client, "sleep", lambda seconds: None)

    def loses(seen: Seen) -> Fault | None:
        number = len(stub.seen)
        if number % 5 == 0:
            return Fault(reset=True, after=number % 2 == 0)
        return None

    with opened(f"{stub.url}/whole") as whole:
        whole.sync(SECOND)
        expected = answers(whole)
    stub.fails = loses
    with opened(f"{stub.url}/handbook") as index:
        index.sync(FIRST)
        index.sync(SECOND, max_delete=1.0)
        stub.fails = lambda seen: None
        assert answers(index) == expected
        assert index.status().unfinished == 0


def test_an_upgrade_and_its_rollback_on_a_server(stub: QdrantStub) -> None:
    folder = {"": FIRST}
    with Index.open(f"{stub.url}/handbook", recipe=RECIPE, encoder=WordEncoder()) as index:
        index.sync(FIRST)
        before = answers(index)
        report = index.upgrade(encoder=WordEncoder(salt="other"), sources=folder)
        assert (report.version, report.promoted) == ("v2", False)
        assert answers(index) == before, "the former one serves while the new one is built"
        index.promote("v2")
        after = [{text for _, text, _ in hits} for hits in answers(index)]
        assert all(after[:2])
        assert index.rollback()[0] == "v1"
        assert answers(index) == before
        index.promote("v2")
        assert index.gc(keep=0) == ["v1"]
    names = {one.name for one in stub.client.get_collections().collections}
    assert names == {"handbook--catalog", "handbook--v2", "handbook--v2--ledger"}


def test_what_is_lost_on_a_server_is_found_and_repaired(stub: QdrantStub) -> None:
    with opened(f"{stub.url}/handbook") as index:
        index.sync(FIRST)
        expected = answers(index)
        chunks, _ = stub.client.scroll("handbook--v1", limit=3)
        stub.client.delete("handbook--v1", [chunk.id for chunk in chunks])
        found = index.verify()
        assert (found.missing, found.orphans, found.wrong_payloads, found.wrong_texts) == (3, 0, 0, 0)
        index.verify(repair=True)
        index.sync(FIRST)
        assert answers(index) == expected
        assert index.verify().affected == ()


def test_a_search_is_five_requests(stub: QdrantStub) -> None:
    with opened(f"{stub.url}/handbook") as index:
        index.sync(FIRST)
        index.search("w7")
        before = len(stub.seen)
        index.search("w3 words")
        assert [seen.path.rpartition("/collections/")[2] for seen in stub.seen[before:]] == [
            "/aliases",
            "handbook--catalog/points",
            "handbook--v1/points/query/batch",
            "handbook--v1/points",
            "handbook--v1--ledger/points/scroll",
        ]
