"""The bundled model in other runtimes, as peers of the encoder: fastembed as it comes, ONNX Runtime, OpenVINO.

The last two get batches sorted by their exact token count, better than any library feeds them, so that what is compared
is the runtime.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from tarragon.encoders.bundled import bundled_model_path
from tarragon.types import FloatArray

Encode = Callable[[Sequence[str]], FloatArray]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LIMIT = 256
"""Tokens that all-MiniLM-L6-v2 reads."""


def export(folder: Path) -> Path:
    """The bundled model as ONNX in this folder, with its tokenizer beside it."""
    source = bundled_model_path()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "special_tokens_map.json", "vocab.txt"):
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings = {**settings, "max_length": LIMIT, "model_max_length": LIMIT}  # it says 128, where fastembed would cut
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = _LastStates(AutoModel.from_pretrained(source, attn_implementation="eager").eval())
    ids = torch.full((2, 12), 1_037)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            model,
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            folder / "model.onnx",
            input_names=list(INPUTS),
            output_names=["last_hidden_state"],
            dynamic_shapes=({0: batch, 1: length},) * 3,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    return folder


class _LastStates(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def fastembed(folder: Path) -> Encode:
    """``TextEmbedding.embed`` with its own batches of 256, in the order of the texts."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "tarragon/all-MiniLM-L6-v2"
    TextEmbedding.add_custom_model(
        name, PoolingType.MEAN, True, ModelSource(hf="tarragon/none"), dim=384, model_file="model.onnx"
    )
    model = TextEmbedding(name, specific_model_path=str(folder))
    return lambda texts: np.stack(list(model.embed(list(texts))))


def onnx_runtime(folder: Path, batch: int = 8) -> Encode:
    """A session on all cores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return _batched(folder, lambda features: session.run(None, features)[0], batch)


def openvino(folder: Path, batch: int = 8) -> Encode:
    """Compiled for this processor, in single precision."""
    import openvino as library

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = library.Core().compile_model(library.convert_model(str(folder / "model.onnx")), "CPU", settings)
    request = compiled.create_infer_request()
    return _batched(folder, lambda features: next(iter(request.infer(features).values())), batch)


def _batched(folder: Path, run: Callable[[dict[str, Any]], Any], size: int) -> Encode:
    """Sorted by exact length; mean of the tokens' states, to unit length."""
    tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    tokenizer.enable_truncation(LIMIT)
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> FloatArray:
        rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]
        vectors = np.empty((len(rows), 384), dtype=np.float32)
        order = np.argsort([-len(row) for row in rows], kind="stable")
        for start in range(0, len(order), size):
            places = order[start : start + size]
            ids = np.zeros((len(places), len(rows[places[0]])), dtype=np.int64)
            for line, place in enumerate(places):
                ids[line, : len(rows[place])] = rows[place]
            mask = (ids != 0).astype(np.int64)
            states = run(dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True)))
            pooled = (states * mask[..., None]).sum(axis=1)
            vectors[places] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    return encode
