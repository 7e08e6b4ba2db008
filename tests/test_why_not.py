"""Why not: each stage at which a search can lose a document, with figures that are computed again here.

Documents say in their text what each model makes of them: ``d90`` is a dense score of .90, ``s`` a sparse one, ``l`` of
late interaction, ``r`` a reranker's. So every figure of an explanation is known beforehand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handbook import version_of

from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.contract import Prefix
from tarragon.errors import InvalidFilter
from tarragon.protocols import Embeddings, EncoderInput, LateEmbeddings, RerankScores, SparseEmbeddings
from tarragon.recipe import RerankStep
from tarragon.sides import prefix_space, shorten
from tarragon.testing import WordTokenizer
from tarragon.types import FloatArray, SparseVector

QUERY = "alpha beta"


def said(text: str, letter: str) -> float:
    """The number after a letter, in hundredths; 0 without."""
    found = re.search(rf"\b{letter}(\d+)\b", text)
    return int(found[1]) / 100 if found else 0.0


class Dense:
    """Unit vectors of three numbers: the score, the rest, and what makes texts alike (``a``)."""

    name, device, dimensions, max_tokens = "dense", "cpu", 3, 256
    tokenizer = WordTokenizer()
    identity = {"kind": "said"}  # noqa: RUF012

    def vector(self, text: str) -> FloatArray:
        score = said(text, "d")
        rest = (1 - score**2) ** 0.5
        alike = min(said(text, "a"), 1.0)
        return np.array([score, rest * (1 - alike**2) ** 0.5, rest * alike], dtype=np.float32)

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        rows = [self.vector(item.text) for item in inputs]
        return Embeddings(np.array(rows, dtype=np.float32).reshape(len(inputs), 3), 0, 0)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        return Embeddings(np.array([[1, 0, 0]] * len(texts), dtype=np.float32).reshape(len(texts), 3), 0, 0)


class Sparse:
    name, device = "sparse", "cpu"
    identity = {"kind": "said"}  # noqa: RUF012

    def _one(self, weight: float) -> SparseVector:
        held = [weight] if weight else []
        return SparseVector(np.arange(1, 1 + len(held), dtype=np.int32), np.array(held, dtype=np.float32))

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        return SparseEmbeddings([self._one(said(text, "s")) for text in texts], 0, 0)

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        return SparseEmbeddings([self._one(1.0) for _ in texts], 0, 0)


class Late:
    name, device, dimensions = "late", "cpu", 2
    identity = {"kind": "said"}  # noqa: RUF012

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        return LateEmbeddings([np.array([[said(text, "l"), 0]], dtype=np.float32) for text in texts], 0, 0)

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        return LateEmbeddings([np.array([[1, 0]], dtype=np.float32) for _ in texts], 0, 0)


class Said:
    name = "said"
    identity = {"kind": "said"}  # noqa: RUF012

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        return RerankScores([said(text, "r") for text in passages])


@contextmanager
def opened(folder: Path, texts: dict[str, str], *, sparse: bool = False, late: bool = False) -> Iterator[Index]:
    sides: dict[str, Any] = {"sparse_encoder": Sparse() if sparse else None, "late_encoder": Late() if late else None}
    recipe = IndexRecipe(chunking="whole", language="neutral")
    with Index.open(folder / "i", recipe=recipe, encoder=Dense(), **sides) as index:
        index.sync([Document(name, text, {"name": name}) for name, text in texts.items()])
        yield index


TEXTS = {f"n{n:02}": f"d{90 - n} s{50 - n} l{n} r{n}" for n in range(30)}
"""n00 is the nearest; what reads `l` or `r` puts n29 first."""

DENSE = SearchRecipe(mode="dense", fusion="dbsf", depth=10)
"""A single leg keeps its own scores."""

PLAIN = SearchRecipe(fusion="dbsf")


def chunk_of(index: Index, document: str) -> str:
    (chunk,) = version_of(index).ledger.chunks(document)
    return str(chunk.id)


# --- not lost, or not there -------------------------------------------------------------------------------------------
def test_found(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        why = index.why_not(QUERY, "n02", 5, recipe=DENSE)
        assert (why.stage, why.rank, why.needed) == ("found", 3, None)
        assert why.score == pytest.approx(0.88)
        assert why.chunk_id == chunk_of(index, "n02")
        assert why.sentence == "n02 is hit 3 of 5"
        assert json.loads(json.dumps(why.to_dict()))["stage"] == "found"


def test_index(tmp_path: Path, handbook: Path) -> None:
    (handbook / "broken.txt").write_bytes(b"\xff\xfe\xfa")
    (handbook / "blank.txt").write_text("  \n")
    recipe = IndexRecipe(language="neutral")
    with Index.open(tmp_path / "i", recipe=recipe, encoder=Dense()) as index:
        index.sync(handbook)
        for document, sentence in (
            ("nowhere.md", "the index has no document 'nowhere.md'"),
            ("broken.txt", "broken.txt could not be indexed: "),
            ("blank.txt", "blank.txt has no text to search"),
        ):
            why = index.why_not(QUERY, document)
            assert (why.stage, why.rank, why.score, why.needed, why.chunk_id) == ("index", None, None, None, "")
            assert why.sentence.startswith(sentence)


def test_a_blank_question_and_no_hits_wanted(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        assert index.why_not(" ", "n00").stage == "legs"
        assert index.why_not(QUERY, "n00", 0).stage == "legs"


def test_filter(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        why = index.why_not(QUERY, "n02", 5, filter={"name": {"$ne": "n02"}}, recipe=DENSE)
        assert (why.stage, why.rank, why.score) == ("filter", None, None)
        assert "{'name': 'n02'}" in why.sentence
        assert index.why_not(QUERY, "n09", 9, filter={"name": {"$ne": "n02"}}, recipe=DENSE).stage == "found"
        with pytest.raises(InvalidFilter):
            index.why_not(QUERY, "n02", filter={"$what": 1})


# --- the legs ---------------------------------------------------------------------------------------------------------
def test_legs_dense(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        why = index.why_not(QUERY, "n15", 5, recipe=DENSE)
        assert (why.stage, why.rank, why.chunk_id) == ("legs", None, chunk_of(index, "n15"))
        assert why.score == pytest.approx(0.75)
        assert why.needed == pytest.approx(0.81), "the tenth's"
        assert "dense 0.7500 where the last candidate has 0.8100" in why.sentence
        assert index.why_not(QUERY, "n15", 5, recipe=replace(DENSE, depth=16)).stage == "fused"
        assert index.why_not(QUERY, "n15", 16, recipe=DENSE).stage == "found"


def test_legs_of_words(tmp_path: Path) -> None:
    texts = {f"n{n}": " ".join(["alpha"] * (9 - n) + ["x"] * n) for n in range(9)} | {"none": "gamma"}
    recipe = replace(PLAIN, mode="lexical", depth=3)
    with opened(tmp_path, texts) as index:
        scores = {hit.document_id: hit.score for hit in index.search("alpha", 9, mode="lexical", recipe=PLAIN)}
        assert list(scores) == [f"n{n}" for n in range(9)]
        why = index.why_not("alpha", "n7", 2, recipe=recipe)
        assert why.stage == "legs"
        assert why.score == pytest.approx(scores["n7"], abs=1e-4)
        assert why.needed == pytest.approx(scores["n2"], abs=1e-4)
        none = index.why_not("alpha", "none", 2, recipe=recipe)
        assert (none.stage, none.score) == ("legs", None)
        assert none.sentence == "no passage of none has a word of the query"


def test_legs_sparse(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS, sparse=True) as index:
        why = index.why_not(QUERY, "n15", 5, recipe=replace(PLAIN, mode="sparse", depth=10))
        assert why.stage == "legs"
        assert "has a word of the query" not in why.sentence
        assert why.score == pytest.approx(0.35)
        assert why.needed == pytest.approx(0.41)


def test_first_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of short vectors that hold the wrong number: the rest and not the score."""
    monkeypatch.setattr("tarragon.requests.FIRST_DEPTH", 1)
    with opened(tmp_path, TEXTS) as index:
        prefix = Prefix("p_test", 2, "", True, 1.0, 0.5, 30)
        version = version_of(index)
        axes = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)
        space = prefix_space(prefix)
        version.store.add_space(space)
        rows = version.store.vectors(list(version.store.ids()))
        short = shorten(np.stack(list(rows.values())), prefix, axes)
        poor = {id_: row if said_of(index, id_) != "n00" else -row for id_, row in zip(rows, short, strict=True)}
        version.store.set_sides(space, poor)
        index._opened.catalog.update(replace(version.record, prefix=prefix))
        recipe = replace(DENSE, depth=20)
        why = index.why_not(QUERY, "n00", 5, recipe=recipe)
        assert why.stage == "first pass"
        assert why.score == pytest.approx(0.90)
        assert why.needed is not None
        assert why.needed < 0.90
        assert "first_pass=False" in why.sentence
        assert index.why_not(QUERY, "n00", 5, recipe=replace(recipe, first_pass=False)).stage == "found"


