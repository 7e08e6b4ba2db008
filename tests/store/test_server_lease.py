"""One writer on a server: the lease, its fence, and names that belong to others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from homes import DIMENSIONS, contract
from qdrant_client import models
from wire import LocalQdrant

from tarragon.errors import IndexLocked, LeaseLost, NotAnIndex, StorageProblem
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, OpenVersion, StoredChunk
from tarragon.store import server_lease
from tarragon.store.server_catalog import ServerCatalog
from tarragon.store.server_client import ServerConnection
from tarragon.store.server_fence import FencedPoints
from tarragon.store.server_lease import ServerLease
from tarragon.store.server_options import ServerOptions

CHUNK = ChunkRecord(UUID(int=1), b"h" * 16, b"p" * 16, 3)


class Clock:
    """In place of the module ``time``; goes on only when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(server_lease, "time", one)
    return one


@pytest.fixture
def client() -> Iterator[LocalQdrant]:
    opened = LocalQdrant(":memory:")
    yield opened
    opened.close()


def catalog(client: LocalQdrant, name: str = "handbook") -> ServerCatalog:
    return ServerCatalog(ServerConnection(client, f"local/{name}", ServerOptions(retries=0)), name)


def opened(one: ServerCatalog) -> OpenVersion:
    with one.reading() as version:
        assert version is not None
        return version


def write(document_id: str, hint: str = "") -> DocumentWrite:
    return DocumentWrite(DocumentRecord(document_id, "", "ok", b"state", hint, None), (CHUNK,))


@pytest.fixture
def two(client: LocalQdrant, clock: Clock) -> tuple[ServerCatalog, ServerCatalog]:
    """Two processes on one index with a version."""
    first = catalog(client)
    with first.writing():
        first.create(contract(), serve=True)
    return first, catalog(client)


def test_the_second_writer_is_told_who_and_until_when(two: tuple[ServerCatalog, ServerCatalog], clock: Clock) -> None:
    first, second = two
    with first.writing():
        clock.now += 20
        with pytest.raises(IndexLocked, match=r"being written by .*\(pid \d+\); its lease ends in 100 s") as caught:
            second.writing().__enter__()
        assert "pid" in str(caught.value.data["holder"])
        assert caught.value.data["expires"] == 1_000_120
    with second.writing():
        pass


def test_a_lease_is_renewed_by_writing(two: tuple[ServerCatalog, ServerCatalog], clock: Clock) -> None:
    first, second = two
    with first.writing():
        for _ in range(10):
            clock.now += 90
            opened(first).ledger.note("key", "value")
            with pytest.raises(IndexLocked), second.writing():
                pass


def test_a_lease_that_ran_out_while_nobody_wanted_it_goes_on(
    two: tuple[ServerCatalog, ServerCatalog], clock: Clock
) -> None:
    first, _ = two
    with first.writing():
        clock.now += 10_000
        opened(first).ledger.note("key", "value")
    assert opened(first).ledger.notes() == {"key": "value"}


def test_a_killed_writer_keeps_others_out_until_its_lease_ends(
    two: tuple[ServerCatalog, ServerCatalog], clock: Clock
) -> None:
    first, second = two
    killed = first.writing()
    killed.__enter__()  # and is never left
    with pytest.raises(IndexLocked), second.writing():
        pass
    clock.now += 121
    with second.writing():
        opened(second).ledger.note("key", "value")


def test_waiting_ends_when_the_lease_does(two: tuple[ServerCatalog, ServerCatalog], clock: Clock) -> None:
    first, second = two
    killed = first.writing()
    killed.__enter__()
    with pytest.raises(IndexLocked), second.writing(wait=60):
        pass
    with second.writing(wait=100):
        assert 1_000_100 <= clock.now <= 1_000_130


def test_a_writer_that_slept_too_long_cannot_write_any_more(
    two: tuple[ServerCatalog, ServerCatalog], clock: Clock
) -> None:
    first, second = two
    sleeper = first.writing()
    sleeper.__enter__()
    late = opened(first)
    late.ledger.intend([write("a")])
    clock.now += 121
    with second.writing():
        attempts: list[Any] = [
            lambda: late.ledger.switch([write("a")]),
            lambda: late.ledger.note("key", "late"),
            lambda: late.ledger.commit_deletion(["a"]),
            lambda: late.store.upsert([StoredChunk(UUID(int=1), np.ones(DIMENSIONS, dtype=np.float32), {})]),
            lambda: late.store.set_payload({UUID(int=1): {"start": 1}}),
            lambda: late.store.delete([UUID(int=1)]),
        ]
        for attempt in attempts:
            with pytest.raises(LeaseLost):
                attempt()
        opened(second).ledger.note("key", "right")
    assert opened(second).ledger.notes() == {"key": "right"}
    assert late.store.count() == 0
    sleeper.__exit__(None, None, None)  # leaves the lease of others alone
    with first.writing():
        pass


