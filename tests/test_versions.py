"""Versions: upgrade, compare, promote, roll back, clear up, adopt; and models that are not what they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handbook import HANDBOOK, version_of, write

from tarragon import Document, Index, IndexRecipe
from tarragon.errors import EncoderDrift, IndexLocked, InvalidInput, NotReady, RecipeMismatch
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.reports import Comparison
from tarragon.testing import WordEncoder

OLD, NEW = WordEncoder(salt=""), WordEncoder(salt="new weights", dimensions=48)


def answers(index: Index, query: str = "rotate the signing key") -> list[Any]:
    return [(hit.chunk_id, hit.text, hit.start, round(hit.score, 5)) for hit in index.search(query, k=10)]


@pytest.fixture
def index(tmp_path: Path, handbook: Path):  # type: ignore[no-untyped-def]
    with Index.open(tmp_path / "i.tarragon", encoder=[OLD, NEW]) as opened:
        opened.sync(handbook)
        yield opened


def roles(index: Index) -> dict[str, str]:
    return {info.name: info.role for info in index.versions()}


# --- the whole way ----------------------------------------------------------------------------------------------------
def test_upgrade_promote_and_back(index: Index, tmp_path: Path, handbook: Path) -> None:
    before = answers(index)
    report = index.upgrade(encoder=NEW)
    assert (report.version, report.promoted) == ("v2", False)
    assert (report.syncs[0].chunks_embedded, report.syncs[0].chunks_reused) == (6, 0)
    assert roles(index) == {"v1": "serving", "v2": "building"}
    assert answers(index) == before, "the old one serves until the pointer moves"
    index.promote("v2")
    assert roles(index) == {"v1": "standby", "v2": "serving"}
    with Index.open(tmp_path / "fresh", encoder=NEW) as fresh:
        fresh.sync(handbook)
        assert answers(index) == answers(fresh)
    assert {hit.version for hit in index.search("rotate")} == {"v2"}
    assert index.rollback() == ("v1", 0)
    assert answers(index) == before
    assert roles(index) == {"v1": "serving", "v2": "standby"}
    with pytest.raises(NotReady, match="nothing to go back to"):
        index.rollback()


def test_another_process_serves_what_the_pointer_says(tmp_path: Path, handbook: Path) -> None:
    with Index.open(tmp_path / "i", encoder=OLD) as index:
        index.sync(handbook)
        index.upgrade(encoder=NEW)
        index.promote("v2")
    with pytest.raises(RecipeMismatch, match="upgrade"):
        Index.open(tmp_path / "i", encoder=OLD)
    with Index.open(tmp_path / "i", encoder=NEW) as index:
        assert index.search("rotate")[0].version == "v2"


def test_a_rechunk_embeds_only_passages_that_are_new(index: Index, tmp_path: Path, handbook: Path) -> None:
    plan = index.plan_upgrade(IndexRecipe(chunk_tokens=24))[0]
    changes = {change.document_id: change.change for change in plan.changes}
    assert changes == dict.fromkeys(HANDBOOK, "chunker")
    report = index.upgrade(IndexRecipe(chunk_tokens=24)).syncs[0]
    assert (plan.embeddings, plan.tokens > 0) == (report.chunks_embedded, True)
    assert report.chunks_reused > 0
    index.promote("v2")
    with Index.open(tmp_path / "fresh", encoder=OLD, recipe=IndexRecipe(chunk_tokens=24)) as fresh:
        fresh.sync(handbook)
        assert answers(index) == answers(fresh)


def test_a_rechunk_into_the_same_text_embeds_nothing(index: Index) -> None:
    """300 and 256 tokens are the same limit for a model that takes 256."""
    before = OLD.documents_encoded
    report = index.upgrade(IndexRecipe(chunk_tokens=300)).syncs[0]
    assert (report.chunks_embedded, report.chunks_reused) == (0, 6)
    assert OLD.documents_encoded - before == 16, "only the canaries of the new version"


def test_the_plan_of_an_upgrade_costs_what_the_upgrade_does(index: Index) -> None:
    before = NEW.documents_encoded
    plan = index.plan_upgrade(encoder=NEW)[0]
    assert {change.change for change in plan.changes} == {"model"}
    assert plan.bytes > 6 * 48 * 4
    assert plan.seconds > 0
    assert roles(index) == {"v1": "serving"}, "nothing was made"
    assert NEW.documents_encoded > before, "the rate was measured"
    assert index.upgrade(encoder=NEW).syncs[0].chunks_embedded == plan.embeddings == 6


def test_the_serving_recipe_is_no_upgrade(index: Index) -> None:
    with pytest.raises(InvalidInput, match="v1 serves already"):
        index.upgrade(encoder=OLD)


# --- syncs meanwhile --------------------------------------------------------------------------------------------------
def test_syncs_reach_the_version_that_is_built_and_the_one_that_is_kept(
    index: Index, tmp_path: Path, handbook: Path
) -> None:
    index.upgrade(encoder=NEW)
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
    (handbook / "backup.md").unlink()
    write(handbook / "new.md", "# New\n\nA new one.\n")
    report = index.sync(handbook)
    assert [(other.version, other.chunks_embedded) for other in report.others] == [("v2", 2)]
    index.promote("v2")
    now = answers(index)
    write(handbook / "new.md", "# New\n\nA newer one.\n")
    report = index.sync(handbook)
    assert [(other.version, other.documents_changed) for other in report.others] == [("v1", 1)]
    assert index.rollback() == ("v1", 0)
    assert "newer" in index.search("a newer one")[0].text
    index.promote("v2")
    with Index.open(tmp_path / "fresh", encoder=NEW) as fresh:
        fresh.sync(handbook)
        assert answers(index) == answers(fresh) != now


def test_a_version_whose_model_is_not_at_hand_falls_behind_and_is_told(
    tmp_path: Path, handbook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(tmp_path / "i", encoder=OLD) as index:
        index.sync(handbook)
        index.upgrade(encoder=NEW)
        index.promote("v2")
    with Index.open(tmp_path / "i", encoder=NEW) as index:
        write(handbook / "new.md", "# New\n\nA new one.\n")
        report = index.sync(handbook)
        assert report.documents_added == 1
        assert list(report.behind) == ["v1"]
        assert index.rollback() == ("v1", 1)
        assert index.search("a new one", mode="lexical")[0].document_id != "new.md"


def test_a_sync_comes_in_between_two_slices_of_an_upgrade(
    tmp_path: Path, words: WordEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.versions.SLICE_TOKENS", 20)
    documents = [Document(f"{n:02}", f"Text number {n} speaks of word{n}.") for n in range(40)]
    slow = WordEncoder(salt="slow")
    encode = slow.encode_documents

    def encode_slowly(inputs: Sequence[EncoderInput]) -> Embeddings:
        time.sleep(0.05)
        return encode(inputs)

    with Index.open(tmp_path / "i", encoder=[words, slow]) as index:
        index.sync(documents)
        monkeypatch.setattr(slow, "encode_documents", encode_slowly)
        thread = threading.Thread(target=lambda: index.upgrade(encoder=slow))
        thread.start()
        while len(index.versions()) < 2:
            time.sleep(0.01)
        added = [*documents, Document("new", "Something else entirely.")]
        assert index.sync(added).documents_added == 1
        assert thread.is_alive(), "the upgrade was still going on"
        thread.join()
        index.upgrade(encoder=slow, sources={"": added})
        index.promote("v2", sources={"": added})
        assert index.search("something else entirely")[0].document_id == "new"


def test_an_interrupted_upgrade_goes_on(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.versions.SLICE_TOKENS", 60)
    encode, calls = NEW.encode_documents, []

    def interrupted(inputs: Sequence[EncoderInput]) -> Embeddings:
        calls.append(len(inputs))
        if len(calls) == 3:  # the canaries, a first slice, and then
            raise KeyboardInterrupt
        return encode(inputs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NEW, "encode_documents", interrupted)
        index.upgrade(encoder=NEW)
    with pytest.raises(NotReady, match="behind"):
        index.promote("v2")
    report = index.upgrade(encoder=NEW)
    assert report.version == "v2"
    assert 0 < report.syncs[0].chunks_embedded < 6
    index.promote("v2")


# --- what may serve ---------------------------------------------------------------------------------------------------
def test_only_a_complete_version_is_promoted(index: Index, handbook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no version 'v7'; there are v1"):
        index.promote("v7")
    index.upgrade(encoder=NEW)
    write(handbook / "new.md", "# New\n\nA new one.\n")
    with pytest.raises(NotReady, match=r"behind its source by 1 documents \(new.md\)"):
        index.promote("v2")
    index.sync(handbook)
    assert 0 < index.compare("v2", queries=["rotate the key", "restore a backup", "who is called"]).overlap <= 1
    monkeypatch.setattr("tarragon.versioned.compare", lambda *_: Comparison("v1", "v2", 3, "chunk", 0.4, 1.0))
    with pytest.raises(NotReady, match=r"overlap@10 of v2 with v1 is 0.400, below 0.5"):
        index.promote("v2", floor=0.5)
    assert roles(index)["v1"] == "serving"
    index.promote("v2", floor=0.4)


def test_an_upgrade_can_promote_itself_above_a_floor(index: Index) -> None:
    report = index.upgrade(encoder=NEW, promote_above=0.0, queries=["rotate the key", "restore a backup"])
    assert report.promoted
    assert report.comparison is not None
    assert report.comparison.queries == 2
    assert roles(index)["v2"] == "serving"


def test_compare_tells_overlap_rank_and_labelled_quality(index: Index) -> None:
    index.upgrade(encoder=NEW)
    same = index.compare("v1", "v1")
    assert (same.overlap, same.rank_change, same.unit, same.queries) == (1.0, 0.0, "chunk", 6)
    found = index.compare(
        "v2", queries=[("rotate the signing key", ["keys.md"]), ("who is on call", ["guide/oncall.txt"])]
    )
    assert found.ndcg is not None
    assert found.difference is not None
    assert 0 <= found.ndcg[0] <= 1
    mean, low, high = found.difference
    assert low <= mean <= high
    assert mean == pytest.approx(found.ndcg[1] - found.ndcg[0])


def test_gc_keeps_what_serves_and_one_to_go_back_to(index: Index, tmp_path: Path) -> None:
    third = WordEncoder(salt="third")
    index._opened.remember(third)
    for number, encoder in ((2, NEW), (3, third)):
        index.upgrade(encoder=encoder)
        index.promote(f"v{number}")
    assert roles(index) == {"v1": "retired", "v2": "standby", "v3": "serving"}
    assert index.gc() == ["v1"]
    assert index.gc() == []
    assert index.rollback() == ("v2", 0)
    assert index.gc(keep=0) == ["v3"]
    assert roles(index) == {"v2": "serving"}
    assert index.search("rotate")
    index.upgrade(encoder=OLD)
    assert "v4" in roles(index), "names are not used twice"


# --- identity ---------------------------------------------------------------------------------------------------------
class Renamed(WordEncoder):
    """The same vectors under another declaration."""

    name = "renamed"

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "weights": "saved anew"}


class Drifting(WordEncoder):
    """The same declaration, other vectors."""

    drift = 0.0

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        embeddings = super().encode_documents(inputs)
        rows = embeddings.vectors.copy()
        rows[:, 0] += self.drift
        return Embeddings((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), 1, 0)


def test_the_same_vectors_under_another_name_cost_nothing(tmp_path: Path, handbook: Path) -> None:
    with Index.open(tmp_path / "i", encoder=OLD) as index:
        index.sync(handbook)
        before = answers(index)
    renamed = Renamed()
    with pytest.raises(RecipeMismatch, match=r"weights.*canaries are the same.*adopt"):
        Index.open(tmp_path / "i", encoder=renamed)
    with Index.open(tmp_path / "i") as index:
        assert index.adopt(renamed) == "v1"
    with Index.open(tmp_path / "i", encoder=renamed) as index:
        assert answers(index) == before
        encoded = renamed.documents_encoded
        assert index.sync(handbook).documents_unchanged == 3
        assert renamed.documents_encoded == encoded
        assert index.status().model == "renamed"
        with pytest.raises(RecipeMismatch, match="cannot take over"):
            index.adopt(WordEncoder(salt="really other"))


def test_a_drifted_model_is_blocked_before_it_embeds_or_answers(tmp_path: Path, handbook: Path) -> None:
    encoder = Drifting()
    path = tmp_path / "i"
    with Index.open(path, encoder=encoder) as index:
        index.sync(handbook)
        encoder.drift = 0.5
        write(handbook / "new.md", "# New\n\nA new one.\n")
        with pytest.raises(EncoderDrift, match=r"words .* v1, but makes other vectors: .*minimum cosine"):
            index.sync(handbook)
        assert index.status().documents == 3
        plan = index.plan(handbook)
        assert "makes other vectors" in plan.blocked
    with Index.open(path, encoder=encoder) as index:
        with pytest.raises(EncoderDrift):
            index.search("rotate")
        encoder.drift = 0.0
        assert index.search("rotate")
        assert index.sync(handbook).documents_added == 1


# --- optimizing -------------------------------------------------------------------------------------------------------
def test_optimize_swaps_a_compacted_copy_in_while_searches_go_on(tmp_path: Path, words: WordEncoder) -> None:
    documents = [Document(f"{n}", f"Text number {n} speaks of word{n % 50}.") for n in range(400)]
    stop, problems = threading.Event(), []
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(documents)
        index.sync(documents[:300], max_delete=1.0)
        before = answers(index, "word7")

        def read() -> None:
            while not stop.is_set():
                if answers(index, "word7") != before:
                    problems.append("other answers")

        reader = threading.Thread(target=read)
        reader.start()
        worked = index.optimize()
        time.sleep(0.2)
        stop.set()
        reader.join()
        assert problems == []
        assert answers(index, "word7") == before
        assert index.verify().is_sound
        shards = {path.name for path in (tmp_path / "i" / "versions" / "v1").glob("shard-*")}
        assert shards == ({"shard-2"} if worked else {"shard-1"})
        assert index.sync(documents).documents_added == 100
        with index._opened.catalog.writing(), pytest.raises(IndexLocked):
            index.optimize()
    with Index.open(tmp_path / "i", encoder=words) as index:
        assert version_of(index).store.count() == 400


# --- mistakes that must not cost anything -----------------------------------------------------------------------------
def test_after_a_drift_an_upgrade_takes_no_vector_of_the_old_runtime(tmp_path: Path, handbook: Path) -> None:
    encoder = Drifting()
    with Index.open(tmp_path / "i", encoder=encoder) as index:
        index.sync(handbook)
        encoder.drift = 0.5
        report = index.upgrade()
        assert (report.version, report.syncs[0].chunks_embedded, report.syncs[0].chunks_reused) == ("v2", 6, 0)
        index.promote("v2")
        assert index.verify(deep=True).is_sound
        report = index.sync([*HANDBOOK_AND_MORE])
        assert list(report.behind) == ["v1"], "its model drifted away from it"
        with pytest.raises(InvalidInput, match="v2 serves already"):
            index.upgrade()


HANDBOOK_AND_MORE = [Document(name, text) for name, text in HANDBOOK.items()] + [Document("more", "One more.")]


def test_an_emptied_source_does_not_make_an_empty_index_serve(index: Index, handbook: Path) -> None:
    for path in sorted(handbook.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    index.upgrade(encoder=NEW)
    with pytest.raises(NotReady, match="v2 lacks 3 of the 3 documents"):
        index.promote("v2")
    index.promote("v2", max_delete=1.0)


def test_a_document_that_became_unreadable_is_not_lost_by_an_upgrade(index: Index, handbook: Path) -> None:
    write(handbook / "keys.md", b"\xff\xfe\xfa")
    index.upgrade(encoder=NEW)
    with pytest.raises(NotReady, match=r"could not read 1 documents that are served now \(keys.md\)"):
        index.promote("v2")
    write(handbook / "keys.md", HANDBOOK["keys.md"])
    index.sync(handbook)
    index.upgrade(encoder=NEW)
    index.promote("v2")


def test_the_new_version_knows_its_sources_in_another_process(tmp_path: Path, handbook: Path) -> None:
    with Index.open(tmp_path / "i", encoder=OLD) as index:
        index.sync(handbook)
        index.upgrade(encoder=NEW)
        index.promote("v2")
    with Index.open(tmp_path / "i", encoder=NEW) as index:
        assert index.search("rotate")[0].freshness == "fresh"


def test_every_version_sees_one_listing_and_shares_one_budget(index: Index, handbook: Path) -> None:
    index.upgrade(encoder=NEW)
    index.promote("v2")
    encode, emptied = NEW.encode_documents, []

    def emptying(inputs: Sequence[EncoderInput]) -> Embeddings:
        if not emptied:
            emptied.append((handbook / "backup.md").rename(handbook.parent / "backup.md"))
        return encode(inputs)

    write(handbook / "new.md", "# New\n\nA new one.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NEW, "encode_documents", emptying)
        report = index.sync(handbook)
    assert [other.documents_deleted for other in report.others] == [0]
    emptied[0].rename(handbook / "backup.md")
    write(handbook / "new.md", "# New\n\nAnother new one.\n")
    tokens = index.plan(handbook).tokens
    report = index.sync(handbook, budget=tokens)
    assert (report.documents_changed, report.documents_left) == (1, 0)
    assert [(other.documents_changed, other.documents_left) for other in report.others] == [(0, 1)]


def test_an_unknown_namespace_is_no_source_of_an_upgrade(index: Index, handbook: Path) -> None:
    with pytest.raises(InvalidInput, match="no documents of namespace 'wiki'"):
        index.upgrade(encoder=NEW, sources={"wiki": handbook})


def test_a_version_killed_while_it_is_made_is_none(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tarragon.store.folder.IndexFolder.add", killed)
        index.upgrade(encoder=NEW)
    assert roles(index) == {"v1": "serving"}
    assert index.upgrade(encoder=NEW).version == "v3"
