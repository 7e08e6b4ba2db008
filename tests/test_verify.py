"""Verify: whatever is wrong in an index is found, and mended from the source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from handbook import version_of, write

from tarragon import Document, Index
from tarragon.errors import IndexLocked
from tarragon.protocols import StoredChunk
from tarragon.store import edge
from tarragon.testing import WordEncoder


def first(index: Index) -> tuple[Any, StoredChunk]:
    store = version_of(index).store
    id_ = min(store.ids(), key=lambda found: found.int)
    return store, StoredChunk(id_, store.vectors([id_])[id_], store.payloads([id_])[id_])


def lose(index: Index) -> None:
    store, chunk = first(index)
    store.delete([chunk.id])


def add(index: Index) -> None:
    store, chunk = first(index)
    store.upsert([replace(chunk, id=UUID(int=7))])


def move(index: Index) -> None:
    store, chunk = first(index)
    store.set_payload({chunk.id: {"start": 9_999}})


def mislabel(index: Index) -> None:
    store, chunk = first(index)
    store.set_payload({chunk.id: {"metadata": {"secret": False}}})


def rewrite(index: Index) -> None:
    store, chunk = first(index)
    store.upsert([replace(chunk, payload={**chunk.payload, "content": "Something else."})])


def spoil(index: Index) -> None:
    store, chunk = first(index)
    store.upsert([replace(chunk, vector=np.roll(chunk.vector, 1))])


DAMAGES: list[tuple[Callable[[Index], None], str]] = [
    (lose, "missing"),
    (add, "orphans"),
    (move, "wrong_payloads"),
    (mislabel, "wrong_payloads"),
    (rewrite, "wrong_texts"),
    (spoil, "wrong_vectors"),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_each_damage_is_found_and_mended(
    tmp_path: Path, index: Index, handbook: Path, damage: Callable[[Index], None], name: str
) -> None:
    index.sync(handbook)
    assert index.verify(deep=True).is_sound
    before = sorted((hit.chunk_id, hit.text, round(hit.score, 5)) for hit in index.search("key restore call", k=50))
    damage(index)
    found = index.verify(deep=True)
    assert not found.is_sound
    counts = {
        field: getattr(found, field)
        for field in ("orphans", "missing", "wrong_payloads", "wrong_texts", "wrong_vectors")
    }
    assert {field for field, count in counts.items() if count} == {name}
    mended = index.verify(deep=True, repair=True)
    assert mended.is_sound
    assert mended.unrepaired == ()
    again = index.verify(deep=True)
    assert (again.is_sound, again.repaired, again.chunks) == (True, False, 6)
    after = sorted((hit.chunk_id, hit.text, round(hit.score, 5)) for hit in index.search("key restore call", k=50))
    assert after == before


def test_a_wrong_vector_of_a_text_in_two_documents_is_not_copied_from_the_other(index: Index) -> None:
    documents = [Document("a", "The same text."), Document("b", "The same text.")]
    index.sync(documents)
    store, chunk = first(index)
    for id_ in list(store.ids()):
        store.upsert([StoredChunk(id_, np.roll(chunk.vector, 1), store.payloads([id_])[id_])])
    assert index.verify(deep=True, sample=1, repair=True).wrong_vectors == 2
    assert index.verify(deep=True).is_sound


def test_what_cannot_be_mended_is_told(tmp_path: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([Document("a", "A text."), Document("b", "B text.")])
    with Index.open(tmp_path / "i", encoder=words) as index:
        lose(index)
        found = index.verify(repair=True)
        assert len(found.unrepaired) == 1
        assert not found.is_sound
        index.sync([Document("a", "A text."), Document("b", "B text.")])
        assert index.verify().is_sound


def test_an_empty_document_and_a_failed_one_are_sound(index: Index) -> None:
    index.sync([Document("empty", ""), Document("bad", "text", {"n": float("nan")})])
    assert index.verify(deep=True).is_sound


def test_an_interrupted_index_can_be_verified_and_mended(
    index: Index, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.sync(handbook)
    write(handbook / "keys.md", "# Other\n\nOther text.\n")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(edge.EdgeStore, "upsert", killed)
        index.sync(handbook)
    found = index.verify(deep=True)
    assert (found.unfinished, found.is_sound) == (1, False)
    assert index.verify(deep=True, repair=True).is_sound
    assert index.verify(deep=True).is_sound
    with index._opened.catalog.writing(), pytest.raises(IndexLocked):
        index.verify()