def said_of(index: Index, id_: Any) -> str:
    payload: dict[str, Any] = version_of(index).store.payloads([id_])[id_]
    return str(payload["document_id"])


def test_calibrated_fusion_does_not_mistake_what_a_leg_tells_for_a_candidate(tmp_path: Path) -> None:
    """Its lexical leg tells of 400, of which so many as the depth are candidates."""
    texts = {f"n{n:02}": f"d{90 - n} " + " ".join(["alpha"] * (9 - n % 9)) for n in range(30)}
    with opened(tmp_path, texts) as index:
        recipe = SearchRecipe(fusion="calibrated", depth=2)
        assert index.why_not("alpha", "n16", 2, recipe=recipe).stage == "legs"


# --- the rankings -----------------------------------------------------------------------------------------------------
def test_fused(tmp_path: Path) -> None:
    texts = {f"n{n:02}": f"d{90 - n} alpha" + " x" * n for n in range(12)}
    with opened(tmp_path, texts) as index:
        hits = index.search("alpha", 12, recipe=PLAIN)
        assert [hit.document_id for hit in hits] == sorted(texts)
        why = index.why_not("alpha", "n09", 4, recipe=PLAIN)
        assert (why.stage, why.rank) == ("fused", 10)
        assert why.score == pytest.approx(hits[9].score)
        assert why.needed == pytest.approx(hits[3].score)
        assert f"{hits[3].score - hits[9].score:.4f} short of the last hit" in why.sentence
        assert "rank 10 of 12" in why.sentence


