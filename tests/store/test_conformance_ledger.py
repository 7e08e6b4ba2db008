"""What every `Ledger` does, in every home of an index: each step by hand, and random histories against slow code."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from uuid import UUID

import pytest
from homes import Home, contract

from tarragon.protocols import (
    ChunkRecord,
    DocumentRecord,
    DocumentWrite,
    Ledger,
    LedgerCounts,
    OpenVersion,
    ServedChunk,
)


def digest(*fields: object) -> bytes:
    return blake2b(repr(fields).encode(), digest_size=16).digest()


def piece(number: int, text: str = "", payload: int = 0) -> ChunkRecord:
    return ChunkRecord(UUID(int=number), digest("text", text or number), digest("payload", payload), number % 50 + 1)


def record(document_id: str, **changes: Any) -> DocumentRecord:
    one = DocumentRecord(document_id, "folder", "ok", digest("state", document_id), "12:34", None)
    return one._replace(**changes)


def write(document_id: str, *chunks: ChunkRecord, pending: dict[UUID, Any] | None = None) -> DocumentWrite:
    return DocumentWrite(record(document_id), chunks, pending or {})


def put(ledger: Ledger, *writes: DocumentWrite) -> None:
    ledger.intend(writes)
    ledger.switch(writes)
    ledger.settle([one.record.document_id for one in writes])


@pytest.fixture
def ledger(version: OpenVersion) -> Ledger:
    return version.ledger


ONE, TWO, THREE = piece(1), piece(2), piece(3)
IDS = [ONE.id, TWO.id, THREE.id, UUID(int=99)]


def test_an_empty_ledger_knows_nothing(ledger: Ledger) -> None:
    assert ledger.documents() == {}
    assert ledger.document("a") is None
    assert ledger.chunks("a") == []
    assert ledger.served(IDS) == ledger.served([]) == {}
    assert ledger.holders([ONE.hash]) == ledger.holders([]) == {}
    assert ledger.counts() == LedgerCounts(0, 0, 0, 0)
    assert ledger.notes() == {}
    assert ledger.namespaces() == set()
    assert ledger.failures() == {}
    for nothing in (ledger.intend, ledger.switch, ledger.settle, ledger.record):
        nothing([])
    ledger.intend_deletion([])
    ledger.commit_deletion([])


def test_the_revision_is_another_one_after_each_change(ledger: Ledger) -> None:
    put(ledger, write("a", ONE, TWO))
    seen = [ledger.revision()]
    if seen == [None]:
        pytest.skip("a server counts no changes")
    wanted = write("a", ONE, THREE)
    for change in (
        lambda: ledger.intend([wanted]),
        lambda: ledger.switch([wanted]),
        lambda: ledger.settle(["a"]),
        lambda: ledger.record([record("b")]),
        lambda: ledger.note("key", "value"),
        lambda: ledger.intend_deletion(["a"]),
        lambda: ledger.commit_deletion(["a"]),
    ):
        change()
        seen.append(ledger.revision())
        _ = ledger.served(IDS), ledger.chunks("a"), ledger.documents()
        assert ledger.revision() == seen[-1], "reading changes nothing"
    assert len(set(seen)) == len(seen)


def test_a_new_document_serves_nothing_before_its_switch(ledger: Ledger) -> None:
    wanted = write("a", ONE, TWO)
    ledger.intend([wanted])
    assert ledger.document("a") == DocumentRecord("a", "folder", "writing", None, None, None)
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id}, "they may be stored from now on"
    assert ledger.served(IDS) == {}
    assert ledger.holders([ONE.hash]) == {}
    assert ledger.counts() == LedgerCounts(0, 0, 0, 1)
    ledger.switch([wanted])
    assert ledger.document("a") == record("a")
    assert ledger.served(IDS) == {chunk.id: ServedChunk(record("a"), chunk.payload, None) for chunk in (ONE, TWO)}
    assert sorted(ledger.chunks("a"), key=lambda chunk: chunk.id) == [ONE, TWO]
    assert ledger.counts() == LedgerCounts(1, 2, ONE.tokens + TWO.tokens, 0)
    assert ledger.holders([ONE.hash, THREE.hash]) == {ONE.hash: ONE.id}


def test_a_rewrite_serves_the_old_chunks_until_the_switch_and_the_new_ones_after(ledger: Ledger) -> None:
    put(ledger, write("a", ONE, TWO), write("b", piece(9)))
    wanted = write("a", TWO, THREE)
    ledger.intend([wanted])
    assert ledger.document("a") == record("a", status="writing"), "what was there is remembered"
    assert set(ledger.served(IDS)) == {ONE.id, TWO.id}
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id, THREE.id}
    assert ledger.counts() == LedgerCounts(2, 3, ONE.tokens + TWO.tokens + piece(9).tokens, 1)
    ledger.switch([wanted])
    assert ledger.document("a") == record("a", status="settling")
    assert set(ledger.served(IDS)) == {TWO.id, THREE.id}
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id, THREE.id}, "the old one is not cleared yet"
    assert ledger.holders([ONE.hash, THREE.hash]) == {THREE.hash: THREE.id}
    assert ledger.counts() == LedgerCounts(2, 3, TWO.tokens + THREE.tokens + piece(9).tokens, 1)
    ledger.settle(["a"])
    assert ledger.document("a") == record("a")
    assert {chunk.id for chunk in ledger.chunks("a")} == {TWO.id, THREE.id}
    assert ledger.counts().unfinished == 0


def test_a_moved_chunk_is_served_with_its_pending_payload_until_that_is_stored(ledger: Ledger) -> None:
    put(ledger, write("a", ONE, TWO))
    moved = [piece(1, payload=5), piece(2, payload=6)]
    new = {
        ONE.id: {"start": 9, "metadata": {"k": [1, None, {"a.b": 2**53 + 1}]}},
        TWO.id: {"start": 12, "metadata": {}},
    }
    wanted = write("a", *moved, pending=new)
    ledger.intend([wanted])
    assert ledger.served([ONE.id]) == {ONE.id: ServedChunk(record("a", status="writing"), ONE.payload, None)}
    ledger.switch([wanted])
    settling = record("a", status="settling")
    assert ledger.served(IDS) == {one.id: ServedChunk(settling, one.payload, new[one.id]) for one in moved}
    ledger.settle(["a"])
    assert ledger.served(IDS) == {one.id: ServedChunk(record("a"), one.payload, None) for one in moved}


def test_an_interrupted_rewrite_can_be_replaced_by_another(ledger: Ledger) -> None:
    put(ledger, write("a", ONE))
    ledger.intend([write("a", ONE, TWO)])
    wanted = write("a", THREE)
    ledger.intend([wanted])
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id, THREE.id}, "none of them is forgotten"
    assert set(ledger.served(IDS)) == {ONE.id}
    ledger.switch([wanted])
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id, THREE.id}
    assert set(ledger.served(IDS)) == {THREE.id}
    ledger.settle(["a"])
    assert ledger.chunks("a") == [THREE]


def test_a_deletion_hides_at_once_and_forgets_at_the_end(ledger: Ledger) -> None:
    put(ledger, write("a", ONE, TWO), write("b", piece(7, text="1")))
    ledger.intend_deletion(["a", "unknown"])
    assert ledger.document("a") == record("a", status="deleting")
    assert ledger.document("unknown") is None
    assert ledger.served(IDS) == {}
    assert {chunk.id for chunk in ledger.chunks("a")} == {ONE.id, TWO.id}
    assert ledger.holders([ONE.hash]) == {}
    assert ledger.counts() == LedgerCounts(1, 1, piece(7).tokens, 1)
    ledger.commit_deletion(["a", "unknown"])
    assert ledger.document("a") is None
    assert ledger.chunks("a") == []
    assert set(ledger.documents()) == {"b"}
    assert ledger.counts() == LedgerCounts(1, 1, piece(7).tokens, 0)


def test_equal_texts_have_a_holder_as_long_as_one_document_serves_them(ledger: Ledger) -> None:
    first, second, third = piece(1, text="same"), piece(2, text="same"), piece(3, text="same")
    put(ledger, write("a", first, second), write("b", third))
    assert ledger.holders([first.hash])[first.hash] in {first.id, second.id, third.id}
    ledger.intend_deletion(["a"])
    assert ledger.holders([first.hash]) == {first.hash: third.id}
    ledger.intend_deletion(["b"])
    assert ledger.holders([first.hash]) == {}


def test_records_are_replaced_without_touching_chunks(ledger: Ledger) -> None:
    put(ledger, write("a", ONE))
    failed = record("b", status="failed", state=None, hint=None, failure="encrypted")
    stale = record("a", hint="56:78", failure="unreadable since")
    ledger.record([stale, failed])
    assert ledger.documents() == {"a": stale, "b": failed}
    assert ledger.failures() == {"a": "unreadable since", "b": "encrypted"}
    assert ledger.served([ONE.id]) == {ONE.id: ServedChunk(stale, ONE.payload, None)}
    assert ledger.counts() == LedgerCounts(1, 1, ONE.tokens, 0), "a document that failed at once cannot be found"


def test_documents_are_listed_by_namespace(ledger: Ledger) -> None:
    records = [record(f"{space}/{n}", namespace=space) for space in ("x", "y") for n in range(3)]
    ledger.record(records)
    assert ledger.documents("x") == {one.document_id: one for one in records[:3]}
    assert ledger.documents("z") == {}
    assert ledger.namespaces() == {"x", "y"}
    assert ledger.failures() == {}
    assert len(ledger.documents()) == 6


def test_ids_of_documents_are_exact(ledger: Ledger) -> None:
    names = ["é", "e\u0301", "", " ", "a/b.md", "日本", "x" * 2_000, "'; --", 'a"b', "{id}"]
    put(ledger, *(write(name, piece(number)) for number, name in enumerate(names)))
    assert set(ledger.documents()) == set(names)
    for number, name in enumerate(names):
        assert ledger.document(name) == record(name)
        assert ledger.chunks(name) == [piece(number)]


def test_a_document_without_chunks_is_a_document(ledger: Ledger) -> None:
    put(ledger, write("empty"))
    assert ledger.document("empty") == record("empty")
    assert ledger.counts() == LedgerCounts(1, 0, 0, 0)


def test_many_documents_and_chunks_at_once(ledger: Ledger) -> None:
    writes = [write(f"d{n}", *(piece(100 * n + m) for m in range(3))) for n in range(150)]
    writes.append(write("book", *(piece(100_000 + n) for n in range(2_000))))
    put(ledger, *writes)
    assert len(ledger.documents()) == 151
    assert ledger.counts().chunks == 450 + 2_000
    asked = [UUID(int=n) for n in (*range(0, 15_000, 100), 100_000, 101_999, 555_555)]
    assert set(ledger.served(asked)) == set(asked[:-1])
    hashes = [piece(100 * n).hash for n in range(150)]
    assert ledger.holders(hashes) == {piece(100 * n).hash: UUID(int=100 * n) for n in range(150)}
    ledger.intend_deletion([one.record.document_id for one in writes])
    ledger.commit_deletion([one.record.document_id for one in writes])
    assert ledger.documents() == {}


def test_notes_are_kept_and_removed(ledger: Ledger) -> None:
    ledger.note("source", "{}")
    ledger.note("é'\".", "日本")
    ledger.note("source", "other")
    assert ledger.notes() == {"source": "other", "é'\".": "日本"}
    assert ledger.documents() == {}
    ledger.note("source", None)
    ledger.note("never was", None)
    assert ledger.notes() == {"é'\".": "日本"}


def test_what_was_written_is_there_after_reopening(lasting_home: Home) -> None:
    first = lasting_home.open()
    with first.writing():
        first.create(contract(), serve=True)
        with first.reading() as version:
            assert version is not None
            put(version.ledger, write("a", ONE))
            version.ledger.intend([write("a", TWO)])
            version.ledger.note("k", "v")
    first.close()
    second = lasting_home.open()
    with second.reading() as version:
        assert version is not None
        assert version.ledger.documents() == {"a": record("a", status="writing")}
        assert set(version.ledger.served(IDS)) == {ONE.id}
        assert {chunk.id for chunk in version.ledger.chunks("a")} == {ONE.id, TWO.id}
        assert version.ledger.notes() == {"k": "v"}
    second.close()


# --- histories --------------------------------------------------------------------------------------------------------
@dataclass
class Row:
    """A chunk in the obvious ledger."""

    document_id: str
    chunk: ChunkRecord
    served: bool = False
    pending: Any = None


@dataclass
class Obvious:
    """The definition of a ledger, as slow code over two dicts."""

    records: dict[str, DocumentRecord] = field(default_factory=dict)
    rows: dict[UUID, Row] = field(default_factory=dict)

    def intend(self, one: DocumentWrite) -> None:
        id_ = one.record.document_id
        old = self.records.get(id_, one.record._replace(state=None, hint=None, failure=None))
        self.records[id_] = old._replace(status="writing", namespace=one.record.namespace)
        for chunk in one.chunks:
            self.rows.setdefault(chunk.id, Row(id_, chunk))

    def switch(self, one: DocumentWrite) -> None:
        id_ = one.record.document_id
        for row in self.of(id_):
            row.served, row.pending = False, None
        for chunk in one.chunks:
            self.rows[chunk.id] = Row(id_, chunk, True, one.pending.get(chunk.id))
        unsettled = any(not row.served or row.pending is not None for row in self.of(id_))
        self.records[id_] = one.record._replace(status="settling") if unsettled else one.record

    def settle(self, id_: str) -> None:
        for row in self.of(id_):
            row.pending = None
        self.rows = {key: row for key, row in self.rows.items() if row.document_id != id_ or row.served}
        self.records[id_] = self.records[id_]._replace(status="ok")

    def delete(self, id_: str) -> None:
        self.rows = {key: row for key, row in self.rows.items() if row.document_id != id_}
        del self.records[id_]

    def of(self, id_: str) -> list[Row]:
        return [row for row in self.rows.values() if row.document_id == id_]

    def shown(self) -> dict[UUID, ServedChunk]:
        return {
            key: ServedChunk(self.records[row.document_id], row.chunk.payload, row.pending)
            for key, row in self.rows.items()
            if row.served and self.records[row.document_id].status != "deleting"
        }


def assert_same(ledger: Ledger, obvious: Obvious) -> None:
    shown = obvious.shown()
    assert ledger.documents() == obvious.records
    assert ledger.served([UUID(int=n) for n in range(40)]) == shown
    for id_ in "abcd":
        assert ledger.document(id_) == obvious.records.get(id_)
        kept = {row.chunk.id: row.chunk for row in obvious.of(id_)}
        assert {chunk.id: chunk for chunk in ledger.chunks(id_)} == kept
    holders: dict[bytes, set[UUID]] = {}
    for key in shown:
        holders.setdefault(obvious.rows[key].chunk.hash, set()).add(key)
    found = ledger.holders([digest("text", text) for text in "xyz"])
    assert set(found) == set(holders)
    assert all(found[hash_] in holders[hash_] for hash_ in found)
    records = obvious.records.values()
    tokens = sum(obvious.rows[key].chunk.tokens for key in shown)
    documents = sum(one.state is not None and one.status != "deleting" for one in records)
    unfinished = sum(one.status in ("writing", "settling", "deleting") for one in records)
    assert ledger.counts() == LedgerCounts(documents, len(shown), tokens, unfinished)


def random_write(rng: random.Random, id_: str) -> DocumentWrite:
    numbers = rng.sample(range(10), rng.randrange(5))
    chunks = [piece(10 * "abcd".index(id_) + n, text="xyz"[n % 3], payload=rng.randrange(2)) for n in numbers]
    pending = {chunk.id: {"start": rng.randrange(9), "same": id_} for chunk in chunks if rng.random() < 0.3}
    state = digest(rng.random())
    return DocumentWrite(record(id_, state=state, namespace=rng.choice("mn")), tuple(chunks), pending)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_ends_as_the_obvious_ledger_does(ledger: Ledger, seed: int) -> None:
    rng = random.Random(seed)
    obvious = Obvious()
    begun: dict[str, DocumentWrite] = {}
    for _ in range(40):
        id_ = rng.choice("abcd")
        status = obvious.records[id_].status if id_ in obvious.records else None
        step = rng.choice(["intend", "next", "next", "next", "delete", "record"])
        if step == "intend":
            begun[id_] = random_write(rng, id_)
            ledger.intend([begun[id_]])
            obvious.intend(begun[id_])
        elif step == "next" and status == "writing":
            ledger.switch([begun[id_]])
            obvious.switch(begun[id_])
        elif step == "next" and status == "settling":
            ledger.settle([id_])
            obvious.settle(id_)
        elif step == "next" and status == "deleting":
            ledger.commit_deletion([id_])
            obvious.delete(id_)
        elif step == "delete" and status is not None:
            ledger.intend_deletion([id_])
            obvious.records[id_] = obvious.records[id_]._replace(status="deleting")
        elif step == "record" and status in (None, "ok", "failed"):
            old = obvious.records.get(id_, record(id_, status="failed", state=None))
            obvious.records[id_] = old._replace(hint=str(rng.random()), failure="why")
            ledger.record([obvious.records[id_]])
        assert_same(ledger, obvious)
