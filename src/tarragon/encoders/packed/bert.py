"""BERT and the models of its shape: RoBERTa, XLM-R, CamemBERT, MiniLM, BGE, E5, GTE (the first), Arctic.

Devlin et al., "BERT", arXiv 1810.04805. Layer norm comes after each residual sum. RoBERTa and its kin count positions
from behind the padding's own, and give the padding's to a token that is the padding's, wherever it stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tarragon.encoders.packed.attention import attend
from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Unpackable, linear
from tarragon.encoders.packed.parts import Norm, feed_forward


class PackedBert:
    """The transformer without a pooler. Called with a batch, it gives its last states, shape ``(tokens, hidden)``.

    Raises:
        Unpackable: The model is a decoder, or has another kind of positions.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.is_decoder or getattr(config, "position_embedding_type", None) not in (None, "absolute"):
            raise Unpackable("a decoder, or positions that are not absolute")
        self._embeddings = model.embeddings
        self._norm = Norm(model.embeddings.LayerNorm)
        self._padding = None if config.model_type == "bert" else int(config.pad_token_id)
        self.layers = [_Layer(layer, config) for layer in model.encoder.layer]

    def __call__(self, packed: Packed) -> torch.Tensor:
        """The states behind the last layer."""
        states = self.embed(packed)
        for layer in self.layers:
            states = layer(states, packed)
        return states

    def embed(self, packed: Packed) -> torch.Tensor:
        """What goes into the first layer."""
        table = self._embeddings
        types = table.token_type_embeddings.weight
        states = functional.embedding(packed.ids, table.word_embeddings.weight)
        states += types[0] if packed.types is None else functional.embedding(packed.types, types)
        states += functional.embedding(self._positions(packed), table.position_embeddings.weight)
        return self._norm(states)

    def _positions(self, packed: Packed) -> torch.Tensor:
        if self._padding is None:
            return packed.positions
        counts = packed.ids != self._padding
        number = torch.cumsum(counts, 0)
        begins = packed.offsets[:-1].clamp(max=len(number) - 1)  # an empty text at the end begins behind all tokens
        before = (number - counts.long())[begins]
        return (number - before[packed.segments]) * counts + self._padding


class _Layer:
    def __init__(self, layer: Any, config: Any) -> None:
        attention = layer.attention.self
        self._heads = int(config.num_attention_heads)
        self._in = linear(attention.query, attention.key, attention.value)
        self._out = linear(layer.attention.output.dense)
        self._attention_norm = Norm(layer.attention.output.LayerNorm)
        self._feed_forward = feed_forward(layer.intermediate.dense, layer.output.dense, config.hidden_act)
        self._norm = Norm(layer.output.LayerNorm)

    def __call__(self, states: torch.Tensor, packed: Packed) -> torch.Tensor:
        query, key, value = self._in(states).view(len(states), 3, self._heads, -1).unbind(1)
        states = self._attention_norm(self._out(attend(query, key, value, packed)).add_(states))
        return self._norm(self._feed_forward(states).add_(states))
