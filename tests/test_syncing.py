"""Sync: what is counted, what is embedded, and what a crash or a bad input leaves behind."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from handbook import HANDBOOK, version_of, write

from tarragon import Document, Index, Progress
from tarragon.errors import (
    DiskFull,
    EmptySource,
    EncodingFailed,
    IndexLocked,
    InvalidInput,
    SourceNotFound,
    SourceProblem,
    TooManyDeletions,
)
from tarragon.protocols import Embeddings, EncoderInput, SourceItem
from tarragon.reports import SyncReport
from tarragon.store import edge, ledger
from tarragon.store.edge import EdgeStore
from tarragon.testing import WordEncoder


def counts(report: SyncReport) -> dict[str, int]:
    """The counts that are not zero, without the word ``documents_``."""
    names = ("added", "changed", "unchanged", "deleted", "failed")
    found = {name: getattr(report, f"documents_{name}") for name in names}
    found |= {name: getattr(report, f"chunks_{name}") for name in ("embedded", "reused")}
    return {name: count for name, count in found.items() if count}


def contents(index: Index) -> dict[str, tuple[Any, ...]]:
    """Everything stored: chunk id → payload and vector. Equal for equal indexes."""
    store = version_of(index).store
    ids = list(store.ids())
    vectors = store.vectors(ids)
    return {str(id_): (payload, vectors[id_].tolist()) for id_, payload in store.payloads(ids).items()}


def fresh(tmp_path: Path, source: Any, encoder: WordEncoder) -> dict[str, tuple[Any, ...]]:
    """What an index built anew from this source holds."""
    with Index.open(tmp_path / f"fresh-{random.random()}", encoder=encoder) as index:
        index.sync(source)
        return contents(index)


# --- counting and reusing ---------------------------------------------------------------------------------------------
def test_a_second_sync_embeds_and_writes_nothing(index: Index, handbook: Path, words: WordEncoder) -> None:
    first = index.sync(handbook)
    assert counts(first) == {"added": 3, "embedded": 6}
    assert first.characters_embedded > 400
    assert first.tokens_embedded > 80
    before, encoded = contents(index), words.documents_encoded
    assert counts(index.sync(handbook)) == {"unchanged": 3}
    assert words.documents_encoded == encoded
    assert contents(index) == before


def test_unchanged_files_are_not_even_read(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    for path in handbook.rglob("*.md"):
        path.chmod(0)
    reads: list[str] = []
    from tarragon.sources import file as file_module

    original = file_module.load_file
    try:
        file_module.load_file = lambda path, *rest, **named: reads.append(path) or original(path, *rest, **named)  # type: ignore[func-returns-value]
        assert counts(index.sync(handbook)) == {"unchanged": 3}
        assert reads == []
        path = write(handbook / "guide/oncall.txt", "Now somebody else is on call.")
        assert counts(index.sync(handbook)) == {"unchanged": 2, "changed": 1, "embedded": 1}
        assert reads == [str(path)]
    finally:
        file_module.load_file = original


def test_an_edit_embeds_only_the_changed_passage(
    tmp_path: Path, index: Index, handbook: Path, words: WordEncoder
) -> None:
    index.sync(handbook)
    text = HANDBOOK["keys.md"].replace("within five minutes", "at once")
    write(handbook / "keys.md", text)
    report = index.sync(handbook)
    assert counts(report) == {"changed": 1, "unchanged": 2, "embedded": 1, "reused": 2}
    assert report.chunks_deleted == 1
    assert contents(index) == fresh(tmp_path, handbook, words)


def test_text_that_moves_keeps_its_vector_and_gets_its_new_span(
    tmp_path: Path, index: Index, handbook: Path, words: WordEncoder
) -> None:
    index.sync(handbook)
    before = {hit.text: hit for hit in index.search("revoke a key", k=50)}
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("## Rotate", "## New\n\nInserted.\n\n## Rotate"))
    report = index.sync(handbook)
    assert counts(report) == {"changed": 1, "unchanged": 2, "embedded": 1, "reused": 3}
    after = {hit.text: hit for hit in index.search("revoke a key", k=50)}
    moved = next(text for text in before if text.startswith("## Revoke"))
    assert after[moved].chunk_id == before[moved].chunk_id
    assert after[moved].start == before[moved].start + len("## New\n\nInserted.\n\n")
    assert contents(index) == fresh(tmp_path, handbook, words)


def test_renamed_and_copied_files_embed_nothing(
    tmp_path: Path, index: Index, handbook: Path, words: WordEncoder
) -> None:
    index.sync(handbook)
    (handbook / "keys.md").rename(handbook / "guide" / "signing.md")
    write(handbook / "copy.md", HANDBOOK["backup.md"])
    report = index.sync(handbook)
    assert counts(report) == {"added": 2, "deleted": 1, "unchanged": 2, "reused": 5}
    assert report.tokens_embedded == report.characters_embedded == 0
    assert contents(index) == fresh(tmp_path, handbook, words)


def test_deleting_one_of_two_equal_documents_keeps_the_other(index: Index) -> None:
    index.sync([Document("a", "The same text."), Document("b", "The same text.")])
    index.sync([Document("b", "The same text.")])
    assert [hit.document_id for hit in index.search("same text")] == ["b"]


def test_changed_metadata_is_written_without_embedding(index: Index) -> None:
    index.sync([Document("a", "A text.", {"v": 1, "old": True})])
    report = index.sync([Document("a", "A text.", {"v": 2})])
    assert counts(report) == {"changed": 1, "reused": 1}
    assert index.search("text")[0].metadata == {"v": 2}
    assert index.search("text", filter={"old": True}) == []


def test_repeated_passages_in_one_document_are_all_kept(index: Index) -> None:
    text = "# A\n\nSame words.\n\n# A\n\nSame words.\n"
    report = index.sync([Document("a.md", text)])
    assert counts(report) == {"added": 1, "embedded": 1, "reused": 1}
    assert [(hit.start, text[hit.start : hit.end]) for hit in index.search("same words", k=5)] != []
    assert {hit.start for hit in index.search("same words", k=5)} == {0, text.rindex("# A")}


def test_random_histories_end_as_a_fresh_build_does(tmp_path: Path, index: Index, words: WordEncoder) -> None:
    chance = random.Random(7)
    folder = tmp_path / "docs"
    sentences = [
        f"Sentence {n} speaks of {word}." for n, word in enumerate(["keys", "locks", "doors", "walls", "roofs"])
    ]
    for step in range(25):
        for _ in range(chance.randint(1, 4)):
            path = folder / f"{chance.randint(0, 5)}.md"
            if path.exists() and chance.random() < 0.3:
                path.unlink()
            else:
                parts = [f"# {chance.choice('ABC')}\n\n{' '.join(chance.sample(sentences, 2))}\n\n" for _ in range(3)]
                write(path, "".join(parts))
        if not any(folder.glob("*.md")):
            write(folder / "0.md", sentences[0])
        index.sync(folder, max_delete=1.0)
        assert contents(index) == fresh(tmp_path, folder, words), f"step {step}"
        assert counts(index.sync(folder)) == {"unchanged": len(list(folder.glob("*.md")))}


def test_namespaces_keep_sources_apart(index: Index, handbook: Path, tmp_path: Path) -> None:
    write(tmp_path / "wiki" / "wiki.md", "# Wiki\n\nSomething else.\n")
    index.sync(handbook)
    index.sync(tmp_path / "wiki", namespace="wiki")
    assert index.status().documents == 4
    assert counts(index.sync(handbook)) == {"unchanged": 3}
    with pytest.raises(TooManyDeletions, match="--namespace"):
        index.sync(tmp_path / "wiki")
    report = index.sync(tmp_path / "wiki", prune=False)
    assert counts(report) == {"failed": 1}, "the id belongs to the namespace wiki"
    assert "namespace 'wiki'" in report.failures[0].reason
    assert index.status().documents == 4


def test_texts_that_differ_in_normalisation_only_are_different_texts(index: Index) -> None:
    nfc, nfd = normalize("NFC", "Größe é"), normalize("NFD", "Größe é")
    index.sync([Document("a", nfc, {"t": nfc})])
    assert counts(index.sync([Document("a", nfd, {"t": nfd})])) == {"changed": 1, "embedded": 1}
    hit = index.search("Größe")[0]
    assert (hit.text, hit.metadata, hit.end) == (nfd, {"t": nfd}, len(nfd))
    assert index.search("Größe", filter={"t": nfd}) == [hit]


def test_ids_that_differ_in_normalisation_only_are_one_id(index: Index) -> None:
    twins = [Document(normalize(form, "é.md"), "The same text.") for form in ("NFC", "NFD")]
    assert counts(index.sync(twins)) == {"added": 1, "failed": 1, "embedded": 1}
    assert counts(index.sync(twins[1:])) == {"unchanged": 1}
    assert len(index.search("same text")) == 1


def test_an_index_inside_its_own_source_is_not_indexed(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    with Index.open(handbook / "i.tarragon", encoder=words) as index:
        for _ in range(2):
            report = index.sync(handbook)
            assert dict(report.files_skipped) == {"tarragon index": 1}
        assert counts(report) == {"unchanged": 3}
        with pytest.raises(SourceProblem, match="is an index"):
            index.sync(handbook / "i.tarragon")


def test_two_syncs_at_once_are_refused(index: Index, handbook: Path) -> None:
    refused: list[str] = []

    def again(_: Progress) -> None:
        with pytest.raises(IndexLocked, match="being written already") as caught:
            index.sync([Document("b", "Another.")])
        refused.append(str(caught.value))

    assert counts(index.sync(handbook, progress=again)) == {"added": 3, "embedded": 6}
    assert refused
    assert counts(index.sync(handbook)) == {"unchanged": 3}


# --- guards -----------------------------------------------------------------------------------------------------------
def test_a_source_that_has_become_empty_is_refused(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    with pytest.raises(EmptySource, match=r"3 from it.*--max-delete 1.0"):
        index.sync([])
    for path in sorted(handbook.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    write(handbook / ".hidden", "x")
    with pytest.raises(EmptySource, match="1 hidden"):
        index.sync(handbook)
    assert index.status().documents == 3
    assert counts(index.sync([], max_delete=1.0)) == {"deleted": 3}
    assert index.search("key") == []


def test_an_empty_folder_is_fine_for_a_new_index(index: Index, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert counts(index.sync(tmp_path / "empty")) == {}
    assert index.search("key") == []
    with pytest.raises(SourceNotFound, match="nowhere"):
        index.sync(tmp_path / "nowhere")


def test_many_deletions_need_a_word(index: Index) -> None:
    documents = [Document(f"{n:02}", f"Text {n}.") for n in range(40)]
    index.sync(documents)
    with pytest.raises(TooManyDeletions, match=r"20 of 40 .*20, 21, 22.*max_delete") as caught:
        index.sync(documents[:20])
    assert caught.value.data == {"deletions": 20, "documents": 40}
    assert index.status().documents == 40
    assert counts(index.sync(documents[:20], prune=False)) == {"unchanged": 20}
    assert counts(index.sync(documents[:20], max_delete=0.5)) == {"unchanged": 20, "deleted": 20}
    with pytest.raises(InvalidInput, match="max_delete=20"):
        index.sync(documents, max_delete=20)
    with pytest.raises(TooManyDeletions):
        index.sync(documents[:19], max_delete=0)
    assert counts(index.sync(documents[:10])) == {"unchanged": 10, "deleted": 10}, "a handful, at most half"
    with pytest.raises(TooManyDeletions):
        index.sync(documents[:4])


# --- bad documents ----------------------------------------------------------------------------------------------------
def test_bad_files_are_reported_and_the_others_indexed(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    write(handbook / "backup.md", b"\xfa\xfb broken")
    write(handbook / "latin.txt", "Übergröße".encode("latin-1"))
    write(handbook / "large.txt", "x" * 2_000)
    write(handbook / "image.png", b"\x89PNG\r\n\0\0")
    write(handbook / "new.md", "# New\n\nStill indexed.\n")
    report = index.sync(handbook, max_bytes=1_500)
    assert counts(report) == {"added": 1, "unchanged": 2, "failed": 3, "embedded": 1}
    assert dict(report.files_skipped) == {"binary": 1}
    assert [failure.document_id for failure in report.failures] == ["backup.md", "large.txt", "latin.txt"]
    assert "max_bytes" in report.failures[1].reason
    assert "UTF-8 at byte 0" in report.failures[2].reason
    assert index.search("restore from cold")[0].document_id == "backup.md", "its former text is still served"
    assert {failure.document_id for failure in index.status().failures} == {"backup.md", "large.txt", "latin.txt"}
    write(handbook / "backup.md", HANDBOOK["backup.md"])
    (handbook / "large.txt").unlink()
    write(handbook / "latin.txt", "Übergröße")
    assert counts(index.sync(handbook)) == {"added": 1, "unchanged": 4, "embedded": 1}
    assert index.status().failures == ()


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (Document("x", "text", nested(40)), "nested deeper than 32"),
        (Document("x", "text", nested(900)), "nested deeper than 32"),
        (Document("x", "text", {"large": "x" * 70_000}), "at most 65536"),
        (Document("x", "text", MappingProxyType({"a": 1})), "mappingproxy"),
        (Document("", "text"), "id"),
        (Document(7, "text"), "7"),  # type: ignore[arg-type]
        (Document("half \udc80", "text"), "surrogate"),
        (Document("x", "text", {"deep": [{"key \udc80": 1}]}), "surrogate"),
        (Document("x", "text", {"deep": ["half \udc80"]}), "surrogate"),
        (Document("x", "text", {"when": object()}), "metadata.when"),
        (Document("x", "text", {"n": float("nan")}), "nan"),
        (Document("x", "text", {"n": 2**70}), "64 bits"),
        (Document("x", "text", {1: "a"}), "key 1"),  # type: ignore[dict-item]
        (Document("x", "a \ud800 b"), "surrogate at character 2"),
        (Document("x", None), "NoneType"),  # type: ignore[arg-type]
        (Document("x", "text", format="docx"), "docx"),  # type: ignore[arg-type]
    ],
)
def test_documents_that_cannot_be_stored_fail_alone(index: Index, document: Document, reason: str) -> None:
    report = index.sync([Document("good", "A good text."), document])
    assert counts(report) == {"added": 1, "failed": 1, "embedded": 1}
    assert reason in report.failures[0].reason
    assert [hit.document_id for hit in index.search("good text")] == ["good"]


def test_the_second_document_of_one_id_fails(index: Index) -> None:
    report = index.sync([Document("a", "First."), Document("a", "Second.")])
    assert counts(report) == {"added": 1, "failed": 1, "embedded": 1}
    assert index.search("first second")[0].text == "First."


def test_an_unreadable_folder_does_not_delete_what_is_below(index: Index, handbook: Path) -> None:
    from tarragon.sources import FolderSource
    from tarragon.sources.reading import unreadable

    index.sync(handbook)

    class Hidden(FolderSource):
        def items(self) -> Iterator[SourceItem]:
            kept = (item for item in super().items() if not item.document_id.startswith("guide/"))
            return iter([*kept, unreadable("guide/", "guide: permission denied", path="guide", hides="guide/")])

    report = index.sync(Hidden(handbook))
    assert counts(report) == {"unchanged": 2, "failed": 1}
    assert index.search("engineer on call")[0].document_id == "guide/oncall.txt"


def test_a_blank_document_is_indexed_with_no_passage(index: Index) -> None:
    assert counts(index.sync([Document("blank", " \n\n"), Document("a", "Text.")])) == {"added": 2, "embedded": 1}
    assert counts(index.sync([Document("blank", " \n\n"), Document("a", "Text.")])) == {"unchanged": 2}


def test_a_line_of_two_million_characters_without_a_space(index: Index) -> None:
    report = index.sync([Document("long", "x" * 2_000_000), Document("a", "Find me.")])
    assert counts(report)["added"] == 2
    assert index.search("find me", k=1)[0].document_id == "a"


def test_what_the_model_cannot_take_is_counted(tmp_path: Path) -> None:
    from tarragon import IndexRecipe

    with Index.open(tmp_path / "i", encoder=WordEncoder(max_tokens=20), recipe=IndexRecipe(chunking="whole")) as index:
        report = index.sync([Document("a", "word " * 50)])
    assert (report.tokens_embedded, report.tokens_truncated) == (20, 30)


# --- encoders that misbehave ------------------------------------------------------------------------------------------
class Misbehaving(WordEncoder):
    """Returns what `spoil` makes of its vectors."""

    def __init__(self, spoil: Callable[[Sequence[EncoderInput], np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._spoil = spoil

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        good = super().encode_documents(inputs)
        return Embeddings(self._spoil(inputs, good.vectors), good.tokens, good.truncated)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_passage_the_model_gives_nan_for_fails_its_document_only(
    tmp_path: Path, handbook: Path, poison: float
) -> None:
    def spoil(inputs: Sequence[EncoderInput], vectors: np.ndarray) -> np.ndarray:
        vectors[[i for i, item in enumerate(inputs) if "poison" in item.text], 3] = poison
        return vectors

    with Index.open(tmp_path / "i", encoder=Misbehaving(spoil)) as index:
        index.sync(handbook)
        write(handbook / "keys.md", HANDBOOK["keys.md"] + "\n## More\n\nThis is poison.\n")
        write(handbook / "new.md", "A new one.")
        report = index.sync(handbook)
        assert counts(report) == {"added": 1, "unchanged": 2, "failed": 1, "embedded": 2}
        assert report.failures[0].document_id == "keys.md"
        assert "NaN" in report.failures[0].reason
        assert index.search("rotate the key")[0].document_id == "keys.md"
        write(handbook / "keys.md", HANDBOOK["keys.md"])
        assert counts(index.sync(handbook))["unchanged"] == 4


def test_vectors_of_the_wrong_shape_stop_the_sync_and_leave_the_index_whole(tmp_path: Path, handbook: Path) -> None:
    wrong = False

    def spoil(inputs: Sequence[EncoderInput], vectors: np.ndarray) -> np.ndarray:
        return vectors[:, :10] if wrong and len(inputs) == 1 else vectors  # not of the canaries

    with Index.open(tmp_path / "i", encoder=Misbehaving(spoil)) as index:
        index.sync(handbook)
        write(handbook / "new.md", "A new one.")
        wrong = True
        with pytest.raises(EncodingFailed, match=r"\(1, 10\).*\(1, 64\)"):
            index.sync(handbook)
        assert index.status().documents == 3
        assert index.search("rotate the key")
        wrong = False
        assert counts(index.sync(handbook)) == {"unchanged": 3, "added": 1, "embedded": 1}


# --- interruptions ----------------------------------------------------------------------------------------------------
STEPS = [
    (ledger.SqliteLedger, "intend"),
    (edge.EdgeStore, "upsert"),
    (ledger.SqliteLedger, "switch"),
    (edge.EdgeStore, "set_payload"),
    (edge.EdgeStore, "delete"),
    (ledger.SqliteLedger, "settle"),
    (ledger.SqliteLedger, "intend_deletion"),
    (ledger.SqliteLedger, "commit_deletion"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_an_interruption_at_any_write_is_completed_by_the_next_sync(
    tmp_path: Path,
    handbook: Path,
    words: WordEncoder,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    step: str,
    after: bool,
) -> None:
    path = tmp_path / "i.tarragon"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
    write(handbook / "keys.md", "# Preface\n\nHello.\n\n" + HANDBOOK["keys.md"].replace("five minutes", "one"))
    write(handbook / "new.md", "# New\n\nA new one.\n")
    (handbook / "backup.md").unlink()
    original = getattr(owner, step)

    def fused(self: object, *values: object) -> None:
        if after:
            original(self, *values)
        raise KeyboardInterrupt

    with Index.open(path, encoder=words) as index:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, fused)
            index.sync(handbook)
        assert index.search("rotate the signing key"), "it still answers"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
        assert contents(index) == fresh(tmp_path, handbook, words)
        assert counts(index.sync(handbook)) == {"unchanged": 3}
        assert index.status().unfinished == 0


def test_a_version_left_half_made_is_passed_over(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    write(tmp_path / "i.tarragon" / "lock", "")
    leftover = write(tmp_path / "i.tarragon" / "versions" / "v1" / "shard" / "junk", "x")
    with Index.open(tmp_path / "i.tarragon", encoder=words) as index:
        index.sync(handbook)
        assert index.search("rotate")
        assert index.status().version == "v2"
    assert leftover.exists(), "nothing is deleted that may be somebody's"


def test_too_little_disk_stops_before_writing(index: Index, handbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.sync(handbook)
    write(handbook / "new.md", "A new one.")
    monkeypatch.setattr("tarragon.session.DISK_MARGIN", 1 << 60)
    with pytest.raises(DiskFull, match="MiB of free disk"):
        index.sync(handbook)
    assert index.search("rotate")
    assert index.status().documents == 3
    monkeypatch.undo()
    assert counts(index.sync(handbook)) == {"unchanged": 3, "added": 1, "embedded": 1}


# --- progress ---------------------------------------------------------------------------------------------------------
def test_progress_is_told_and_bounded_windows_are_used(
    index: Index, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 50)
    sizes: list[int] = []
    encode = words.encode_documents

    def watched(inputs: Sequence[EncoderInput]) -> Embeddings:
        sizes.append(sum(len(item.text) for item in inputs))
        return encode(inputs)

    monkeypatch.setattr(words, "encode_documents", watched)
    steps: list[Progress] = []
    index.sync([Document(f"{n}", f"This is text number {n}.") for n in range(20)], progress=steps.append)
    assert steps[-1].documents == steps[-1].documents_total == 20
    assert steps[-1].chunks_embedded == 20
    assert [step.documents for step in steps] == sorted(step.documents for step in steps)
    assert len(sizes) > 5
    assert max(sizes[1:]) < 50 + 30, "the first ones are the canaries"


def test_any_iterable_of_documents_is_a_source(index: Index) -> None:
    def generate() -> Iterable[Document]:
        yield Document("a", "From a generator.")

    assert counts(index.sync(generate())) == {"added": 1, "embedded": 1}
    with pytest.raises(InvalidInput, match="int"):
        index.sync([3])  # type: ignore[list-item]


# --- several at once, and only a part ---------------------------------------------------------------------------------
def test_of_two_first_syncs_the_later_one_is_refused(tmp_path: Path, handbook: Path) -> None:
    script = (
        "import sys; from tarragon import Document, Index; from tarragon.testing import WordEncoder\n"
        "with Index.open(sys.argv[1], encoder=WordEncoder()) as index: index.sync([Document('a', 'From A.')])\n"
    )

    class Slow(WordEncoder):
        @property
        def identity(self) -> Any:
            subprocess.run([sys.executable, "-c", script, str(tmp_path / "i")], check=True)
            Slow.identity = WordEncoder.identity  # type: ignore[method-assign]
            return super().identity

    with Index.open(tmp_path / "i", encoder=Slow()) as index:
        with pytest.raises(IndexLocked, match="was made by another process meanwhile"):
            index.sync(handbook, namespace="b")
        assert [info.name for info in index.versions()] == ["v1"]
        index.sync(handbook, namespace="b")
        assert index.status().documents == 4


def test_only_spares_what_cannot_be_listed(tmp_path: Path, index: Index) -> None:
    lines = [f'{{"id": "kb/{n}", "text": "Text {n}."}}' for n in range(10)]
    source = write(tmp_path / "kb.jsonl", "\n".join(lines))
    index.sync(source)
    write(source, "\n".join([*lines[:4], "{broken", *lines[5:]]))
    report = index.sync(source, only=["kb/*"])
    assert (report.documents_deleted, report.documents_failed) == (0, 1)


def test_pushing_one_document_does_not_replace_the_folder_it_is_from(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    index.sync([Document("keys.md", "# Keys\n\nPushed.\n")], only=["keys.md"])
    found = {hit.document_id: hit.freshness for hit in index.search("keys pushed restore call", k=20)}
    assert found == {"keys.md": "stale", "backup.md": "fresh", "guide/oncall.txt": "fresh"}


def test_a_sync_that_waits_while_the_index_is_closed_does_not_open_it_again(
    tmp_path: Path, handbook: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.session.Session.patience", lambda _: 5.0)
    index = Index.open(tmp_path / "i", encoder=words)
    index.sync(handbook)
    errors: list[BaseException] = []

    def sync() -> None:
        try:
            index.sync(handbook)
        except InvalidInput as error:
            errors.append(error)

    with index._opened.catalog.writing():
        thread = threading.Thread(target=sync)
        thread.start()
        time.sleep(0.2)
        index.close()
    thread.join()
    assert "is closed" in str(errors[0])
    with Index.open(tmp_path / "i", encoder=words) as again:
        assert again.search("rotate")


# --- a model that runs elsewhere --------------------------------------------------------------------------------------
class Elsewhere(WordEncoder):
    """A model on another machine, which says when it computes and can be made to wait."""

    device = "elsewhere"

    def __init__(self) -> None:
        super().__init__()
        self.given: list[list[str]] = []
        self.go = threading.Semaphore(1_000)

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        if len(inputs) < 16:  # not the canaries
            self.given.append([item.text for item in inputs])
            assert self.go.acquire(timeout=30)
        return super().encode_documents(inputs)


def pages(count: int) -> list[Document]:
    return [Document(f"{n:02}", f"Page {n} tells of subject {n}.") for n in range(count)]


def test_a_window_is_stored_while_the_model_computes_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1)
    encoder = Elsewhere()
    computing: list[int] = []
    upsert = EdgeStore.upsert

    def counted(store: Any, chunks: Any) -> None:
        end = time.monotonic() + 30
        while len(encoder.given) < 2:
            assert time.monotonic() < end, "the model has been given the next window"
            time.sleep(0.001)
        computing.append(len(encoder.given))
        encoder.go.release(10)
        upsert(store, chunks)

    monkeypatch.setattr(EdgeStore, "upsert", counted)
    encoder.go = threading.Semaphore(1)  # the second window is computed when the first is being stored, and not before
    with Index.open(tmp_path / "i", encoder=encoder) as index:
        report = index.sync(pages(6))
        found = {hit.document_id: hit.score for hit in index.search("subject 3", k=6)}
    assert computing[0] == 2
    assert report.documents_added == report.chunks_embedded == 6
    assert [len(batch) for batch in encoder.given] == [1] * 6
    monkeypatch.setattr(EdgeStore, "upsert", upsert)
    with Index.open(tmp_path / "here", encoder=WordEncoder()) as index:
        index.sync(pages(6))
        assert {hit.document_id: hit.score for hit in index.search("subject 3", k=6)} == pytest.approx(found)


def test_text_that_two_windows_share_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1)
    encoder = Elsewhere()
    same = [Document(f"{n}", "The same passage everywhere.") for n in range(5)]
    with Index.open(tmp_path / "i", encoder=encoder) as index:
        report = index.sync(same)
        assert {hit.document_id for hit in index.search("passage", k=5)} == {"0", "1", "2", "3", "4"}
    assert encoder.given == [["The same passage everywhere."]]
    assert report.chunks_embedded == 1
    assert report.chunks_reused == 4


def test_what_was_read_before_a_source_failed_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1)

    class Breaking:
        def items(self) -> Iterator[SourceItem]:
            for page in pages(3):
                yield SourceItem(page.id, None, lambda page=page: page)  # type: ignore[misc]
            yield SourceItem("03", None, self.broken)

        def broken(self) -> Document:
            raise OSError("the network is gone")

        def skipped(self) -> dict[str, int]:
            return {}

    with Index.open(tmp_path / "i", encoder=Elsewhere()) as index:
        with pytest.raises(OSError, match="network"):
            index.sync(Breaking(), prune=False)
        assert index.status().documents == 3
    assert not any(thread.name.startswith("tarragon-") for thread in threading.enumerate())


def test_a_model_that_fails_elsewhere_ends_the_sync_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 1)

    class Failing(Elsewhere):
        def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
            if len(self.given) == 3:
                raise ConnectionError("no route")
            return super().encode_documents(inputs)

    with Index.open(tmp_path / "i", encoder=Failing()) as index:
        with pytest.raises(ConnectionError, match="no route"):
            index.sync(pages(6))
        assert index.status().documents == 3
        assert not any(thread.name == "tarragon-reading" for thread in threading.enumerate())
