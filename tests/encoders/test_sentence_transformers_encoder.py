"""The encoder against ``SentenceTransformer.encode`` itself, on the bundled model and on tiny ones of other kinds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_models import CORPUS, make_model

from tarragon.chunking import Chunker
from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.library import choose_device
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.errors import DeviceUnavailable, EncodingFailed, ModelNotFound
from tarragon.identity import fingerprint
from tarragon.protocols import EncoderInput
from tarragon.testing import check_encoder
from tarragon.types import Document, FloatArray

TEXTS = [
    "",
    " \n ",
    "word",
    "A sentence about signing keys.",
    "Two sentences. The second is longer than the first one, by far, and it rambles on and on.",
    "Größe, naïve café, 漢字とかな, مرحبا بالعالم 🙂",
    "def f(x):\n\treturn x[0]  # [MASK] [SEP]",
    "x" * 300,
    "long " * 500,
    *(
        " ".join(random.Random(n).choices(["the", "of", "a", "key", "door", "is", "to", "be", "old", "new"], k=n))
        for n in range(1, 120, 7)
    ),
]


def inputs(texts: Sequence[str]) -> list[EncoderInput]:
    return [EncoderInput(text) for text in texts]


def assert_same(ours: FloatArray, theirs: Any, least: float = 0.99999) -> None:
    theirs = np.asarray(theirs, dtype=np.float32)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    assert float(((ours * theirs).sum(axis=1) / norms).min()) >= least


@pytest.fixture(scope="session")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(bundled_model_path()), device="cpu")


def test_the_bundled_model_gives_the_librarys_own_vectors_in_order(
    encoder: SentenceTransformerEncoder, reference: SentenceTransformer
) -> None:
    result = encoder.encode_documents(inputs(TEXTS))
    assert_same(result.vectors, reference.encode(TEXTS))
    assert np.allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
    lengths = [len(row) for row in reference.tokenizer(TEXTS, truncation=False, verbose=False)["input_ids"]]
    assert result.tokens == sum(min(length, 256) for length in lengths)
    assert result.truncated == sum(max(0, length - 256) for length in lengths) > 200
    assert_same(encoder.encode_queries(TEXTS).vectors, reference.encode_query(TEXTS))


def test_chunks_bring_their_ids_and_give_the_same_vectors(
    encoder: SentenceTransformerEncoder, reference: SentenceTransformer
) -> None:
    text = "# Title\n\n" + "\n\n".join(f"## Part {n}\n\n{text}" for n, text in enumerate(TEXTS))
    chunks = Chunker(encoder.tokenizer, encoder.max_tokens).chunk([(Document("a", text), "markdown")])[0]
    assert all(chunk.token_ids is not None for chunk in chunks)
    result = encoder.encode_documents([EncoderInput(chunk.embed_text, chunk.token_ids) for chunk in chunks])
    assert result.truncated == 0
    assert_same(result.vectors, reference.encode([chunk.embed_text for chunk in chunks]))


def test_the_encoder_keeps_its_contract(encoder: SentenceTransformerEncoder) -> None:
    check_encoder(encoder)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {}),
        ("bert", {"pooling": "cls", "normalize": False}),
        ("bert", {"prompts": {"query": "query: ", "passage": "passage: "}}),
        ("bert", {"prompts": {"query": "ends in a letter", "document": "so does this"}}),
        ("bert", {"prompts": {"x": "default prompt: "}, "default_prompt_name": "x"}),
        ("bert", {"similarity_fn_name": "dot", "normalize": False}),
        ("roberta", {}),
        ("roberta", {"prompts": {"query": "query: ", "document": "passage: "}, "pooling": "cls"}),
        ("modernbert", {"pooling": "cls"}),
        ("qwen3", {"pooling": "lasttoken", "prompts": {"query": "Instruct: search\nQuery:"}}),
        ("static", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "plain",
)
def test_models_of_other_kinds_give_the_librarys_own_vectors(
    tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    path = make_model(tmp_path, kind, **settings)
    theirs = SentenceTransformer(str(path), device="cpu")
    ours = SentenceTransformerEncoder(str(path), device="cpu")
    texts = [text for text in TEXTS if text.strip()] + CORPUS[:5]
    documents, queries = ours.encode_documents(inputs(texts)).vectors, ours.encode_queries(texts).vectors
    prompts = settings.get("prompts", {})
    passage = prompts.get("passage")  # encode_document overlooks it where the configuration has no "document"
    assert_same(
        documents, theirs.encode_document(texts, prompt=passage) if "x" not in prompts else theirs.encode(texts)
    )
    assert_same(queries, theirs.encode_query(texts) if "x" not in prompts else theirs.encode(texts))
    if settings.get("similarity_fn_name") == "dot":
        assert np.allclose(documents, theirs.encode_document(texts), atol=1e-4)
    assert ours.query_prompt == prompts.get("query", prompts.get("x", ""))
    assert ours.document_prompt == prompts.get("document", prompts.get("passage", prompts.get("x", "")))
    assert np.allclose(queries, documents) is not ("query" in prompts)
    assert ours.max_tokens >= 40
    check_encoder(ours, ["one", "two words", "x " * 400, "日本語"])


def test_prompts_and_dimensions_of_the_caller_win(tmp_path: Path) -> None:
    path = make_model(tmp_path, "bert", prompts={"query": "q: ", "document": "d: "})
    theirs = SentenceTransformer(str(path), device="cpu")
    ours = SentenceTransformerEncoder(str(path), device="cpu", document_prompt="mine: ", dimensions=8)
    vectors = ours.encode_documents(inputs(CORPUS[:5])).vectors
    assert_same(vectors, theirs.encode(CORPUS[:5], prompt="mine: ", truncate_dim=8))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5), "truncated, then normalised again"
    assert_same(
        ours.encode_queries(CORPUS[:5], prompt="other: ").vectors,
        theirs.encode(CORPUS[:5], prompt="other: ", truncate_dim=8),
    )
    with pytest.raises(ModelNotFound, match="dimensions=99"):
        SentenceTransformerEncoder(str(path), dimensions=99)


def test_prompts_of_a_models_card_are_used_where_its_configuration_has_none(tmp_path: Path) -> None:
    path = make_model(tmp_path, "bert").rename(tmp_path / "e5-small-v2")
    ours = SentenceTransformerEncoder(str(path), device="cpu")
    assert (ours.query_prompt, ours.document_prompt) == ("query: ", "passage: ")


# --- identity ---------------------------------------------------------------------------------------------------------
def test_the_fingerprint_changes_with_what_changes_a_document_vector_and_with_nothing_else(tmp_path: Path) -> None:
    def print_of(path: Path, **settings: Any) -> str:
        return fingerprint(SentenceTransformerEncoder(str(path), device="cpu", **settings).identity)

    path = make_model(tmp_path / "a", "bert")
    known = print_of(path)
    assert print_of(path, token_budget=64) == known
    assert print_of(path.rename(tmp_path / "elsewhere")) == known
    path = tmp_path / "elsewhere"
    prompted = make_model(tmp_path / "b", "bert", prompts={"query": "only for queries: "})
    assert print_of(prompted) == known, "the query prompt is no part of a document's vector"
    others = [
        print_of(path, document_prompt="passage: "),
        print_of(path, dimensions=16),
        print_of(make_model(tmp_path / "c", "bert", pooling="cls")),
        print_of(make_model(tmp_path / "d", "bert", normalize=False, similarity_fn_name="dot")),
        print_of(make_model(tmp_path / "e", "roberta")),
    ]
    model = SentenceTransformer(str(path), device="cpu")
    model.max_seq_length = 32
    model.save(str(tmp_path / "f"), create_model_card=False)
    model.max_seq_length = 64
    with torch.no_grad():
        next(model.parameters())[5, 0] += 1e-3
    model.save(str(tmp_path / "g"), create_model_card=False)
    others += [print_of(tmp_path / "f"), print_of(tmp_path / "g")]
    assert len({known, *others}) == 1 + len(others)


# --- trouble ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("unpad", [True, False])
def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_budget_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpad: bool
) -> None:
    path = str(make_model(tmp_path, "bert"))
    ours = SentenceTransformerEncoder(path, device="cpu", token_budget=4_096, unpad=unpad)
    expected = ours.encode_documents(inputs(CORPUS)).vectors
    name = "_packed" if unpad else "_forward"
    forward, tried = getattr(ours, name), []

    def small(given: Any, *task: str) -> dict[str, Any]:
        tried.append(sum(map(len, given)) if unpad else given["input_ids"].numel())
        if tried[-1] > 600:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
        return dict(forward(given, *task))

    monkeypatch.setattr(ours, name, small)
    assert np.allclose(ours.encode_documents(inputs(CORPUS)).vectors, expected, atol=1e-6)
    assert max(tried) > 600
    tried.clear()
    ours.encode_documents(inputs(CORPUS))
    assert max(tried) <= 600, "it has learnt"
    monkeypatch.setattr(ours, name, lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(EncodingFailed, match="single text"):
        ours.encode_documents(inputs(CORPUS[:2]))
    monkeypatch.setattr(ours, name, lambda *_: (_ for _ in ()).throw(RuntimeError("another fault")))
    with pytest.raises(RuntimeError, match="another fault"):
        ours.encode_documents(inputs(CORPUS[:2]))


@pytest.mark.parametrize("device", ["cuda:99", "cudaa", "tpu"])
def test_a_device_that_is_not_there_fails_loudly(device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"{device}.*cpu"):
        SentenceTransformerEncoder(device=device)


def test_without_a_wish_the_best_device_is_taken_and_told(encoder: SentenceTransformerEncoder) -> None:
    assert choose_device(None) == ("cuda" if torch.cuda.is_available() else choose_device(None))
    assert choose_device("cpu") == "cpu"
    assert encoder.device == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="nvidia-smi"):
            choose_device("cuda")


def test_weights_that_could_run_code_are_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path, "bert")
    model = SentenceTransformer(str(path), device="cpu")
    (path / "model.safetensors").unlink()
    torch.save(model[0].auto_model.state_dict(), path / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match="safetensors"):
        SentenceTransformerEncoder(str(path), device="cpu")


def test_a_model_that_compares_by_distance_is_refused(tmp_path: Path) -> None:
    path = make_model(tmp_path, "bert", similarity_fn_name="euclidean")
    with pytest.raises(ModelNotFound, match="euclidean"):
        SentenceTransformerEncoder(str(path), device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_on_the_gpu_agrees_with_the_cpu(encoder: SentenceTransformerEncoder) -> None:
    gpu = SentenceTransformerEncoder(device="cuda")
    assert gpu.device == "cuda"
    assert_same(gpu.encode_documents(inputs(TEXTS)).vectors, encoder.encode_documents(inputs(TEXTS)).vectors, 0.999)
    assert fingerprint(gpu.identity) == fingerprint(encoder.identity)


def test_the_bundled_model_is_fed_the_ids_that_chunking_made(encoder: SentenceTransformerEncoder) -> None:
    assert encoder._takes_ids
    ids = encoder.tokenizer.tokenize(["a text about keys"])[0]
    as_given = encoder.encode_documents([EncoderInput("quite another text", ids)]).vectors
    assert np.allclose(as_given, encoder.encode_documents([EncoderInput("a text about keys")]).vectors, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "qwen3"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_known_architectures_run_without_padding_and_give_the_same(tmp_path: Path, kind: str, pooling: str) -> None:
    path = str(make_model(tmp_path, kind, pooling=pooling))
    ours, padded = (SentenceTransformerEncoder(path, device="cpu", unpad=unpad) for unpad in (True, False))
    assert (ours.is_unpadded, padded.is_unpadded) == (True, False)
    texts = [*CORPUS[:5], "", "word " * 200, "a"]
    first, second = ours.encode_documents(inputs(texts)), padded.encode_documents(inputs(texts))
    assert_same(first.vectors, second.vectors)
    assert (first.tokens, first.truncated) == (second.tokens, second.truncated)
    assert ours.identity == padded.identity


def test_a_model_that_cannot_run_without_padding_is_loaded_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_model(tmp_path, "bert"))

    def refuse(*_: Any) -> Any:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    monkeypatch.setattr("tarragon.encoders.packed.bert.attend", refuse)
    encoder = SentenceTransformerEncoder(path, device="cpu")
    assert not encoder.is_unpadded
    assert_same(encoder.encode_documents(inputs(CORPUS[:3])).vectors, SentenceTransformer(path).encode(CORPUS[:3]))
