"""Freshness at reading time: what a hit says of its source, and what a search never returns."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from handbook import HANDBOOK, version_of, write

from tarragon import Document, Hit, Index
from tarragon.errors import InvalidInput
from tarragon.store import edge, ledger
from tarragon.testing import WordEncoder


def labels(hits: list[Hit]) -> dict[str, str]:
    return {hit.document_id: hit.freshness for hit in hits}


@pytest.fixture
def synced(index: Index, handbook: Path) -> Index:
    index.sync(handbook)
    return index


# --- labels -----------------------------------------------------------------------------------------------------------
def test_each_hit_says_whether_its_source_is_what_it_was(synced: Index, handbook: Path) -> None:
    assert set(labels(synced.search("rotate restore call", k=50)).values()) == {"fresh"}
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
    (handbook / "backup.md").unlink()
    found = labels(synced.search("rotate restore call", k=50))
    assert found == {"keys.md": "stale", "backup.md": "missing", "guide/oncall.txt": "fresh"}
    synced.sync(handbook)
    assert set(labels(synced.search("rotate restore call", k=50)).values()) == {"fresh"}


def test_a_file_that_was_only_touched_is_fresh_and_is_read_once(synced: Index, handbook: Path) -> None:
    write(handbook / "keys.md", HANDBOOK["keys.md"] + " ")
    write(handbook / "keys.md", HANDBOOK["keys.md"])
    reads: list[str] = []
    from tarragon.sources import file as file_module

    original = file_module.load_file

    def watched(path: str, *rest: object, **named: object) -> Document:
        reads.append(path)
        return original(path, *rest, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_module, "load_file", watched)
        for _ in range(3):
            assert labels(synced.search("rotate the signing key"))["keys.md"] == "fresh"
    assert reads == [str(handbook / "keys.md")]


def test_only_the_hit_documents_are_looked_at(tmp_path: Path, words: WordEncoder) -> None:
    for n in range(60):
        write(tmp_path / "docs" / f"{n:02}.md", f"Text number {n} about word{n}.")
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(tmp_path / "docs")
        source, _ = index._opened.origins.source(version_of(index).ledger, "")
        assert source is not None
        looked: list[str] = []
        find = source.find_all
        source.find_all = lambda ids: (looked.extend(ids), find(ids))[1]  # type: ignore[method-assign, func-returns-value]
        hits = index.search("word7", k=3)
        assert sorted(looked) == sorted({hit.document_id for hit in hits})


def test_another_process_finds_the_source_again(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(handbook, include=["*.md"])
    write(handbook / "keys.md", "# Other\n\nAnother text.\n")
    with Index.open(tmp_path / "i", encoder=words) as index:
        assert labels(index.search("rotate restore", k=20)) == {"keys.md": "stale", "backup.md": "fresh"}
    handbook.rename(tmp_path / "elsewhere")
    with Index.open(tmp_path / "i", encoder=words) as index:
        assert set(labels(index.search("rotate restore", k=20)).values()) == {"unknown"}, "the root is gone: who knows"


def test_documents_in_memory_are_known_to_the_process_that_gave_them(tmp_path: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([Document("a", "A text.")])
        assert labels(index.search("text")) == {"a": "fresh"}
    with Index.open(tmp_path / "i", encoder=words) as index:
        assert labels(index.search("text")) == {"a": "unknown"}


def test_what_is_added_without_pruning_makes_nothing_else_missing(index: Index) -> None:
    index.sync([Document("a", "A text.")], prune=False)
    index.sync([Document("b", "B text.")], prune=False)
    assert labels(index.search("text")) == {"a": "unknown", "b": "fresh"}
    assert len(index.search("text", on_stale="drop")) == 2
    with pytest.raises(InvalidInput, match="or from several"):
        index.upgrade(encoder=WordEncoder(salt="new"))


def test_changed_metadata_is_stale_too(index: Index) -> None:
    index.sync([Document("a", "A text.", {"v": 1})])
    other = [Document("a", "A text.", {"v": 2})]
    from tarragon.sources import DocumentsSource

    index._opened.origins._sources[""] = (DocumentsSource(other), True)
    assert labels(index.search("text")) == {"a": "stale"}


# --- on_stale ---------------------------------------------------------------------------------------------------------
def test_drop_leaves_outdated_hits_out_and_fills_up(synced: Index, handbook: Path) -> None:
    before = synced.search("rotate restore call key", k=3)
    gone = before[0].document_id
    (handbook / gone).unlink()
    hits = synced.search("rotate restore call key", k=3, on_stale="drop")
    assert gone not in labels(hits)
    assert len(hits) == 3
    assert set(labels(hits).values()) == {"fresh"}


def test_refresh_syncs_just_the_hit_documents_and_answers_anew(
    synced: Index, handbook: Path, words: WordEncoder
) -> None:
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "seven heartbeats"))
    write(handbook / "backup.md", "# Changed too\n\nBut nobody asks for it.\n")
    encoded = words.documents_encoded
    hits = synced.search("revoke a key within minutes", k=1, on_stale="refresh")
    assert "seven heartbeats" in hits[0].text
    assert hits[0].freshness == "fresh"
    assert words.documents_encoded - encoded == 16 + 1, "the canaries and one passage"
    assert labels(synced.search("restore from cold", mode="lexical"))["backup.md"] == "stale"


def test_refresh_deletes_nothing_and_drops_what_is_gone(synced: Index, handbook: Path) -> None:
    (handbook / "keys.md").unlink()
    assert "keys.md" not in labels(synced.search("rotate the signing key", k=20, on_stale="refresh"))
    assert synced.status().documents == 3
    assert labels(synced.search("rotate the signing key"))["keys.md"] == "missing"


def test_refresh_beside_a_running_sync_drops_instead(synced: Index, handbook: Path) -> None:
    write(handbook / "keys.md", "# Other\n\nRotate nothing.\n")
    with synced._opened.catalog.writing():
        assert "keys.md" not in labels(synced.search("rotate the signing key", k=20, on_stale="refresh"))


def test_an_unknown_word_for_on_stale_is_refused(synced: Index) -> None:
    with pytest.raises(InvalidInput, match=r"ignore.*flag, drop, refresh"):
        synced.search("x", on_stale="ignore")  # type: ignore[arg-type]


# --- what is never returned -------------------------------------------------------------------------------------------
OLD = "# Door\n\nThe door is red.\n\n# Lock\n\nThe lock is old.\n"
NEW = "# Preface\n\nHello there.\n\n# Door\n\nThe door is blue.\n\n# Lock\n\nThe lock is old.\n"


def answers(index: Index) -> set[tuple[str, int]]:
    return {(hit.text.split("\n")[-1], hit.start) for hit in index.search("door lock preface hello", k=50)}


@pytest.mark.parametrize(
    ("owner", "step", "is_new"),
    [
        (ledger.SqliteLedger, "intend", False),
        (edge.EdgeStore, "upsert", False),
        (ledger.SqliteLedger, "switch", True),
        (edge.EdgeStore, "set_payload", True),
        (edge.EdgeStore, "delete", True),
        (ledger.SqliteLedger, "settle", True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_document_switches_at_once_from_its_old_text_to_its_new_one(
    index: Index, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, is_new: bool
) -> None:
    index.sync([Document("a.md", OLD)])
    old = answers(index)
    original = getattr(owner, step)

    def fused(self: object, *values: object) -> None:
        original(self, *values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, step, fused)
        index.sync([Document("a.md", NEW)])
    interrupted = answers(index)
    index.sync([Document("a.md", NEW)])
    new = answers(index)
    assert old != new
    assert interrupted == (new if is_new else old)
    assert index.verify().is_sound


def test_a_filter_sees_metadata_as_they_are_served(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.sync([Document("a.md", OLD, {"public": True})])

    def fused(self: object, *values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(edge.EdgeStore, "set_payload", fused)
        index.sync([Document("a.md", OLD, {"public": False})])
    assert index.search("door", filter={"public": True}) == [], "it is not public any more, whatever the store has"
    assert {hit.metadata["public"] for hit in index.search("door")} == {False}


def test_a_deleted_document_is_gone_at_its_record(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.sync([Document("a.md", OLD), Document("b.md", "The door is elsewhere.")])

    def fused(self: object, *values: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(edge.EdgeStore, "delete", fused)
        index.sync([Document("b.md", "The door is elsewhere.")])
    assert labels(index.search("door lock", k=50)).keys() == {"b.md"}


def test_a_search_beside_a_sync_sees_one_state_of_each_document(tmp_path: Path, words: WordEncoder) -> None:
    """Every document's passages all carry the number of the round in which they were written."""

    def state(round_: int) -> list[Document]:
        rounds = f"round{round_}"
        text = "".join(f"# Part {part}\n\nThe door of part {part} in {rounds}.\n\n" for part in range(4))
        return [Document(f"{n}.md", text, {"round": round_}) for n in range(4)]

    problems: list[str] = []
    stop = threading.Event()
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(state(0))

        def read() -> None:
            while not stop.is_set():
                by_document: dict[str, set[int]] = {}
                for hit in index.search("door part", k=100):
                    assert f"round{hit.metadata['round']}" in hit.text
                    by_document.setdefault(hit.document_id, set()).add(hit.metadata["round"])
                if len(by_document) != 4 or any(len(rounds) != 1 for rounds in by_document.values()):
                    problems.append(str(by_document))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for round_ in range(1, 15):
            index.sync(state(round_))
        stop.set()
        for reader in readers:
            reader.join()
    assert problems == []
