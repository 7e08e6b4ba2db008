"""Late interaction as a reranker, on a tiny ColBERT, against MaxSim in slow and obvious code."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_rerankers import TOPICS, make_colbert

from tarragon.encoders.side_loading import load_late
from tarragon.errors import RerankingFailed
from tarragon.identity import fingerprint
from tarragon.protocols import LateEmbeddings, LateEncoder
from tarragon.rerankers import load_reranker
from tarragon.rerankers.late_interaction import LateInteractionReranker, mean_max_sim

WORDS = [*(word for topic in TOPICS for word in topic), "größe", "漢字"]
PASSAGES = ["login", *(" ".join(random.Random(n).choices(WORDS, k=n)) for n in range(1, 60, 9))]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colbert(tmp_path_factory.mktemp("colbert"))


@pytest.fixture(scope="session")
def encoder(folder: Path) -> LateEncoder:
    return load_late(str(folder), "cpu")


class Counting:
    """An encoder that notes what it embeds."""

    def __init__(self, encoder: LateEncoder) -> None:
        self._encoder = encoder
        self.embedded: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        self.embedded.extend(texts)
        return self._encoder.encode_documents(texts)


def obvious(encoder: LateEncoder, query: str, passage: str) -> float:
    asked = encoder.encode_queries([query]).vectors[0]
    told = encoder.encode_documents([passage]).vectors[0]
    return float(np.mean([max(float(first @ second) for second in told) for first in asked]))


def test_scores_are_max_sim_by_the_questions_vectors(encoder: LateEncoder) -> None:
    result = LateInteractionReranker(encoder).score("sign slow 漢字", PASSAGES)
    expected = [obvious(encoder, "sign slow 漢字", passage) for passage in PASSAGES]
    assert np.allclose(result.scores, expected, atol=1e-5)
    assert np.ptp(expected) > 0.05
    assert max(expected) <= 1
    assert result.tokens > len(PASSAGES)


def test_the_formula_on_numbers() -> None:
    question = np.array([[1, 0], [0, 1]], dtype=np.float32)
    passages = [np.array([[0.5, 0], [0.25, -1]]), np.array([[0, 0.125]]), np.array([[-1, -1]])]
    assert mean_max_sim(question, [np.asarray(rows, dtype=np.float32) for rows in passages]) == [0.25, 0.0625, -1]


def test_it_lifts_the_passage_with_the_questions_words(folder: Path) -> None:
    reranker = load_reranker(f"late:{folder}", "cpu")
    passages = ["price cost cheap", "traceback exception", "slow sign login", "cache index"]
    scores = reranker.score("sign login", passages).scores
    assert max(range(4), key=lambda place: scores[place] or -1) == 2


def test_a_passage_is_embedded_once(encoder: LateEncoder) -> None:
    counting = Counting(encoder)
    reranker = LateInteractionReranker(counting)
    first = reranker.score("sign", PASSAGES).scores
    assert sorted(counting.embedded) == sorted(set(PASSAGES))
    assert reranker.score("sign", [*PASSAGES[::-1], "new one"]).scores[:-1] == pytest.approx(first[::-1], abs=1e-5)
    assert counting.embedded[len(set(PASSAGES)) :] == ["new one"]
    forgetful = LateInteractionReranker(counting, memo_bytes=0)
    assert forgetful.score("sign", PASSAGES).scores == pytest.approx(first, abs=1e-5)


def test_before_a_deadline_the_first_are_scored(encoder: LateEncoder) -> None:
    counting = Counting(encoder)
    reranker = LateInteractionReranker(counting)
    passages = [f"{passage} " * 40 for passage in PASSAGES]
    answers = iter([False, False, True])  # the first is asked before the question is embedded
    part = reranker.score("sign", passages, is_over=lambda: next(answers)).scores
    scored = [score for score in part if score is not None]
    assert 0 < len(scored) < len(passages)
    assert set(counting.embedded) == set(passages[: len(scored)])
    assert part[: len(scored)] == scored
    assert reranker.score("sign", passages, is_over=lambda: True).scores == [None] * len(passages)
    assert reranker.score("sign", []).scores == []


def test_its_identity_is_the_encoders(encoder: LateEncoder) -> None:
    identity = LateInteractionReranker(encoder).identity
    assert fingerprint(identity) != fingerprint(encoder.identity)
    assert {**identity, "kind": encoder.identity["kind"]} == encoder.identity


def test_whatever_goes_wrong_is_a_failed_reranking(encoder: LateEncoder) -> None:
    with pytest.raises(RerankingFailed, match="cannot score"):
        LateInteractionReranker(encoder).score("\ud800", ["a lone surrogate is no text for the tokenizer"])
