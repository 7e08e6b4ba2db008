"""All that an index serves, document by document; and deleting by id."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from handbook import version_of

from tarragon import Document, Index, IndexRecipe, updating
from tarragon.errors import InvalidInput
from tarragon.testing import WordEncoder

LONG = "# A\n\n" + "\n\n".join(f"## Part {n}\n\nWords of part {n}." for n in range(5))
DOCUMENTS = [
    Document("b", LONG, {"team": "red"}),
    Document("a", "Only words.", {"team": "blue"}),
    Document("blank", " \n"),
    Document("c", "More words.", {"team": "red", "tags": ["x"]}),
]


@pytest.fixture
def filled(index: Index) -> Index:
    index.sync(DOCUMENTS, progress=False)
    return index


def test_every_passage_in_order(filled: Index) -> None:
    assert filled.documents() == ["a", "b", "blank", "c"]
    found = list(filled.passages())
    assert [hit.document_id for hit in found] == ["a", *["b"] * 5, "c"]
    assert {hit.score for hit in found} == {0.0}
    for hit in found:
        document = next(one for one in DOCUMENTS if one.id == hit.document_id)
        assert document.text[hit.start : hit.end] == hit.text
        assert hit.metadata == document.metadata
    searched = {hit.chunk_id: hit for hit in filled.search("words", 100)}
    assert set(searched) == {hit.chunk_id for hit in found}


def test_neighbours_are_named(filled: Index) -> None:
    for hits in (list(filled.passages(["b"])), sorted(filled.search("part", 5), key=lambda hit: hit.start)):
        ids = [hit.chunk_id for hit in hits]
        assert [hit.previous for hit in hits] == [None, *ids[:-1]]
        assert [hit.next for hit in hits] == [*ids[1:], None]


def test_neighbours_follow_an_edit_without_embedding_them(filled: Index) -> None:
    edited = LONG.replace("Words of part 2.", "Other words.")
    report = filled.sync([Document("b", edited, {"team": "red"}), *DOCUMENTS[1:]], progress=False)
    assert report.chunks_embedded == 1
    hits = list(filled.passages(["b"]))
    assert [hit.next for hit in hits[:-1]] == [hit.chunk_id for hit in hits[1:]]
    assert [hit.previous for hit in hits[1:]] == [hit.chunk_id for hit in hits[:-1]]


def test_some_documents_and_filters(filled: Index) -> None:
    assert [hit.document_id for hit in filled.passages(["c", "unknown", "a", "c", "blank"])] == ["c", "a"]
    assert {hit.document_id for hit in filled.passages(filter={"team": "red"})} == {"b", "c"}
    assert [hit.document_id for hit in filled.passages(["b", "a"], filter={"team": "blue"})] == ["a"]
    where = {"$where": lambda metadata: "tags" in metadata}
    assert [hit.document_id for hit in filled.passages(filter=where)] == ["c"]
    assert list(filled.passages(filter={"team": "green"})) == []


def test_an_empty_index_has_none(index: Index) -> None:
    assert (index.documents(), list(index.passages()), index.delete(["a"])) == ([], [], 0)


def test_deleting_by_id(filled: Index) -> None:
    assert filled.delete(["b", "unknown", "b"]) == 1
    assert filled.documents() == ["a", "blank", "c"]
    assert "b" not in {hit.document_id for hit in filled.search("part words", 100)}
    assert filled.delete(["a", "c", "blank"]) == 3, "no guard: each was named"
    assert filled.documents() == []
    assert filled.verify().is_sound
    report = filled.sync(DOCUMENTS, progress=False)
    assert report.documents_added == 4


def test_patterns_are_no_patterns_here(index: Index) -> None:
    index.sync([Document(id_, "words") for id_ in ("*", "!a", "a b", "x/y", "é")], progress=False)
    assert index.delete(["*"]) == 1
    assert index.delete(["e\u0301"]) == 1, "ids are one id in every normal form"
    assert index.documents() == ["!a", "a b", "x/y"]
    with pytest.raises(InvalidInput, match="give a list"):
        index.delete("a b")


def test_deleting_whatever_the_namespace(index: Index) -> None:
    index.sync([Document("a", "words")], namespace="one", progress=False)
    index.sync([Document("b", "words"), Document("c", "words")], namespace="two", progress=False)
    assert index.delete(["a", "b"]) == 2
    assert index.documents() == ["c"]


def test_every_version_follows(tmp_path: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        index.sync(DOCUMENTS, progress=False)
        index.upgrade(IndexRecipe(chunk_tokens=64), sources={"": DOCUMENTS}, progress=False)
        index.promote("v2", sources={"": DOCUMENTS})
        assert index.delete(["b"]) == 1
        assert index.rollback() == ("v1", 0)
        assert index.documents() == ["a", "blank", "c"]


def test_passages_while_documents_are_rewritten(index: Index) -> None:
    """Each document is of one state, old or new."""
    old = [Document(str(n), "\n\n".join(f"# H{m}\n\nold words {n} {m}" for m in range(4))) for n in range(20)]
    new = [Document(one.id, one.text.replace("old", "new")) for one in old]
    index.sync(old, progress=False)
    done = threading.Event()

    def rewrite() -> None:
        for documents in (new, old, new, old):
            index.sync(documents, progress=False)
        done.set()

    thread = threading.Thread(target=rewrite)
    thread.start()
    looks = 0
    while not done.is_set() or looks == 0:
        by_document: dict[str, set[str]] = {}
        for hit in index.passages():
            by_document.setdefault(hit.document_id, set()).add(hit.text.split()[2])
        assert all(len(states) == 1 for states in by_document.values())
        assert len(by_document) == 20
        looks += 1
    thread.join()


@pytest.mark.parametrize("after", ["gamma.\n\n# C\n\ndelta.", "alpha.\n\n# C\n\ndelta."], ids=["all new", "some new"])
def test_a_document_that_is_rewritten_while_it_is_read_is_read_again(
    index: Index, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    index.sync([Document("a", "# A\n\nalpha.\n\n# B\n\nbeta.")], progress=False)
    version = version_of(index)
    read, looks = type(version.ledger).chunks, []

    def chunks(ledger: Any, document_id: str) -> Any:
        found = read(ledger, document_id)
        looks.append(document_id)
        if len(looks) == 2:  # after the pages were made, before the chunks are looked up
            monkeypatch.undo()
            index.sync([Document("a", f"# A\n\n{after}")], progress=False)
        return found

    monkeypatch.setattr(type(version.ledger), "chunks", chunks)
    found = [hit.text for hit in index.passages(["a"])]
    assert len(looks) == 2
    assert found == [f"# A\n\n{after.split(chr(10))[0]}", "# C\n\ndelta."]


def test_ids_are_one_id_in_every_normal_form(index: Index) -> None:
    index.sync([Document("e\u0301", "words")], progress=False)
    assert [hit.document_id for hit in index.passages(["e\u0301"])] == ["é"]
    with pytest.raises(InvalidInput, match="give a list"):
        next(index.passages("é"))


def test_a_deletion_that_was_interrupted_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        index.sync(DOCUMENTS, progress=False)
        index.upgrade(IndexRecipe(chunk_tokens=64), sources={"": DOCUMENTS}, progress=False)
        index.promote("v2", sources={"": DOCUMENTS})
        sync_version = updating.sync_version

        def only_the_first(session: Any, name: str, *parts: Any, **options: Any) -> Any:
            if name == "v1":
                raise KeyboardInterrupt
            return sync_version(session, name, *parts, **options)

        monkeypatch.setattr(updating, "sync_version", only_the_first)
        with pytest.raises(KeyboardInterrupt):
            index.delete(["b"])
        monkeypatch.undo()
        assert index.delete(["b"]) == 1
        assert index.rollback() == ("v1", 0)
        assert index.documents() == ["a", "blank", "c"]


def test_a_filter_sees_metadata_that_the_engine_does_not_have_yet(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.sync([Document("a", "words", {"team": "old"})], progress=False)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(version_of(index).store), "set_payload", fail)
        with pytest.raises(KeyboardInterrupt):
            index.sync([Document("a", "words", {"team": "new"})], progress=False)
    assert [hit.metadata for hit in index.passages(filter={"team": "new"})] == [{"team": "new"}]
    assert list(index.passages(filter={"team": "old"})) == []