def test_min_score(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        plain = SearchRecipe(mode="dense", fusion="calibrated", min_score=-1.0)
        hits = index.search(QUERY, 30, recipe=plain)
        least = (hits[2].score + hits[3].score) / 2
        recipe = replace(plain, min_score=least)
        assert len(index.search(QUERY, 30, recipe=recipe)) == 3
        why = index.why_not(QUERY, "n05", 30, recipe=recipe)
        assert (why.stage, why.rank, why.needed) == ("min_score", 6, least)
        assert why.score == pytest.approx(hits[5].score)
        assert index.why_not(QUERY, "n02", 30, recipe=recipe).stage == "found"


def test_late(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS, late=True) as index:
        recipe = DENSE
        why = index.why_not(QUERY, "n00", 3, recipe=recipe)
        assert (why.stage, why.rank) == ("late", 10)
        assert why.score == pytest.approx(0.00)
        assert why.needed == pytest.approx(0.07), "n09, n08 and n07 are the hits"
        assert index.why_not(QUERY, "n08", 3, recipe=recipe).rank == 2


def test_fused_where_the_late_stage_did_not_look_so_deep(tmp_path: Path) -> None:
    """Late interaction orders the first `depth` of the fused ranking; a candidate beyond them is lost before."""
    texts = {f"n{n:02}": f"d{90 - n} l{10 + n}" for n in range(10)}
    texts |= {f"w{n:02}": f"d{40 - n} l{60 + n} " + "alpha " * (9 - n) for n in range(10)}
    with opened(tmp_path, texts, late=True) as index:
        recipe = replace(PLAIN, depth=6)
        hits = index.search("alpha", 3, recipe=recipe)
        assert [hit.document_id for hit in hits] == ["w02", "w01", "w00"]
        least = index.search("alpha", 3, recipe=replace(recipe, late=False)).explain()
        assert [one.document_id for one in least][:2] == ["w00", "w01"], "the fused ranking has other hits"
        why = index.why_not("alpha", "n05", 3, recipe=recipe)
        assert (why.stage, why.rank) == ("fused", 11)
        assert "not among the 6 that 'late' looked at" in why.sentence


def test_rerank(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        recipe = replace(DENSE, rerankers=(RerankStep(Said(), 8),))
        why = index.why_not(QUERY, "n00", 3, recipe=recipe)
        assert (why.stage, why.rank) == ("rerank", 8)
        assert (why.score, why.needed) == (0.0, pytest.approx(0.05))
        assert "rerank: said" in why.sentence
        below = index.why_not(QUERY, "n09", 3, recipe=recipe)
        assert (below.stage, below.rank) == ("fused", 10), "it was not read by the reranker"
        assert below.score == pytest.approx(0.81)


def test_what_is_needed_is_on_the_scale_of_the_stage(tmp_path: Path) -> None:
    with opened(tmp_path, TEXTS) as index:
        recipe = replace(DENSE, rerankers=(RerankStep(Said(), 8),))
        below = index.why_not(QUERY, "n09", 3, recipe=recipe)
        assert below.stage == "fused"
        assert below.needed == pytest.approx(0.83), "the fused score of the last that the reranker read"


def test_diversity(tmp_path: Path) -> None:
    texts = {"n00": "d90 a0", "n01": "d89 a0", "n02": "d88 a0", "n03": "d60 a100", "n04": "d20 a50"}
    with opened(tmp_path, texts) as index:
        recipe = replace(DENSE, diversity=0.6)
        hits = [hit.document_id for hit in index.search(QUERY, 2, recipe=recipe)]
        assert hits == ["n00", "n03"]
        why = index.why_not(QUERY, "n01", 2, recipe=recipe)
        assert (why.stage, why.rank) == ("diversity", 2)
        assert why.score == pytest.approx(0.89)
        assert index.why_not(QUERY, "n03", 2, recipe=recipe).rank == 2


def test_per_document_never_loses_the_best_passage_of_a_document(tmp_path: Path) -> None:
    """It only takes the others' places: so a document can come to be found by it, and is not lost to it."""
    recipe = IndexRecipe(language="neutral", chunk_tokens=16)
    paragraphs = "\n\n".join(f"d{90 - n} " + f"alpha w{n} " * 6 for n in range(6))
    with Index.open(tmp_path / "i", recipe=recipe, encoder=Dense()) as index:
        index.sync([Document("long", paragraphs), Document("short", "d50 alpha")])
        plain = replace(DENSE, depth=100)
        assert len(version_of(index).ledger.chunks("long")) >= 5
        assert index.why_not(QUERY, "short", 2, recipe=plain).stage == "fused"
        assert index.why_not(QUERY, "short", 2, recipe=replace(plain, per_document=1)).stage == "found"


# --- every document ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fusion", "late"),
    [
        ("dbsf", False),
        ("rrf", False),
        ("convex", False),
        ("calibrated", False),
        ("dbsf", True),
        ("calibrated", True),
    ],
)
def test_every_document_has_an_answer_that_fits_the_search(tmp_path: Path, fusion: Any, late: bool) -> None:
    """Found if and only if it is a hit; a rank that is beyond k; a score that is not enough."""
    texts = {f"n{n:02}": f"d{90 - 2 * n} s{n} l{(37 * n) % 60} " + "alpha " * (n % 4) for n in range(40)}
    with opened(tmp_path, texts, sparse=True, late=late) as index:
        for depth, k in ((3, 2), (12, 5), (100, 5)):
            recipe = SearchRecipe(fusion=fusion, depth=depth)
            hits = {hit.document_id: hit for hit in index.search("alpha", k, recipe=recipe)}
            for document in texts:
                why = index.why_not("alpha", document, k, recipe=recipe)
                assert (why.stage == "found") == (document in hits), why
                if why.stage in ("fused", "late"):
                    assert why.rank is not None
                    assert why.rank > k, why
                elif why.stage == "legs":
                    assert why.rank is None
                    assert why.score is None or (why.needed is not None and why.score < why.needed)
                else:
                    assert why.stage == "found", why
