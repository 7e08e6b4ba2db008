"""What the machine can do at most, measured in the run that it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.timing import percentile

SHAPES = ((384, 1_152), (384, 384), (384, 1_536), (1_536, 384))
"""Of the linear layers of MiniLM: inputs and outputs."""

TOKENS = 2_048


def matrix_rates(repeats: int = 9) -> dict[str, float]:
    """FLOP/s of single-precision products of MiniLM's shapes: of torch's own, and with oneDNN's weight layout."""
    rates = {}
    with torch.inference_mode():
        data = [(torch.randn(TOKENS, inputs), torch.randn(outputs, inputs)) for inputs, outputs in SHAPES]
        rates["torch.nn.functional.linear"] = _rate(
            [partial(torch.nn.functional.linear, a, b) for a, b in data], repeats
        )
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            laid = [(a, torch.ops.mkldnn._reorder_linear_weight(b, 512)) for a, b in data]
            run: Any = torch.ops.mkldnn._linear_pointwise
            rates["oneDNN, weights laid out"] = _rate(
                [partial(run, a, b, None, "none", [], "") for a, b in laid], repeats
            )
    return rates


def _rate(calls: Sequence[Callable[[], object]], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        for call in calls:
            call()
        seconds.append(time.perf_counter() - begun)
    operations = sum(2 * TOKENS * inputs * outputs for inputs, outputs in SHAPES)
    return operations / percentile(seconds[2:], 0.5)


def operations_a_token(layers: int, hidden: int, inner: int, lengths: Sequence[int]) -> float:
    """Floating-point operations of a BERT for a token: of its linear layers, and of attention over its own text."""
    square = sum(length * length for length in lengths) / sum(lengths)
    return layers * (2 * hidden * 4 * hidden + 4 * hidden * inner + 4 * square * hidden)
