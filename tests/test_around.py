"""Neighbours and sections, read back from an index and compared with the documents' own text."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from handbook import HANDBOOK, Interrupted, version_of

from tarragon import Document, Hit, Index
from tarragon.around import GAP, DocumentHits, Passage, by_document, neighbours, section
from tarragon.chunking import Chunker
from tarragon.errors import InvalidInput
from tarragon.planning import WantedChunk, wanted_chunks
from tarragon.protocols import ChunkRecord, DocumentWrite, OpenVersion, StoredChunk
from tarragon.recipe import IndexRecipe
from tarragon.testing import WordEncoder
from tarragon.types import Chunk

GUIDE = """Read this before anything else.

# Guide

What the guide is for.

## Keys

Every release is signed.

### Rotate

Run the rotation first. The old key stays valid.

### Revoke

Revoke a leaked key at once.

## Backups

The database is copied every night.

## Keys

Another section about keys.
"""

PATHS: list[tuple[str, ...]] = [
    (),
    ("Guide",),
    ("Guide", "Keys"),
    ("Guide", "Keys", "Rotate"),
    ("Guide", "Keys", "Revoke"),
    ("Guide", "Backups"),
    ("Guide", "Keys"),
]


OTHERS = [Document(id_, text) for id_, text in HANDBOOK.items()]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVersion]:
    """Of an index whose documents stay as they are."""
    with Index.open(tmp_path_factory.mktemp("around") / "i", encoder=WordEncoder()) as index:
        index.sync([Document("guide.md", GUIDE), *OTHERS])
        yield version_of(index)


@pytest.fixture
def guide(index: Index) -> Index:
    """An index of the same, to be changed."""
    index.sync([Document("guide.md", GUIDE), *OTHERS])
    return index


def hits_of(text: str, document_id: str = "guide.md", limit: int = 256) -> list[Hit]:
    """What the chunker makes of a text, as hits, in its order: found without the index."""
    document = Document(document_id, text)
    (chunks,) = Chunker(WordEncoder().tokenizer, limit).chunk([(document, "markdown")])
    return [
        Hit(document_id, str(one.id), one.chunk.text, one.chunk.start, one.chunk.end, one.chunk.heading, {}, 0.0)
        for one in wanted_chunks(document, chunks)
    ]


def check(passage: Passage | None, text: str, hits: Sequence[Hit]) -> Passage:
    """That a passage is these chunks of this text, and says so."""
    assert passage is not None
    assert passage.chunk_ids == tuple(hit.chunk_id for hit in hits)
    assert (passage.start, passage.end) == (hits[0].start, max(hit.end for hit in hits))
    assert passage.text == GAP.join(text[start:end] for start, end in passage.spans)
    for (_, end), (start, _) in pairwise(passage.spans):
        assert start > end
        assert not text[end:start].strip()  # nothing but white space is left out
    return passage


def test_neighbours_are_the_chunks_beside_it_as_far_as_there_are_any(version: OpenVersion) -> None:
    hits = hits_of(GUIDE)
    assert [hit.heading for hit in hits] == PATHS
    for place, hit in enumerate(hits):
        for before, after in [(0, 0), (1, 1), (0, 2), (2, 0), (99, 99)]:
            wanted = hits[max(0, place - before) : place + after + 1]
            found = check(neighbours(version, hit.chunk_id, before, after), GUIDE, wanted)
            assert found.document_id == "guide.md"
    only = neighbours(version, hits[3].chunk_id, 0, 0)
    assert only is not None
    assert (only.text, only.heading, only.spans) == (hits[3].text, hits[3].heading, ((hits[3].start, hits[3].end),))


def test_the_heading_is_what_all_of_it_stands_under(version: OpenVersion) -> None:
    hits = hits_of(GUIDE)
    found = [neighbours(version, hits[place].chunk_id, 0, 1) for place in (0, 1, 3, 4)]
    assert [passage and passage.heading for passage in found] == [(), ("Guide",), ("Guide", "Keys"), ("Guide",)]


@pytest.mark.parametrize(
    ("place", "level", "first", "last"),
    [
        (0, None, 0, 0),  # before the first heading
        (1, None, 1, 6),  # with all sections inside it
        (2, None, 2, 4),
        (3, None, 3, 3),
        (6, None, 6, 6),  # not the other one of that name
        (3, 9, 3, 3),
        (3, 3, 3, 3),
        (3, 2, 2, 4),
        (3, 1, 1, 6),
        (3, 0, 0, 6),
        (0, 0, 0, 6),
        (0, 2, 0, 6),  # it has no heading: what is left of none is the whole document
    ],
)
def test_a_section_is_what_stands_under_the_heading(
    version: OpenVersion, place: int, level: int | None, first: int, last: int
) -> None:
    hits = hits_of(GUIDE)
    found = check(section(version, hits[place].chunk_id, level), GUIDE, hits[first : last + 1])
    assert not found.is_cut


def test_of_a_long_section_what_is_nearest_is_kept(version: OpenVersion) -> None:
    hits = hits_of(GUIDE)
    whole = section(version, hits[3].chunk_id, 0)
    assert whole is not None
    seen = set()
    for most in range(1, len(whole.text) + 3):
        found = section(version, hits[3].chunk_id, 0, most)
        assert found is not None
        assert len(found.text) <= max(most, len(hits[3].text))
        places = [next(p for p, hit in enumerate(hits) if hit.chunk_id == id_) for id_ in found.chunk_ids]
        check(found, GUIDE, [hits[p] for p in places])
        assert places == list(range(places[0], places[-1] + 1))
        assert 3 in places
        assert found.is_cut == (len(places) < len(hits))
        seen.add((places[0], places[-1]))
    assert {(3, 3), (3, 4), (2, 4), (0, 6)} <= seen
    assert section(version, hits[3].chunk_id, 0, len(whole.text)) == whole


def test_a_paragraph_that_was_cut_is_put_together_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = "# 長い\n\n" + "".join(f"これは文{n}です。" for n in range(40)) + "\n\n" + "word " * 120
    recipe = IndexRecipe(chunk_tokens=16)
    path = tmp_path_factory.mktemp("torn") / "i"
    with Index.open(path, recipe=recipe, encoder=WordEncoder()) as index:
        index.sync([Document("long.md", text)])
        hits = hits_of(text, "long.md", 16)
        assert len(hits) > 10
        whole = check(section(version_of(index), hits[5].chunk_id), text, hits)
        assert len(whole.spans) < len(hits)  # some touch
        pair = next(place for place, (one, two) in enumerate(pairwise(hits)) if one.end == two.start)
        touching = check(neighbours(version_of(index), hits[pair].chunk_id, 0, 1), text, hits[pair : pair + 2])
        assert touching.text == text[touching.start : touching.end]
        assert touching.spans == ((touching.start, touching.end),)


# --- documents that change --------------------------------------------------------------------------------------------
def test_after_an_edit_it_is_the_new_text_around_the_chunk_that_stayed(guide: Index) -> None:
    version, former = version_of(guide), hits_of(GUIDE)
    text = GUIDE.replace("Every release is signed.", "Signing has changed, and this is longer.").replace(
        "## Backups", "### Retire\n\nA new section.\n\n## Backups"
    )
    guide.sync([Document("guide.md", text)], prune=False)
    now = hits_of(text)
    rotate = next(hit for hit in former if hit.heading[-1:] == ("Rotate",))
    found = check(section(version, rotate.chunk_id, 2), text, now[2:6])
    assert "Signing has changed" in found.text
    assert "A new section." in found.text
    gone = next(hit for hit in former if "Every release" in hit.text)
    assert neighbours(version, gone.chunk_id) is None
    assert section(version, gone.chunk_id) is None


def test_a_deleted_document_has_nothing_around(guide: Index) -> None:
    version, hits = version_of(guide), hits_of(GUIDE)
    guide.sync(OTHERS, max_delete=1.0)
    assert [neighbours(version, hit.chunk_id) for hit in hits] == [None] * len(hits)
    assert section(version, hits[0].chunk_id) is None
    assert neighbours(version, str(uuid4())) is None


def test_a_document_that_is_being_deleted_is_served_no_more(guide: Index) -> None:
    version, hits = version_of(guide), hits_of(GUIDE)
    version.ledger.intend_deletion(["guide.md"])
    assert neighbours(version, hits[0].chunk_id) is None


SHORTER = GUIDE[: GUIDE.index("## Backups")]
LONGER = GUIDE + "\n## More\n\nAt the end, where no old chunk stood.\n"
MOVED = "A word before all others.\n\n" + GUIDE
EDITED = GUIDE.replace("Revoke a leaked", "Revoke every leaked")


@pytest.mark.parametrize("text", [SHORTER, LONGER, MOVED, EDITED], ids=["shorter", "longer", "moved", "edited"])
def test_a_document_that_is_rewritten_while_it_is_read_is_never_a_mixture(guide: Index, text: str) -> None:
    rotate = next(hit for hit in hits_of(GUIDE) if hit.heading[-1:] == ("Rotate",))
    version = Interrupted(version_of(guide), [lambda: guide.sync([Document("guide.md", text)], prune=False)])
    found = neighbours(version, rotate.chunk_id, 99, 99)
    assert not version.events
    check(found, text, hits_of(text))


def test_a_document_that_is_rewritten_again_and_again_is_read_until_it_rests(guide: Index) -> None:
    rotate = next(hit for hit in hits_of(GUIDE) if hit.heading[-1:] == ("Rotate",))
    texts = [LONGER, EDITED, GUIDE, MOVED, SHORTER]
    events = [lambda text=text: guide.sync([Document("guide.md", text)], prune=False) for text in texts]  # type: ignore[misc]
    found = neighbours(Interrupted(version_of(guide), list(events)), rotate.chunk_id, 99, 99)
    check(found, SHORTER, hits_of(SHORTER))


def test_a_document_that_is_deleted_while_it_is_read_is_not_served(guide: Index) -> None:
    version = Interrupted(version_of(guide), [lambda: guide.sync(OTHERS, max_delete=1.0)])
    assert neighbours(version, hits_of(GUIDE)[1].chunk_id) is None


def test_a_chunk_that_the_store_has_lost_is_a_gap(guide: Index) -> None:
    version, hits = version_of(guide), hits_of(GUIDE)
    version.store.delete([UUID(hits[3].chunk_id)])
    found = neighbours(version, hits[2].chunk_id, 0, 1)
    assert found is not None
    assert found.chunk_ids == (hits[2].chunk_id, hits[4].chunk_id)
    assert found.text == hits[2].text + GAP + hits[4].text
    assert found.spans == ((hits[2].start, hits[2].end), (hits[4].start, hits[4].end))
    assert neighbours(version, hits[3].chunk_id) is None


# --- chunks of another chunker ----------------------------------------------------------------------------------------
def put(version: OpenVersion, document: Document, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Index a document in chunks of these spans; their ids, in order."""
    wanted = wanted_of(document, spans)
    vectors = WordEncoder().encode_queries([one.chunk.text for one in wanted]).vectors
    version.store.upsert(
        [
            StoredChunk(one.id, vector, {"content": one.chunk.text, **one.payload})
            for one, vector in zip(wanted, vectors, strict=True)
        ]
    )
    records = tuple(ChunkRecord(one.id, one.hash, one.payload_digest, 1) for one in wanted)
    record = version_record(version, document.id)
    write = DocumentWrite(record, records)
    version.ledger.intend([write])
    version.ledger.switch([write])
    return [str(one.id) for one in wanted]


