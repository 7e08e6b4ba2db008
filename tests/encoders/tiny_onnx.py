"""A folder's transformer as ONNX, exported from the very weights that sentence-transformers runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.onnx._internal.torchscript_exporter import onnx_proto_utils
from transformers import AutoModel

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _Rounded(torch.autograd.Function):
    """Eight bits, scaled by the largest number of the whole batch, as quantized models scale their activations."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def symbolic(graph: Any, values: Any) -> Any:
        return graph.op("DequantizeLinear", *graph.op("DynamicQuantizeLinear", values, outputs=3))


class _Forward(torch.nn.Module):
    def __init__(self, model: Any, pooled: bool, quantized: bool) -> None:
        super().__init__()
        self.model, self.pooled, self.quantized = model, pooled, quantized

    def forward(self, *inputs: torch.Tensor) -> Any:
        tokens = self.model(**dict(zip(INPUTS, inputs, strict=True))).last_hidden_state
        if self.quantized:
            tokens = _Rounded.apply(tokens)
        if not self.pooled:
            return tokens
        mask = inputs[1].unsqueeze(-1).float()
        return tokens, (tokens * mask).sum(1) / mask.sum(1)


def export_onnx(folder: Path, place: str = "model.onnx", *, pooled: bool = False, quantized: bool = False) -> Path:
    """Write the ONNX into the folder and return that folder.

    The exporter that needs no other package asks for ``onnx`` only to insert functions that there are none of here.

    Args:
        folder: Of a sentence-transformers model whose transformer is BERT.
        place: Of the ONNX, relative to it.
        pooled: Whether it has a second output, ``sentence_embedding``: the mean.
        quantized: Whether its activations are rounded to eight bits, dynamically.
    """
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 7, 3, 0, 0]])
    example = (ids, (ids != 0).long(), torch.zeros_like(ids))
    outputs = ["last_hidden_state", *(["sentence_embedding"] if pooled else [])]
    sizes = {name: {0: "texts", 1: "tokens"} for name in (*INPUTS, "last_hidden_state")}
    with warnings.catch_warnings(), mock.patch.object(onnx_proto_utils, "_add_onnxscript_fn", lambda data, _: data):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Forward(model, pooled, quantized).eval(),
            example,
            str(target),
            dynamo=False,
            input_names=list(INPUTS),
            output_names=outputs,
            dynamic_axes={**sizes, **({"sentence_embedding": {0: "texts"}} if pooled else {})},
            opset_version=17,
        )
    return folder
