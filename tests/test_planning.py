from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarragon.errors import InvalidDocument
from tarragon.identity import chunk_hash, chunk_ids
from tarragon.planning import check_document, diff_chunks, exceeds, vanished, wanted_chunks
from tarragon.types import Chunk, Document


def cut(document_id: str, words: list[str], metadata: dict[str, Any] | None = None) -> tuple[Document, list[Chunk]]:
    """A document whose chunks are its words."""
    chunks, start = [], 0
    for ordinal, word in enumerate(words):
        chunks.append(Chunk(start, start + len(word), ordinal, ("Title",), word, f"Title\n{word}", None, 2))
        start += len(word) + 1
    return Document(document_id, " ".join(words), metadata or {}), chunks


word_lists = st.lists(st.sampled_from(["red", "green", "blue", "sand"]), max_size=6)
metadatas = st.sampled_from([{}, {"a": 1}, {"a": 1.0}])


# --- wanted_chunks ----------------------------------------------------------------------------------------------------
def test_payload_holds_what_a_hit_needs() -> None:
    document, chunks = cut("doc", ["red", "blue"], {"lang": "en"})
    first, second = wanted_chunks(document, chunks)
    assert second.payload == {
        "document_id": "doc",
        "offset": len("Title\n"),
        "start": 4,
        "end": 8,
        "ordinal": 1,
        "heading": ["Title"],
        "previous": str(first.id),
        "next": "",
        "metadata": {"lang": "en"},
        "digest": second.payload_digest.hex(),
    }
    assert (first.chunk, second.chunk) == tuple(chunks)
    assert first.hash == chunk_hash("Title\nred")
    assert [first.id, second.id] == chunk_ids("doc", [first.hash, second.hash])
    offset = second.payload["offset"]
    assert second.chunk.embed_text[offset:] == second.chunk.text


@pytest.mark.parametrize(
    "change",
    [{"start": 1}, {"end": 9}, {"ordinal": 5}, {"heading": ("Other",)}],
    ids=lambda change: next(iter(change)),
)
def test_payload_digest_knows_every_field(change: dict[str, Any]) -> None:
    document, (chunk,) = cut("doc", ["red"])
    fields = {name: getattr(chunk, name) for name in Chunk.__slots__}
    (before,), (after,) = wanted_chunks(document, [chunk]), wanted_chunks(document, [Chunk(**{**fields, **change})])
    assert before.payload_digest != after.payload_digest
    assert before.id == after.id


# --- diff_chunks ------------------------------------------------------------------------------------------------------
@given(word_lists, metadatas, word_lists, metadatas)
def test_applying_the_diff_gives_what_is_wanted(
    old: list[str], old_metadata: dict[str, Any], new: list[str], new_metadata: dict[str, Any]
) -> None:
    stored = {chunk.id: chunk.payload_digest for chunk in wanted_chunks(*cut("doc", old, old_metadata))}
    wanted = wanted_chunks(*cut("doc", new, new_metadata))
    diff = diff_chunks(wanted, stored)

    after = dict(stored)
    for id_ in diff.drop:
        del after[id_]
    for chunk in diff.move:
        assert after[chunk.id] != chunk.payload_digest  # moved only if something is different
        after[chunk.id] = chunk.payload_digest
    for chunk in diff.add:
        assert chunk.id not in after
        after[chunk.id] = chunk.payload_digest
    assert after == {chunk.id: chunk.payload_digest for chunk in wanted}
    assert [chunk.chunk.ordinal for chunk in diff.add] == sorted(chunk.chunk.ordinal for chunk in diff.add)


@given(word_lists, metadatas)
def test_nothing_to_do_for_what_is_stored(words: list[str], metadata: dict[str, Any]) -> None:
    wanted = wanted_chunks(*cut("doc", words, metadata))
    diff = diff_chunks(wanted, {chunk.id: chunk.payload_digest for chunk in wanted})
    assert (diff.add, diff.move, diff.drop) == ((), (), ())


def test_an_inserted_chunk_is_added_and_its_neighbours_and_the_ones_behind_it_move() -> None:
    before = wanted_chunks(*cut("doc", ["red", "green", "blue"]))
    after = wanted_chunks(*cut("doc", ["red", "sand", "green", "blue"]))
    diff = diff_chunks(after, {chunk.id: chunk.payload_digest for chunk in before})
    assert [chunk.chunk.text for chunk in diff.add] == ["sand"]
    assert [chunk.chunk.text for chunk in diff.move] == ["red", "green", "blue"]
    assert diff.drop == ()


def test_other_metadata_moves_every_chunk() -> None:
    before = wanted_chunks(*cut("doc", ["red", "green"], {"v": 1}))
    diff = diff_chunks(wanted_chunks(*cut("doc", ["red", "green"], {"v": 2})), {c.id: c.payload_digest for c in before})
    assert [chunk.chunk.text for chunk in diff.move] == ["red", "green"]
    assert (diff.add, diff.drop) == ((), ())