def wanted_of(document: Document, spans: Sequence[tuple[int, int]]) -> list[WantedChunk]:
    chunks = [
        Chunk(start, end, place, (), document.text[start:end], document.text[start:end], None, 1)
        for place, (start, end) in enumerate(spans)
    ]
    return wanted_chunks(document, chunks)


def version_record(version: OpenVersion, document_id: str) -> Any:
    (any_record, *_) = version.ledger.documents().values()
    return any_record._replace(document_id=document_id)


def windows(text: str, seed: int) -> Iterator[tuple[int, int]]:
    """Spans in order that overlap, touch, or leave something out."""
    source, start, end = random.Random(seed), 0, 0
    while end < len(text):
        start = max(0, start + 1 if seed % 2 and end else start, end - source.choice([4, 2, 0, 0, -1, -3]))
        end = min(len(text), max(end + 1, start + source.randrange(3, 9)))
        if start >= len(text):
            return
        yield start, end


@pytest.mark.parametrize("seed", range(6))
def test_overlapping_chunks_say_nothing_twice(version: OpenVersion, seed: int) -> None:
    text = "abcdefghijklmnopqrstuvwxyz0123456789" * 2
    spans = list(windows(text, seed))
    ids = put(version, Document(f"windows {seed}", text), spans)
    assert len(set(ids)) == len(ids) > 5
    for place in range(len(ids)):
        chosen = spans[max(0, place - 2) : place + 3]
        found = neighbours(version, ids[place], 2, 2)
        assert found is not None
        covered = {position for start, end in chosen for position in range(start, end)}
        assert {position for start, end in found.spans for position in range(start, end)} == covered
        assert found.text == GAP.join(text[start:end] for start, end in found.spans)
        assert all(first[1] < second[0] for first, second in pairwise(found.spans))


