"""A small cross-encoder as an ONNX file, written by hand: the package ``onnx`` is not needed to run one.

The model is a real function of both texts: the sum of the question's token vectors, dot the sum of the passage's. With
nearly orthogonal vectors it counts the words that they share. `scores` is the same in NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_rerankers import word_piece

from tarragon.types import FloatArray

LIMIT = 64


def table() -> FloatArray:
    """One vector a token; special tokens have none."""
    vectors = np.random.default_rng(0).normal(size=(word_piece()[0].get_vocab_size(), 64)).astype(np.float32) / 8
    vectors[:5] = 0
    return vectors


def scores(query: str, passages: Sequence[str]) -> list[float]:
    """What the model should give, from the tokenizers library's own pairs."""
    made = []
    for passage in passages:
        ids, types = cut(query, passage)
        vectors = table()[ids]
        made.append(float(vectors[types == 0].sum(axis=0) @ vectors[types == 1].sum(axis=0)))
    return made


def cut(query: str, passage: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and types of a pair, cut by the library to `LIMIT`."""
    tokenizer = type(word_piece()[0]).from_str(word_piece()[0].to_str())
    tokenizer.enable_truncation(LIMIT)
    encoding = tokenizer.encode(query, passage)
    return np.array(encoding.ids), np.array(encoding.type_ids)


def make_folder(folder: Path, *, labels: int = 1, file: str = "model.onnx") -> Path:
    """A folder as fastembed wants it."""
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_bytes(_model(labels))
    word_piece()[0].save(str(folder / "tokenizer.json"))
    config = {"model_max_length": LIMIT, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


# --- protocol buffers ------------------------------------------------------------------------------------------------
def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


# --- ONNX: see onnx.proto --------------------------------------------------------------------------------------------
FLOAT, INT64 = 1, 7


def _node(kind: str, inputs: str, output: str, **attributes: int) -> bytes:
    names = b"".join(_bytes(1, name) for name in inputs.split())
    parts = [_bytes(5, _bytes(1, name) + _number(3, value) + _number(20, 2)) for name, value in attributes.items()]
    return _bytes(1, names + _bytes(2, output) + _bytes(4, kind) + b"".join(parts))


def _tensor(name: str, array: NDArray[np.float32] | NDArray[np.int64]) -> bytes:
    kind = FLOAT if array.dtype == np.float32 else INT64
    dims = b"".join(_number(1, size) for size in array.shape)
    return _bytes(5, dims + _number(2, kind) + _bytes(8, name) + _bytes(9, array.tobytes()))


def _value(field: int, name: str, kind: int, *dims: str | int) -> bytes:
    shape = b"".join(_bytes(1, _bytes(2, dim) if isinstance(dim, str) else _number(1, dim)) for dim in dims)
    return _bytes(field, _bytes(1, name) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape))))


def _model(labels: int) -> bytes:
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph = b"".join(
        [
            _node("Gather", "table input_ids", "vectors"),
            _node("Mul", "attention_mask token_type_ids", "second"),
            _node("Sub", "attention_mask second", "first"),
            *(
                _node("Cast", side, f"{side}_f", to=FLOAT)
                + _node("Unsqueeze", f"{side}_f last", f"{side}_3")
                + _node("Mul", f"vectors {side}_3", f"{side}_v")
                + _node("ReduceSum", f"{side}_v one", f"{side}_sum", keepdims=0)
                for side in ("first", "second")
            ),
            _node("Mul", "first_sum second_sum", "product"),
            _node("ReduceSum", "product one", "score", keepdims=1),
            _node("Concat", " ".join(["score"] * labels), "logits", axis=1),
            _bytes(2, "tiny"),
            _tensor("table", table()),
            _tensor("one", np.array([1], dtype=np.int64)),
            _tensor("last", np.array([2], dtype=np.int64)),
            *(_value(11, name, INT64, "batch", "tokens") for name in names),
            _value(12, "logits", FLOAT, "batch", labels),
        ]
    )
    return _number(1, 8) + _bytes(8, _number(2, 13)) + _bytes(7, graph)
