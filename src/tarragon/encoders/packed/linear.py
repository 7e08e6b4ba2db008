"""Linear layers with their weights laid out for the device."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Apply = Callable[[torch.Tensor], torch.Tensor]

TOKENS = 512
"""For so many tokens oneDNN is asked to lay the weights out; it takes any number, and 16 or 4,096 are as fast."""

_FUSED = {"gelu": ("gelu", "none"), "relu": ("relu", "")}
"""Activations that oneDNN applies while a result is in the cache, by their names in model configurations."""


class Unpackable(Exception):  # a verdict on a model, caught where models are chosen
    """A model has something that the packed forward does not know."""


def linear(*layers: nn.Module, activation: str | None = None) -> Apply:
    """Layers that read the same input, as one: their outputs side by side.

    Args:
        layers: Plain ``nn.Linear``.
        activation: ``gelu`` or ``relu``, applied to the output; None: none.

    Raises:
        Unpackable: One is something else, such as an adapter.
    """
    for layer in layers:
        if type(layer) is not nn.Linear:
            raise Unpackable(f"{type(layer).__name__} in the place of a linear layer")
    weight, bias = _joined([layer.weight for layer in layers]), _joined([layer.bias for layer in layers])
    assert weight is not None
    if _has_onednn(weight):
        return _OneDnn(weight, bias, activation)
    return _Plain(weight, bias, activation)


def _joined(parts: Sequence[Any]) -> torch.Tensor | None:
    if all(part is None for part in parts):
        return None
    if any(part is None for part in parts):
        raise Unpackable("some of the layers have a bias and some have none")
    return torch.cat([part.detach() for part in parts]) if len(parts) > 1 else parts[0].detach()


def _has_onednn(weight: torch.Tensor) -> bool:
    """Whether torch can lay this weight out for oneDNN; these are the operators that its own compiler uses."""
    is_here = weight.device.type == "cpu" and weight.dtype == torch.float32
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_operators = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_here and is_x86 and has_operators


class _OneDnn:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TOKENS)
        self._bias = bias
        self._name, self._algorithm = _FUSED[activation] if activation else ("none", "")

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        run = torch.ops.mkldnn._linear_pointwise
        made: torch.Tensor = run(states, self._weight, self._bias, self._name, [], self._algorithm)
        return made


class _Plain:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None) -> None:
        self._weight, self._bias = weight, bias
        self._activation: Apply | None = getattr(functional, activation) if activation else None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        made = functional.linear(states, self._weight, self._bias)
        return made if self._activation is None else self._activation(made)
