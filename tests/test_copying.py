"""Copy: an index at another place, without embedding anything, with the same answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from handbook import write

from tarragon import Index
from tarragon.copying import copy_index
from tarragon.errors import IndexNotFound, InvalidInput, StorageProblem
from tarragon.store import ledger
from tarragon.testing import WordEncoder


def answers(index: Index) -> list[tuple[str, str, float, str]]:
    hits = index.search("rotate the signing key", k=10)
    return [(hit.chunk_id, hit.text, round(hit.score, 5), hit.freshness) for hit in hits]


@pytest.fixture
def original(tmp_path: Path, handbook: Path, words: WordEncoder) -> Path:
    path = tmp_path / "a.tarragon"
    write(handbook / "broken.txt", b"\xff\xfe\xfa")
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
    return path


def test_a_copy_answers_and_syncs_as_the_original_does(
    tmp_path: Path, original: Path, handbook: Path, words: WordEncoder
) -> None:
    encoded = words.documents_encoded
    report = copy_index(original, tmp_path / "b.tarragon")
    assert words.documents_encoded == encoded
    assert (report.documents, report.chunks, report.queries, report.overlap) == (3, 6, 6, 1.0)
    with Index.open(original, encoder=words) as first, Index.open(tmp_path / "b.tarragon", encoder=words) as second:
        assert answers(second) == answers(first)
        assert second.status().failures == first.status().failures
        assert second.sync(handbook).documents_unchanged == 3
        assert second.verify(deep=True).is_sound


def test_a_copy_goes_where_nothing_is_and_comes_from_what_is_whole(
    tmp_path: Path, original: Path, handbook: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IndexNotFound):
        copy_index(tmp_path / "nowhere", tmp_path / "b")
    with Index.open(tmp_path / "b", encoder=words) as index:
        index.sync(handbook)
    with pytest.raises(InvalidInput, match="holds an index already"):
        copy_index(original, tmp_path / "b")

    def fused(*_: object) -> None:
        raise KeyboardInterrupt

    write(handbook / "keys.md", "# Other\n\nText.\n")
    with monkeypatch.context() as patch, Index.open(original, encoder=words) as index:
        patch.setattr(ledger.SqliteLedger, "switch", fused)
        with pytest.raises(KeyboardInterrupt):
            index.sync(handbook)
    with pytest.raises(InvalidInput, match=r"1 documents .* unfinished \(keys.md\)"):
        copy_index(original, tmp_path / "c")


def test_an_interrupted_copy_is_no_index_and_can_be_made_again(
    tmp_path: Path, original: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fused(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger.SqliteLedger, "switch", fused)
        copy_index(original, tmp_path / "b")
    with pytest.raises(IndexNotFound):
        Index.open(tmp_path / "b", encoder=words, create=False)
    assert copy_index(original, tmp_path / "b").chunks == 6
    with Index.open(tmp_path / "b", encoder=words) as index:
        assert index.search("rotate the signing key")


def test_a_copy_that_answers_otherwise_does_not_serve(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.copying.overlap", lambda *_: 0.5)
    with pytest.raises(StorageProblem, match=r"overlap@10 is 0.500"):
        copy_index(original, tmp_path / "b")
    with pytest.raises(IndexNotFound):
        Index.open(tmp_path / "b", create=False)
