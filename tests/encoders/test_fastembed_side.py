"""Fastembed's sparse and late-interaction models on tiny ONNX exports, against the same weights run by torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from tiny_models import CORPUS, tiny_colbert, tiny_splade
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from tarragon.encoders.fastembed_late import FastembedLateEncoder
from tarragon.encoders.fastembed_sparse import FastembedSparseEncoder
from tarragon.encoders.side_loading import load_late, load_sparse
from tarragon.encoders.terms import greatest_terms
from tarragon.errors import DeviceUnavailable, EncodingFailed, InvalidInput, ModelNotFound
from tarragon.identity import fingerprint

TEXTS = [*CORPUS[:5], "", "word", "key " * 200, "a, b. c!"]


class _Network(torch.nn.Module):
    """A transformer's states, or logits, through a linear layer where there is one."""

    def __init__(self, model: Any, output: str, linear: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.output, self.linear = model, output, linear or torch.nn.Identity()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.linear(getattr(self.model(input_ids=input_ids, attention_mask=attention_mask), self.output))


def _export(network: _Network, raw: Path, folder: Path) -> Path:
    """A folder as fastembed reads it: the ONNX and the tokenizer's files."""
    shutil.copytree(raw, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx"))
    sizes = {name: {0: "texts", 1: "tokens"} for name in ("input_ids", "attention_mask", "output")}
    example = (torch.tensor([[2, 7, 8, 3], [2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]))
    # the exporter asks for the package onnx only to insert functions that there are none of here
    with warnings.catch_warnings(), mock.patch.object(onnx_proto_utils, "_add_onnxscript_fn", lambda data, _: data):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            example,
            str(folder / "model.onnx"),
            dynamo=False,
            input_names=list(sizes)[:2],
            output_names=["output"],
            dynamic_axes=sizes,
            opset_version=17,
        )
    return folder


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights twice: for sentence-transformers in ``model``, for fastembed in ``Splade_PP_en_v1``."""
    root = tmp_path_factory.mktemp("splade")
    tiny_splade(root)
    model = AutoModelForMaskedLM.from_pretrained(root / "raw", attn_implementation="eager")
    _export(_Network(model, "logits"), root / "raw", root / "Splade_PP_en_v1")
    return root


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, _Network]:
    root = tmp_path_factory.mktemp("colbert")
    tiny_colbert(root)
    model = AutoModel.from_pretrained(root / "raw", attn_implementation="eager")
    network = _Network(model, "last_hidden_state", torch.nn.Linear(32, 12))
    return _export(network, root / "raw", root / "colbertv2.0"), network


def test_splade_in_onnx_gives_the_weights_of_sentence_transformers(splade: Path) -> None:
    encoder = FastembedSparseEncoder(str(splade / "Splade_PP_en_v1"), device="cpu", max_terms=10_000)
    theirs = SparseEncoder(str(splade / "model"), device="cpu")
    rows = theirs.encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    for result in (encoder.encode_documents(TEXTS), encoder.encode_queries(TEXTS)):
        for vector, row in zip(result.vectors, rows, strict=True):
            assert vector.indices.dtype == np.int32
            assert vector.values.dtype == np.float32
            assert vector.indices.tolist() == np.flatnonzero(row).tolist()
            assert np.allclose(vector.values, row[vector.indices], atol=1e-4)
        full = [len(theirs.tokenizer(text, verbose=False)["input_ids"]) for text in TEXTS]
        assert result.tokens == sum(min(length, 64) for length in full)
        assert result.truncated == sum(max(0, length - 64) for length in full) > 100


def test_the_greatest_terms_are_kept_with_ties_by_place() -> None:
    indices = np.array([9, 4, 7, 1], dtype=np.int32)
    values = np.array([2, 0, -3, 2], dtype=np.float32)
    found = greatest_terms(indices, values, 2)
    assert found.indices.tolist() == [7, 9]
    assert found.values.tolist() == [-3, 2]
    assert greatest_terms(indices, values, 9).indices.tolist() == [1, 7, 9]


def test_a_limit_of_terms_is_kept(splade: Path) -> None:
    few = load_sparse(f"fastembed:{splade / 'Splade_PP_en_v1'}", "cpu")
    assert isinstance(few, FastembedSparseEncoder)
    assert few.max_terms == 256
    cut = FastembedSparseEncoder(str(splade / "Splade_PP_en_v1"), device="cpu", max_terms=5)
    assert [len(vector.indices) for vector in cut.encode_documents(CORPUS[:5]).vectors] == [5] * 5
    assert fingerprint(cut.identity) != fingerprint(few.identity)
    with pytest.raises(InvalidInput, match="max_terms=0"):
        FastembedSparseEncoder(str(splade / "Splade_PP_en_v1"), max_terms=0)


def test_inference_free_queries_run_no_network(splade: Path, tmp_path: Path) -> None:
    folder = tmp_path / "opensearch-neural-sparse-encoding-doc-v3-gte"
    shutil.copytree(splade / "Splade_PP_en_v1", folder)
    (folder / "idf.json").write_text(json.dumps({"key": 4.5, "the": 0.5}))
    encoder = FastembedSparseEncoder(str(folder), device="cpu")
    with mock.patch.object(encoder._model.library.model, "onnx_embed", side_effect=AssertionError("it ran")):
        found = encoder.encode_queries(["the key of the door"]).vectors[0]
        assert sorted(found.values.tolist()) == [0.5, 4.5]
        with pytest.raises(AssertionError, match="it ran"):
            list(encoder._model.library.embed(["a document"]))
    before = fingerprint(encoder.identity)
    (folder / "idf.json").write_text(json.dumps({"key": 4.0}))
    assert fingerprint(FastembedSparseEncoder(str(folder), device="cpu").identity) != before


def test_colbert_in_onnx_gives_the_networks_vectors(colbert: tuple[Path, _Network]) -> None:
    folder, network = colbert
    encoder = FastembedLateEncoder(str(folder), device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert encoder.dimensions == 12
    documents = encoder.encode_documents(TEXTS)
    for text, vectors in zip(TEXTS, documents.vectors, strict=True):
        ids = tokenizer(text, truncation=True, max_length=63)["input_ids"]
        ids = torch.tensor([[ids[0], 2, *ids[1:]]])  # 2 marks a document
        with torch.no_grad():
            expected = torch.nn.functional.normalize(network(ids, torch.ones_like(ids))[0], dim=1).numpy()
        marks = set(tokenizer.convert_tokens_to_ids(list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"))) - {1}
        kept = [i for i, token in enumerate(ids[0].tolist()) if token not in marks]
        assert np.allclose(vectors, expected[kept], atol=1e-4)
    queries = encoder.encode_queries(["a key", "..."])
    assert [vectors.shape for vectors in queries.vectors] == [(32, 12)] * 2, "filled up with masks"
    for vectors in (*queries.vectors, *documents.vectors):
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert documents.truncated > 100


def test_batches_are_of_like_length_and_bounded_in_tokens(splade: Path) -> None:
    model = FastembedSparseEncoder(str(splade / "Splade_PP_en_v1"), device="cpu")._model
    counted = model.count(["a " * n for n in (1, 60, 2, 60, *range(40))])
    lengths = [
        [min(64, len(row) + 2) for row in model.tokenizer.tokenize(batch)] for batch in _texts_of(counted.batches)
    ]
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True)
    assert all(len(batch) * max(batch) <= 512 for batch in lengths)
    assert len(lengths) < 10


def _texts_of(batches: list[list[int]]) -> list[list[str]]:
    sizes = (1, 60, 2, 60, *range(40))
    return [["a " * sizes[i] for i in batch] for batch in batches]


def test_the_same_text_in_any_batch_and_order(colbert: tuple[Path, _Network], splade: Path) -> None:
    late = load_late(f"fastembed:{colbert[0]}", "cpu")
    sparse = load_sparse(f"fastembed:{splade / 'Splade_PP_en_v1'}", "cpu")
    for text, together in list(zip(TEXTS, late.encode_documents(TEXTS).vectors, strict=True))[::2]:
        assert np.allclose(late.encode_documents([text]).vectors[0], together, atol=1e-4)
    backwards = sparse.encode_documents(TEXTS[::-1]).vectors[::-1]
    for ours, theirs in zip(backwards, sparse.encode_documents(TEXTS).vectors, strict=True):
        assert np.allclose(ours.values, theirs.values, atol=1e-4)
    assert sparse.encode_documents([]).vectors == []


class _Rounded(torch.autograd.Function):
    """Eight bits, scaled by the largest number of the whole batch."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def symbolic(graph: Any, values: Any) -> Any:
        return graph.op("DequantizeLinear", *graph.op("DynamicQuantizeLinear", values, outputs=3))


class _Rounding(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> Any:
        return _Rounded.apply(values)


def test_a_dynamically_quantized_model_gets_one_text_at_a_time(colbert: tuple[Path, _Network], tmp_path: Path) -> None:
    folder, network = colbert
    rounded = _Network(network.model, network.output, torch.nn.Sequential(network.linear, _Rounding()))
    encoder = FastembedLateEncoder(str(_export(rounded, folder, tmp_path / "colbertv2.0")), device="cpu")
    together = encoder.encode_documents(TEXTS[:4]).vectors
    for text, vectors in zip(TEXTS, together, strict=False):
        assert np.array_equal(encoder.encode_documents([text]).vectors[0], vectors)
    library = list(encoder._model.library.embed(TEXTS[:4]))
    assert not all(np.allclose(a, b, atol=1e-3) for a, b in zip(library, together, strict=True)), "the knob matters"


def test_the_identity_is_of_contents_not_of_the_folder(colbert: tuple[Path, _Network], tmp_path: Path) -> None:
    folder = colbert[0]
    identity = FastembedLateEncoder(str(folder), device="cpu").identity
    moved = Path(shutil.copytree(folder, tmp_path / "COLBERTv2.0"))
    assert fingerprint(FastembedLateEncoder(str(moved), device="cpu").identity) == fingerprint(identity)
    tokenizer = json.loads((moved / "tokenizer_config.json").read_text())
    (moved / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "model_max_length": 32}))
    assert fingerprint(FastembedLateEncoder(str(moved), device="cpu").identity) != fingerprint(identity)


def test_unknown_names_and_devices_say_what_to_do(splade: Path, colbert: tuple[Path, _Network], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model 'Qdrant/bm25' of this kind.*prithivida/Splade_PP_en_v1"):
        load_sparse("fastembed:Qdrant/bm25", "cpu")
    with pytest.raises(ModelNotFound, match="must be called like"):
        load_late(f"fastembed:{tmp_path}", "cpu")
    with pytest.raises(DeviceUnavailable, match="onnxruntime"):
        load_late(f"fastembed:{colbert[0]}", "mps")
    broken = Path(shutil.copytree(splade / "Splade_PP_en_v1", tmp_path / "Splade_PP_en_v1"))
    (broken / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelNotFound, match="fastembed cannot load"):
        load_sparse(f"fastembed:{broken}", "cpu")


def test_a_failing_network_is_an_error_of_ours(splade: Path) -> None:
    encoder = FastembedSparseEncoder(str(splade / "Splade_PP_en_v1"), device="cpu")
    with mock.patch.object(encoder._model.library, "embed", return_value=iter([])), pytest.raises(EncodingFailed):
        encoder.encode_documents(["a key"])


def test_names_are_read_without_any_heavy_library() -> None:
    code = (
        "import sys, tarragon, tarragon.interaction, tarragon.encoders.side_loading;"
        "print(*sorted({'torch', 'onnxruntime', 'fastembed', 'sentence_transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
