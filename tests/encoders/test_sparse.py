"""Learned sparse encoders against sentence-transformers' own ``encode_document`` and ``encode_query``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from tiny_models import CORPUS, SYNONYMS, tiny_colbert, tiny_inference_free, tiny_splade, trained_splade

from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.packed import Packed
from tarragon.encoders.packed.bert import PackedBert
from tarragon.encoders.side_loading import load_sparse
from tarragon.encoders.side_model import Role, SideModel
from tarragon.encoders.sparse import SparseTransformerEncoder, top_terms
from tarragon.encoders.token_batches import TokenBatches
from tarragon.errors import DeviceUnavailable, EncodingFailed, InvalidInput, ModelNotFound
from tarragon.identity import fingerprint
from tarragon.types import SparseVector

TEXTS = [*CORPUS[:5], "", "word", "key " * 200, "Größe 漢字 🙂", "the the the", "x" * 90, "[SEP] a [MASK] b"]


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_splade(tmp_path_factory.mktemp("splade"))


@pytest.fixture(scope="module")
def inference_free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_inference_free(tmp_path_factory.mktemp("free"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SparseTransformerEncoder:
    return SparseTransformerEncoder(str(trained_splade(tmp_path_factory.mktemp("trained"))), device="cpu")


def dense(vectors: Sequence[SparseVector], width: int) -> Any:
    rows = np.zeros((len(vectors), width), dtype=np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        row[vector.indices] = vector.values
    return rows


def check_shape(vectors: Sequence[SparseVector]) -> None:
    for vector in vectors:
        assert vector.indices.dtype == np.int32
        assert vector.values.dtype == np.float32
        assert (np.diff(vector.indices) > 0).all()
        assert (vector.values != 0).all()


def library_rows(model: SparseEncoder, task: str, texts: list[str]) -> Any:
    encode = model.encode_query if task == "query" else model.encode_document
    return encode(texts, convert_to_sparse_tensor=False).numpy()


@pytest.mark.parametrize(
    "prompts", [{}, {"query": "query: ", "document": "passage: "}, {"document": "ends in a letter"}]
)
def test_splade_gives_the_librarys_own_weights(tmp_path: Path, prompts: dict[str, str]) -> None:
    path = str(tiny_splade(tmp_path, prompts=prompts))
    theirs = SparseEncoder(path, device="cpu")
    ours = SparseTransformerEncoder(path, device="cpu", max_terms=10_000)
    for task, result in (("document", ours.encode_documents(TEXTS)), ("query", ours.encode_queries(TEXTS))):
        rows = library_rows(theirs, task, TEXTS)
        assert np.allclose(dense(result.vectors, rows.shape[1]), rows, atol=1e-4)
        check_shape(result.vectors)
        full = [len(theirs.tokenizer(prompts.get(task, "") + text, verbose=False)["input_ids"]) for text in TEXTS]
        assert result.tokens == sum(min(length, 64) for length in full)
        assert result.truncated == sum(max(0, length - 64) for length in full) > 100
    assert all(role._takes_ids for role in ours._model.roles.values()), "each text is tokenised once, by us"


def test_only_the_greatest_weights_are_kept(splade: Path) -> None:
    every = SparseTransformerEncoder(str(splade), device="cpu", max_terms=10_000).encode_documents(TEXTS)
    few = SparseTransformerEncoder(str(splade), device="cpu", max_terms=7)
    assert max(len(vector.indices) for vector in every.vectors) > 7
    for whole, cut in zip(every.vectors, few.encode_documents(TEXTS).vectors, strict=True):
        order = sorted(zip(-whole.values, whole.indices, strict=True))[:7]
        assert sorted(index for _, index in order) == cut.indices.tolist()
        assert np.allclose(np.sort(-cut.values), [value for value, _ in order], atol=1e-5)
    check_shape(few.encode_documents(TEXTS).vectors)


def test_no_row_as_wide_as_the_vocabulary_reaches_the_host(splade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SparseTransformerEncoder(str(splade), device="cpu", max_terms=5)
    copied: list[torch.Size] = []
    to_numpy = torch.Tensor.numpy

    def record(tensor: torch.Tensor, **settings: Any) -> Any:
        copied.append(tensor.shape)
        return to_numpy(tensor, **settings)

    monkeypatch.setattr(torch.Tensor, "numpy", record)
    encoder.encode_documents(TEXTS)
    rows = [shape for shape in copied if len(shape) == 2]
    assert rows, "the recorder sees what is copied"
    assert all(shape[1] <= 5 for shape in rows)


def test_top_terms_keep_nan_and_leave_out_zeros() -> None:
    weights = torch.tensor([[0.0, 3.0, 0.0, -4.0, 1.0], [float("nan"), 1.0, 0.0, 0.0, 0.0], [0.0] * 5])
    found = top_terms(weights, 2)
    assert [vector.indices.tolist() for vector in found] == [[1, 3], [0, 1], []]
    assert found[0].values.tolist() == [3, -4]
    assert np.isnan(found[1].values[0])


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_every_pooling_is_the_librarys_without_its_padding(splade: Path, strategy: Any, activation: Any) -> None:
    library = SparseEncoder(str(splade), device="cpu")
    library[1].pooling_strategy, library[1].activation_function = strategy, activation
    role = SideModel(library, str(splade), "cpu").roles["document"]
    assert role.is_unpadded
    ours = role.output(role.sequences(TEXTS[:6]), TEXTS[:6])["sentence_embedding"]
    assert np.allclose(ours.numpy(), library_rows(library, "document", TEXTS[:6]), atol=1e-4)


def test_the_same_text_has_the_same_vector_in_any_batch(splade: Path) -> None:
    encoder = SparseTransformerEncoder(str(splade), device="cpu", token_budget=100)
    together = encoder.encode_documents(TEXTS).vectors
    for text, vector in list(zip(TEXTS, together, strict=True))[3:9]:
        alone = encoder.encode_documents([text]).vectors[0]
        assert alone.indices.tolist() == vector.indices.tolist()
        assert np.allclose(alone.values, vector.values, atol=1e-5)
    assert encoder.encode_documents([]).vectors == []


def test_splade_expands(trained: SparseTransformerEncoder) -> None:
    id_of = trained._model.roles["document"].tokenizer.tokenize

    def weights(text: str) -> dict[int, float]:
        vector = trained.encode_documents([text]).vectors[0]
        return dict(zip(vector.indices.tolist(), vector.values.tolist(), strict=True))

    for own, other in [*SYNONYMS, *((b, a) for a, b in SYNONYMS)]:
        found = weights(f"they saw a new {own} for sale")
        strangers = [word for pair in SYNONYMS if own not in pair for word in pair]
        term = int(id_of([other])[0][0])
        assert found.get(term, 0) > 0.25, f"{own} expands to {other}"
        assert found[term] > 2 * max(found.get(int(id_of([word])[0][0]), 0) for word in strangers)


def test_expansion_finds_what_shares_no_word(trained: SparseTransformerEncoder) -> None:
    documents = [f"my new {pair[0]} was here" for pair in SYNONYMS]
    queries = [f"every old {pair[1]} for sale" for pair in SYNONYMS]
    width = 1_000
    scores = (
        dense(trained.encode_queries(queries).vectors, width)
        @ dense(trained.encode_documents(documents).vectors, width).T
    )
    assert scores.argmax(axis=1).tolist() == list(range(len(SYNONYMS)))


# --- inference-free queries -------------------------------------------------------------------------------------------
@pytest.fixture
def transformer_calls(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time that a packed BERT runs."""
    calls: list[None] = []
    forward = PackedBert.__call__

    def counted(self: PackedBert, packed: Packed) -> torch.Tensor:
        calls.append(None)
        return forward(self, packed)

    monkeypatch.setattr(PackedBert, "__call__", counted)
    return calls


