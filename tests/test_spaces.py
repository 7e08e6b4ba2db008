"""A whole index with a learned sparse and a late-interaction model beside the dense one: real models, tiny ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
from handbook import HANDBOOK, version_of, write

from tarragon import Document, Hit, Index, IndexRecipe, SearchRecipe
from tarragon.copying import copy_index
from tarragon.errors import EncodingFailed, InvalidInput, RecipeMismatch
from tarragon.identity import fingerprint
from tarragon.interaction import maxsim
from tarragon.protocols import LateEmbeddings, LateEncoder, SparseEmbeddings, SparseEncoder
from tarragon.recipe import Datatype
from tarragon.sides import side_space
from tarragon.testing import WordEncoder
from tarragon.types import SparseVector
from tests.freshness.faults import Fuse, Killed, copy_as_left

LEGS = ("dense", "lexical", "sparse", "late")


class Counting:
    """Any encoder, and how many texts of documents and of queries it was given."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.documents: list[str] = []
        self.queries: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> Any:
        self.documents += texts
        return self._encoder.encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> Any:
        self.queries += texts
        return self._encoder.encode_queries(texts)


class Models:
    """One of each kind, counted since they were made."""

    def __init__(self, sparse: SparseEncoder, late: LateEncoder) -> None:
        self.dense = WordEncoder(max_tokens=40)
        self.sparse, self.late = Counting(sparse), Counting(late)

    def open(self, path: Path, **settings: Any) -> Index:
        given = {"encoder": self.dense, "sparse_encoder": self.sparse, "late_encoder": self.late, **settings}
        return Index.open(path, **given)

    def encoded(self) -> tuple[int, int]:
        """Texts of documents given to the sparse and to the late model since the last call."""
        counts = len(self.sparse.documents), len(self.late.documents)
        self.sparse.documents.clear()
        self.late.documents.clear()
        return counts


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    from tests.encoders.tiny_models import tiny_colbert, tiny_joint, tiny_splade, trained_splade

    makers = {"splade": tiny_splade, "colbert": tiny_colbert, "joint": tiny_joint, "trained": trained_splade}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


@pytest.fixture(scope="module")
def loaded(folders: Mapping[str, Path]) -> tuple[SparseEncoder, LateEncoder]:
    from tarragon.encoders.side_loading import load_late, load_sparse

    return load_sparse(str(folders["splade"]), "cpu"), load_late(str(folders["colbert"]), "cpu")


@pytest.fixture
def models(loaded: tuple[SparseEncoder, LateEncoder]) -> Models:
    return Models(*loaded)


@pytest.fixture
def index(tmp_path: Path, models: Models, handbook: Path) -> Iterator[Index]:
    with models.open(tmp_path / "test.tarragon") as opened:
        opened.sync(handbook)
        models.encoded()
        yield opened


def lacking(index: Index) -> dict[str, int]:
    """By space, the chunks without a vector in it."""
    version = version_of(index)
    return {side.kind: len(list(version.store.without(side_space(side)))) for side in version.record.contract.sides}


def stored(index: Index) -> dict[str, Any]:
    """Everything stored, in every space: equal for equal indexes."""
    version = version_of(index)
    ids = sorted(version.store.ids())
    found: dict[str, Any] = {"dense": {id_: row.tolist() for id_, row in version.store.vectors(ids).items()}}
    found["payloads"] = version.store.payloads(ids)
    for side in version.record.contract.sides:
        found[side.kind] = {id_: plain(row) for id_, row in version.store.sides(side_space(side), ids).items()}
    return found


def plain(vector: Any) -> Any:
    if isinstance(vector, SparseVector):
        return vector.indices.tolist(), np.round(vector.values, 4).tolist()
    return np.round(vector, 4).tolist()


def answers(index: Index, query: str = "rotate the signing key", **settings: Any) -> list[tuple[str, float]]:
    return [(hit.chunk_id, round(hit.score, 5)) for hit in index.search(query, 10, recipe=SearchRecipe(**settings))]


# --- searching --------------------------------------------------------------------------------------------------------
def contents(index: Index, hits: Sequence[Hit]) -> list[str]:
    payloads = version_of(index).store.payloads([UUID(hit.chunk_id) for hit in hits])
    return [payloads[UUID(hit.chunk_id)]["content"] for hit in hits]


