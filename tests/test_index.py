"""Open, sync, search, through the public door."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from handbook import version_of, write

from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.errors import (
    IndexLocked,
    IndexNotFound,
    InvalidFilter,
    InvalidInput,
    InvalidRecipe,
    ModelNotFound,
    NotAnIndex,
    RecipeMismatch,
    StorageProblem,
)
from tarragon.protocols import DenseEncoder
from tarragon.searching import TruncatedQuery
from tarragon.status import read_status
from tarragon.testing import WordEncoder


def texts_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_right_passages_come_first_with_the_real_model(
    tmp_path: Path, handbook: Path, encoder: DenseEncoder
) -> None:
    with Index.open(tmp_path / "real.tarragon", encoder=encoder) as index:
        report = index.sync(handbook)
        assert (report.documents_added, report.documents_failed) == (3, 0)
        assert report.model == "all-MiniLM-L6-v2"
        assert report.device == "cpu"
        for question, answer, heading in [
            ("How do I rotate the signing key?", "keyctl rotate", ("Signing keys", "Rotate the signing key")),
            ("How long does it take to restore a terabyte?", "restore --from cold", ("Backups", "Restore")),
            ("How quickly must pages be answered?", "ten minutes", ()),
        ]:
            best = index.search(question, k=1)[0]
            assert answer in best.text
            assert best.heading == heading


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_hits_carry_exact_spans_and_come_best_first(index: Index, handbook: Path, mode: str) -> None:
    index.sync(handbook)
    hits = index.search("restore the signing key", k=50, mode=mode)  # type: ignore[arg-type]
    assert hits
    texts = texts_of(handbook)
    for hit in hits:
        assert texts[hit.document_id][hit.start : hit.end] == hit.text
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.chunk_id for hit in hits}) == len(hits)


def test_dense_scores_are_the_cosines_of_brute_force(index: Index, handbook: Path, words: WordEncoder) -> None:
    index.sync(handbook)
    query = "rotate the key at night"
    hits = index.search(query, k=100, mode="dense")
    store = version_of(index).store
    stored = store.vectors(list(store.ids()))
    vector = words.encode_queries([query]).vectors[0]
    expected = {str(id_): float(row @ vector) for id_, row in stored.items()}
    assert {hit.chunk_id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)


def test_each_search_option_changes_the_answer(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    query = "the key is valid at night for one hour"

    def order(**options: object) -> list[tuple[str, float]]:
        return [(hit.chunk_id, hit.score) for hit in index.search(query, k=9, **options)]  # type: ignore[arg-type]

    default = order()
    assert order(mode="dense") != default
    assert order(mode="lexical") != default
    assert order(recipe=SearchRecipe(fusion="rrf")) != default
    assert order(recipe=SearchRecipe(query_prompt="backups in cold storage: ")) != default
    shallow, deep = (index.search(query, k=1, recipe=SearchRecipe(depth=depth)) for depth in (1, 100))
    assert shallow[0].score != deep[0].score
    assert order(recipe=SearchRecipe(mode="lexical")) == order(mode="lexical")


def test_k_query_and_index_at_their_edges(index: Index, handbook: Path) -> None:
    assert index.search("anything") == []
    assert index.status().documents == 0
    report = index.sync(handbook)
    assert len(index.search("key", k=10_000)) == report.chunks_embedded
    assert index.search("key", k=0) == []
    assert index.search("", k=3) == index.search(" \n\t", k=3) == []
    assert index.search("zzzz qqqq", k=3, mode="lexical") == []
    with pytest.raises(InvalidInput, match="k=-1"):
        index.search("key", k=-1)


def test_equal_passages_are_ordered_by_chunk_id_however_they_came_in(tmp_path: Path, words: WordEncoder) -> None:
    documents = [Document(f"copy-{n}", "The very same sentence.") for n in range(300)]
    documents += [Document(f"other-{n}", f"Another sentence, of number {n}.") for n in range(150)]
    answers = []
    for name, order in [("forward", documents), ("backward", documents[::-1])]:
        with Index.open(tmp_path / name, encoder=words) as index:
            index.sync(order)
            for mode in ("hybrid", "dense", "lexical"):
                hits = index.search("same sentence", k=7, mode=mode)  # type: ignore[arg-type]
                assert len(hits) == 7
                assert [hit.chunk_id for hit in hits] == sorted(hit.chunk_id for hit in hits)
                answers.append((mode, [(hit.chunk_id, hit.document_id) for hit in hits]))
    assert answers[:3] == answers[3:]


def test_filters_apply_to_both_legs_and_bad_ones_are_refused(index: Index) -> None:
    index.sync(
        [
            Document("a", "signing key for tenant one", {"tenant": "one", "year": 2020}),
            Document("b", "signing key for tenant two", {"tenant": "two", "year": 2024}),
        ]
    )
    for mode in ("hybrid", "dense", "lexical"):
        hits = index.search("signing key", filter={"tenant": "two"}, mode=mode)  # type: ignore[arg-type]
        assert [hit.document_id for hit in hits] == ["b"]
        hits = index.search("signing key", filter={"year": {"$lt": 2000}}, mode=mode)  # type: ignore[arg-type]
        assert hits == []
    with pytest.raises(InvalidFilter, match=r"\$regex"):
        index.search("key", filter={"tenant": {"$regex": "o.*"}})


def test_metadata_comes_back_as_it_was_given(index: Index) -> None:
    metadata = {"document_id": "mine", "nested": {"a": [1, 2.5, None, True]}, "start": -1, "ünï": "cødé"}
    index.sync([Document("only", "a text", metadata)])
    hit = index.search("text")[0]
    assert hit.metadata == metadata
    assert (hit.document_id, hit.start, hit.end) == ("only", 0, 6)


def test_a_given_vector_is_used_and_no_query_is_embedded(index: Index, handbook: Path, words: WordEncoder) -> None:
    index.sync(handbook)
    vector = words.encode_queries(["cold storage"]).vectors[0]
    given = index.search("page the engineer", mode="dense", vector=vector)
    assert given == index.search("cold storage", mode="dense")
    assert given != index.search("page the engineer", mode="dense")
    for wrong in (vector[:-1], vector[None], np.full_like(vector, np.nan)):
        with pytest.raises(InvalidInput, match="64 finite numbers"):
            index.search("x", vector=wrong)


def test_a_query_beyond_the_models_limit_warns(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder(max_tokens=20)) as index:
        index.sync([Document("a", "short")])
        with pytest.warns(TruncatedQuery, match="10 tokens"):
            index.search("word " * 30)


# --- opening ----------------------------------------------------------------------------------------------------------
def test_an_index_is_the_same_after_reopening(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    path = tmp_path / "again.tarragon"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
        before = index.search("rotate the key")
        status = index.status()
    with Index.open(path, encoder=words) as index:
        assert index.search("rotate the key") == before
        assert index.status().to_dict() | {"bytes": 0} == status.to_dict() | {"bytes": 0}
        assert index.sync(handbook).documents_unchanged == 3


def test_two_handles_in_one_process_share_the_index(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    path = tmp_path / "shared.tarragon"
    first = Index.open(path, encoder=words)
    second = Index.open(path, encoder=words)
    first.sync(handbook)
    assert second.search("rotate") == first.search("rotate") != []
    first.close()
    first.close()
    assert second.search("rotate")
    with pytest.raises(InvalidInput, match="closed"):
        first.search("rotate")
    second.close()
    with Index.open(path, encoder=words) as third:
        assert third.search("rotate")


def test_opening_writes_nothing_before_the_first_sync(tmp_path: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "new.tarragon", encoder=words) as index:
        index.search("x")
        index.status()
        assert not index.optimize()
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_no_index_is_refused_and_left_alone(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    before = texts_of(handbook)
    with pytest.raises(NotAnIndex, match="handbook"):
        Index.open(handbook, encoder=words)
    with pytest.raises(NotAnIndex):
        Index.open(handbook / "keys.md", encoder=words)
    with pytest.raises(IndexNotFound, match="nowhere"):
        Index.open(tmp_path / "nowhere", encoder=words, create=False)
    with pytest.raises(InvalidInput, match="api_key"):
        Index.open(tmp_path / "i", encoder=words, api_key="secret")
    assert texts_of(handbook) == before


def test_a_newer_layout_or_a_broken_pointer_is_refused(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    path = tmp_path / "i.tarragon"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
    pointer = path / "tarragon.json"
    good = pointer.read_text()
    pointer.write_text(good.replace('"format": 2', '"format": 99'))
    with pytest.raises(NotAnIndex, match="99"):
        Index.open(path, encoder=words)
    pointer.write_text("{")
    with pytest.raises(StorageProblem, match=r"tarragon\.json"):
        Index.open(path, encoder=words)
    pointer.write_text(good)
    with Index.open(path, encoder=words) as index:
        assert index.search("rotate")


@pytest.mark.parametrize("part", ["shard-1", "ledger.sqlite"])
def test_a_damaged_index_is_told_and_not_quietly_begun_anew(
    tmp_path: Path, handbook: Path, words: WordEncoder, part: str
) -> None:
    path = tmp_path / "i.tarragon"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
    (path / "versions" / "v1" / part).rename(tmp_path / "lost")
    with pytest.raises(StorageProblem, match=f"{part} is missing"):
        Index.open(path, encoder=words)


def test_a_folder_of_somebody_elses_versions_is_left_alone(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    theirs = write(tmp_path / "api" / "versions" / "mine.md", "mine")
    with pytest.raises(NotAnIndex):
        Index.open(tmp_path / "api", encoder=words)
    assert theirs.read_text() == "mine"


def test_a_handle_from_before_the_first_sync_takes_over_what_another_made(
    tmp_path: Path, handbook: Path, words: WordEncoder
) -> None:
    path = tmp_path / "i.tarragon"
    early, late = Index.open(path, encoder=words), Index.open(path, encoder=words, recipe=IndexRecipe(chunk_tokens=16))
    wrong = Index.open(path, encoder=words, recipe=IndexRecipe(chunk_tokens=99))
    late.sync(handbook)
    assert early.sync(handbook).documents_unchanged == 3
    assert early.recipe.chunk_tokens == 16
    with pytest.raises(RecipeMismatch, match="chunk_tokens"):
        wrong.sync(handbook)
    for handle in (early, late, wrong):
        handle.close()


def test_a_handle_closed_in_another_thread_releases_the_index(
    tmp_path: Path, handbook: Path, words: WordEncoder
) -> None:
    index = Index.open(tmp_path / "i.tarragon", encoder=words)
    index.sync(handbook)
    thread = threading.Thread(target=index.close)
    thread.start()
    thread.join()
    with Index.open(tmp_path / "i.tarragon", encoder=words) as again:
        assert again.search("rotate")


def test_a_relative_path_stays_the_same_index(
    tmp_path: Path, handbook: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Index.open("i.tarragon", encoder=words) as index:
        index.sync("handbook")
        monkeypatch.chdir(handbook)
        assert index.status().documents == 3
        assert index.sync(tmp_path / "handbook").documents_unchanged == 3


HOLDER = """
    import sys, time
    from tarragon import Index
    from tarragon.testing import WordEncoder
    index = Index.open(sys.argv[1], encoder=WordEncoder())
    index.sync(sys.argv[2])
    print("open", flush=True)
    time.sleep(60)
