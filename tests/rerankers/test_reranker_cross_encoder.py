"""The cross-encoder against ``CrossEncoder.predict`` itself, on tiny models of several architectures."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from tiny_rerankers import TOPICS, make_bert, make_chat, make_roberta, train_until_sure

from tarragon.errors import DeviceUnavailable, ModelNotFound, RerankingFailed
from tarragon.identity import fingerprint
from tarragon.rerankers.cross_encoder import SentenceTransformerReranker
from tarragon.reranking import Step, rerank

OTHERS = ["the", "of", "[SEP]", "größe", "漢字", "مرحبا", "🙂", "f(x)", "def"]
WORDS = [*OTHERS, *(word for topic in TOPICS for word in topic)]
QUERY = "sign login, [MASK] größe?"
PASSAGES = [
    "",
    " \n ",
    "word",
    "漢字とかな مرحبا",
    "x" * 300,
    *(" ".join(random.Random(n).choices(WORDS, k=n)) for n in range(1, 120, 13)),
]


@pytest.fixture(scope="session")
def trained(cross_encoder: Path) -> SentenceTransformerReranker:
    return SentenceTransformerReranker(str(cross_encoder), device="cpu")


def library(folder: Path) -> CrossEncoder:
    model = CrossEncoder(str(folder), device="cpu")
    model.max_seq_length = min(model.max_seq_length, 64)
    return model


def predicted(model: CrossEncoder, query: str = QUERY) -> list[float]:
    return model.predict([(query, passage) for passage in PASSAGES], batch_size=4).tolist()


@pytest.mark.parametrize(
    ("make", "takes_ids"),
    [
        (make_bert, True),
        (make_roberta, True),
        (make_chat, False),
        (lambda folder: make_bert(folder, truncation_side="left"), True),
        (lambda folder: make_roberta(folder, model_max_length=10**30), True),
        (lambda folder: make_bert(folder, activation="torch.nn.modules.linear.Identity"), True),
    ],
    ids=["bert", "roberta", "chat", "cut left", "no limit", "logits"],
)
def test_scores_are_the_librarys_own(tmp_path: Path, make: Callable[[Path], Path], takes_ids: bool) -> None:
    folder = make(tmp_path / "model")
    reranker = SentenceTransformerReranker(str(folder), device="cpu")
    assert reranker.takes_ids is takes_ids
    reference = library(folder)
    for query in (QUERY, "", "sign " * 200):
        assert np.allclose(reranker.score(query, PASSAGES).scores, predicted(reference, query), atol=1e-5, rtol=1e-5)


def test_the_trained_models_scores_and_counts(cross_encoder: Path, trained: SentenceTransformerReranker) -> None:
    result = trained.score(QUERY, PASSAGES)
    assert np.allclose(result.scores, predicted(library(cross_encoder)), atol=1e-5)
    assert np.ptp(result.scores) > 0.01  # so that equality to 1e-5 says something
    tokenizer = CrossEncoder(str(cross_encoder), device="cpu").tokenizer
    lengths = [len(row) for row in tokenizer([QUERY] * len(PASSAGES), PASSAGES, verbose=False)["input_ids"]]
    assert result.tokens == sum(min(length, 64) for length in lengths)
    assert result.truncated == sum(max(0, length - 64) for length in lengths) > 100


def test_it_lifts_the_answer_that_shares_no_word_with_the_question(tmp_path: Path) -> None:
    trained = SentenceTransformerReranker(str(train_until_sure(make_bert(tmp_path / "raw"), tmp_path / "sure")))
    for asked, told in TOPICS.items():
        others = [" ".join(words) for topic, words in TOPICS.items() if topic != asked]
        passages = [*others, " ".join(asked), " ".join(told)]  # the answer last, behind the question's own words
        ids = [UUID(int=place) for place in range(len(passages))]
        ranking = [(id_, -float(place)) for place, id_ in enumerate(ids)]
        result = rerank(" ".join(asked[:2]), ranking, dict(zip(ids, passages, strict=True)), [Step(trained, 10)])
        assert result.ranking[0][0] == ids[-1]
        assert result.degraded == ()


def test_a_score_does_not_depend_on_the_batch(cross_encoder: Path) -> None:
    alone = SentenceTransformerReranker(str(cross_encoder), device="cpu", token_budget=1).score(QUERY, PASSAGES).scores
    for budget in (200, 100_000):
        other = SentenceTransformerReranker(str(cross_encoder), device="cpu", token_budget=budget)
        shuffled = random.Random(budget).sample(range(len(PASSAGES)), len(PASSAGES))
        scores = other.score(QUERY, [PASSAGES[place] for place in shuffled]).scores
        assert np.allclose(scores, [alone[place] for place in shuffled], atol=1e-5)


def test_half_precision_is_another_model_with_nearly_the_same_scores(
    cross_encoder: Path, trained: SentenceTransformerReranker
) -> None:
    half = SentenceTransformerReranker(str(cross_encoder), device="cpu", dtype="bfloat16")
    exact = trained.score(QUERY, PASSAGES).scores
    assert np.allclose(half.score(QUERY, PASSAGES).scores, exact, atol=0.1)
    assert half.score(QUERY, PASSAGES).scores != exact
    assert fingerprint(half.identity) != fingerprint(trained.identity)


def test_before_a_deadline_the_first_are_scored_as_ever(cross_encoder: Path) -> None:
    reranker = SentenceTransformerReranker(str(cross_encoder), device="cpu", token_budget=128)
    whole = reranker.score(QUERY, PASSAGES)
    answers = iter([False, False, False, True])
    part = reranker.score(QUERY, PASSAGES, is_over=lambda: next(answers))
    scored = [score for score in part.scores if score is not None]
    assert 3 <= len(scored) < len(PASSAGES)
    assert part.scores == [*scored, *[None] * (len(PASSAGES) - len(scored))]
    assert np.allclose(scored, whole.scores[: len(scored)], atol=1e-5)
    assert 0 < part.tokens < whole.tokens
    assert reranker.score(QUERY, PASSAGES, is_over=lambda: True).scores == [None] * len(PASSAGES)
    everything = reranker.score(QUERY, PASSAGES, is_over=lambda: False)
    assert np.allclose(everything.scores, whole.scores, atol=1e-5)


def test_a_prompt_of_the_model_is_used_as_the_library_uses_it(tmp_path: Path, cross_encoder: Path) -> None:
    model = CrossEncoder(str(cross_encoder), device="cpu", prompts={"ask": "price cost"}, default_prompt_name="ask")
    model.save_pretrained(str(tmp_path / "prompted"))
    reranker = SentenceTransformerReranker(str(tmp_path / "prompted"), device="cpu")
    assert reranker.takes_ids
    scores = reranker.score(QUERY, PASSAGES).scores
    assert np.allclose(scores, predicted(library(tmp_path / "prompted")), atol=1e-5)
    plain = SentenceTransformerReranker(str(cross_encoder), device="cpu")
    assert not np.allclose(scores, plain.score(QUERY, PASSAGES).scores, rtol=0, atol=1e-4)
    assert fingerprint(reranker.identity) != fingerprint(plain.identity)


def test_no_passages(trained: SentenceTransformerReranker) -> None:
    assert list(trained.score("question", []).scores) == []


def test_its_identity_follows_weights_and_activation(tmp_path: Path, trained: SentenceTransformerReranker) -> None:
    made = [
        make_bert(tmp_path / "a"),
        make_bert(tmp_path / "same"),
        make_bert(tmp_path / "logits", activation="torch.nn.modules.linear.Identity"),
        make_bert(tmp_path / "short", model_max_length=32),
    ]
    prints = [fingerprint(SentenceTransformerReranker(str(folder), device="cpu").identity) for folder in made]
    assert prints[0] == prints[1]
    assert len({*prints, fingerprint(trained.identity)}) == 4


@pytest.mark.parametrize(
    ("labels", "said"), [(3, "3 labels"), (0, "embedding model")], ids=["classifier", "embedding model"]
)
def test_a_model_that_gives_no_score_is_refused(tmp_path: Path, labels: int, said: str) -> None:
    with pytest.raises(ModelNotFound, match=said):
        SentenceTransformerReranker(str(make_bert(tmp_path / "model", labels=labels)), device="cpu")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="safetensors"):
        SentenceTransformerReranker(str(folder), device="cpu")


def test_a_missing_model_and_device_are_told(tmp_path: Path, cross_encoder: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        SentenceTransformerReranker(str(tmp_path / "nowhere"), device="cpu")
    with pytest.raises(DeviceUnavailable, match="cuda:17"):
        SentenceTransformerReranker(str(cross_encoder), device="cuda:17")


def test_whatever_goes_wrong_is_a_failed_reranking(cross_encoder: Path) -> None:
    reranker = SentenceTransformerReranker(str(cross_encoder), device="cpu")
    with pytest.raises(RerankingFailed, match=r"UnicodeEncodeError|TypeError"):
        reranker.score("\ud800", ["a lone surrogate is no text for the tokenizer"])
