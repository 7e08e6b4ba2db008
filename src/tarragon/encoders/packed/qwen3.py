"""Qwen3, which Qwen3-Embedding is: arXiv 2505.09388. Causal, with fewer heads for keys than for queries."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.activations import ACT2FN

from tarragon.encoders.packed.attention import CAUSAL, Reach, attend
from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Unpackable, linear
from tarragon.encoders.packed.parts import RootMeanSquare, Rotation


class PackedQwen3:
    """The transformer. Called with a batch, it gives its last states, shape ``(tokens, hidden)``.

    Raises:
        Unpackable: Its positions are stretched with the length of the batch.
    """

    def __init__(self, model: Any) -> None:
        self._rotary = model.rotary_emb
        if self._rotary.rope_type in ("dynamic", "longrope"):
            raise Unpackable("rotary positions that depend on the longest text of the batch")
        self._words, self._norm = model.embed_tokens, RootMeanSquare(model.norm)
        self.layers = [_Layer(layer, model.config) for layer in model.layers]

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The states behind the last layer and its norm."""
        states = functional.embedding(packed.ids, self._words.weight)
        rotation = Rotation(packed, self._rotary.inv_freq, float(self._rotary.attention_scaling))
        for layer in self.layers:
            states = layer(states, packed, rotation)
        return self._norm(states)


class _Layer:
    def __init__(self, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._size = int(attention.head_dim)
        self._heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        window = attention.sliding_window
        self._reach = CAUSAL if window is None else Reach(int(window) - 1, 0)
        self._in = linear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = linear(attention.o_proj)
        self._query_norm, self._key_norm = RootMeanSquare(attention.q_norm), RootMeanSquare(attention.k_norm)
        self._wide, self._narrow = linear(mlp.gate_proj, mlp.up_proj), linear(mlp.down_proj)
        self._activation = ACT2FN[config.hidden_act]
        self._attention_norm = RootMeanSquare(layer.input_layernorm)
        self._norm = RootMeanSquare(layer.post_attention_layernorm)

    def __call__(self, states: torch.Tensor, packed: Packed, rotation: Rotation) -> torch.Tensor:
        queries, keys = self._heads
        made = self._in(self._attention_norm(states)).view(len(states), -1, self._size)
        query, key, value = torch.split(made, [queries, keys, keys], dim=1)
        query, key = rotation(self._query_norm(query)), rotation(self._key_norm(key))
        states = states + self._out(attend(query, key, value, packed, self._reach))
        gate, content = self._wide(self._norm(states)).chunk(2, dim=1)
        return states + self._narrow(self._activation(gate) * content)