def test_the_first_and_the_last() -> None:
    wanted = wanted_chunks(*cut("doc", ["red"]))
    assert diff_chunks(wanted, {}).add == tuple(wanted)
    stale = UUID(int=7)
    assert diff_chunks([], {stale: b""}).drop == (stale,)


# --- vanished and exceeds ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("recorded", "listed", "hidden", "gone"),
    [
        (["b", "a"], [], [], ["a", "b"]),
        (["a", "b"], ["b", "c"], [], ["a"]),
        (["a/x", "a/y", "ab"], ["a/x"], ["a/"], ["ab"]),
        (["a/x", "b/x", "c"], [], ["a/", "b/"], ["c"]),
        (["a", "b"], ["a"], [""], []),
        (["a", "b"], [], ["z/", ""], []),
        (["a/", "a"], [], ["a/"], ["a"]),
        ([], ["a"], [], []),
        (["a"], ["a"], [""], []),
    ],
)
def test_vanished(recorded: list[str], listed: list[str], hidden: list[str], gone: list[str]) -> None:
    assert vanished(recorded, listed, hidden) == gone


ids = st.lists(st.text("ab/", max_size=4), max_size=8)


@given(ids, ids, st.lists(st.text("ab/", max_size=2), max_size=2))
def test_vanished_law(recorded: list[str], listed: list[str], hidden: list[str]) -> None:
    gone = vanished(recorded, listed, hidden)
    assert gone == sorted(set(gone))
    for document_id in set(recorded):
        protected = document_id in listed or any(document_id[: len(prefix)] == prefix for prefix in hidden)
        assert (document_id in gone) is not protected


@pytest.mark.parametrize(
    ("deletions", "documents", "share", "expected"),
    [
        (0, 0, 0.3, False),
        (10, 10, 0.3, True),  # a named share is exact
        (1, 1000, 0.0, True),
        (2, 10, None, False),  # a fifth
        (3, 10, None, False),  # a handful that is at most half
        (5, 10, None, False),
        (6, 10, None, True),
        (10, 20, None, False),
        (11, 22, None, True),
        (200, 1000, None, False),
        (201, 1000, None, True),
        (11, 11, 0.3, True),
        (11, 100, 0.1, True),
        (11, 110, 0.1, False),  # exactly the share
        (12, 110, 0.1, True),
        (30, 100, 0.3, False),
        (31, 100, 0.3, True),
        (100, 100, 1.0, False),
        (11, 1000, 0.0, True),
    ],
)
def test_exceeds(deletions: int, documents: int, share: float | None, expected: bool) -> None:
    assert exceeds(deletions, documents, share) is expected


# --- check_document ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "document",
    [
        Document("a", ""),
        Document("a", "ü😀\x00", {}, "rst"),
        Document("ü/ b", "x", {"": [1, -(2**63), 2**63 - 1, 1.5, None, True, "s", [], {"b": {"c": [[]]}}]}),
    ],
)
def test_what_can_be_stored(document: Document) -> None:
    check_document(document)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (Document("", "x"), "not empty"),
        (Document("a", None), "text of document 'a' is NoneType"),  # type: ignore[arg-type]
        (Document("a", b"x"), "is bytes, not str"),  # type: ignore[arg-type]
        (Document("a", "xy\ud800"), "lone surrogate at character 2"),
        (Document("a", "x", format="html"), "format='html' of document 'a' is not one of markdown, rst"),  # type: ignore[arg-type]
        (Document("a", "x", ["b"]), "metadata of document 'a' is list"),  # type: ignore[arg-type]
        (Document("a", "x", None), "metadata of document 'a' is NoneType"),  # type: ignore[arg-type]
        (Document("a", "x", {1: "b"}), "key 1"),  # type: ignore[dict-item]
        (Document("a", "x", {"b": {2: 3}}), "metadata.b of document 'a' has the key 2"),
        (Document("a", "x", {"b": [{"c": 2**63}]}), "metadata.b.c of document 'a': 9223372036854775808"),
        (Document("a", "x", {"b": -(2**63) - 1}), "64 bits"),
        (Document("a", "x", {"b": float("nan")}), "is nan"),
        (Document("a", "x", {"b": [float("-inf")]}), "is -inf"),
        (Document("a", "x", {"b": (1, 2)}), "is tuple"),
        (Document("a", "x", {"b": b"x"}), "is bytes"),
        (Document("a", "x", {"b": {1}}), "is set"),
    ],
)
def test_what_cannot_be_stored(document: Document, said: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        check_document(document)
    assert said in str(caught.value)
