"""Which models can be run packed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from tarragon.encoders.packed.bert import PackedBert
from tarragon.encoders.packed.heads import Head, classification_head, vocabulary_head
from tarragon.encoders.packed.layout import Packed
from tarragon.encoders.packed.linear import Apply, Unpackable
from tarragon.encoders.packed.modernbert import PackedModernBert
from tarragon.encoders.packed.qwen3 import PackedQwen3

Forward = Callable[[Packed], torch.Tensor]
Made = TypeVar("Made")

_FAMILIES: dict[tuple[str, ...], Callable[[Any], Forward]] = {
    ("BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel"): PackedBert,
    ("ModernBertModel",): PackedModernBert,
    ("Qwen3Model",): PackedQwen3,
}

_log = logging.getLogger(__name__)


def packed_model(model: Any) -> Forward | None:
    """A transformer's packed forward: batch → last states, shape ``(tokens, hidden)``. None: there is none.

    Args:
        model: A bare model of transformers, loaded and on its device. Its weights are read once, here.
    """
    return _attempt(lambda: _transformer(model))


def packed_classifier(model: Any) -> tuple[Forward, Head] | None:
    """The same of a ``...ForSequenceClassification``, in two: batch → states → logits, shape ``(texts, labels)``."""
    return _attempt(lambda: (_transformer(model.base_model), classification_head(model)))


def packed_masked_lm(model: Any) -> tuple[Forward, Apply] | None:
    """The same of a ``...ForMaskedLM``, in two: batch → states, and any of the states → logits of the vocabulary."""
    return _attempt(lambda: (_transformer(model.base_model), vocabulary_head(model)))


def _transformer(model: Any) -> Forward:
    kind = type(model).__name__
    family = next((family for names, family in _FAMILIES.items() if kind in names), None)
    if family is None:
        raise Unpackable(f"{kind} is of no family that is known here")
    return family(model)


def _attempt(make: Callable[[], Made]) -> Made | None:
    try:
        with torch.inference_mode():
            return make()
    except (Unpackable, AttributeError, KeyError, RuntimeError) as reason:
        _log.info("runs padded: %s", reason)
        return None
