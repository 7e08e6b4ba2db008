"""The doctor finds each silent fault, made for real, and nothing in the healthy twin."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge as q
from handbook import version_of, write

from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.contract import Prefix
from tarragon.doctor import examine
from tarragon.encoders.bundled import bundled_model_path
from tarragon.errors import IndexNotFound, InvalidInput
from tarragon.findings import Examination
from tarragon.protocols import (
    DenseEncoder,
    DocumentWrite,
    Embeddings,
    LegScores,
    SearchRequest,
    StoredChunk,
)
from tarragon.recipe import RerankStep
from tarragon.sides import prefix_space, shorten
from tarragon.statistics import fit
from tarragon.store import edge
from tarragon.symptoms import judge_device, judge_unindexed
from tarragon.testing import SparseWordEncoder, WordEncoder
from tarragon.types import FloatArray

SYLLABLES = ["ka", "mor", "sat", "tun", "riv", "pol", "gem", "dex", "lun", "bri", "vos", "nif"]
VOCABULARY = [first + second + third for first in SYLLABLES for second in SYLLABLES for third in ("dal", "zop")]


def words(count: int, chance: np.random.Generator, glue: str = " ") -> str:
    return glue.join(chance.choice(VOCABULARY, size=count))


def corpus(count: int = 150, *, longest: int = 60, glue: str = " ") -> list[Document]:
    chance = np.random.default_rng(3)
    return [Document(f"{n}.txt", words(int(chance.integers(8, longest)), chance, glue)) for n in range(count)]


def look(index: Index, **options: Any) -> Examination:
    return examine(index._opened, **options)


def ill(found: Examination) -> dict[str, str]:
    return {finding.name: finding.severity for finding in found.findings if finding.severity != "ok"}


def figures(found: Examination, name: str) -> Mapping[str, Any]:
    finding = found.finding(name)
    assert finding is not None, found.skipped
    return finding.data


@pytest.fixture
def full(index: Index) -> Index:
    """A healthy index of 150 chunks."""
    index.sync(corpus())
    return index


# --- health -----------------------------------------------------------------------------------------------------------
def test_a_fresh_index_of_documentation_has_nothing_to_complain_of(tmp_path: Path, encoder: DenseEncoder) -> None:
    pages = Path(__file__).parent.parent / "docs"
    for page in ("canaries.md", "identity.md"):
        write(tmp_path / "docs" / page, (pages / page).read_bytes())
    with Index.open(tmp_path / "i", encoder=encoder) as index:
        index.sync(tmp_path / "docs")
        found = look(index, deep=True)
    assert ill(found) == {}
    assert (found.severity, found.is_healthy) == ("ok", True)
    assert set(found.skipped) <= {"prompts", "unindexed vectors", "anisotropy", "statistics"}
    assert figures(found, "word weights")["median_deviation"] < 0.01
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_handful_of_passages_is_healthy_and_what_they_cannot_tell_is_skipped(index: Index, handbook: Path) -> None:
    index.sync(handbook)
    found = look(index)
    assert (ill(found), found.documents, found.chunks) == ({}, 3, 6)
    assert {"anisotropy", "statistics", "canaries", "prompts"} <= set(found.skipped)
    index.sync([Document("one", "")], max_delete=1.0)
    assert look(index).is_healthy, "an empty index too"


def test_looking_needs_an_index_and_sensible_numbers_and_embeds_nothing(index: Index, words: WordEncoder) -> None:
    with pytest.raises(IndexNotFound):
        look(index)
    index.sync(corpus(5))
    before = words.documents_encoded
    look(index)
    assert words.documents_encoded == before
    look(index, deep=True)
    assert words.documents_encoded == before + 16, "the canaries"
    for wrong in ({"k": 0}, {"sample": 0}):
        with pytest.raises(InvalidInput, match="must be at least 1"):
            look(index, **wrong)


def test_an_index_whose_model_is_not_loaded_is_judged_by_what_it_declares(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(corpus())
    with Index.open(tmp_path / "i") as index:
        found = look(index)
    assert ill(found) == {}
    assert {"device", "canaries"} <= set(found.skipped)
    assert figures(found, "truncation")["limit"] == 256


# --- damage behind the ledger's back ----------------------------------------------------------------------------------
def stored(index: Index, place: int = 0) -> StoredChunk:
    store = version_of(index).store
    id_ = sorted(store.ids())[place]
    return StoredChunk(id_, store.vectors([id_])[id_], store.payloads([id_])[id_])


def erase(index: Index) -> None:
    version_of(index).store.upsert([replace(stored(index), vector=np.zeros(64, dtype=np.float32))])


def spoil(index: Index) -> None:
    version_of(index).store.upsert([replace(stored(index), vector=np.full(64, np.nan, dtype=np.float32))])


def confuse(index: Index) -> None:
    version_of(index).store.upsert([replace(stored(index), vector=stored(index, 1).vector)])


def lump(index: Index) -> None:
    vector = stored(index).vector
    version_of(index).store.upsert([replace(stored(index, place), vector=vector) for place in range(1, 40)])


def lose(index: Index) -> None:
    version_of(index).store.delete([stored(index).id])


def interrupt(index: Index) -> None:
    ledger = version_of(index).ledger
    ledger.intend([DocumentWrite(ledger.documents()["7.txt"], ())])


def forget(index: Index) -> None:
    session = index._opened
    session.catalog.update(replace(version_of(index).record, statistics=""))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (erase, {"broken vectors": "fault"}),
        (spoil, {"broken vectors": "fault"}),
        (confuse, {"repeated vectors": "warning"}),
        (lump, {"repeated vectors": "fault"}),
        (lose, {"stored chunks": "fault"}),
        (interrupt, {"unfinished documents": "warning"}),
        (forget, {"statistics": "note"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_found_and_nothing_else(
    full: Index, damage: Callable[[Index], None], expected: dict[str, str]
) -> None:
    assert ill(look(full)) == {}
    damage(full)
    found = look(full, recipe=SearchRecipe(fusion="dbsf"))
    assert ill(found) == expected
    assert found.is_healthy == (set(expected.values()) == {"note"})
    assert all(finding.remedy for finding in found.findings if finding.severity != "ok")


def test_texts_that_a_model_cannot_tell_apart_may_share_a_vector(index: Index) -> None:
    index.sync([*corpus(20), Document("a", "Rotate the Key"), Document("b", "rotate  the key")])
    assert ill(look(index)) == {}


def test_missing_statistics_matter_to_calibrated_fusion(full: Index) -> None:
    forget(full)
    assert ill(look(full, recipe=SearchRecipe(fusion="calibrated"))) == {"statistics": "warning"}


# --- the vectors ------------------------------------------------------------------------------------------------------
class Shaped(WordEncoder):
    """Words whose vectors are stretched, by another factor each, and pushed towards one side."""

    def __init__(self, *, stretch: float = 0.0, push: float = 0.0, **declared: str) -> None:
        super().__init__()
        self._stretch, self._push, self._declared = stretch, push, declared

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, **self._declared}

    def _vector(self, ids: Any) -> FloatArray:
        vector = super()._vector(ids)
        vector = vector + np.float32(self._push)
        factor = 1 + self._stretch * float(ids.sum() % 97)
        unit: FloatArray = (factor * vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


@pytest.mark.parametrize(
    ("stretch", "declared", "expected"),
    [
        (0.0, {"normalisation": "unit"}, {}),
        (0.1, {"normalisation": "unit"}, {"vector lengths": "fault"}),
        (0.1, {"normalisation": "none"}, {"vector lengths": "note"}),
        (0.1, {}, {"vector lengths": "note"}),
        (0.0, {"normalisation": "none"}, {}),
    ],
)
def test_vectors_have_the_length_that_their_model_declares(
    tmp_path: Path, stretch: float, declared: dict[str, str], expected: dict[str, str]
) -> None:
    with Index.open(tmp_path / "i", encoder=Shaped(stretch=stretch, **declared)) as index:
        index.sync(corpus())
        found = look(index)
    assert ill(found) == expected
    assert figures(found, "vector lengths")["not_unit"] == (0 if stretch == 0 else pytest.approx(148, abs=3))


def test_a_narrow_space_is_measured_as_all_pairs_would_tell(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", encoder=Shaped(push=0.2)) as index:
        index.sync(corpus())
        store = version_of(index).store
        rows = np.stack(list(store.vectors(list(store.ids())).values()))
        found = look(index, recipe=SearchRecipe(fusion="dbsf"))
        pairs = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        assert figures(found, "anisotropy")["cosine"] == pytest.approx(pairs.mean(), abs=1e-5)
        assert pairs.mean() > 0.5
        assert ill(found) == {"anisotropy": "warning"}
        assert ill(look(index, recipe=SearchRecipe(fusion="calibrated"))) == {"anisotropy": "note"}


def test_chunks_that_a_space_lacks_are_counted(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", encoder=WordEncoder(), sparse_encoder=SparseWordEncoder()) as index:
        index.sync(corpus())
        assert ill(look(index)) == {}
        version_of(index).store.upsert([stored(index, place) for place in range(3)])  # without their sparse vectors
        found = look(index)
    assert ill(found) == {"missing vectors": "warning"}
    assert dict(figures(found, "missing vectors")) == {"dense": 0, "sparse": 3}


# --- the model and what it is given -----------------------------------------------------------------------------------
class Prompted(WordEncoder):
    """Words under the name of a model whose card asks for prompts."""

    name = "intfloat/e5-small-v2"

    def __init__(self, document: str, query: str) -> None:
        super().__init__()
        self.document_prompt, self.query_prompt = document, query

    @property
    def identity(self) -> Mapping[str, str]:
        return {**super().identity, "document_prompt": self.document_prompt}

    def encode_documents(self, inputs: Sequence[Any]) -> Embeddings:
        return self._encode([self.document_prompt + item.text for item in inputs])


@pytest.mark.parametrize(
    ("document", "query", "settings", "severity"),
    [
        ("passage: ", "query: ", SearchRecipe(), None),
        ("", "query: ", SearchRecipe(), "fault"),
        ("passage: ", "", SearchRecipe(), "fault"),
        ("passage:", "query: ", SearchRecipe(), "warning"),
        ("passage: ", "query: ", SearchRecipe(query_prompt=""), "fault"),
        ("passage: ", "query: ", SearchRecipe(query_prompt="Question: "), "warning"),
        ("passage: ", "", SearchRecipe(query_prompt="query: "), None),
    ],
)
def test_prompts_are_those_of_the_models_card(
    tmp_path: Path, document: str, query: str, settings: SearchRecipe, severity: str | None
) -> None:
    with Index.open(tmp_path / "i", encoder=Prompted(document, query)) as index:
        index.sync(corpus(10))
        found = look(index, recipe=settings)
    assert ill(found) == ({} if severity is None else {"prompts": severity})
    assert set(figures(found, "prompts")) == {"document", "query"}


@pytest.mark.parametrize(("override", "expected"), [(None, {}), ("", {"prompts": "fault"})])
def test_a_real_models_prompt_is_read_from_what_was_stored(
    tmp_path: Path, override: str | None, expected: dict[str, str]
) -> None:
    model = tmp_path / "e5-small-tuned"
    model.symlink_to(bundled_model_path())
    with Index.open(tmp_path / "i", recipe=IndexRecipe(model=str(model), document_prompt=override)) as index:
        index.sync(corpus(4))
    with Index.open(tmp_path / "i") as index:
        found = look(index)
    assert "device" in found.skipped, "the model is not loaded"
    assert ill(found) == expected
    assert set(figures(found, "prompts")) == {"document"}
    assert figures(found, "truncation")["limit"] == (254 if override == "" else 252), "special tokens and prompt"


def long_documents(share: float) -> list[Document]:
    chance = np.random.default_rng(5)
    long = round(200 * share)
    return [Document(f"{n}.txt", words(90 if n < long else 20, chance, "\n\n")) for n in range(200)]


@pytest.mark.parametrize(
    ("share", "severity", "declared"),
    [(0.0, None, 64), (0.005, "note", 64), (0.05, "warning", 32), (0.12, "fault", 64)],
    ids=str,
)
def test_truncated_chunks_are_counted(tmp_path: Path, share: float, severity: str | None, declared: int) -> None:
    whole = IndexRecipe(chunking="whole", chunk_tokens=declared)
    with Index.open(tmp_path / "whole", recipe=whole, encoder=WordEncoder(max_tokens=60)) as index:
        index.sync(long_documents(share))
        found = look(index)
    told = figures(found, "truncation")
    assert (told["documents"], told["tokens_unread"]) == (round(200 * share), round(200 * share) * 30)
    assert ill(found) == ({} if severity is None else {"truncation": severity})
    with Index.open(tmp_path / "whole", recipe=whole) as index:
        assert figures(look(index), "truncation") == told, "the model need not be loaded"
    cut = IndexRecipe(chunk_tokens=64)
    with Index.open(tmp_path / "cut", recipe=cut, encoder=WordEncoder(max_tokens=60)) as index:
        index.sync(long_documents(share))
        assert ill(look(index)) == {}


def test_a_model_on_the_cpu_where_a_gpu_was_asked_for(tmp_path: Path) -> None:
    for device, expected in ((None, {}), ("cpu", {}), ("cuda", {"device": "warning"}), ("mps", {"device": "warning"})):
        with Index.open(tmp_path / f"{device}", encoder=WordEncoder(), device=device) as index:
            index.sync(corpus(5))
            assert ill(look(index)) == expected, device
    assert judge_device(None, "cpu", "cuda").severity == "note"
    assert judge_device("cpu", "cpu", "cuda").severity == "ok", "it was meant"
    assert judge_device("cuda", "cuda:0", "cuda").severity == "ok"


class Drifting(WordEncoder):
    """Words whose vectors turn at some time."""

    turn = 0.0

    def _vector(self, ids: Any) -> FloatArray:
        vector = super()._vector(ids)
        turned = vector + np.float32(self.turn) * np.roll(vector, 1)
        unit: FloatArray = turned / np.linalg.norm(turned)
        return unit


@pytest.mark.parametrize(
    ("turn", "expected"), [(0.0, {}), (0.04, {"canaries": "warning"}), (0.5, {"canaries": "fault"})]
)
def test_a_model_that_drifts_is_found_by_looking_deep(tmp_path: Path, turn: float, expected: dict[str, str]) -> None:
    drifting = Drifting()
    with Index.open(tmp_path / "i", encoder=drifting) as index:
        index.sync(corpus(5))
        drifting.turn = turn
        assert ill(look(index)) == {}
        assert ill(look(index, deep=True)) == expected


def test_a_model_that_is_gone_is_told_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    recipe = IndexRecipe(model=str(tmp_path / "nowhere"))
    with Index.open(tmp_path / "i", recipe=recipe, encoder=WordEncoder()) as index:
        index.sync(corpus())
    with Index.open(tmp_path / "i") as index:
        assert ill(look(index)) == {}
        found = look(index, deep=True)
    assert ill(found) == {"canaries": "fault"}
    assert "nowhere" in found.skipped["device"]
    assert found.finding("word weights") is not None


# --- the engine -------------------------------------------------------------------------------------------------------
class SparseWords(edge.EdgeStore):
    """BM25 as it is made without a text index: weights for an assumed average length, and an IDF modifier."""

    assumed = 30.0

    def __init__(self, path: Path, **options: Any) -> None:
        is_new = not (path / "segments").is_dir()
        if is_new:
            path.mkdir(parents=True)
            vectors = {options["space"]: q.EdgeVectorParams(size=options["dimensions"], distance=q.Distance.Dot)}
            sparse = {"words": q.EdgeSparseVectorParams(modifier=q.Modifier.Idf)}
            q.EdgeShard.create(str(path), q.EdgeConfig(vectors=vectors, sparse_vectors=sparse)).close()
        super().__init__(path, **options)
        self._words = q.Bm25(q.Bm25Config(avg_len=self.assumed, language="english"))

    def _vectors(self, chunk: StoredChunk) -> dict[str, Any]:
        return {**super()._vectors(chunk), "words": self._words.embed_document(chunk.payload["content"])}

    def search(self, request: SearchRequest) -> LegScores:
        if request.lexical is None:
            return super().search(request)
        query = q.Query.Nearest(self._words.embed_query(request.lexical.text), using="words")
        found = self._shard.query(q.QueryRequest(limit=request.lexical.limit, query=query))
        return LegScores(None, {point.id: point.score for point in found})


def test_live_counts_are_right_also_after_most_is_deleted(index: Index) -> None:
    documents = corpus(glue=" and the ")
    index.sync(documents)
    for number in (150, 60):
        index.sync(documents[:number], max_delete=1.0)
        found = look(index)
        assert set(ill(found)) <= {"anisotropy"}, "two words of three are the same"
        assert figures(found, "word weights")["worst_deviation"] < 0.01
        told = figures(found, "average length")
        true = np.mean([len(document.text.split(" and the ")) for document in documents[:number]])
        assert (told["counted"], told["implied"]) == (pytest.approx(true, rel=1e-6), pytest.approx(true, rel=0.01))


def test_counts_of_deleted_chunks_are_found_until_they_are_cleared(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tarragon.store.embedded.EdgeStore", SparseWords)
    monkeypatch.setattr(SparseWords, "assumed", 33.0)
    documents = corpus(120)
    chance = np.random.default_rng(8)
    others = [Document(f"other {n}.txt", words(9, chance).replace("a", "y")) for n in range(1_200)]
    index.sync(documents)
    assert ill(look(index)) == {}
    index.sync([*documents, *others])
    index.sync(documents, max_delete=1.0)
    found = look(index)
    assert ill(found) == {"word weights": "warning"}
    assert figures(found, "word weights")["median_deviation"] > 0.5
    index.optimize(in_place=True)
    assert ill(look(index)) == {}, "the remedy works"


def test_an_assumed_average_length_is_found(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.store.embedded.EdgeStore", SparseWords)
    monkeypatch.setattr(SparseWords, "assumed", 256.0)
    index.sync(corpus())
    found = look(index)
    assert ill(found) == {"average length": "warning"}
    told = figures(found, "average length")
    assert (told["counted"], told["implied"]) == (pytest.approx(33, abs=3), pytest.approx(256, rel=0.02))


def test_words_that_cannot_be_counted_here_are_skipped(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=IndexRecipe(language="neutral"), encoder=WordEncoder()) as index:
        index.sync([Document(f"{n}", f"签名密钥每年更换一次{n}") for n in range(20)])
        assert "at least 3 are needed" in look(index).skipped["word weights"]


class Wide(WordEncoder):
    """Vectors so long that a few are the 10 MB from which the engine builds a graph; one draw a text."""

    def _vector(self, ids: Any) -> FloatArray:
        drawn = np.random.default_rng(int(ids.sum())).standard_normal(self.dimensions)
        unit: FloatArray = (drawn / np.linalg.norm(drawn)).astype(np.float32)
        return unit


def test_vectors_without_a_graph_are_counted_where_the_engine_can_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def indexed_vectors(store: edge.EdgeStore) -> int:
        return int(store._shard.info().indexed_vectors_count)

    monkeypatch.setattr(edge.EdgeStore, "indexed_vectors", indexed_vectors, raising=False)
    monkeypatch.setattr("tarragon.symptoms.UNINDEXED", (50, 10_000_000))
    with Index.open(tmp_path / "i", encoder=Wide(dimensions=50_000)) as index:
        index.sync(corpus(60, longest=12))
        found = look(index)
        assert ill(found) == {"unindexed vectors": "warning"}
        assert figures(found, "unindexed vectors")["chunks"] == 60
        index.optimize(in_place=True)
        found = look(index)
        assert (ill(found), figures(found, "unindexed vectors")["chunks"]) == ({}, 0)


def test_a_small_index_needs_no_graph() -> None:
    assert judge_unindexed(20_000, 20_000, 384).severity == "ok"
    assert judge_unindexed(20_001, 20_001, 100).severity == "ok"
    assert judge_unindexed(20_001, 20_001, 384).severity == "warning"


# --- the first pass ---------------------------------------------------------------------------------------------------
def give_first_pass(index: Index, **changed: Any) -> None:
    """What `Index.tune` makes: 24 of 64 dimensions after a rotation, four candidates for each that is wanted."""
    version = version_of(index)
    ids = sorted(version.store.ids())
    rows = np.stack([version.store.vectors([id_])[id_] for id_ in ids])
    statistics = fit(rows)
    version.ledger.attach("axes", statistics.pack())
    values = {"depth": 4.0, "recall": 1.0, "chunks": len(ids), "rotation": "axes"} | changed
    prefix = Prefix("p_24", 24, unit=True, **values)
    version.store.add_space(prefix_space(prefix))
    short = shorten(rows, prefix, statistics.axes)
    version.store.set_sides(prefix_space(prefix), dict(zip(ids, short, strict=True)))
    index._opened.catalog.update(replace(version.record, prefix=prefix))


def shuffle(index: Index) -> None:
    """Give each chunk the short vector of another."""
    version = version_of(index)
    assert version.record.prefix is not None
    space = prefix_space(version.record.prefix)
    ids = sorted(version.store.ids())
    found = version.store.sides(space, ids)
    version.store.set_sides(space, {id_: found[other] for id_, other in zip(ids, ids[1:] + ids[:1], strict=True)})


NARROW = SearchRecipe(depth=10)


@pytest.fixture
def tuned(index: Index) -> Index:
    index.sync(corpus(400, longest=20))
    give_first_pass(index, recall=0.95)
    return index


def test_recall_is_what_brute_force_over_both_spaces_says(tuned: Index) -> None:
    version = version_of(tuned)
    assert version.record.prefix is not None
    ids = sorted(version.store.ids())
    rows = np.stack([version.store.vectors([id_])[id_] for id_ in ids])
    found = version.store.sides(prefix_space(version.record.prefix), ids)
    short = np.stack([found[id_] for id_ in ids])
    recalls = []
    for place in range(len(ids) - 50, len(ids)):
        candidates = np.argsort(-(short @ short[place]))[:44].tolist()
        true = [other for other in np.argsort(-(rows @ rows[place])).tolist() if other != place][:10]
        recalls.append(len(set(true) & set(candidates)) / 10)
    told = figures(look(tuned, recipe=NARROW), "prefix recall")
    assert 0.5 < told["recall"] < 1
    assert told["recall"] == pytest.approx(np.mean(recalls), abs=0.003)


def test_a_first_pass_that_loses_what_it_should_find(tuned: Index) -> None:
    wide = SearchRecipe(depth=30)
    assert ill(look(tuned, recipe=wide)) == {}
    shuffle(tuned)
    found = look(tuned, recipe=wide)
    assert ill(found) == {"prefix recall": "warning"}
    assert figures(found, "prefix recall")["recall"] < 0.6


def test_a_first_pass_that_was_tuned_for_fewer_chunks_or_lost_its_axes(full: Index) -> None:
    give_first_pass(full)
    assert ill(look(full)) == {}
    record = version_of(full).record
    assert record.prefix is not None
    for changed, sentence in (({"chunks": 90}, "with 90 chunks"), ({"rotation": "gone"}, "axes")):
        full._opened.catalog.update(replace(record, prefix=replace(record.prefix, **changed)))
        found = look(full)
        assert ill(found) == {"prefix recall": "warning"}
        finding = found.finding("prefix recall")
        assert finding is not None
        assert sentence in finding.sentence


def test_chunks_without_a_short_vector_cannot_be_found(full: Index) -> None:
    give_first_pass(full)
    version_of(full).store.upsert([stored(full)])
    found = look(full)
    assert ill(found) == {"missing vectors": "fault"}
    assert figures(found, "missing vectors")["prefix"] == 1
    assert figures(found, "prefix recall")["queries"] == 50, "the others are measured all the same"


# --- settings, documents, versions ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "k", "is_deep"),
    [
        (SearchRecipe(), 100, True),
        (SearchRecipe(), 101, False),
        (SearchRecipe(rerankers=(RerankStep("any", depth=5),)), 5, True),
        (SearchRecipe(rerankers=(RerankStep("any", depth=5),)), 6, False),
    ],
)
def test_stages_look_deeper_than_what_is_wanted(index: Index, settings: SearchRecipe, k: int, is_deep: bool) -> None:
    index.sync(corpus(5))
    assert ill(look(index, recipe=settings, k=k)) == ({} if is_deep else {"depth": "warning"})


def test_documents_that_failed_or_are_behind_their_source(tmp_path: Path, index: Index) -> None:
    folder = tmp_path / "docs"
    for document in corpus(30):
        write(folder / document.id, document.text)
    index.sync(folder)
    assert ill(look(index)) == {}
    write(folder / "3.txt", "Another text.")
    found = look(index)
    assert (ill(found), figures(found, "stale documents")["stale"]) == ({"stale documents": "note"}, 1)
    for gone in range(4, 8):
        (folder / f"{gone}.txt").unlink()
    found = look(index)
    assert (ill(found), figures(found, "stale documents")["missing"]) == ({"stale documents": "warning"}, 4)
    write(folder / "bad.txt", b"\x00\xff\x00\xfe" * 50)
    index.sync(folder)
    found = look(index)
    assert (ill(found), figures(found, "failed documents")["failed"]) == ({"failed documents": "warning"}, 1)


def test_a_version_that_a_rollback_would_bring_back_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder(salt="a third"))
    documents = corpus(10)
    write(tmp_path / "docs.jsonl", "\n".join(json.dumps({"id": one.id, "text": one.text}) for one in documents))
    new = WordEncoder(salt="new")
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(tmp_path / "docs.jsonl")
        index.promote(index.upgrade(encoder=new).version)
        assert ill(look(index)) == {}
    with Index.open(tmp_path / "i", encoder=new) as index:
        write(tmp_path / "docs.jsonl", json.dumps({"id": documents[0].id, "text": "Another text."}) + "\n")
        assert index.sync(tmp_path / "docs.jsonl", max_delete=1.0).behind
        found = look(index)
    assert ill(found) == {"versions": "warning"}
    assert dict(figures(found, "versions")) == {"v1": 10}


def test_ids_of_a_sample_are_the_least(full: Index) -> None:
    version_of(full).store.upsert([replace(stored(full), id=UUID(int=1), vector=np.zeros(64, dtype=np.float32))])
    assert figures(look(full, sample=10), "broken vectors") == {"zero": 1, "not_finite": 0, "checked": 10}
