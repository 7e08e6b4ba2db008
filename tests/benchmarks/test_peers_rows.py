"""The rows against peers, at sizes that show nothing but that they run and that their checks can fail."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bm25, cold, first_pass, frameworks, hybrid, slope
from benchmarks.lexical_peers import Ours, RankBm25
from benchmarks.passages import chunked, documents
from benchmarks.synthetic import Cloud
from tarragon.chunking import Chunker
from tarragon.testing import WordTokenizer

SUBJECTS = ("rivers", "engines", "lanterns", "gardens", "bridges", "violins", "glaciers", "harbours")

COMMON = [f"{first}{second}{third}ond" for first in "bdfgkl" for second in "aeiou" for third in "mnprs"]
"""No two of them begin alike: forms of one word would not tell what a word weighs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set: each page is of one subject, whose words no other page has."""
    folder = tmp_path_factory.mktemp("data")
    chance = np.random.default_rng(0)
    pages = []
    for number in range(24):
        subject = SUBJECTS[number % len(SUBJECTS)]
        words = [f"{subject}{letter}" for letter in "abcdefgh"] + COMMON
        drawn = [" ".join(chance.choice(words, chance.integers(5, 14))) for _ in range(8)]
        sentences = [f"{sentence} page{number:02} {subject}." for sentence in drawn]
        pages.append({"_id": str(number), "title": "", "text": " ".join(sentences)})
    queries = [{"_id": subject, "text": f"what about {subject} and {subject}a"} for subject in SUBJECTS]
    for name, rows in (("corpus", pages), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


def options(data: Path, **more: Any) -> argparse.Namespace:
    given = {
        "sources": [data / "corpus.jsonl"],
        "source": data / "corpus.jsonl",
        "queries": [data / "queries.jsonl"],
        "count": 6,
        "chunks": 40,
        "chunk_tokens": 64,
        "keep": None,
        "repeats": 1,
        "peers": [],
        "model": None,
        "device": "cpu",
    }
    return argparse.Namespace(**{**given, **more})


# --- what is searched -------------------------------------------------------------------------------------------------
def test_real_documents_come_first_and_made_up_ones_have_their_words(data: Path) -> None:
    sources = [data / "corpus.jsonl"]
    kept, chunks, made_up = chunked(sources, Chunker(WordTokenizer(), 64), 200)
    assert len(chunks) == len({chunk.hash for chunk in chunks}) == 200
    assert 0 < made_up < 200
    assert [one.id.startswith("made-up/") for one in kept] == [False] * 24 + [True] * (len(kept) - 24)
    known = {word for one in kept[:24] for word in one.text.split()}
    assert all(known.issuperset(one.text.split()) for one in kept[24:])
    again = documents(sources)
    assert [next(again) for _ in kept] == kept


def test_clouds_are_uneven_and_queries_lie_near_their_rows() -> None:
    cloud = Cloud(32, subjects=20)
    rows = cloud.members(2_000)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    variances = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert variances[:8].sum() > 0.5 * variances.sum(), "of 32"
    queries = cloud.near(rows[:50])
    assert (queries * rows[:50]).sum(axis=1).mean() > 0.7 > float((queries @ rows.T).mean())
    np.testing.assert_array_equal(Cloud(32, subjects=20).members(2_000), rows)


# --- rows -------------------------------------------------------------------------------------------------------------
def test_bm25(data: Path, tmp_path: Path) -> None:
    result = bm25.measure(options(data, peers=["rank_bm25"]), tmp_path)
    assert set(result["queries_per_second"]) == {Ours.name, bm25.WHOLE, RankBm25.name}
    assert result["checks"]["engine"] < bm25.MOST_DEVIATION["engine"]
    assert not bm25.failures(result)
    assert RankBm25.name in bm25.render(result)
    result["checks"]["bm25s"] = 0.5
    assert bm25.failures(result) == ["scores of bm25s are off by 50.00%"]


class Deaf(Ours):
    """Never takes anything in after it was built."""

    def replace(self, *_: Any) -> None:
        """Does nothing."""


def test_an_index_that_answers_wrongly_after_an_update_has_no_row(tmp_path: Path) -> None:
    texts = [f"word{number} common" for number in range(30)]
    deaf = Deaf(tmp_path)
    deaf.build(texts)
    with pytest.raises((SystemExit, ValueError)):
        bm25._updates([deaf], texts, 1)


def test_hybrid(data: Path, tmp_path: Path) -> None:
    result = hybrid.measure(options(data, peer_chunks=20), tmp_path)
    assert set(result["sides"]) == {hybrid.OURS}
    assert not hybrid.failures(result)
    assert "beyond" in hybrid.render(result)
    result["checks"]["a peer"] = 0.1
    assert len(hybrid.failures(result)) == 1


def test_first_pass(tmp_path: Path) -> None:
    given = argparse.Namespace(chunks=300, dimensions=16, queries=10, peers=[], repeats=1, first_pass=None)
    result = first_pass.measure(given, tmp_path)
    assert {first_pass.OURS, first_pass.WITHOUT, first_pass.DEFAULT} < set(result["recall"])
    assert min(result["recall"].values()) == 1, "scans, at this size"
    assert not first_pass.failures(result)
    assert "recall@10" in first_pass.render(result)
    result["recall"][first_pass.OURS] = 0.9
    assert first_pass.failures(result) == [f"recall of {first_pass.OURS} is 0.900"]


def test_cold(data: Path, tmp_path: Path) -> None:
    result = cold.measure(options(data), tmp_path)
    assert not cold.failures(result)
    assert all(result["seconds"][step]["min"] > 0 for step in cold.STEPS)
    assert result["resident"]["median"] > result["numpy_resident"]["median"]
    assert "import" in cold.render(result)
    assert len(cold.failures({**result, "heavy": ["torch"], "same_hits": False})) == 2


def test_slope(tmp_path: Path) -> None:
    result = slope.measure([20, 40], 1, tmp_path)
    assert set(result["slope"]) == set(slope.KINDS)
    assert result["allowed"] == pytest.approx(2.2)
    assert "last / first" in slope.render(result)


def test_frameworks(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("langchain_classic")
    pytest.importorskip("llama_index.vector_stores.qdrant")
    result = frameworks.measure(options(data, chunks=20, peer_chunks=10, large_repeats=1), tmp_path)
    assert result["found"] == {frameworks.OURS: 1.0}
    assert not frameworks.failures(result)
    assert frameworks.OURS in frameworks.render(result)
    assert len(frameworks.failures({**result, "found": {"a peer": 0.5}})) == 1
