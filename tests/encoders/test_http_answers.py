"""What servers answer: forms that they disagree about, and answers that are no embeddings."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from model_server import ModelServer, Reply, expected, running

from tarragon.encoders.http import HttpEncoder
from tarragon.encoders.http_client import HttpModel
from tarragon.encoders.http_openai import openai_encoder
from tarragon.encoders.http_tei import tei_encoder
from tarragon.errors import EncodingFailed
from tarragon.protocols import EncoderInput

TEXTS = [f"text {n} about keys, doors and houses" for n in range(40)]


def inputs(texts: list[str]) -> list[EncoderInput]:
    return [EncoderInput(text) for text in texts]


@pytest.fixture
def server() -> Iterator[tuple[ModelServer, str]]:
    with running() as started:
        yield started


def openai(url: str, **settings: Any) -> HttpEncoder:
    return openai_encoder("words", HttpModel(f"{url}/v1", sleep=lambda _: None), **settings)


@pytest.mark.parametrize(
    ("settings", "form", "warns"),
    [
        ({}, {"encoding_format": "base64", "dimensions": 8}, False),
        ({"takes_dimensions": False}, {"encoding_format": "base64", "dimensions": 8}, False),
        ({"takes_base64": False}, {"dimensions": 8}, False),
        ({"says_dimensions_are_unknown": True}, {"encoding_format": "base64"}, True),
        ({"says_dimensions_are_unknown": True, "takes_base64": False}, {}, True),
        ({"shuffles": True}, {"encoding_format": "base64", "dimensions": 8}, False),
    ],
    ids=["all", "overlooks dimensions", "no base64", "refuses dimensions", "neither", "any order"],
)
def test_the_first_request_finds_the_form_that_a_server_takes(
    settings: dict[str, Any], form: dict[str, Any], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with running(batch=128, **settings) as (model, url):
        encoder = openai(url, dimensions=8)
        model.requests.clear()
        vectors = encoder.encode_documents(inputs(TEXTS)).vectors
        assert np.allclose(vectors, expected(TEXTS, 8), atol=1e-6)
        asked = model.asked("/v1/embeddings")
        assert [{k: v for k, v in body.items() if k not in ("model", "input")} for body in asked] == [form]
        warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert bool(warned) == warns


def items(*embeddings: Any, index: list[Any] | None = None) -> dict[str, Any]:
    places = range(len(embeddings)) if index is None else index
    return {"data": [{"index": i, "embedding": e} for i, e in zip(places, embeddings, strict=True)]}


ROW = [1.0] * 32


@pytest.mark.parametrize(
    "body",
    [
        items(ROW),
        items(ROW, ROW, ROW),
        items(ROW, ROW, index=[0, 0]),
        items(ROW, ROW, index=[1, 2]),
        items(ROW, [1.0] * 31),
        items([1.0] * 31, [1.0] * 31),
        items([], []),
        items(ROW, ["x"] * 32),
        items(ROW, None),
        items("AAAA", "no base64!"),
        items("AAAAAA==", "AAAAAA=="),
        {"data": [{"index": 0}, {"index": 1}]},
        {"data": None},
        {"data": ["a", "b"]},
        {},
        [],
    ],
)
def test_a_malformed_answer_is_refused(server: tuple[ModelServer, str], body: Any) -> None:
    model, url = server
    encoder = openai(url)
    model.replies = [Reply(200, body)]
    with pytest.raises(EncodingFailed, match="words"):
        encoder.encode_documents(inputs(["one", "two"]))


@pytest.mark.parametrize("body", [[ROW], [ROW, ROW, ROW], [ROW, ROW[1:]], {"error": "?"}, [ROW, None], "words"])
def test_a_malformed_answer_of_tei_is_refused(server: tuple[ModelServer, str], body: Any) -> None:
    model, url = server
    encoder = tei_encoder(HttpModel(url))
    model.replies = [Reply(200, body)]
    with pytest.raises(EncodingFailed):
        encoder.encode_documents(inputs(["one", "two"]))


def test_rows_that_are_not_finite_are_left_to_the_caller(server: tuple[ModelServer, str]) -> None:
    model, url = server
    encoder = openai(url)
    model.replies = [Reply(200, items([*ROW[1:], None], ROW, [*ROW[1:], 1e300], [0.0] * 32))]
    vectors = encoder.encode_documents(inputs(["a", "b", "c", "d"])).vectors
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True, False]
    assert np.allclose(np.linalg.norm(vectors[[1, 3]], axis=1), [1, 0])
    assert vectors.dtype == np.float32


def test_base64_and_lists_give_the_same_bits(server: tuple[ModelServer, str]) -> None:
    encoder = openai(server[1])
    row = expected(["a key"])[0]
    server[0].replies = [
        Reply(200, items(row.tolist())),
        Reply(200, items(base64.b64encode(row.astype("<f4").tobytes()).decode())),
    ]
    first, second = (encoder.encode_queries(["a key"]).vectors for _ in range(2))
    assert np.array_equal(first, second)
