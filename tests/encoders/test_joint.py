"""One model, three spaces: against the published formulas written out, and one forward for all three."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CORPUS, tiny_joint
from transformers import AutoModel, AutoTokenizer

from tarragon.encoders.joint import JointEncoder
from tarragon.encoders.joint_spaces import Facet, Memo
from tarragon.encoders.packed import Packed
from tarragon.encoders.side_loading import load_joint, load_late, load_sparse
from tarragon.errors import ModelNotFound
from tarragon.identity import fingerprint
from tarragon.protocols import EncoderInput
from tarragon.testing import check_encoder
from tarragon.types import SparseVector

TEXTS = [*CORPUS[:5], "word", "key the key", "long " * 100, "Größe 漢字 🙂"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_joint(tmp_path_factory.mktemp("joint"))


@pytest.fixture
def joint(folder: Path) -> JointEncoder:
    return JointEncoder(str(folder), device="cpu")


@pytest.fixture
def forwards(joint: JointEncoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts of each forward of the transformer."""
    sizes: list[int] = []
    packed = joint._packed
    assert packed is not None

    def counted(batch: Packed) -> torch.Tensor:
        sizes.append(len(batch.lengths))
        return packed(batch)

    monkeypatch.setattr(joint, "_packed", counted)
    return sizes


def inputs(texts: list[str]) -> list[EncoderInput]:
    return [EncoderInput(text) for text in texts]


