"""The encoder over fastembed against sentence-transformers: the same weights, once as ONNX and once with torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastembed import TextEmbedding
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny_models import CORPUS, make_model
from tiny_onnx import export_onnx

from tarragon import Document, Index
from tarragon.chunking import Chunker
from tarragon.encoders.fastembed_dense import FastembedEncoder
from tarragon.encoders.onnx_folder import scales_by_batch
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.errors import DeviceUnavailable, EncodingFailed, ModelNotFound
from tarragon.identity import fingerprint
from tarragon.protocols import EncoderInput
from tarragon.testing import check_encoder
from tarragon.types import FloatArray

TEXTS = [*CORPUS[:5], "word", "", "x = f(a_b)[0]", "key " * 100, "日本語 " * 40]


def inputs(texts: list[str]) -> list[EncoderInput]:
    return [EncoderInput(text) for text in texts]


def least_cosine(first: FloatArray, second: Any) -> float:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_model(tmp_path_factory.mktemp("plain"), "bert", prompts={"query": "query: ", "document": "passage: "})
    return export_onnx(path)


@pytest.fixture(scope="module")
def ours(folder: Path) -> FastembedEncoder:
    return FastembedEncoder(str(folder))


def test_vectors_and_counts_are_those_of_the_same_weights_under_torch(folder: Path, ours: FastembedEncoder) -> None:
    theirs = SentenceTransformerEncoder(str(folder), device="cpu")
    mine, reference = ours.encode_documents(inputs(TEXTS)), theirs.encode_documents(inputs(TEXTS))
    assert least_cosine(mine.vectors, reference.vectors) >= 0.99999
    assert (mine.tokens, mine.truncated) == (reference.tokens, reference.truncated)
    assert mine.truncated > 70
    for prompt in (None, "other: "):
        mine, reference = (encoder.encode_queries(TEXTS, prompt) for encoder in (ours, theirs))
        assert least_cosine(mine.vectors, reference.vectors) >= 0.99999
        assert (mine.tokens, mine.truncated) == (reference.tokens, reference.truncated)
    assert (ours.max_tokens, ours.query_prompt, ours.document_prompt) == (theirs.max_tokens, "query: ", "passage: ")
    assert (ours.device, ours.dimensions) == ("cpu", 32)


def test_the_encoder_keeps_its_contract(ours: FastembedEncoder) -> None:
    check_encoder(ours)
    assert ours.encode_documents(inputs(TEXTS)).vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("settings", "export"),
    [
        ({"pooling": "cls"}, {}),
        ({"pooling": "lasttoken"}, {}),
        ({"similarity_fn_name": "dot", "normalize": False}, {"place": "onnx/model.onnx"}),
        ({}, {"pooled": True}),
    ],
    ids=["cls", "last token", "dot", "pools by itself"],
)
def test_other_poolings_and_raw_vectors(tmp_path: Path, settings: dict[str, Any], export: dict[str, Any]) -> None:
    path = export_onnx(make_model(tmp_path, "bert", **settings), **export)
    theirs = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    vectors = FastembedEncoder(str(path)).encode_documents(inputs(TEXTS)).vectors
    assert least_cosine(vectors, theirs) >= 0.99999
    raw = settings.get("similarity_fn_name") == "dot"
    assert np.allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(theirs, axis=1) if raw else 1, atol=1e-4)
    assert raw == bool(np.abs(np.linalg.norm(theirs, axis=1) - 1).max() > 0.1)


def test_chunks_bring_their_lengths(folder: Path, ours: FastembedEncoder) -> None:
    text = "# Title\n\n" + "\n\n".join(f"## Part {n}\n\n{text}" for n, text in enumerate(CORPUS[:30]))
    chunks = Chunker(ours.tokenizer, ours.max_tokens).chunk([(Document("a", text), "markdown")])[0]
    result = ours.encode_documents([EncoderInput(chunk.embed_text, chunk.token_ids) for chunk in chunks])
    assert result.truncated == 0
    again = ours.encode_documents([EncoderInput(chunk.embed_text) for chunk in chunks])
    assert result.tokens == again.tokens > 200
    assert np.array_equal(result.vectors, again.vectors)


def test_batches_are_sorted_and_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FastembedEncoder(str(folder), token_budget=100)
    fed: list[list[str]] = []
    real = encoder._runner.passage_embed
    monkeypatch.setattr(
        encoder._runner, "passage_embed", lambda texts, **rest: (fed.append(list(texts)), real(texts, **rest))[1]
    )
    texts = ["key " * n for n in (1, 40, 2, 30, 3, 20, 4)]
    encoder.encode_documents(inputs(texts))
    sizes = [[text.count("key") for text in batch] for batch in fed]
    assert sizes == [[40, 30], [20, 4, 3, 2], [1]], "with prompt and special tokens 44, 34 | 24, 8, 7, 6 | 5"


def test_fewer_dimensions_are_unit_vectors_again(folder: Path) -> None:
    vectors = FastembedEncoder(str(folder), dimensions=8).encode_documents(inputs(TEXTS)).vectors
    theirs = SentenceTransformer(str(folder), device="cpu").encode_document(TEXTS, truncate_dim=8)
    assert least_cosine(vectors, theirs) >= 0.99999
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with pytest.raises(ModelNotFound, match="dimensions=99"):
        FastembedEncoder(str(folder), dimensions=99)


def test_a_model_that_scales_by_batch_gets_one_text_at_a_time(tmp_path: Path, folder: Path) -> None:
    path = export_onnx(make_model(tmp_path, "bert"), quantized=True)
    assert scales_by_batch(path / "model.onnx")
    assert not scales_by_batch(folder / "model.onnx")
    encoder = FastembedEncoder(str(path))
    check_encoder(encoder)
    alone = encoder.encode_documents(inputs(TEXTS)).vectors
    encoder._loaded = encoder._loaded._replace(is_alone=False)
    together = encoder.encode_documents(inputs(TEXTS)).vectors
    assert least_cosine(together, alone) < 0.99999, "without this care the neighbours show"


def test_a_length_limit_of_sentence_transformers_holds(tmp_path: Path) -> None:
    path = export_onnx(make_model(tmp_path, "bert"))
    settings = path / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "max_seq_length": 16}))
    encoder = FastembedEncoder(str(path))
    assert encoder.max_tokens == 14
    result = encoder.encode_documents(inputs(["key " * 30]))
    assert (result.tokens, result.truncated) == (16, 16)
    theirs = SentenceTransformer(str(path), device="cpu")
    theirs.max_seq_length = 16
    assert least_cosine(result.vectors, theirs.encode(["key " * 30])) >= 0.99999


# --- identity ---------------------------------------------------------------------------------------------------------
def test_the_fingerprint_is_of_weights_tokenizer_pooling_and_size(tmp_path: Path) -> None:
    def print_of(path: Path, **settings: Any) -> str:
        return fingerprint(FastembedEncoder(str(path), **settings).identity)

    path = export_onnx(make_model(tmp_path / "a", "bert"))
    known = print_of(path)
    assert print_of(path, token_budget=64, threads=1, device="cpu") == known
    path = path.rename(tmp_path / "elsewhere")
    assert print_of(path) == known
    others = [
        print_of(path, dimensions=8),
        print_of(path, document_prompt="d: "),
        print_of(export_onnx(make_model(tmp_path / "b", "bert", pooling="cls"))),
        print_of(export_onnx(make_model(tmp_path / "c", "bert"), quantized=True)),
    ]
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    others.append(print_of(path))
    assert len({known, *others}) == 1 + len(others)


# --- trouble ----------------------------------------------------------------------------------------------------------
def test_names_that_fastembed_does_not_know_or_cannot_get_are_refused() -> None:
    with pytest.raises(ModelNotFound, match=r"did you mean 'BAAI/bge-small-en-v1\.5'"):
        FastembedEncoder("BAAI/bge-smal-en-v1.5")
    with pytest.raises(ModelNotFound, match="FASTEMBED_CACHE_PATH"):
        FastembedEncoder("BAAI/bge-small-en-v1.5")  # the tests have no network


def cached(cache: Path, repository: str, model: Path, **files: Path) -> None:
    """A download of fastembed's, as it would lie in its cache."""
    place = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(model, place / "snapshots" / "abc")
    for name, source in files.items():
        shutil.copy(source, place / "snapshots" / "abc" / name)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")


