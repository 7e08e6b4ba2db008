"""Late-interaction encoders against sentence-transformers' own ``encode_document`` and ``encode_query``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import MultiVectorEncoder
from tiny_models import CORPUS, tiny_colbert, tiny_splade

from tarragon.encoders.bundled import bundled_model_path
from tarragon.encoders.late import LateTransformerEncoder, token_vectors
from tarragon.encoders.side_loading import load_late
from tarragon.errors import InvalidInput, ModelNotFound
from tarragon.identity import fingerprint
from tarragon.interaction import maxsim

TEXTS = [*CORPUS[:5], "", "word", "key " * 200, "Größe 漢字 🙂", "...", "a, b. c!"]


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_colbert(tmp_path_factory.mktemp("colbert"))


@pytest.fixture(scope="module")
def encoder(colbert: Path) -> LateTransformerEncoder:
    return LateTransformerEncoder(str(colbert), device="cpu")


@pytest.fixture(scope="module")
def library(colbert: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(colbert), device="cpu")


def assert_same(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert np.allclose(mine, other, atol=1e-5)


def test_the_librarys_own_vectors_in_order(encoder: LateTransformerEncoder, library: MultiVectorEncoder) -> None:
    documents, queries = encoder.encode_documents(TEXTS), encoder.encode_queries(TEXTS)
    assert_same(documents.vectors, library.encode_document(TEXTS, convert_to_numpy=True))
    assert_same(queries.vectors, library.encode_query(TEXTS, convert_to_numpy=True))
    for vectors in (*documents.vectors, *queries.vectors):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == encoder.dimensions == 16
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    full = [len(library.tokenizer("[D] " + text, verbose=False)["input_ids"]) for text in TEXTS]
    assert documents.tokens == sum(min(length, 48) for length in full)
    assert documents.truncated == sum(max(0, length - 48) for length in full) > 100


def test_the_models_own_rules_say_which_tokens_count(encoder: LateTransformerEncoder) -> None:
    plain, dotted = encoder.encode_documents(["a b c", "a, b. c!"]).vectors
    assert len(plain) == len(dotted) == 6, "[CLS] [D] a b c [SEP]: punctuation is read but not compared"
    assert not np.allclose(plain, dotted, atol=1e-3)
    assert [len(vectors) for vectors in encoder.encode_queries(["a b c", "a, b. c!"]).vectors] == [16, 16], "expanded"
    assert encoder._model.roles["document"]._takes_ids, "documents are tokenised once, by us"


def test_queries_without_expansion_have_a_vector_a_token(tmp_path: Path) -> None:
    path = str(tiny_colbert(tmp_path, expansion=False))
    ours = LateTransformerEncoder(path, device="cpu")
    assert_same(
        ours.encode_queries(TEXTS).vectors,
        MultiVectorEncoder(path, device="cpu").encode_query(TEXTS, convert_to_numpy=True),
    )
    assert len(ours.encode_queries(["a b c"]).vectors[0]) == 6


@pytest.mark.parametrize("older", [False, True])
def test_models_of_pylate_run_with_their_own_weights(tmp_path: Path, colbert: Path, older: bool) -> None:
    path = Path(shutil.copytree(colbert, tmp_path / "pylate"))
    modules = json.loads((path / "modules.json").read_text())
    (path / "modules.json").write_text(json.dumps(modules[:2]))  # PyLate keeps masking and normalising elsewhere
    settings = {"query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 16, "document_length": 48}
    config = settings if older else {**settings, "model_type": "ColBERT"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(config))
    ours, theirs = LateTransformerEncoder(str(path), device="cpu"), MultiVectorEncoder(str(path), device="cpu")
    assert_same(ours.encode_documents(TEXTS).vectors, theirs.encode_document(TEXTS, convert_to_numpy=True))
    assert_same(ours.encode_queries(TEXTS).vectors, theirs.encode_query(TEXTS, convert_to_numpy=True))
    (path / "modules.json").write_text(json.dumps(modules[:1]))
    if older:
        with pytest.raises(ModelNotFound, match="no late-interaction model"):
            LateTransformerEncoder(str(path), device="cpu")


def test_the_same_text_has_the_same_vectors_in_any_batch(colbert: Path, encoder: LateTransformerEncoder) -> None:
    small = LateTransformerEncoder(str(colbert), device="cpu", token_budget=60)
    assert_same(small.encode_documents(TEXTS[::-1]).vectors, encoder.encode_documents(TEXTS).vectors[::-1])
    assert_same(small.encode_queries(TEXTS[::-1]).vectors, encoder.encode_queries(TEXTS).vectors[::-1])
    assert encoder.encode_documents([]).vectors == []


def test_a_text_without_a_token_that_counts_has_one_vector_of_zeros() -> None:
    found = token_vectors(torch.ones(2, 3, 4), torch.tensor([[0, 0, 0], [0, 1, 1]]))
    assert [rows.shape for rows in found] == [(1, 4), (2, 4)]
    assert found[0].tolist() == [[0, 0, 0, 0]]
    assert np.allclose(found[1], 0.5)


def test_the_identity_is_that_of_the_documents_side(colbert: Path, tmp_path: Path) -> None:
    before = fingerprint(LateTransformerEncoder(str(colbert), device="cpu").identity)
    same = Path(shutil.copytree(colbert, tmp_path / "same"))
    for file in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        text = (same / file).read_text(encoding="utf-8")
        assert '"length": 16' in text or '"[Q] "' in text
        (same / file).write_text(text.replace('"length": 16', '"length": 12').replace('"[Q] "', '"[D] "'))
    queries = LateTransformerEncoder(str(same), device="cpu")
    assert len(queries.encode_queries(["a"]).vectors[0]) == 12, "the change is one"
    assert fingerprint(queries.identity) == before, "how queries are read does not change what is stored"
    mask = next(same.glob("*MultiVectorMask/config.json"))
    mask.write_text(mask.read_text().replace('"!",', ""))
    assert fingerprint(LateTransformerEncoder(str(same), device="cpu").identity) != before


def test_a_model_of_another_kind_is_refused_rather_than_given_random_weights(tmp_path: Path, colbert: Path) -> None:
    for path in (bundled_model_path(), tiny_splade(tmp_path), colbert.parent / "raw"):
        with pytest.raises(ModelNotFound, match="no late-interaction model"):
            load_late(str(path), "cpu")
    with pytest.raises(ModelNotFound, match=r"cannot load 'nowhere/at/all'"):
        load_late("nowhere/at/all", "cpu")
    with pytest.raises(ModelNotFound, match="is no late-interaction model"):
        load_late("bundled", "cpu")


def matrices(rows: int) -> st.SearchStrategy[Any]:
    numbers = st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3)
    return st.lists(numbers, min_size=1, max_size=rows).map(lambda values: np.array(values, dtype=np.float32))


@settings(max_examples=50, deadline=None)
@given(matrices(5), matrices(6))
def test_maxsim_is_the_sum_of_the_best_matches(query: Any, document: Any) -> None:
    slow = sum(max(sum(a * b for a, b in zip(q, d, strict=True)) for d in document.tolist()) for q in query.tolist())
    assert maxsim(query, document) == pytest.approx(slow, rel=1e-4, abs=1e-3)
    assert maxsim(query, document[::-1]) == pytest.approx(maxsim(query, document), rel=1e-5, abs=1e-5)


def test_maxsim_agrees_with_the_librarys(encoder: LateTransformerEncoder, library: MultiVectorEncoder) -> None:
    queries, documents = encoder.encode_queries(TEXTS[:4]).vectors, encoder.encode_documents(TEXTS).vectors
    ours = [[maxsim(query, document) for document in documents] for query in queries]
    theirs = library.similarity([torch.tensor(q) for q in queries], [torch.tensor(d) for d in documents])
    assert np.allclose(ours, theirs.numpy(), atol=1e-4)


def test_maxsim_refuses_what_does_not_fit() -> None:
    two, three = np.ones((2, 2), dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    for query, document in ((two, three), (two[0], two), (two, two[:0])):
        with pytest.raises(InvalidInput, match="MaxSim compares"):
            maxsim(query, document)
    assert maxsim(two[:0], two) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_the_gpu_agrees_with_the_cpu(colbert: Path, encoder: LateTransformerEncoder) -> None:
    gpu = LateTransformerEncoder(str(colbert), device="cuda").encode_documents(CORPUS[:5]).vectors
    for ours, theirs in zip(gpu, encoder.encode_documents(CORPUS[:5]).vectors, strict=True):
        assert (ours * theirs).sum(axis=1).min() > 0.99