def by_the_paper(folder: Path, text: str) -> tuple[Any, dict[int, float], Any]:
    """Dense, sparse and late vectors of one text, as FlagEmbedding's BGE-M3 defines them."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(input_ids=ids).last_hidden_state[0]
    sparse, late = (load_file(folder / f"{name}_linear.safetensors") for name in ("sparse", "colbert"))
    weights: dict[int, float] = {}
    for token, state in zip(ids[0].tolist(), states, strict=True):
        weight = max(0.0, float(state @ sparse["weight"][0] + sparse["bias"][0]))
        if weight and token not in tokenizer.all_special_ids:
            weights[token] = max(weight, weights.get(token, 0.0))
    unit = torch.nn.functional.normalize
    return unit(states[0], dim=0).numpy(), weights, unit(states[1:] @ late["weight"].T + late["bias"], dim=1).numpy()


def test_the_three_spaces_are_the_papers(joint: JointEncoder, folder: Path) -> None:
    sparse, late = joint.sparse, joint.late
    dense = joint.encode_documents(inputs(TEXTS))
    terms, multi = sparse.encode_documents(TEXTS), late.encode_documents(TEXTS)
    for i, text in enumerate(TEXTS):
        vector, weights, tokens = by_the_paper(folder, text)
        assert np.allclose(dense.vectors[i], vector, atol=1e-5)
        assert terms.vectors[i].indices.tolist() == sorted(weights)
        assert np.allclose(terms.vectors[i].values, [weights[term] for term in sorted(weights)], atol=1e-5)
        assert np.allclose(multi.vectors[i], tokens, atol=1e-5)
    full = [len(joint._hf_tokenizer(text, verbose=False)["input_ids"]) for text in TEXTS]
    for result in (dense, terms, multi):
        assert result.tokens == sum(min(length, 64) for length in full)
        assert result.truncated == sum(max(0, length - 64) for length in full) > 0
    assert any(len(vector.indices) for vector in terms.vectors), "random weights give some above 0"


@pytest.mark.parametrize("first", ["dense", "sparse", "late"])
def test_one_forward_feeds_three_spaces(joint: JointEncoder, forwards: list[int], first: str) -> None:
    sparse, late = joint.sparse, joint.late
    encode = {
        "dense": lambda: joint.encode_documents(inputs(TEXTS)),
        "sparse": lambda: sparse.encode_documents(TEXTS),
        "late": lambda: late.encode_documents(TEXTS),
    }
    encode.pop(first)()
    assert sum(forwards) == len(TEXTS)
    for ask in encode.values():
        ask()
    assert sum(forwards) == len(TEXTS), "the others are of the same pass"
    assert joint._memo.size == 0, "what everybody has is not kept"
    joint.encode_queries(["who?"])
    sparse.encode_queries(["who?"])
    late.encode_queries(["who?"])
    assert sum(forwards) == len(TEXTS) + 1, "queries too"


def test_only_spaces_that_were_asked_for_are_made(joint: JointEncoder) -> None:
    joint.encode_documents(inputs(TEXTS))
    assert joint._memo.size == 0
    assert joint.late.dimensions == 8
    joint.encode_documents(inputs(TEXTS))
    assert joint._memo.size > 0


def test_equal_texts_in_one_call_are_one_forward(joint: JointEncoder, forwards: list[int]) -> None:
    found = joint.sparse.encode_documents(["a key"] * 3)
    assert forwards == [1]
    assert found.tokens == 3 * 4, "each counts"
    assert len({tuple(vector.values) for vector in found.vectors}) == 1


def test_a_full_memo_forgets_the_oldest_and_the_vectors_stay_right(folder: Path) -> None:
    small = JointEncoder(str(folder), device="cpu", memo_bytes=4_000)
    late = small.late
    small.encode_documents(inputs(TEXTS))
    assert 0 < small._memo.size <= 4_000
    expected = JointEncoder(str(folder), device="cpu").late.encode_documents(TEXTS).vectors
    for ours, theirs in zip(late.encode_documents(TEXTS).vectors, expected, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


def test_the_memo_hands_each_part_out_once_and_counts_its_bytes() -> None:
    row, terms = np.zeros(8, dtype=np.float32), SparseVector(np.zeros(2, np.int32), np.ones(2, np.float32))
    memo = Memo(100)
    memo.put("a", {"dense": Facet(row, 1, 0), "sparse": Facet(terms, 1, 0)})
    assert memo.size == 32 + 16
    assert memo.take("a", "sparse") == Facet(terms, 1, 0)
    assert memo.take("a", "sparse") is None
    assert memo.size == 32
    memo.put("a", {"dense": Facet(row, 1, 0)})
    memo.put("b", {"dense": Facet(row, 1, 0)})
    memo.put("c", {"dense": Facet(row, 1, 0)})
    assert memo.size == 96
    memo.put("d", {"sparse": Facet(terms, 1, 0)})
    assert memo.take("a", "dense") is None, "the oldest made room"
    assert memo.take("b", "dense") is not None
    memo.put("huge", {"late": Facet(np.zeros(1_000, dtype=np.float32), 1, 0)})
    assert memo.size == 0
    assert memo.take("huge", "late") is None


def test_threads_get_their_own_texts(joint: JointEncoder) -> None:
    sparse, late = joint.sparse, joint.late
    texts = [f"key {n} of the door {'old ' * (n % 7)}" for n in range(24)]
    expected = joint.encode_documents(inputs(texts)).vectors
    terms, multi = sparse.encode_documents(texts).vectors, late.encode_documents(texts).vectors

    def ask(n: int) -> bool:
        part = [texts[n], texts[(n + 1) % 24]]
        rows = joint.encode_queries(part).vectors
        found, tokens = sparse.encode_queries(part).vectors[0], late.encode_queries(part).vectors[0]
        same = np.allclose(rows[0], expected[n], atol=1e-5) and np.allclose(tokens, multi[n], atol=1e-5)
        return same and found.indices.tolist() == terms[n].indices.tolist()

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, list(range(24)) * 2))


def test_it_keeps_the_contract_of_a_dense_encoder(joint: JointEncoder) -> None:
    check_encoder(joint, ["one", "two words", "x " * 100, "日本語"])
    ids = joint.tokenizer.tokenize(["the signing key"])[0]
    given = joint.encode_documents([EncoderInput("the signing key", ids)]).vectors
    assert np.allclose(given, joint.encode_documents(inputs(["the signing key"])).vectors, atol=1e-5)
    prompted = joint.encode_queries(["a key"], prompt="find: ").vectors
    assert np.allclose(prompted, joint.encode_queries(["find: a key"]).vectors, atol=1e-5)


def test_mean_pooling_where_the_folder_says_so(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "mean"))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    ours = JointEncoder(str(path), device="cpu")
    model, tokenizer = AutoModel.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        states = model(**tokenizer("a key", return_tensors="pt")).last_hidden_state[0]
    mean = torch.nn.functional.normalize(states.mean(dim=0), dim=0).numpy()
    found = ours.encode_documents(inputs(["a key", "a much longer text than that, by far"])).vectors[0]
    assert np.allclose(found, mean, atol=1e-5)
    assert fingerprint(ours.identity) != fingerprint(JointEncoder(str(folder), device="cpu").identity)


def test_each_space_has_its_identity(joint: JointEncoder, folder: Path, tmp_path: Path) -> None:
    kinds = {fingerprint(part.identity) for part in (joint, joint.sparse, joint.late)}
    assert len(kinds) == 3
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    again = JointEncoder(str(moved), device="cpu", token_budget=64)
    assert {fingerprint(part.identity) for part in (again, again.sparse, again.late)} == kinds
    layer = load_file(moved / "colbert_linear.safetensors")
    save_file({**layer, "bias": layer["bias"] + 1}, moved / "colbert_linear.safetensors")
    assert fingerprint(JointEncoder(str(moved), device="cpu").late.identity) not in kinds


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "broken"))
    (path / "sparse_linear.safetensors").rename(path / "sparse_linear.pt")
    with pytest.raises(ModelNotFound, match=r"sparse_linear\.safetensors.*docs/models\.md"):
        JointEncoder(str(path), device="cpu")
    save_file({"weight": torch.ones(2, 32), "bias": torch.ones(2)}, path / "sparse_linear.safetensors")
    with pytest.raises(ModelNotFound, match=r"shape \(2, 32\) does not fit"):
        JointEncoder(str(path), device="cpu")
    (path / "model.safetensors").unlink()
    for name in (path, tmp_path / "nowhere"):
        with pytest.raises(ModelNotFound, match="cannot load the joint model"):
            JointEncoder(str(name), device="cpu")


def test_the_conversion_in_the_documentation_works(
    folder: Path, joint: JointEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Path(shutil.copytree(folder, tmp_path / "bge-m3"))
    for name in ("sparse_linear", "colbert_linear"):
        torch.save(load_file(published / f"{name}.safetensors"), published / f"{name}.pt")
        (published / f"{name}.safetensors").unlink()
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    block = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "torch.load" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "models.md", "exec"), {})
    made = JointEncoder("models/bge-m3", device="cpu").late.encode_documents(TEXTS[:2]).vectors
    for ours, theirs in zip(made, joint.late.encode_documents(TEXTS[:2]).vectors, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)


def test_its_spaces_load_by_name(folder: Path) -> None:
    assert load_joint(str(folder), "cpu").dimensions == 32
    assert load_late(f"joint:{folder}", "cpu").dimensions == 8
    assert len(load_sparse(f"joint:{folder}", "cpu").encode_queries(["a key"]).vectors) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_on_the_gpu_agrees_with_the_cpu(folder: Path, joint: JointEncoder) -> None:
    gpu = JointEncoder(str(folder), device="cuda")
    rows = gpu.encode_documents(inputs(TEXTS)).vectors * joint.encode_documents(inputs(TEXTS)).vectors
    assert rows.sum(axis=1).min() > 0.99
