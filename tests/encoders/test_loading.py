"""What a recipe's model means, and that it loads as that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_server import expected, running
from tiny_models import make_model
from tiny_onnx import export_onnx

from tarragon import Document, Index, IndexRecipe
from tarragon.encoders import loading
from tarragon.encoders.fastembed_dense import FastembedEncoder
from tarragon.encoders.http import HttpEncoder
from tarragon.encoders.loading import ModelSpec, load_encoder, parse_model
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.errors import InvalidRecipe, MissingDependency, ModelNotFound, ModelUnavailable

HERE = "sentence-transformers"


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (None, ModelSpec(HERE, None)),
        ("bundled", ModelSpec(HERE, None)),
        ("BAAI/bge-small-en-v1.5", ModelSpec(HERE, "BAAI/bge-small-en-v1.5")),
        ("/models/a:b", ModelSpec(HERE, "/models/a:b")),
        ("./a:b", ModelSpec(HERE, "./a:b")),
        (r"C:\models\bge", ModelSpec(HERE, r"C:\models\bge")),
        ("fastembed:BAAI/bge-small-en-v1.5", ModelSpec("fastembed", "BAAI/bge-small-en-v1.5")),
        (r"fastembed:C:\models\bge", ModelSpec("fastembed", r"C:\models\bge")),
        ("FastEmbed: ./models/bge", ModelSpec("fastembed", "./models/bge")),
        ("openai:text-embedding-3-small", ModelSpec("openai", "text-embedding-3-small")),
        ("openai:bge-m3@http://localhost:8000/v1", ModelSpec("openai", "bge-m3", "http://localhost:8000/v1")),
        ("openai:org/m@v2@https://h/v1", ModelSpec("openai", "org/m@v2", "https://h/v1")),
        ("openai:nomic-embed-text:latest", ModelSpec("openai", "nomic-embed-text:latest")),
        ("tei:http://localhost:8080", ModelSpec("tei", None, "http://localhost:8080")),
        ("joint:models/three", ModelSpec("joint", "models/three")),
        ("static:models/glove", ModelSpec("static", "models/glove")),
    ],
)
def test_what_stands_before_the_first_colon_says_what_runs_a_model(model: str | None, spec: ModelSpec) -> None:
    assert parse_model(model) == spec


@pytest.mark.parametrize(
    "model",
    [
        "fastembed:",
        "openai:",
        "openai: ",
        "openai:@http://h/v1",
        "tei:",
        "cohere:m",
        "http://h:80/v1",
    ],
)
def test_what_cannot_be_read_says_what_can(model: str) -> None:
    with pytest.raises(InvalidRecipe, match=r"fastembed:NAME.*tei:http"):
        load_encoder(IndexRecipe(model=model), None)


@pytest.mark.parametrize(
    "model", ["tei:localhost:8080", "openai:m@http://", "openai:m@http://me:hush@h/v1", "tei:http://h?key=hush"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(model: str) -> None:
    with pytest.raises(InvalidRecipe, match="address") as caught:
        load_encoder(IndexRecipe(model=model), None)
    assert "hush" not in str(caught.value)


def test_a_joint_model_takes_no_settings_that_it_does_not_have() -> None:
    for recipe in (
        IndexRecipe(model="joint:folder", dimensions=8),
        IndexRecipe(model="joint:folder", document_prompt="d"),
    ):
        with pytest.raises(InvalidRecipe, match="joint:folder"):
            load_encoder(recipe, None)


def test_an_unnamed_or_plain_model_runs_on_sentence_transformers(tmp_path: Path) -> None:
    assert load_encoder(IndexRecipe(), "cpu").name == "all-MiniLM-L6-v2"
    recipe = IndexRecipe(model=str(make_model(tmp_path, "bert")), dimensions=8, document_prompt="d: ")
    encoder = load_encoder(recipe, "cpu")
    assert isinstance(encoder, SentenceTransformerEncoder)
    assert (encoder.dimensions, encoder.document_prompt) == (8, "d: ")


def test_a_folder_runs_on_fastembed(tmp_path: Path) -> None:
    path = export_onnx(make_model(tmp_path, "bert"))
    encoder = load_encoder(IndexRecipe(model=f"fastembed:{path}", dimensions=8, document_prompt="d: "), "cpu")
    assert isinstance(encoder, FastembedEncoder)
    assert (encoder.dimensions, encoder.document_prompt, encoder.device) == (8, "d: ", "cpu")


@pytest.mark.parametrize("model", ["tei:{url}", "openai:words@{url}/v1/"])
def test_a_recipe_with_an_address_makes_an_index_that_opens_again(model: str, tmp_path: Path) -> None:
    with running() as (_, url):
        recipe = IndexRecipe(model=model.format(url=url), dimensions=8, document_prompt="d: ")
        with Index.open(tmp_path / "i.tarragon", recipe=recipe) as index:
            index.sync([Document("a.md", "a key"), Document("b.md", "a door")])
        encoder = load_encoder(recipe, "cuda")
        assert isinstance(encoder, HttpEncoder)
        assert np.allclose(encoder.encode_queries(["a key"]).vectors, expected(["a key"], 8), atol=1e-6)
        with Index.open(tmp_path / "i.tarragon") as index:
            report = index.sync([Document("a.md", "a key"), Document("b.md", "a house")])
            assert report.chunks_embedded == 1


def test_the_environment_names_the_server_and_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ModelNotFound, match=r"https://api\.openai\.com/v1 needs a key.*OPENAI_API_KEY"):
        load_encoder(IndexRecipe(model="openai:words"), None)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    with running() as (own, own_url), running() as (other, other_url):
        other_url = other_url.replace("127.0.0.1", "localhost")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{own_url}/v1/")
        load_encoder(IndexRecipe(model="openai:words"), None)
        assert own.requests[0][1]["Authorization"] == "Bearer sk-own"
        load_encoder(IndexRecipe(model=f"openai:words@{own_url}/v1"), None)
        assert own.requests[-1][1]["Authorization"] == "Bearer sk-own"
        load_encoder(IndexRecipe(model=f"openai:words@{other_url}/v1"), None)
        assert "Authorization" not in other.requests[-1][1], "a recipe cannot send the key elsewhere"
        monkeypatch.setenv("TARRAGON_KEY_LOCALHOST", "sk-other")
        load_encoder(IndexRecipe(model=f"openai:words@{other_url}/v1"), None)
        load_encoder(IndexRecipe(model=f"tei:{other_url}"), None)
        assert {headers["Authorization"] for _, headers, _ in other.requests[1:]} == {"Bearer sk-other"}


@pytest.mark.parametrize(
    ("model", "hidden", "extra"),
    [
        ("BAAI/bge-small-en-v1.5", "sentence_transformers", "sentence-transformers"),
        ("fastembed:BAAI/bge-small-en-v1.5", "fastembed", "fastembed"),
        ("openai:m", "httpx", "http"),
        ("tei:http://localhost:1", "httpx", "http"),
        ("static:folder", "safetensors", "sentence-transformers"),
    ],
)
def test_a_missing_library_is_told_with_its_extra(
    model: str, hidden: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = loading.find_spec
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == hidden else real(name))
    with pytest.raises(MissingDependency, match=rf"tarragon\[{extra}\]"):
        load_encoder(IndexRecipe(model=model), None)


def test_a_server_that_is_down_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    from tarragon.encoders import http_client

    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.0)
    with running() as (_, url):
        pass
    with pytest.raises(ModelUnavailable, match=f"{url}/info cannot be reached.* 5 times"):
        load_encoder(IndexRecipe(model=f"tei:{url}"), None)


def test_an_encoder_loads_no_other_library_than_its_own() -> None:
    script = (
        "import sys, tarragon.encoders.loading as l; heavy = {'torch', 'onnxruntime', 'fastembed', 'httpx'};"
        "print(sorted(heavy & set(sys.modules)));"
        "import tarragon.encoders.http_tei, tarragon.encoders.http_openai; print(sorted(heavy & set(sys.modules)));"
        "import tarragon.encoders.fastembed_dense; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['httpx']", "False"]