def by_terms(encoder: SparseEncoder, query: str, texts: Sequence[str]) -> list[float]:
    asked = weights(encoder.encode_queries([query]).vectors[0])
    made = [weights(vector) for vector in encoder.encode_documents(texts).vectors]
    return [sum(weight * one.get(term, 0.0) for term, weight in asked.items()) for one in made]


def weights(vector: SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))


def by_tokens(encoder: LateEncoder, query: str, texts: Sequence[str]) -> list[float]:
    asked = encoder.encode_queries([query]).vectors[0]
    return [maxsim(asked, vectors) for vectors in encoder.encode_documents(texts).vectors]


QUERY = "rotate the signing key"


def test_sparse_hits_are_the_model_s_own_dot_products(index: Index, models: Models) -> None:
    hits = index.search(QUERY, 10, mode="sparse", recipe=SearchRecipe(late=False))
    expected = by_terms(cast(SparseEncoder, models.sparse), QUERY, contents(index, hits))
    assert len(hits) == 6
    assert [hit.score for hit in hits] == pytest.approx(expected, rel=1e-4)
    assert expected == sorted(expected, reverse=True)
    assert dict(hits.receipt.legs) == {"sparse": 6}


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical", "sparse"])
def test_late_scores_decide_in_every_mode(index: Index, models: Models, mode: Any) -> None:
    """They are brute-force MaxSim of the model's own vectors."""
    hits = index.search(QUERY, 10, mode=mode)
    expected = by_tokens(cast(LateEncoder, models.late), QUERY, contents(index, hits))
    assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-4)
    assert expected == sorted(expected, reverse=True)
    without = index.search(QUERY, 10, mode=mode, recipe=SearchRecipe(late=False))
    assert {hit.chunk_id for hit in without} == {hit.chunk_id for hit in hits}
    assert [hit.score for hit in without] != [hit.score for hit in hits]
    assert "late" not in without.receipt.legs
    assert set(hits.receipt.legs) == {"late", *without.receipt.legs}


@pytest.mark.parametrize(
    ("words", "legs"),
    [
        (None, {"dense", "lexical", "sparse"}),
        ("bm25", {"dense", "lexical"}),
        ("sparse", {"dense", "sparse"}),
        ("both", {"dense", "lexical", "sparse"}),
    ],
)
def test_words_choose_the_legs_beside_the_dense_one(index: Index, models: Models, words: Any, legs: set[str]) -> None:
    hits = index.search(QUERY, 10, recipe=SearchRecipe(words=words, late=False))
    contract = version_of(index).record.contract
    assert set(hits.receipt.legs) == legs
    fingerprints = dict(zip(("dense", "sparse", "late"), contract.fingerprints, strict=True))
    assert dict(hits.receipt.spaces) == {leg: fingerprints[leg] for leg in legs - {"lexical"}}
    assert models.sparse.queries == ([QUERY] if "sparse" in legs else []), "only the models that are wanted run"
    assert models.late.queries == []


def test_the_late_model_orders_the_head_and_nothing_below_the_depth_is_lost_to_it(index: Index) -> None:
    recipe = SearchRecipe(depth=2)
    fused = index.search(QUERY, 6, recipe=SearchRecipe(depth=2, late=False))
    late = index.search(QUERY, 6, recipe=recipe)
    assert {hit.chunk_id for hit in late} == {hit.chunk_id for hit in fused}
    shallow = index.search(QUERY, 1, recipe=recipe)
    head = {hit.chunk_id for hit in index.search(QUERY, 2, recipe=SearchRecipe(depth=2, late=False))}
    assert shallow[0].chunk_id in head, "the first `depth` of the fused ranking are scored again"


