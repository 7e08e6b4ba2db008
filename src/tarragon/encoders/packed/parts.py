"""What layers of several families have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Apply, Unpackable, linear


class Norm:
    """A layer norm, with or without a bias. Called with states, shape ``(tokens, hidden)``."""

    def __init__(self, module: nn.Module) -> None:
        if type(module) is not nn.LayerNorm:
            raise Unpackable(f"{type(module).__name__} in the place of a layer norm")
        self._shape, self._eps = module.normalized_shape, module.eps
        self._weight, self._bias = module.weight, module.bias

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Normed, of the same shape."""
        return functional.layer_norm(states, self._shape, self._weight, self._bias, self._eps)


class RootMeanSquare:
    """Norm by the root of the mean square, computed in single precision: Zhang and Sennrich, arXiv 1910.07467."""

    def __init__(self, module: Any) -> None:
        self._weight, self._eps = module.weight, module.variance_epsilon

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Normed, of the same shape."""
        whole = states.float()
        scale = torch.rsqrt(whole.pow(2).mean(-1, keepdim=True) + self._eps)
        made: torch.Tensor = self._weight * (whole * scale).to(states.dtype)
        return made


def feed_forward(first: nn.Module, second: nn.Module, activation: str) -> Apply:
    """Two linear layers with an activation between them, in the same pass as the first where that is possible."""
    rear = linear(second)
    if activation in ("gelu", "relu"):
        front = linear(first, activation=activation)
        return lambda states: rear(front(states))
    plain, act = linear(first), ACT2FN[activation]
    return lambda states: rear(act(plain(states)))


class Rotation:
    """Rotary positions of one batch: Su et al., arXiv 2104.09864, in the order of dimensions that transformers keeps.

    Args:
        packed: The batch.
        frequencies: Shape ``(dimensions / 2,)``.
        scale: Of cosine and sine, 1 but for stretched contexts.
    """

    def __init__(self, packed: Packed, frequencies: torch.Tensor, scale: float) -> None:
        angles = packed.positions.float().unsqueeze(1) * frequencies.float().to(packed.ids.device)
        angles = torch.cat([angles, angles], dim=1).unsqueeze(1)
        self._cos, self._sin = angles.cos() * scale, angles.sin() * scale

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Turned in single precision, shape ``(tokens, heads, dimensions)`` as given."""
        first, second = states.float().chunk(2, dim=-1)
        turned = torch.cat([first, second], dim=-1) * self._cos + torch.cat([-second, first], dim=-1) * self._sin
        return turned.to(states.dtype)