def test_a_late_request_is_refused_where_the_new_writer_has_been(
    two: tuple[ServerCatalog, ServerCatalog], clock: Clock
) -> None:
    """The lease was checked, then the process slept, then the request arrived: the fence decides, not the clock."""
    first, second = two
    with first.writing():
        opened(first).ledger.intend([write("a", "first")])
    with second.writing():
        opened(second).ledger.intend([write("a")])
        opened(second).ledger.switch([write("a", "second")])
    points = FencedPoints(second._connection, "handbook--v1--ledger")
    from tarragon.store.server_documents import point_id

    id_ = point_id("a")
    now = points.read([id_])
    assert now[id_]["fence"] == 3
    assert points.write({id_: {**now[id_], "hint": "late"}}, now, fence=2) == {id_}
    assert points.delete(now, fence=2) == {id_}
    assert points.read([id_]) == now
    assert points.write({id_: {**now[id_], "hint": "new"}}, now, fence=3) == set()
    assert points.write({id_: {**now[id_], "hint": "stale"}}, now, fence=3) == {id_}, "it is not as it was read"
    assert points.write({id_: now[id_]}, {}, fence=9) == {id_}, "nor is it new"
    gone = points.read([id_])
    assert points.delete(gone, fence=3) == set()
    assert points.write({id_: now[id_]}, gone, fence=9) == {id_}, "a deleted record never returns"


def test_writing_needs_a_lease(two: tuple[ServerCatalog, ServerCatalog]) -> None:
    first, _ = two
    with pytest.raises(LeaseLost, match=r"with catalog\.writing"):
        opened(first).ledger.note("key", "value")
    with pytest.raises(LeaseLost):
        opened(first).store.delete([UUID(int=1)])


def test_a_document_that_vanished_is_not_served_again(two: tuple[ServerCatalog, ServerCatalog]) -> None:
    first, _ = two
    with first.writing(), pytest.raises(StorageProblem, match="no record of 'a'"):
        opened(first).ledger.switch([write("a")])


def test_only_one_of_many_takes_a_free_lease(two: tuple[ServerCatalog, ServerCatalog], client: LocalQdrant) -> None:
    points = FencedPoints(ServerConnection(client, "local/handbook"), "handbook--catalog")
    lock = threading.Lock()  # local mode does not order requests of several threads, which a shard does
    read = points.read

    def ordered(*args: Any, **kwargs: Any) -> Any:
        with lock:
            return read(*args, **kwargs)

    points.read = ordered  # type: ignore[method-assign]
    contenders = [ServerLease(points, 120) for _ in range(8)]
    seen = points.read([server_lease.POINT])[server_lease.POINT]
    won = [lease for lease in contenders if lease._take(seen, seen["fence"] + 1)]
    assert len(won) == 1, "all of them had read that it was free"
    assert won[0].check() == seen["fence"] + 1


# --- names that belong to others --------------------------------------------------------------------------------------
def plain(client: LocalQdrant, name: str) -> None:
    client.create_collection(name, vectors_config={"v": models.VectorParams(size=2, distance=models.Distance.DOT)})


def alias(client: LocalQdrant, name: str, target: str) -> None:
    action = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=target, alias_name=name))
    client.update_collection_aliases([action])


def test_a_foreign_collection_is_refused_and_untouched(client: LocalQdrant) -> None:
    plain(client, "handbook")
    with pytest.raises(NotAnIndex, match=r"taken by a collection.*another name"):
        catalog(client)
    assert [one.name for one in client.get_collections().collections] == ["handbook"]


@pytest.mark.parametrize("target", ["products", "handbook--v1"])
def test_a_foreign_alias_is_refused(client: LocalQdrant, target: str) -> None:
    plain(client, target)
    alias(client, "handbook", target)
    with pytest.raises(NotAnIndex, match="an alias of"):
        catalog(client)


def test_a_foreign_catalog_is_refused(client: LocalQdrant) -> None:
    plain(client, "handbook--catalog")
    client.upsert("handbook--catalog", [models.PointStruct(id=1, vector={"v": [1.0, 2.0]})])
    with pytest.raises(NotAnIndex, match="handbook--catalog"):
        catalog(client)


def test_a_newer_layout_is_refused(two: tuple[ServerCatalog, ServerCatalog], client: LocalQdrant) -> None:
    from tarragon.store.server_directory import HEAD

    client.set_payload("handbook--catalog", {"format": 99}, points=[str(HEAD)])
    with pytest.raises(NotAnIndex, match="layout 99"):
        catalog(client)


def test_neighbours_on_one_server_do_not_see_one_another(client: LocalQdrant) -> None:
    first, second = catalog(client, "a"), catalog(client, "b")
    with first.writing(), second.writing():
        first.create(contract(), serve=True)
        assert second.versions() == []
        second.create(contract(), serve=True)
        opened(second).ledger.note("key", "b")
    assert opened(first).ledger.notes() == {}
    plain(client, "unrelated")
    with first.writing():
        first.create(contract("other"), serve=False)
        first.drop("v2")
    names = {one.name for one in client.get_collections().collections}
    assert "unrelated" in names
    assert "a--v2" not in names
    assert "a--v2--ledger" not in names


def test_an_interrupted_creation_leaves_no_half_version(client: LocalQdrant, monkeypatch: pytest.MonkeyPatch) -> None:
    one = catalog(client)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, one.writing():
        patched.setattr("tarragon.store.server_catalog.create_ledger", killed)
        with pytest.raises(KeyboardInterrupt):
            one.create(contract(), serve=True)
    assert (one.versions(), one.serving()) == ([], None)
    with one.writing():
        assert one.create(contract(), serve=True).name == "v2"
    assert opened(one).store.count() == 0


def test_an_interrupted_drop_can_be_repeated(client: LocalQdrant, monkeypatch: pytest.MonkeyPatch) -> None:
    one = catalog(client)
    with one.writing():
        one.create(contract(), serve=True)
        one.create(contract("b"), serve=False)
        client.delete_collection("handbook--v2--ledger")
        one.drop("v2")
    assert [record.name for record in one.versions()] == ["v1"]