def test_queries_of_an_inference_free_model_are_their_words_weights(
    inference_free: Path, transformer_calls: list[None]
) -> None:
    encoder = SparseTransformerEncoder(str(inference_free), device="cpu")
    theirs = SparseEncoder(str(inference_free), device="cpu")
    transformer_calls.clear()
    result = encoder.encode_queries(TEXTS)
    assert not transformer_calls, "no transformer runs for a query"
    documents = encoder.encode_documents(TEXTS)
    assert transformer_calls, "the recorder sees a forward"
    rows = library_rows(theirs, "query", TEXTS)
    assert np.allclose(dense(result.vectors, rows.shape[1]), rows, atol=1e-6)
    rows = library_rows(theirs, "document", TEXTS)
    assert np.allclose(dense(documents.vectors, rows.shape[1]), rows, atol=1e-4)
    words = encoder.encode_queries(["key the key"])
    assert len(words.vectors[0].indices) == 2
    assert words.tokens == 3, "no special tokens"
    assert encoder.encode_queries([""]).vectors[0].indices.size == 0


def test_the_query_side_of_an_inference_free_model_is_no_part_of_the_modules(inference_free: Path) -> None:
    modules = json.loads(SparseTransformerEncoder(str(inference_free), device="cpu").identity["modules"])
    assert [module["type"] for module in modules] == ["BertForMaskedLM", "SpladePooling"]
    assert modules[1]["config"]["activation_function"] == "log1p_relu"