def test_a_chunk_inside_another_adds_nothing(version: OpenVersion) -> None:
    ids = put(version, Document("inside", "one two three four"), [(0, 13), (4, 7), (8, 18)])
    found = neighbours(version, ids[1])
    assert found is not None
    assert (found.text, found.spans) == ("one two three four", ((0, 18),))


def test_a_document_of_many_chunks_is_read_in_pages(version: OpenVersion) -> None:
    text = "".join(f"{n:05d}" for n in range(1_203))
    ids = put(version, Document("many", text), [(start, start + 5) for start in range(0, len(text), 5)])
    found = section(version, ids[700], max_characters=10**6)
    assert found is not None
    assert (found.text, found.chunk_ids) == (text, tuple(ids))
    near = neighbours(version, ids[-1], 2, 2)
    assert near is not None
    assert near.text == text[-15:]


def test_a_payload_that_is_replaced_while_it_is_read_is_read_again(version: OpenVersion) -> None:
    text = "one two three"
    ids = put(version, Document("settling", text), [(0, 3), (4, 7), (8, 13)])
    moved = Document("settling", text, {"moved": True})
    (one,) = [chunk for chunk in wanted_of(moved, [(0, 3), (4, 7), (8, 13)]) if str(chunk.id) == ids[1]]
    others = [record for record in version.ledger.chunks("settling") if record.id != one.id]
    record = ChunkRecord(one.id, one.hash, one.payload_digest, 1)
    write = DocumentWrite(version_record(version, "settling"), (*others, record), {one.id: one.payload})
    version.ledger.intend([write])
    version.ledger.switch([write])

    def settle() -> None:
        version.store.set_payload({one.id: one.payload})
        version.ledger.settle(["settling"])

    found = neighbours(Interrupted(version, [settle]), ids[0], 0, 2)
    assert found is not None
    assert found.spans == ((0, 3), (4, 7), (8, 13))


