"""What may be served of a document, whatever is written or broken while it is read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from handbook import Interrupted, version_of

from tarragon import Document, Index
from tarragon.protocols import StoredChunk
from tarragon.serving import passes, served_document
from tarragon.store.edge import EdgeStore

PARTS = ["# A\n\nalpha words.", "# B\n\nbeta words.", "# C\n\ngamma words."]
PATIENCE = 60.0


def texts(index: Index) -> list[str]:
    return [hit.text for hit in index.passages(["a"])]


@pytest.fixture
def filled(index: Index) -> Index:
    index.sync([Document("a", "\n\n".join(PARTS)), Document("b", "other words.")], progress=False)
    return index


@pytest.mark.timeout(60)
def test_a_chunk_whose_payload_is_damaged_is_left_out(filled: Index) -> None:
    version = version_of(filled)
    first, second, third = filled.passages(["a"])
    version.store.set_payload({UUID(second.chunk_id): {"digest": "00", "content": "# B\n\nsomething else"}})
    assert texts(filled) == [PARTS[0], PARTS[2]]
    around = filled.neighbours(first, after=1)
    assert around is not None
    assert around.chunk_ids == (first.chunk_id, third.chunk_id)
    assert filled.neighbours(second) is None
    assert not passes(version, UUID(second.chunk_id), None)
    assert {hit.document_id for hit in filled.search("words", 9)} == {"a", "b"}
    filled.verify(repair=True)
    assert texts(filled) == PARTS


@pytest.mark.timeout(60)
def test_a_chunk_that_is_lost_is_left_out(filled: Index) -> None:
    (_, second, _) = filled.passages(["a"])
    version_of(filled).store.delete([UUID(second.chunk_id)])
    assert texts(filled) == [PARTS[0], PARTS[2]]


def test_a_document_that_was_half_written_when_its_texts_were_read_is_read_again(
    filled: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_written, go_on = threading.Event(), threading.Event()
    upsert = EdgeStore.upsert

    def slowly(store: Any, chunks: Sequence[StoredChunk]) -> None:
        upsert(store, chunks[:1])
        half_written.set()
        go_on.wait(PATIENCE)
        upsert(store, chunks[1:])

    monkeypatch.setattr(EdgeStore, "upsert", slowly)
    sync = threading.Thread(target=lambda: filled.sync([Document("new", "\n\n".join(PARTS))], prune=False))
    sync.start()
    assert half_written.wait(PATIENCE)

    def finish() -> None:
        go_on.set()
        sync.join(PATIENCE)

    version = version_of(filled)
    assert served_document(version, "new") == {}, "it serves nothing before the switch"
    found = served_document(Interrupted(version, [finish]), "new")
    assert sorted(payload["content"] for payload in found.values()) == PARTS


def test_nothing_is_served_of_a_document_that_is_not_there(filled: Index) -> None:
    assert served_document(version_of(filled), "unknown") == {}
    filled.delete(["a"])
    assert served_document(version_of(filled), "a") == {}