# --- identity and errors ----------------------------------------------------------------------------------------------
def test_the_identity_is_stable_and_changes_with_what_changes_vectors(splade: Path, tmp_path: Path) -> None:
    encoder = SparseTransformerEncoder(str(splade), device="cpu")
    before = fingerprint(encoder.identity)
    encoder.encode_documents(TEXTS)  # after which the library's SpladePooling has another configuration
    del encoder.identity
    assert fingerprint(encoder.identity) == before
    moved = Path(shutil.copytree(splade, tmp_path / "elsewhere"))
    assert fingerprint(SparseTransformerEncoder(str(moved), device="cpu", token_budget=50).identity) == before
    assert fingerprint(SparseTransformerEncoder(str(splade), device="cpu", max_terms=9).identity) != before
    prompted = tiny_splade(tmp_path / "prompted", prompts={"document": "d: "})
    assert fingerprint(SparseTransformerEncoder(str(prompted), device="cpu").identity) != before
    pooling = next(moved.glob("*SpladePooling*/config.json"))
    pooling.write_text(pooling.read_text().replace('"max"', '"sum"'))
    assert fingerprint(SparseTransformerEncoder(str(moved), device="cpu").identity) != before


def test_a_model_of_another_kind_is_refused_rather_than_given_random_weights(tmp_path: Path, splade: Path) -> None:
    for path in (bundled_model_path(), tiny_colbert(tmp_path / "colbert"), tmp_path / "colbert" / "raw"):
        with pytest.raises(ModelNotFound, match="no learned sparse model"):
            load_sparse(str(path), "cpu")
    assert load_sparse(str(splade.parent / "raw"), "cpu").encode_queries(["key"]).tokens == 3, "a plain ForMaskedLM is"


def test_pickled_weights_are_refused(splade: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(splade, tmp_path / "pickled"))
    (path / "9_Dense").mkdir()
    (path / "9_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin is not in the safetensors format"):
        SparseTransformerEncoder(str(path), device="cpu")
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="cannot load"):
        SparseTransformerEncoder(str(path), device="cpu")


def test_bad_names_and_settings_say_what_to_do(splade: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"cannot load 'nowhere/at/all'"):
        load_sparse("nowhere/at/all", "cpu")
    for name in ("bundled", "tei:http://localhost:80", "static:folder"):
        with pytest.raises(ModelNotFound, match="is no sparse model"):
            load_sparse(name, "cpu")
    with pytest.raises(InvalidInput, match="max_terms=0"):
        SparseTransformerEncoder(str(splade), device="cpu", max_terms=0)
    with pytest.raises(DeviceUnavailable):
        load_sparse(str(splade), "cuda:99")


def test_batches_are_of_like_length_and_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(0, 65, size=200)
    seen: list[Any] = []
    TokenBatches("cpu", 256, 60).run(np.minimum(lengths, 60), seen.append)
    assert np.concatenate(seen).tolist() == sorted(range(200), key=lambda i: (-min(lengths[i], 60), i))
    widest = [min(60, 8 * -(-max(1, int(lengths[batch].max())) // 8)) for batch in seen]
    assert all(len(batch) * width <= 256 for batch, width in zip(seen, widest, strict=True))
    assert len(seen) < 60, "and not one text a batch"


def test_a_batch_that_does_not_fit_is_halved(splade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SparseTransformerEncoder(str(splade), device="cpu")
    expected = encoder.encode_documents(TEXTS).vectors
    output, room = Role.output, 100

    def limited(self: Role, rows: Any, texts: Any) -> Any:
        if sum(min(len(row), self.limit) for row in rows) > room:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return output(self, rows, texts)

    monkeypatch.setattr(Role, "output", limited)
    width = 1_000
    assert np.allclose(dense(encoder.encode_documents(TEXTS).vectors, width), dense(expected, width), atol=1e-4)
    room = 10
    with pytest.raises(EncodingFailed, match="too little memory for a single text"):
        encoder.encode_documents(["key " * 60])


def test_a_batch_of_bert_vocabulary_stays_in_its_room(splade: Path) -> None:
    encoder = SparseTransformerEncoder(str(splade), device="cpu")
    assert isinstance(encoder._model, SideModel)
    assert encoder._model.roles["document"].batches._budget == 2_048, "a small vocabulary leaves the usual budget"
    from tarragon.encoders.sparse import LOGIT_BYTES, _budget

    class Wide:
        config = type("Config", (), {"vocab_size": 30_522})
        dtype = torch.float32
        tokenizer = ()

    assert _budget(Wide, "cpu") * 30_522 * 4 <= LOGIT_BYTES["cpu"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_the_gpu_agrees_with_the_cpu(splade: Path) -> None:
    cpu, gpu = (SparseTransformerEncoder(str(splade), device=device) for device in ("cpu", "cuda"))
    ours, theirs = (dense(encoder.encode_documents(CORPUS[:5]).vectors, 1_000) for encoder in (gpu, cpu))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert ((ours * theirs).sum(axis=1) / norms).min() > 0.99