"""


def test_another_process_gets_a_clear_error_and_sigkill_releases_the_index(
    tmp_path: Path, handbook: Path, words: WordEncoder
) -> None:
    path = tmp_path / "held.tarragon"
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path), str(handbook)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(IndexLocked, match=f"pid {process.pid}"):
            Index.open(path, encoder=words)
        assert read_status(path).documents == 3
        process.kill()
    with Index.open(path, encoder=words) as index:
        assert index.search("rotate the key")
        assert index.sync(handbook).documents_unchanged == 3


# --- models -----------------------------------------------------------------------------------------------------------
def test_a_model_of_another_space_is_refused_with_what_differs(
    tmp_path: Path, handbook: Path, words: WordEncoder
) -> None:
    path = tmp_path / "i.tarragon"
    with Index.open(path, encoder=words) as index:
        index.sync(handbook)
    other = WordEncoder(salt="other weights")
    with pytest.raises(RecipeMismatch, match=r"salt.*upgrade.*3 documents, 6 chunks, \d+ tokens"):
        Index.open(path, encoder=other)
    with Index.open(path) as index:
        assert index.search("rotate", mode="lexical")
    with Index.open(path, encoder=[other, words]) as index:
        assert index.search("rotate")
    with Index.open(path, encoder=words) as index:
        assert index.search("rotate")


def test_settings_that_differ_from_the_built_ones_are_refused(
    tmp_path: Path, handbook: Path, words: WordEncoder
) -> None:
    path = tmp_path / "i.tarragon"
    with Index.open(path, encoder=words, recipe=IndexRecipe(chunk_tokens=64)) as index:
        index.sync(handbook)
    with pytest.raises(RecipeMismatch, match="chunk_tokens is 64, not 128"):
        Index.open(path, encoder=words, recipe=IndexRecipe(chunk_tokens=128))
    with Index.open(path, encoder=words) as index:
        assert index.recipe.chunk_tokens == 64
    with Index.open(path, encoder=words, recipe=IndexRecipe(chunk_tokens=64, model="an alias")) as index:
        assert index.search("rotate"), "a model is told by its fingerprint, not by its name"
    with pytest.raises(InvalidRecipe):
        IndexRecipe(chunk_tokens=3)


def test_without_a_model_the_error_says_how_to_name_one(
    tmp_path: Path, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.encoders.bundled.PACKAGE", "no_such_package")
    with Index.open(tmp_path / "i.tarragon") as index, pytest.raises(ModelNotFound, match=r"tarragon\[bundled\]"):
        index.sync(handbook)
    with (
        Index.open(tmp_path / "i.tarragon", recipe=IndexRecipe(model=str(tmp_path / "none"))) as index,
        pytest.raises(ModelNotFound, match="none"),
    ):
        index.sync(handbook)
    assert not (tmp_path / "i.tarragon").exists()


# --- threads ----------------------------------------------------------------------------------------------------------
def test_searching_while_another_thread_syncs(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    expected = index.search("restore from cold")[0]
    errors: list[BaseException] = []
    done = threading.Event()

    def search() -> None:
        try:
            while not done.is_set():
                assert index.search("restore from cold")[0].chunk_id == expected.chunk_id
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(10):
        write(handbook / "more" / f"{number}.md", f"# Note {number}\n\nNothing about it.\n")
        index.sync(handbook)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []


def test_optimize_keeps_the_answers(tmp_path: Path, words: WordEncoder) -> None:
    documents = [Document(f"{n}", f"Passage number {n} speaks of topic {n % 17} and {n % 5}.") for n in range(400)]
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(documents)
        index.sync(documents[:150], max_delete=1.0)
        before = [index.search(f"topic {n}", k=10) for n in range(17)]
        index.optimize()
        after = [index.search(f"topic {n}", k=10) for n in range(17)]
    for old, new in zip(before, after, strict=True):
        assert [hit.chunk_id for hit in new] == [hit.chunk_id for hit in old]
        assert np.allclose([hit.score for hit in new], [hit.score for hit in old], atol=1e-5)
