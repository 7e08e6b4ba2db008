"""The adapter on a hand-written ONNX model, against the same model in NumPy and against fastembed's own ``rerank``."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from fastembed.rerank.cross_encoder import TextCrossEncoder
from tiny_onnx_reranker import cut, make_folder, scores
from tiny_rerankers import TOPICS

from tarragon.errors import DeviceUnavailable, ModelNotFound, RerankingFailed
from tarragon.identity import fingerprint
from tarragon.rerankers import load_reranker
from tarragon.rerankers.fastembed_reranker import FastembedReranker, _register

WORDS = [*(word for topic in TOPICS for word in topic), "größe", "漢字", "🙂"]
PASSAGES = ["", "login", *(" ".join(random.Random(n).choices(WORDS, k=n)) for n in range(1, 120, 9))]
QUERY = "sign login slow größe"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("onnx") / "model")


@pytest.fixture(scope="session")
def reranker(folder: Path) -> FastembedReranker:
    return FastembedReranker(str(folder), device="cpu")


def test_scores_are_the_models_in_the_order_of_the_passages(folder: Path, reranker: FastembedReranker) -> None:
    result = reranker.score(QUERY, PASSAGES)
    assert np.allclose(result.scores, scores(QUERY, PASSAGES), atol=1e-4)
    theirs = TextCrossEncoder(_register(folder.resolve()), specific_model_path=str(folder)).rerank(QUERY, PASSAGES)
    assert np.allclose(result.scores, list(theirs), atol=1e-4)
    assert np.ptp(result.scores) > 1
    assert result.tokens == sum(len(cut(QUERY, passage)[0]) for passage in PASSAGES)
    assert result.truncated > 100


def test_the_passage_that_shares_most_words_comes_first(reranker: FastembedReranker) -> None:
    passages = ["price cost", "traceback login", "login slow sign", "cache"]
    made = reranker.score("sign login slow", passages).scores
    assert max(range(4), key=lambda place: made[place] or 0) == 2


@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_a_score_does_not_depend_on_the_batch(folder: Path, reranker: FastembedReranker, budget: int) -> None:
    alone = [reranker.score(QUERY, [passage]).scores[0] for passage in PASSAGES]
    other = FastembedReranker(str(folder), device="cpu", token_budget=budget)
    assert np.allclose(other.score(QUERY, PASSAGES).scores, alone, atol=1e-5)


def test_before_a_deadline_the_first_are_scored(folder: Path, reranker: FastembedReranker) -> None:
    answers = iter([False, False, True])
    part = FastembedReranker(str(folder), device="cpu", token_budget=64).score(
        QUERY, PASSAGES, is_over=lambda: next(answers)
    )
    scored = [score for score in part.scores if score is not None]
    assert 2 <= len(scored) < len(PASSAGES)
    assert part.scores[: len(scored)] == scored
    assert np.allclose(scored, scores(QUERY, PASSAGES)[: len(scored)], atol=1e-4)


def test_a_folder_can_be_named_twice_and_hold_its_model_elsewhere(tmp_path: Path, reranker: FastembedReranker) -> None:
    made = make_folder(tmp_path / "other", file="onnx/model.onnx")
    first, second = load_reranker(f"fastembed:{made}", "cpu"), load_reranker(f"fastembed:{made}", "cpu")
    assert first.score("sign", ["sign", "slow"]).scores == second.score("sign", ["sign", "slow"]).scores
    assert fingerprint(first.identity) == fingerprint(reranker.identity)


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="3 labels"):
        FastembedReranker(str(make_folder(tmp_path / "model", labels=3)), device="cpu")


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nobody/nothing"):
        load_reranker("fastembed:nobody/nothing", "cpu")
    with pytest.raises(ModelNotFound, match=r"model\.onnx"):
        load_reranker(f"fastembed:{tmp_path}", "cpu")
    broken = make_folder(tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json"):
        load_reranker(f"fastembed:{broken}", "cpu")


def test_a_device_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="tpu"):
        FastembedReranker(str(folder), device="tpu")


def test_whatever_goes_wrong_is_a_failed_reranking(reranker: FastembedReranker) -> None:
    with pytest.raises(RerankingFailed, match="fastembed:"):
        reranker.score("\ud800", ["a lone surrogate is no text for the tokenizer"])
