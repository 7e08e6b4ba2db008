"""What every `Catalog` does, in every home of an index."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from homes import DIMENSIONS, Home, contract

from tarragon.errors import IndexLocked, InvalidInput, TarragonError
from tarragon.protocols import Catalog, DocumentRecord, StoredChunk


def fill(catalog: Catalog, name: str, text: str) -> None:
    with catalog.reading(name) as version:
        assert version is not None
        version.store.upsert([StoredChunk(UUID(int=1), np.ones(DIMENSIONS, dtype=np.float32), {"content": text})])
        version.ledger.record([DocumentRecord(text, "", "ok", b"state", None, None)])


def held(catalog: Catalog, name: str | None = None) -> tuple[str, set[str], object]:
    with catalog.reading(name) as version:
        assert version is not None
        payloads = version.store.payloads([UUID(int=1)])
        return version.record.name, set(version.ledger.documents()), payloads.get(UUID(int=1), {}).get("content")


def test_before_the_first_version_there_is_nothing(home: Home) -> None:
    catalog = home.open()
    assert catalog.versions() == []
    assert catalog.serving() is None
    assert catalog.former() == ()
    with catalog.reading() as version:
        assert version is None
    with catalog.writing():
        pass
    assert catalog.versions() == []
    assert "handbook" in catalog.location or "conformance" in catalog.location
    catalog.close()


def test_the_first_version_serves_and_the_second_is_built_beside_it(catalog: Catalog) -> None:
    before = time.time()
    with catalog.writing():
        first = catalog.create(contract(), serve=True)
        fill(catalog, "v1", "old")
        second = catalog.create(contract("other"), serve=False)
        fill(catalog, "v2", "new")
        assert (first.name, second.name) == ("v1", "v2")
        assert first.contract == contract()
        assert before - 1 <= first.created <= second.created <= time.time() + 1
        assert (first.promoted, second.promoted) == (True, False)
        assert catalog.versions() == [first, second]
        assert (catalog.serving(), catalog.former()) == ("v1", ())
        assert [one.role(catalog.serving()) for one in catalog.versions()] == ["serving", "building"]
    assert held(catalog) == held(catalog, "v1") == ("v1", {"old"}, "old")
    assert held(catalog, "v2") == ("v2", {"new"}, "new")


def test_the_pointer_moves_there_and_back(catalog: Catalog) -> None:
    with catalog.writing():
        for salt in ("a", "b", "c"):
            record = catalog.create(contract(salt), serve=salt == "a")
            fill(catalog, record.name, salt)
        catalog.point_to("v2", former=("v1",))
        assert (catalog.serving(), catalog.former(), held(catalog)) == ("v2", ("v1",), ("v2", {"b"}, "b"))
        catalog.point_to("v3", former=("v1", "v2"))
        assert (catalog.serving(), catalog.former(), held(catalog)) == ("v3", ("v1", "v2"), ("v3", {"c"}, "c"))
        catalog.point_to("v2", former=("v1",))
        assert (catalog.serving(), catalog.former(), held(catalog)) == ("v2", ("v1",), ("v2", {"b"}, "b"))


def test_a_record_is_replaced_and_seen_by_readers(catalog: Catalog) -> None:
    with catalog.writing():
        record = catalog.create(contract(), serve=True)
        changed = replace(
            record, canaries="packed", retired=True, contract=record.contract.relabelled("alias", {"kind": "new"})
        )
        with catalog.reading():
            catalog.update(changed)
        assert catalog.versions() == [changed]
        with catalog.reading() as version:
            assert version is not None
            assert version.record == changed


def test_dropping_takes_the_data_and_never_the_serving_version(catalog: Catalog) -> None:
    with catalog.writing():
        for salt in ("a", "b", "c"):
            catalog.create(contract(salt), serve=salt == "a")
        catalog.point_to("v2", former=("v1",))
        catalog.point_to("v3", former=("v1", "v2"))
        with pytest.raises(InvalidInput, match="v3 serves"):
            catalog.drop("v3")
        catalog.drop("v2")
        assert [one.name for one in catalog.versions()] == ["v1", "v3"]
        assert catalog.former() == ("v1",), "what was dropped is left out"
        with pytest.raises(TarragonError), catalog.reading("v2"):
            pass
        assert catalog.create(contract("d"), serve=False).name == "v4"
        catalog.drop("v4")
        again = catalog.create(contract("e"), serve=False)
        assert again.name == "v5", "a name is never used twice"
        assert held(catalog, "v5") == ("v5", set(), None)
        assert held(catalog)[0] == "v3"


def test_a_version_that_is_not_there_is_refused(catalog: Catalog) -> None:
    with catalog.writing():
        catalog.create(contract(), serve=True)
        with pytest.raises(TarragonError), catalog.reading("v9"):
            pass


def test_only_one_thread_writes(catalog: Catalog) -> None:
    refused: list[BaseException] = []

    def second() -> None:
        try:
            with catalog.writing():
                pass
        except IndexLocked as error:
            refused.append(error)

    with catalog.writing():
        catalog.create(contract(), serve=True)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        with pytest.raises(IndexLocked), catalog.writing():
            pass
        with catalog.reading() as version:
            assert version is not None, "readers do not mind"
    assert len(refused) == 1
    with catalog.writing():
        pass


def test_a_writer_can_wait_for_another(catalog: Catalog) -> None:
    with catalog.writing():
        catalog.create(contract(), serve=True)
        start = time.monotonic()
        with pytest.raises(IndexLocked), catalog.writing(wait=0.2):
            pass
        assert 0.15 <= time.monotonic() - start < 5
    began, release = threading.Event(), threading.Event()

    def first() -> None:
        with catalog.writing():
            began.set()
            release.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    began.wait(10)
    threading.Timer(0.2, release.set).start()
    with catalog.writing(wait=30):
        pass
    thread.join()


def test_the_writer_is_released_by_an_error(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), catalog.writing():
        catalog.create(contract(), serve=True)
        raise ZeroDivisionError
    with catalog.writing():
        pass


def test_everything_is_there_after_reopening(lasting_home: Home) -> None:
    first = lasting_home.open()
    with first.writing():
        first.create(contract("a"), serve=True)
        first.create(contract("b"), serve=False)
        fill(first, "v2", "text")
        first.point_to("v2", former=("v1",))
        records = first.versions()
    first.close()
    second = lasting_home.open()
    assert (second.serving(), second.former(), second.versions()) == ("v2", ("v1",), records)
    assert held(second) == ("v2", {"text"}, "text")
    with second.writing():
        assert second.create(contract("c"), serve=False).name == "v3"
    second.close()


def test_two_handles_see_one_index(home: Home) -> None:
    first, second = home.open(), home.open()
    assert second.serving() is None
    with first.writing():
        first.create(contract(), serve=True)
        fill(first, "v1", "seen")
        with pytest.raises(IndexLocked), second.writing():
            pass
        assert held(second) == ("v1", {"seen"}, "seen")
        first.update(replace(first.versions()[0], canaries="packed"))
        with second.reading() as version:
            assert version is not None
            assert version.record.canaries == "packed"
    with second.writing():
        second.create(contract("other"), serve=False)
        second.point_to("v2", former=("v1",))
    assert held(first) == ("v2", set(), None)
    first.close()
    second.close()


def test_upkeep_can_always_be_asked_for(catalog: Catalog) -> None:
    with catalog.writing():
        record = catalog.create(contract(), serve=True)
    catalog.require_room(1)
    assert catalog.size(record.name) >= 0
    assert catalog.compact(in_place=True) in (True, False)
    assert catalog.serving() == record.name
