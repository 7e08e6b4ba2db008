"""Tables of token vectors: model2vec's folders and word vectors, with and without sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny_models import CORPUS, make_model
from tokenizers import Tokenizer

from tarragon import Document, Index, IndexRecipe
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.encoders.static import StaticEncoder, save_word_vectors
from tarragon.errors import InvalidInput, ModelNotFound
from tarragon.identity import fingerprint
from tarragon.protocols import EncoderInput
from tarragon.testing import check_encoder
from tarragon.types import FloatArray

GLOVE = """the 1 0 0 0
key 0 2 0 0
door 0 0 3 0
, 0 0 0 1
Größe 1 1 1 1
key 9 9 9 9
"""


def table_folder(folder: Path, *, modules: bool = False, **tensors: Any) -> Path:
    """A folder as model2vec saves it: ``embeddings`` and a tokenizer; newer versions add ``modules.json``."""
    static = make_model(folder / "made", "static")
    path = folder / "saved"
    path.mkdir(parents=True)
    (path / "tokenizer.json").write_bytes((static / "tokenizer.json").read_bytes())
    table = load_file(static / "model.safetensors")["embedding.weight"]
    save_file({"embeddings": table, **tensors}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    if modules:
        module = {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"}
        (path / "modules.json").write_text(json.dumps([module]))
    return path


def tokenizer_size(path: Path) -> int:
    return int(Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size())


def expected(path: Path, texts: list[str]) -> FloatArray:
    """The mean of the rows, written out."""
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tensors = load_file(path / "model.safetensors")
    rows = []
    for text in texts:
        ids = [i for i in tokenizer.encode(text, add_special_tokens=False).ids if i != tokenizer.token_to_id("[UNK]")]
        places = [int(tensors["mapping"][i]) for i in ids] if "mapping" in tensors else ids
        scales = [float(tensors["weights"][i]) for i in ids] if "weights" in tensors else [1.0] * len(ids)
        rows.append(np.mean([s * tensors["embeddings"][p] for s, p in zip(scales, places, strict=True)], axis=0))
    vectors = np.array(rows)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("parts", ["table", "weights", "mapping"])
def test_a_text_is_the_mean_of_its_known_tokens(tmp_path: Path, parts: str) -> None:
    tokens = tokenizer_size(table_folder(tmp_path / "probe"))
    tensors: dict[str, Any] = {}
    if parts != "table":
        tensors["weights"] = np.linspace(0.1, 2, tokens)
    if parts == "mapping":
        tensors["mapping"] = np.arange(tokens)[::-1].copy()
    path = table_folder(tmp_path, **tensors)
    encoder = StaticEncoder(str(path))
    vectors = encoder.encode_documents([EncoderInput(text) for text in CORPUS[:5]]).vectors
    assert np.allclose(vectors, expected(path, CORPUS[:5]), atol=1e-6)
    check_encoder(encoder, ["one", "two words", "x " * 400, "key"])
    assert fingerprint(encoder.identity) != fingerprint(StaticEncoder(str(path), dimensions=8).identity)


def test_sentence_transformers_gives_the_same_where_every_token_is_known(tmp_path: Path) -> None:
    path = table_folder(tmp_path, modules=True)
    ours = StaticEncoder(str(path))
    theirs = SentenceTransformerEncoder(str(path), device="cpu")
    texts = ["the signing key", "revoke the old one; rotate"]
    assert not any(ours._unknown in ids for ids in ours.tokenizer.tokenize(texts))
    for first, second in (
        (ours.encode_queries(texts).vectors, theirs.encode_queries(texts).vectors),
        (ours.encode_queries(texts).vectors, SentenceTransformer(str(path), device="cpu").encode(texts)),
    ):
        assert np.allclose(first, second / np.linalg.norm(second, axis=1, keepdims=True), atol=1e-5)
    ids = ours.tokenizer.tokenize(texts)
    given = ours.encode_documents([EncoderInput("quite another text", row) for row in ids])
    assert np.allclose(given.vectors, ours.encode_queries(texts).vectors)
    prompted = StaticEncoder(str(path), document_prompt="passage: ")
    assert np.allclose(
        prompted.encode_documents([EncoderInput(texts[0], ids[0])]).vectors,
        ours.encode_queries(texts[:1], prompt="passage: ").vectors,
    )


def test_nothing_known_is_like_nothing(tmp_path: Path) -> None:
    vectors = StaticEncoder(str(table_folder(tmp_path))).encode_queries(["", "鱷", "key"]).vectors
    assert np.linalg.norm(vectors, axis=1).round(4).tolist() == [0, 0, 1]


@pytest.mark.parametrize("header", ["", "6 4\n"], ids=["GloVe", "word2vec"])
def test_word_vectors_become_a_model_that_an_index_can_use(tmp_path: Path, header: str) -> None:
    source = tmp_path / "vectors.txt"
    source.write_text(header + GLOVE, encoding="utf-8")
    folder = save_word_vectors(source, tmp_path / "glove")
    encoder = StaticEncoder(str(folder))
    vectors = encoder.encode_queries(["The KEY, the unheard-of door", "key", "keys"]).vectors
    total = np.array([2, 2, 3, 1])
    assert np.allclose(vectors[0], total / np.linalg.norm(total))
    assert np.allclose(vectors[1:], [[0, 1, 0, 0], [0, 0, 0, 0]]), "the first of two equal words; an unknown one"
    cased = StaticEncoder(str(save_word_vectors(source, tmp_path / "cased", lowercase=False)))
    assert np.allclose(cased.encode_queries(["Größe The"]).vectors, 0.5)
    recipe = IndexRecipe(model=f"static:{folder}")
    with Index.open(tmp_path / "i.tarragon", recipe=recipe) as index:
        assert index.sync([Document("a", "the key"), Document("b", "the door")]).chunks_embedded == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no word vectors"), ("the 1 2\nkey 1\n", "line 2: a word and 2 numbers"), ("the 1 x\n", "line 1: could not")],
)
def test_word_vectors_that_cannot_be_read_are_refused(tmp_path: Path, text: str, says: str) -> None:
    source = tmp_path / "vectors.txt"
    source.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        save_word_vectors(source, tmp_path / "glove")


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    path = table_folder(tmp_path)
    tokens = tokenizer_size(path)
    with pytest.raises(ModelNotFound, match="dimensions=99"):
        StaticEncoder(str(path), dimensions=99)
    for tensors, says in (
        ({"embeddings": np.ones((7, 4), dtype=np.float32)}, "7 rows for a tokenizer of"),
        ({"other": np.ones((tokens, 4), dtype=np.float32)}, "but other"),
        ({"embeddings": np.ones((tokens, 4), dtype=np.float32), "weights": np.ones(5)}, "do not belong together"),
    ):
        save_file(tensors, path / "model.safetensors")
        with pytest.raises(ModelNotFound, match=says):
            StaticEncoder(str(path))
    (path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelNotFound, match="cannot be read"):
        StaticEncoder(str(path))
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json cannot be read"):
        StaticEncoder(str(tmp_path))