def test_a_model_by_name_gets_the_prompts_of_its_card_and_unit_vectors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    cached(tmp_path, "Qdrant/multilingual-e5-large-onnx", folder, **{"model.onnx_data": folder / "config.json"})
    encoder = FastembedEncoder("intfloat/multilingual-e5-large")  # a class of fastembed's that does not normalise
    theirs = SentenceTransformer(str(folder), device="cpu")
    vectors = encoder.encode_documents(inputs(TEXTS)).vectors
    assert least_cosine(vectors, theirs.encode(TEXTS, prompt="passage: ")) >= 0.99999
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (encoder.query_prompt, encoder.identity["pooling"]) == ("query: ", "PooledEmbedding")
    known = fingerprint(encoder.identity)
    data = next(tmp_path.rglob("snapshots/*/model.onnx_data"))
    data.write_text("other weights")
    assert fingerprint(FastembedEncoder("intfloat/multilingual-e5-large").identity) != known


def test_a_static_model_by_name_runs_without_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    static = make_model(tmp_path / "model", "static")
    table = load_file(static / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": table}, tmp_path / "model2vec.safetensors")
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(tmp_path))
    files = {"model.safetensors": tmp_path / "model2vec.safetensors"}
    cached(tmp_path, "minishlab/potion-base-8M", static, **files)
    encoder = FastembedEncoder("minishlab/potion-base-8M", device="cpu")
    check_encoder(encoder, ["one", "two words", "x " * 400])
    texts = CORPUS[:4]
    assert (
        least_cosine(
            encoder.encode_documents(inputs(texts)).vectors,
            SentenceTransformer(str(static), device="cpu").encode(texts),
        )
        >= 0.99999
    )
    assert encoder.max_tokens == 512


def test_a_folder_adds_nothing_to_the_librarys_list(folder: Path, ours: FastembedEncoder) -> None:
    assert str(folder) not in [entry["model"] for entry in TextEmbedding.list_supported_models()]


@pytest.mark.parametrize("device", ["cuda:99", "cudaa", "mps"])
def test_a_device_that_is_not_there_fails_loudly(folder: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"{device}.*cpu"):
        FastembedEncoder(str(folder), device=device)


def test_a_failing_run_is_an_encoding_that_failed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FastembedEncoder(str(folder))
    encoder._runner.tokenizer.enable_truncation(max_length=200)  # more than the model has positions
    with pytest.raises(EncodingFailed, match="failed on 1 texts"):
        encoder.encode_documents(inputs(["key " * 150]))


def test_an_index_over_onnx(folder: Path, tmp_path: Path) -> None:
    with Index.open(tmp_path / "i.tarragon", encoder=FastembedEncoder(str(folder))) as index:
        report = index.sync([Document(f"{n}.md", text) for n, text in enumerate(CORPUS[:5])])
        assert report.chunks_embedded == 5