# --- grouping and bad input -------------------------------------------------------------------------------------------
def test_hits_are_grouped_by_document_in_the_order_of_their_best() -> None:
    of = {id_: hits_of(text, id_) for id_, text in [("guide.md", GUIDE), *HANDBOOK.items()]}
    keys, backup, guide = of["keys.md"], of["backup.md"], of["guide.md"]
    hits = [backup[1], guide[4], backup[0], guide[0], keys[2], guide[2], keys[0]]
    groups = [("backup.md", (backup[1], backup[0])), ("guide.md", (guide[4], guide[0], guide[2]))]
    groups.append(("keys.md", (keys[2], keys[0])))
    assert by_document(hits) == [DocumentHits(*group) for group in groups]
    assert by_document(hits, 2) == [DocumentHits(id_, found[:2]) for id_, found in groups]
    assert by_document(hits, 1) == [DocumentHits(id_, found[:1]) for id_, found in groups]
    assert by_document([]) == []


def test_a_passage_is_ready_for_json(version: OpenVersion) -> None:
    passage = neighbours(version, hits_of(GUIDE)[0].chunk_id)
    assert passage is not None
    assert Passage(**passage.to_dict()) == passage


def test_bad_values_are_refused_by_name(version: OpenVersion) -> None:
    id_ = hits_of(GUIDE)[0].chunk_id
    with pytest.raises(InvalidInput, match=r"chunk_id='guide\.md'"):
        neighbours(version, "guide.md")
    with pytest.raises(InvalidInput, match="before=-1"):
        neighbours(version, id_, -1)
    with pytest.raises(InvalidInput, match="after=-2"):
        neighbours(version, id_, 1, -2)
    with pytest.raises(InvalidInput, match="level=-1"):
        section(version, id_, -1)
    with pytest.raises(InvalidInput, match="max_characters=0"):
        section(version, id_, max_characters=0)
    with pytest.raises(InvalidInput, match="limit=0"):
        by_document([], 0)
