"""What stands on a transformer: one score a text, or a weight for each word of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.activations import ACT2FN

from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Apply, Unpackable, linear
from tarragon.encoders.packed.parts import Norm

Head = Callable[[torch.Tensor, Packed], torch.Tensor]


def classification_head(model: Any) -> Head:
    """Of a ``...ForSequenceClassification``: last states → logits, shape ``(texts, labels)``."""
    kind = type(model).__name__
    if kind == "BertForSequenceClassification":
        dense, last = linear(model.bert.pooler.dense), linear(model.classifier)
        return lambda states, packed: last(torch.tanh(dense(packed.first(states))))
    if kind in ("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"):
        dense, last = linear(model.classifier.dense), linear(model.classifier.out_proj)
        return lambda states, packed: last(torch.tanh(dense(packed.first(states))))
    if kind == "ModernBertForSequenceClassification":
        transform, last = _modernbert_head(model), linear(model.classifier)
        takes_mean = model.config.classifier_pooling == "mean"
        return lambda states, packed: last(
            transform(packed.mean(states).to(states.dtype) if takes_mean else packed.first(states))
        )
    if kind == "Qwen3ForSequenceClassification":
        score, padding = linear(model.score), model.config.pad_token_id
        return lambda states, packed: score(states[_last_but_padding(packed, padding)])
    raise Unpackable(f"{kind} has a head that is not known here")


def vocabulary_head(model: Any) -> Apply:
    """Of a ``...ForMaskedLM``: states, shape ``(tokens, hidden)``, → logits, shape ``(tokens, vocabulary)``."""
    kind = type(model).__name__
    if kind == "BertForMaskedLM":
        head = model.cls.predictions
        dense, norm, last = linear(head.transform.dense), Norm(head.transform.LayerNorm), linear(head.decoder)
        act = head.transform.transform_act_fn
        return lambda states: last(norm(act(dense(states))))
    if kind in ("RobertaForMaskedLM", "XLMRobertaForMaskedLM"):
        dense, norm, last = (
            linear(model.lm_head.dense, activation="gelu"),
            Norm(model.lm_head.layer_norm),
            linear(model.lm_head.decoder),
        )
        return lambda states: last(norm(dense(states)))
    if kind == "ModernBertForMaskedLM":
        transform, last = _modernbert_head(model), linear(model.decoder)
        return lambda states: last(transform(states))
    raise Unpackable(f"{kind} has a head that is not known here")


def _modernbert_head(model: Any) -> Apply:
    dense, norm = linear(model.head.dense), Norm(model.head.norm)
    act = ACT2FN[model.config.classifier_activation]
    return lambda states: norm(act(dense(states)))


def _last_but_padding(packed: Packed, padding: int | None) -> torch.Tensor:
    """The last token of each text that is not the padding's, as the reference finds it; the first, if all are."""
    if padding is None:
        return packed.offsets[1:].long() - 1
    places = torch.where(packed.ids != padding, packed.positions, 0)
    last = torch.zeros(len(packed.lengths), dtype=places.dtype, device=places.device)
    last.scatter_reduce_(0, packed.segments, places, "amax")
    return packed.offsets[:-1] + last
