"""Encoders behind HTTP against a real server over a real model: the vectors are the model's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import ModelServer, Reply, expected, running

from tarragon import Document, Index
from tarragon.encoders import http
from tarragon.encoders.http import HttpEncoder
from tarragon.encoders.http_client import HttpModel
from tarragon.encoders.http_openai import EstimatingTokenizer, cut_to, openai_encoder
from tarragon.encoders.http_tei import tei_encoder
from tarragon.errors import EncoderDrift, EncodingFailed, ModelNotFound, ModelUnavailable
from tarragon.identity import fingerprint
from tarragon.protocols import EncoderInput
from tarragon.testing import check_encoder

TEXTS = [f"text {n} about keys, doors and houses, " + "more words " * (n % 7) for n in range(40)]
Connect = Callable[..., HttpEncoder]


def inputs(texts: list[str]) -> list[EncoderInput]:
    return [EncoderInput(text) for text in texts]


@pytest.fixture
def server() -> Iterator[tuple[ModelServer, str]]:
    with running() as started:
        yield started


def openai(url: str, **settings: Any) -> HttpEncoder:
    client = HttpModel(f"{url}/v1", tries=3, sleep=settings.pop("sleep", lambda _: None))
    return openai_encoder(settings.pop("model", "words"), client, **settings)


def tei(url: str, **settings: Any) -> HttpEncoder:
    return tei_encoder(HttpModel(url, tries=3, sleep=settings.pop("sleep", lambda _: None)), **settings)


both = pytest.mark.parametrize("connect", [openai, tei])


@both
def test_the_encoder_keeps_its_contract(server: tuple[ModelServer, str], connect: Connect) -> None:
    encoder = connect(server[1])
    check_encoder(encoder)
    assert (encoder.name, encoder.device, encoder.dimensions) == ("words", "remote", 32)


@both
@pytest.mark.parametrize("size", [None, 8])
def test_vectors_are_the_models_own_as_unit_vectors(
    server: tuple[ModelServer, str], connect: Connect, size: int | None
) -> None:
    vectors = connect(server[1], dimensions=size).encode_documents(inputs(TEXTS)).vectors
    assert vectors.dtype == np.float32
    assert np.allclose(vectors, expected(TEXTS, size or 32), atol=1e-6)


@both
def test_several_requests_at_once_keep_the_order(server: tuple[ModelServer, str], connect: Connect) -> None:
    model, url = server
    model.batch, model.jitter = 3, 0.03
    encoder = connect(url)
    if connect is openai:
        encoder._server.batch_texts = 3  # type: ignore[misc]
    model.most_at_once = 0
    result = encoder.encode_documents(inputs(TEXTS))
    assert np.allclose(result.vectors, expected(TEXTS), atol=1e-6)
    assert 2 <= model.most_at_once <= http.CONCURRENCY


def test_batches_are_bounded_in_tokens_and_hold_texts_of_like_length(
    server: tuple[ModelServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, url = server
    monkeypatch.setattr(http, "BATCH_TOKENS", 100)
    encoder = openai(url)
    texts = ["word " * n for n in (1, 90, 2, 200, 3, 40, 4, 45)]
    assert np.allclose(encoder.encode_documents(inputs(texts)).vectors, expected(texts), atol=1e-6)
    sizes = [[text.count("word") for text in body["input"]] for body in model.asked("/v1/embeddings")[1:]]
    assert sorted(sizes, reverse=True) == [[200], [90], [45, 40], [4, 3, 2, 1]]


@both
def test_a_busy_server_costs_time_and_nothing_else(server: tuple[ModelServer, str], connect: Connect) -> None:
    model, url = server
    waits: list[float] = []
    encoder = connect(url, sleep=waits.append)
    model.replies = [Reply(429, headers={"Retry-After": "3"}), Reply(503)]
    assert np.allclose(encoder.encode_queries(["a key"]).vectors, expected(["a key"]), atol=1e-6)
    assert waits[0] == 3.0
    assert len(waits) == 2
    model.replies = [Reply(503)] * 3
    with pytest.raises(ModelUnavailable, match="3 times"):
        encoder.encode_queries(["a key"])


# --- prompts ----------------------------------------------------------------------------------------------------------
@both
def test_prompts_come_from_the_models_card_and_from_the_caller(connect: Connect) -> None:
    with running(model_id="intfloat/e5-base-v2") as (model, url):
        settings: dict[str, Any] = {"model": "intfloat/e5-base-v2"} if connect is openai else {}
        encoder = connect(url, **settings)
        mine = connect(url, document_prompt="mine: ", **settings)
        model.requests.clear()
        encoder.encode_documents(inputs(["text"]))
        encoder.encode_queries(["text"])
        encoder.encode_queries(["text"], prompt="other: ")
        mine.encode_documents(inputs(["text"]))
        path, name = ("/v1/embeddings", "input") if connect is openai else ("/embed", "inputs")
        assert [body[name][0] for body in model.asked(path)] == [
            "passage: text",
            "query: text",
            "other: text",
            "mine: text",
        ]
        assert encoder.max_tokens == (8_191 if connect is openai else 10_000 - 2) - (3 if connect is openai else 2)


@both
def test_an_empty_text_is_sent_as_a_blank(server: tuple[ModelServer, str], connect: Connect) -> None:
    vectors = connect(server[1]).encode_documents(inputs(["", "a key", " "])).vectors
    assert np.allclose(vectors, expected([" ", "a key", " "]), atol=1e-6)


# --- too much for the server ------------------------------------------------------------------------------------------
def test_a_batch_that_is_refused_is_halved(server: tuple[ModelServer, str]) -> None:
    model, url = server
    encoder = openai(url)
    model.batch = 7
    result = encoder.encode_documents(inputs(TEXTS))
    assert np.allclose(result.vectors, expected(TEXTS), atol=1e-6)
    assert [len(body["input"]) for body in model.asked("/v1/embeddings")[1:4]] == [40, 20, 10]
    assert result.truncated == 0


def test_a_long_text_is_cut_to_what_openai_takes_and_the_rest_counted(server: tuple[ModelServer, str]) -> None:
    model, url = server
    encoder = openai(url, max_tokens=80)
    texts = ["a key", "word " * 100, "a door"]
    result = encoder.encode_documents(inputs(texts))
    assert (result.truncated, result.tokens) == (20, 84)
    assert np.allclose(result.vectors, expected(["a key", "word " * 80, "a door"]), atol=1e-6)
    assert len(model.asked("/v1/embeddings")) == 2
    model.limit = 50  # fewer than the estimate says
    result = encoder.encode_documents(inputs(texts))
    assert np.allclose(result.vectors, expected(["a key", "word " * 45, "a door"]), atol=1e-6), "80 · ¾ · ¾"
    assert result.truncated == 55
    model.limit = 5
    with pytest.raises(EncodingFailed, match="16 tokens"):
        encoder.encode_documents(inputs(["word " * 100]))


def test_a_long_text_is_cut_by_tei_and_the_rest_counted_exactly() -> None:
    with running(limit=52) as (model, url):
        encoder = tei(url)
        assert encoder.max_tokens == 50
        long = "word, " * 60
        result = encoder.encode_documents(inputs(["a key", long, "a door"]))
        assert np.allclose(result.vectors, expected(["a key", "word, " * 25, "a door"]), atol=1e-6)
        assert result.truncated == 70
        assert [body["truncate"] for body in model.asked("/embed")[1:]].count(True) == 1
        assert tei(url, document_prompt="passage: ").max_tokens == 48


def test_tei_counts_tokens_in_batches_and_long_texts_in_pieces(server: tuple[ModelServer, str]) -> None:
    model, url = server
    model.batch = 5
    tokenizer = tei(url).tokenizer
    texts = ["", *TEXTS, "word, " * 20_000]
    ours = tokenizer.tokenize(texts)
    theirs = model.model.tokenizer.tokenize(texts)
    assert all(np.array_equal(a, b) for a, b in zip(ours[:-1], theirs[:-1], strict=True))
    assert 0 <= len(ours[-1]) - len(theirs[-1]) < 10, "a word at the end of a piece may be cut in two"
    assert max(len(body["inputs"]) for body in model.asked("/tokenize")) == 5


# --- what is wrong shows at once --------------------------------------------------------------------------------------
def test_a_model_that_is_not_there_or_makes_nothing_is_found_out_on_loading(server: tuple[ModelServer, str]) -> None:
    model, url = server
    with pytest.raises(ModelNotFound, match="`other` does not exist"):
        openai(url, model="other")
    with pytest.raises(ModelNotFound, match="dimensions=99"):
        openai(url, dimensions=99)
    model.replies = [Reply(200, {"data": [{"index": 0, "embedding": [0.0] * 32}]})]
    with pytest.raises(EncodingFailed, match="zeros"):
        openai(url)
    with pytest.raises(ModelNotFound, match="no room in 3 tokens"):
        openai(url, max_tokens=3, document_prompt="a very long prompt: ")


@pytest.mark.parametrize("model_type", [{"reranker": {"id2label": {}}}, None, {"embedding": {}}])
def test_a_tei_server_without_an_embedding_model_is_refused(model_type: Any) -> None:
    with running(model_type=model_type) as (_, url), pytest.raises(ModelNotFound, match="embedding model"):
        tei(url)


def test_texts_that_a_server_refuses_are_told_from_a_server_that_refuses(server: tuple[ModelServer, str]) -> None:
    model, url = server
    encoder = openai(url)
    model.replies = [Reply(400, {"error": {"message": "policy"}})]
    with pytest.raises(EncodingFailed, match="policy"):
        encoder.encode_documents(inputs(["one", "two"]))
    model.replies = [Reply(401)]
    with pytest.raises(ModelUnavailable, match="key"):
        encoder.encode_documents(inputs(["one", "two"]))


# --- identity ---------------------------------------------------------------------------------------------------------
def test_the_identity_is_what_the_server_says_and_what_is_asked_of_it() -> None:
    with running() as (model, url), running() as (_, elsewhere):
        prints = {
            fingerprint(encoder.identity)
            for encoder in (openai(url), openai(url, dimensions=8), openai(url, document_prompt="d: "), tei(url))
        }
        assert len(prints) == 4
        known = fingerprint(tei(url).identity)
        assert {known, fingerprint(openai(url).identity)} <= prints
        assert fingerprint(tei(elsewhere).identity) == known, "servers move"
        model.model_sha = "4567"
        assert fingerprint(tei(url).identity) != known
        assert tei(url).identity["revision"] == "4567"
        model.model_sha = None
        assert tei(url).identity["revision"] == ""


# --- in an index ------------------------------------------------------------------------------------------------------
@both
def test_an_index_over_a_server_and_what_the_canaries_say_of_another_model(
    server: tuple[ModelServer, str], connect: Connect, tmp_path: Path
) -> None:
    model, url = server
    documents = [
        Document(f"{n}.md", f"# Title {n}\n\nThe {word} is described here.") for n, word in enumerate(["key", "door"])
    ]
    with Index.open(tmp_path / "i.tarragon", encoder=connect(url)) as index:
        model.replies = [Reply(503), Reply(429)]
        index.sync(documents)
        assert index.search("key", mode="dense", k=1)[0].document_id == "0.md"
    model.model._salt = "another model under the same name"
    with Index.open(tmp_path / "i.tarragon", encoder=connect(url)) as index, pytest.raises(EncoderDrift):
        index.sync([*documents, Document("2.md", "A house.")])


def test_a_passage_that_the_server_refuses_is_left_out_and_the_others_stay(
    server: tuple[ModelServer, str], tmp_path: Path
) -> None:
    model, url = server
    real = model._openai

    def picky(body: Any) -> Any:
        from model_server import Refusal

        if any("poison" in text for text in body["input"]):
            raise Refusal(400, {"error": {"message": "content policy"}})
        return real(body)

    model._routes = {**model._routes, "/v1/embeddings": lambda _, body: picky(body)}
    with Index.open(tmp_path / "i.tarragon", encoder=openai(url)) as index:
        index.sync([Document("a", "a key"), Document("b", "poison"), Document("c", "a door")])
        assert {hit.document_id for hit in index.search("a door", k=5, mode="dense")} == {"a", "c"}


# --- estimating -------------------------------------------------------------------------------------------------------
def test_tokens_are_estimated_and_texts_cut_after_so_many() -> None:
    tokenizer = EstimatingTokenizer()
    texts = ["", "word", "signing", "12345", "ключи", "漢字", "a, b!", "  x  "]
    assert [len(ids) for ids in tokenizer.tokenize(texts)] == [0, 1, 2, 2, 3, 2, 4, 1]
    text = "signing keys: 漢字 and 12345"
    for tokens in range(12):
        cut = cut_to(text, tokens)
        assert text.startswith(cut)
        assert len(tokenizer.tokenize([cut])[0]) == min(tokens, len(tokenizer.tokenize([text])[0]))