def test_an_index_without_side_models_refuses_what_needs_one(tmp_path: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync([Document("a", "one two")])
        for recipe in (SearchRecipe(mode="sparse"), SearchRecipe(words="sparse"), SearchRecipe(words="both")):
            with pytest.raises(InvalidInput, match="the index has none"):
                index.search("one", recipe=recipe)
        assert index.search("one", recipe=SearchRecipe(late=True)), "late scores are used where there are any"


def test_a_trained_model_finds_synonyms_that_words_do_not(tmp_path: Path, folders: Mapping[str, Path]) -> None:
    recipe = IndexRecipe(sparse_model=str(folders["trained"]), chunking="whole")
    texts = {"car": "my car was expensive", "doctor": "they saw the doctor here", "movie": "a new movie for sale"}
    with Index.open(tmp_path / "i", recipe=recipe, encoder=WordEncoder()) as index:
        index.sync([Document(name, text) for name, text in texts.items()])
        for query, name in (("automobile", "car"), ("physician", "doctor"), ("film", "movie")):
            assert index.search(query, 1, mode="lexical") == []
            assert index.search(query, 1, mode="sparse")[0].document_id == name


def test_one_model_for_three_spaces(tmp_path: Path, folders: Mapping[str, Path]) -> None:
    """BGE-M3's shape: named three times in the recipe, loaded and run once."""
    from tarragon.encoders import joint

    runs: list[int] = []
    forward = joint.JointEncoder._forward

    def counted(self: Any, rows: Any, wanted: Any) -> Any:
        runs.append(len(rows))
        return forward(self, rows, wanted)

    name = f"joint:{folders['joint']}"
    recipe = IndexRecipe(model=name, sparse_model=name, late_model=name, chunking="whole")
    with pytest.MonkeyPatch.context() as patch, Index.open(tmp_path / "i", recipe=recipe) as index:
        patch.setattr(joint.JointEncoder, "_forward", counted)
        index.sync([Document("fox", "the quick brown fox"), Document("key", "rotate the signing key")])
        documents = sum(runs)
        hits = index.search("signing key", 2)
        assert set(hits.receipt.legs) == set(LEGS)
        assert sum(runs) - documents == 1, "one forward for a question in three spaces"
        runs.clear()
        index.sync([Document("fox", "the lazy dog"), Document("key", "rotate the signing key")])
        canaries = 16
        assert sum(runs) == 1 + canaries, "one forward for a chunk in three spaces"
        assert lacking(index) == {"sparse": 0, "late": 0}


# --- opening ----------------------------------------------------------------------------------------------------------
def test_without_the_models_it_was_built_with_an_index_says_which_are_missing(
    tmp_path: Path, index: Index, models: Models, handbook: Path
) -> None:
    index.close()
    with Index.open(tmp_path / "test.tarragon", encoder=models.dense) as bare:
        with pytest.raises(RecipeMismatch, match=r"sparse model .* as sparse_encoder"):
            bare.search(QUERY)
        with pytest.raises(RecipeMismatch, match=r"late model .* as late_encoder"):
            bare.search(QUERY, mode="dense")
        assert bare.search(QUERY, recipe=SearchRecipe(words="bm25", late=False)), "what needs no model goes on"
        assert bare.sync(handbook).documents_unchanged == 3
        write(handbook / "keys.md", "# Other\n\nSomething else.\n")
        with pytest.raises(RecipeMismatch, match="sparse model"):
            bare.sync(handbook)
    with models.open(tmp_path / "test.tarragon") as again:
        again.sync(handbook)
        assert lacking(again) == {"sparse": 0, "late": 0}
        assert again.search("something else", 1, mode="lexical")[0].document_id == "keys.md"


@pytest.fixture(scope="module")
def others(folders: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same models with one weight changed."""
    from safetensors.torch import load_file, save_file

    from tarragon.encoders.side_loading import load_late, load_sparse

    made: dict[str, Any] = {}
    for name, load in (("splade", load_sparse), ("colbert", load_late)):
        folder = tmp_path_factory.mktemp("others") / name
        shutil.copytree(folders[name], folder)
        file = sorted(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size)[-1]
        tensors = load_file(file)
        first = sorted(tensors)[0]
        tensors[first] = tensors[first] + 0.25
        save_file(tensors, file, metadata={"format": "pt"})
        made[name] = load(str(folder), "cpu")
    return made


def test_models_with_other_weights_are_refused_by_the_fields_that_differ(
    tmp_path: Path, index: Index, models: Models, others: dict[str, Any]
) -> None:
    index.close()
    with models.open(tmp_path / "test.tarragon", sparse_encoder=others["splade"]) as opened:
        with pytest.raises(RecipeMismatch, match=r"sparse vectors of .* differ in weights\.") as caught:
            opened.search(QUERY)
        assert caught.value.data["differing"] == ["weights"]
        assert opened.search(QUERY, recipe=SearchRecipe(words="bm25"))
    with models.open(tmp_path / "test.tarragon", late_encoder=others["colbert"]) as opened:
        with pytest.raises(RecipeMismatch, match=r"late vectors of .* differ in weights\."):
            opened.search(QUERY)
        assert opened.search(QUERY, recipe=SearchRecipe(late=False))


def test_another_model_by_name_in_the_recipe_is_refused(
    tmp_path: Path, folders: Mapping[str, Path], words: WordEncoder
) -> None:
    recipe = IndexRecipe(sparse_model=str(folders["splade"]))
    with Index.open(tmp_path / "i", recipe=recipe, encoder=words) as index:
        index.sync([Document("a", "rotate the signing key")])
    with pytest.raises(RecipeMismatch, match="sparse_model is"):
        Index.open(tmp_path / "i", recipe=IndexRecipe(sparse_model=str(folders["trained"])), encoder=words)
    with Index.open(tmp_path / "i", encoder=words) as index:
        assert set(index.search("key").receipt.legs) == {"dense", "lexical", "sparse"}, "loaded by its name"


def test_a_model_for_a_space_that_the_index_does_not_have_is_not_ignored_in_silence(
    tmp_path: Path, models: Models
) -> None:
    with Index.open(tmp_path / "i", encoder=models.dense) as index:
        index.sync([Document("a", "rotate the signing key")])
    with pytest.raises(RecipeMismatch, match="sparse"), models.open(tmp_path / "i"):
        pass


@pytest.mark.parametrize("datatype", ["float32", "float16", "int8"])
def test_late_vectors_are_kept_as_the_recipe_says(tmp_path: Path, models: Models, datatype: Datatype) -> None:
    recipe = IndexRecipe(late_datatype=datatype, chunking="whole")
    texts = list(HANDBOOK.values())
    with models.open(tmp_path / "i", recipe=recipe) as index:
        index.sync([Document(f"{n}.txt", text) for n, text in enumerate(texts)])
        version = version_of(index)
        side = version.record.contract.side("late")
        assert side is not None
        assert side.datatype == datatype
        hits = index.search(QUERY, 3)
        expected = by_tokens(cast(LateEncoder, models.late), QUERY, contents(index, hits))
        off = max(abs(hit.score - score) for hit, score in zip(hits, expected, strict=True))
        assert off <= {"float32": 1e-4, "float16": 16 * 6e-4, "int8": 16 * 1.2e-2}[datatype]
        assert (off > 1e-5) == (datatype != "float32"), "the datatype makes a difference"


# --- syncing ----------------------------------------------------------------------------------------------------------
def test_only_changed_chunks_are_embedded_by_every_model(
    tmp_path: Path, index: Index, models: Models, handbook: Path
) -> None:
    index.sync(handbook)
    assert models.encoded() == (0, 0)
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("within five minutes", "at once"))
    report = index.sync(handbook)
    assert (report.chunks_embedded, report.chunks_reused) == (1, 2)
    assert models.encoded() == (1, 1)
    assert lacking(index) == {"sparse": 0, "late": 0}
    with models.open(tmp_path / "fresh") as fresh:
        fresh.sync(handbook)
        assert stored(index) == stored(fresh)


def test_text_that_is_moved_renamed_or_copied_costs_no_model_anything(
    index: Index, models: Models, handbook: Path
) -> None:
    before = models.dense.documents_encoded
    text = HANDBOOK["keys.md"]
    (handbook / "keys.md").rename(handbook / "renamed.md")
    index.sync(handbook)
    write(handbook / "copy.md", text)
    index.sync(handbook)
    head, *sections = text.split("\n## ")
    write(handbook / "renamed.md", "\n## ".join([head, *reversed(sections)]))
    index.sync(handbook)
    assert models.encoded() == (0, 0)
    assert models.dense.documents_encoded == before
    assert lacking(index) == {"sparse": 0, "late": 0}
    assert {hit.document_id for hit in index.search(QUERY, 20)} >= {"renamed.md", "copy.md", "backup.md"}


def test_a_text_that_leaves_and_comes_back_within_a_sync_is_not_embedded_again(
    index: Index, models: Models, handbook: Path
) -> None:
    """Its chunk is deleted in one window and wanted again further on: the spare vectors of every space serve."""
    text = HANDBOOK["keys.md"]
    write(handbook / "keys.md", "# Signing keys\n\nGone.\n")
    write(handbook / "zz.md", text)
    index.sync(handbook)
    sparse, late = models.encoded()
    assert sparse == late == 1
    assert lacking(index) == {"sparse": 0, "late": 0}


def test_chunks_with_the_same_text_are_embedded_once(tmp_path: Path, models: Models) -> None:
    with models.open(tmp_path / "i") as index:
        index.sync([Document("a", "one and the same"), Document("b", "one and the same")])
        assert models.encoded() == (1, 1)
        assert len(index.search("same", 5)) == 2


class Broken(Counting):
    """Fails on texts with this word, or gives NaN for them."""

    def __init__(self, encoder: Any, *, raises: bool) -> None:
        super().__init__(encoder)
        self._raises = raises

    def encode_documents(self, texts: Sequence[str]) -> Any:
        if self._raises and any("poison" in text for text in texts):
            raise EncodingFailed("it cannot take that")
        made = super().encode_documents(texts)
        vectors = [
            self.spoilt(vector) if "poison" in text else vector
            for text, vector in zip(texts, made.vectors, strict=True)
        ]
        kind = LateEmbeddings if isinstance(made, LateEmbeddings) else SparseEmbeddings
        return kind(cast(Any, vectors), made.tokens, made.truncated)

    @staticmethod
    def spoilt(vector: Any) -> Any:
        if isinstance(vector, SparseVector):
            return SparseVector(vector.indices, vector.values * np.float32(np.nan))
        return vector * np.float32(np.nan)


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "nan"])
@pytest.mark.parametrize("kind", ["sparse", "late"])
def test_a_passage_that_one_model_cannot_take_fails_its_document_only(
    tmp_path: Path, models: Models, kind: str, raises: bool
) -> None:
    broken = Broken(models.sparse if kind == "sparse" else models.late, raises=raises)
    with models.open(tmp_path / "i", **{f"{kind}_encoder": broken}) as index:
        documents = [Document("bad", "some poison"), *(Document(f"{n}", f"good {n}") for n in range(6))]
        report = index.sync(documents)
        assert (report.documents_added, report.documents_failed) == (6, 1)
        assert [failure.document_id for failure in report.failures] == ["bad"]
        assert lacking(index) == {"sparse": 0, "late": 0}
        assert {hit.document_id for hit in index.search("poison good", 10)} == {f"{n}" for n in range(6)}
    with models.open(tmp_path / "i") as index:
        assert index.sync(documents).documents_added == 1, "and is tried again"
        assert index.search("poison", 1, mode="lexical")[0].document_id == "bad"


def test_an_index_of_nothing_can_be_searched_in_every_mode(tmp_path: Path, models: Models) -> None:
    """No chunk was ever written, so that no space was made."""
    with models.open(tmp_path / "i") as index:
        index.sync([Document("empty", "")])
        for mode in ("hybrid", "dense", "lexical", "sparse"):
            assert index.search("anything", mode=cast(Any, mode)) == []


# --- interruptions ----------------------------------------------------------------------------------------------------
PLACES = [
    ("before EdgeStore.upsert", 0, True),
    ("before EdgeStore.upsert", 1, False),
    ("after EdgeStore.upsert", 0, False),
    ("after SqliteLedger.intend", 0, False),
    ("before SqliteLedger.switch", 0, False),
    ("after SqliteLedger.switch", 0, False),
    ("before EdgeStore.delete", 0, False),
    ("before SqliteLedger.settle", 0, False),
]


@pytest.mark.parametrize(("place", "nth", "torn"), PLACES, ids=[f"{p}-{n}{'-torn' if t else ''}" for p, n, t in PLACES])
def test_after_an_interrupted_sync_every_chunk_gets_its_vectors_in_every_space(
    tmp_path: Path,
    models: Models,
    handbook: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    nth: int,
    torn: bool,
) -> None:
    """The index as a killed process left it, then opened and synced again."""
    monkeypatch.setattr("tarragon.syncing.WINDOW_CHARACTERS", 150)
    left, fuse = tmp_path / "left", Fuse()
    with fuse.installed(), models.open(tmp_path / "i") as index:
        index.sync(handbook)
        write(handbook / "keys.md", HANDBOOK["keys.md"].replace("## Revoke", "Some more.\n\n## Refuse"))
        write(handbook / "backup.md", HANDBOOK["backup.md"].replace("## Restore", "## Bring back"))
        write(handbook / "new.md", "# New\n\nA new page.\n")
        (handbook / "guide/oncall.txt").unlink()
        blow = fuse.armed((place, nth), torn=torn, last_words=lambda: copy_as_left(tmp_path / "i", left))
        with blow, pytest.raises(Killed):
            index.sync(handbook)
        assert fuse.blown.startswith(place)
    models.encoded()
    with models.open(left) as index, models.open(tmp_path / "fresh") as fresh:
        for hit in index.search("key restore new page", 20, recipe=SearchRecipe(late=False)):
            assert hit.document_id in {"keys.md", "backup.md", "guide/oncall.txt", "new.md"}
        index.sync(handbook)
        sparse, late = models.encoded()
        assert sparse == late
        assert lacking(index) == {"sparse": 0, "late": 0}
        fresh.sync(handbook)
        assert stored(index) == stored(fresh)
        assert answers(index) == answers(fresh)


# --- versions and copies ----------------------------------------------------------------------------------------------
def test_an_upgrade_to_a_sparse_model_reuses_every_dense_vector(
    tmp_path: Path, folders: Mapping[str, Path], words: WordEncoder, handbook: Path
) -> None:
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(handbook)
        before = stored(index)
        report = index.upgrade(IndexRecipe(sparse_model=str(folders["splade"])), encoder=words)
        assert [(sync.chunks_embedded, sync.chunks_reused) for sync in report.syncs] == [(0, 6)]
        assert set(index.search(QUERY).receipt.legs) == {"dense", "lexical"}, "the old version serves"
        index.promote(report.version)
        assert lacking(index) == {"sparse": 0}
        after = stored(index)
        assert after["dense"] == before["dense"]
        assert set(index.search(QUERY).receipt.legs) == {"dense", "lexical", "sparse"}
        index.rollback()
        assert set(index.search(QUERY).receipt.legs) == {"dense", "lexical"}


def test_an_upgrade_of_another_setting_keeps_the_side_models(index: Index) -> None:
    report = index.upgrade(IndexRecipe(language="german"))
    index.promote(report.version)
    assert lacking(index) == {"sparse": 0, "late": 0}
    assert set(index.search(QUERY).receipt.legs) == set(LEGS)
    assert [sync.chunks_embedded for sync in report.syncs] == [0]


def test_an_upgrade_of_another_setting_copies_the_vectors_of_every_space(index: Index, models: Models) -> None:
    index.upgrade(IndexRecipe(language="german"))
    assert models.encoded() == (0, 0)


def test_a_copy_has_the_vectors_of_every_space(tmp_path: Path, index: Index, models: Models, handbook: Path) -> None:
    expected, everything = answers(index), stored(index)
    index.close()
    copy_index(tmp_path / "test.tarragon", tmp_path / "copy.tarragon")
    with models.open(tmp_path / "copy.tarragon") as copy:
        assert lacking(copy) == {"sparse": 0, "late": 0}
        assert stored(copy) == everything
        assert answers(copy) == expected
        assert copy.sync(handbook).documents_unchanged == 3
        assert models.encoded() == (0, 0)


def test_what_is_lost_is_found_and_made_again_in_every_space(index: Index, models: Models, handbook: Path) -> None:
    everything = stored(index)
    version = version_of(index)
    version.store.delete(sorted(version.store.ids())[:2])
    assert index.verify().missing == 2
    index.verify(repair=True)
    index.sync(handbook)
    assert stored(index) == everything
    assert models.encoded()[0] >= 2
    assert lacking(index) == {"sparse": 0, "late": 0}


def test_verify_finds_chunks_that_lack_a_vector_beside_the_dense_one(index: Index, handbook: Path) -> None:
    """Such as a space that somebody dropped."""
    version = version_of(index)
    late = version.record.contract.side("late")
    assert late is not None
    everything = stored(index)
    version.store.drop_space(late.space)
    version.store.add_space(side_space(late))
    assert not index.verify().is_sound
    index.verify(repair=True)
    index.sync(handbook)
    assert stored(index) == everything


def test_spaces_are_named_after_the_models_fingerprints(index: Index, models: Models) -> None:
    contract = version_of(index).record.contract
    names = [side.space for side in contract.sides]
    assert names == [f"s_{fingerprint(models.sparse.identity)[:12]}", f"l_{fingerprint(models.late.identity)[:12]}"]
