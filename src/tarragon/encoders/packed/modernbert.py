"""ModernBERT: Warner et al., arXiv 2412.13663. Rotary positions, gated layers, most of which see only a window."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from tarragon.encoders.packed.attention import EVERYTHING, Reach, attend
from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Unpackable, linear
from tarragon.encoders.packed.parts import Norm, Rotation


class PackedModernBert:
    """The transformer. Called with a batch, it gives its last states, shape ``(tokens, hidden)``.

    Raises:
        Unpackable: Its positions are stretched with the length of the batch.
    """

    def __init__(self, model: Any) -> None:
        self._words = model.embeddings.tok_embeddings
        self._norm, self._final_norm = Norm(model.embeddings.norm), Norm(model.final_norm)
        self._rotary = model.rotary_emb
        if {"dynamic", "longrope"} & set(self._rotary.rope_type.values()):
            raise Unpackable("rotary positions that depend on the longest text of the batch")
        self.layers = [_Layer(layer, model.config) for layer in model.layers]

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The states behind the last layer and its norm."""
        states = self._norm(functional.embedding(packed.ids, self._words.weight))
        turns = {kind: self._rotation(packed, kind) for kind in {layer.kind for layer in self.layers}}
        for layer in self.layers:
            states = layer(states, packed, turns[layer.kind])
        return self._final_norm(states)

    def _rotation(self, packed: Packed, kind: str) -> Rotation:
        frequencies = getattr(self._rotary, f"{kind}_inv_freq")
        scale = float(getattr(self._rotary, f"{kind}_attention_scaling"))
        return Rotation(packed, frequencies, scale)


class _Layer:
    def __init__(self, layer: Any, config: Any) -> None:
        self.kind = str(layer.attention_type)
        window = int(config.sliding_window)
        self._reach = Reach(window, window) if self.kind == "sliding_attention" else EVERYTHING
        self._heads = int(config.num_attention_heads)
        is_first = type(layer.attn_norm) is torch.nn.Identity
        self._attention_norm = None if is_first else Norm(layer.attn_norm)
        self._in, self._out = linear(layer.attn.Wqkv), linear(layer.attn.Wo)
        self._norm = Norm(layer.mlp_norm)
        self._wide, self._narrow = linear(layer.mlp.Wi), linear(layer.mlp.Wo)
        self._activation = ACT2FN[config.hidden_activation]

    def __call__(self, states: torch.Tensor, packed: Packed, rotation: Rotation) -> torch.Tensor:
        normed = states if self._attention_norm is None else self._attention_norm(states)
        query, key, value = self._in(normed).view(len(states), 3, self._heads, -1).unbind(1)
        states = states + self._out(attend(rotation(query), rotation(key), value, packed, self._reach))
        content, gate = self._wide(self._norm(states)).chunk(2, dim=1)
        return states + self._narrow(self._activation(content) * gate)
