"""A sentence-transformers model with its transformer run packed, and everything behind it by the library itself.

Found in sentence-transformers 6.2: its poolings, and what masks token vectors, take states of texts that lie end to
end, which it makes for some models itself when flash attention is installed and asked for; never for a cross-encoder.
`SpladePooling` takes them too, but from the logits of all tokens at once, 122 KB a token of BERT's vocabulary: here
they are made and pooled a text at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import nn

from tarragon.encoders.packed.choosing import Forward, packed_classifier, packed_masked_lm, packed_model
from tarragon.encoders.packed.graphs import Graphs
from tarragon.encoders.packed.heads import Head
from tarragon.encoders.packed.layout import Packed, pack
from tarragon.encoders.packed.linear import Apply
from tarragon.types import IntArray

LEAST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.999, torch.float16: 0.999}
"""What a packed model must agree to with its own library, or it is not used."""

LARGEST_GAP = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""The same for scores: of their size and 1. Twelve layers of bfloat16 round by some hundredths."""

_log = logging.getLogger(__name__)


_NOTHING = np.zeros(1, dtype=np.int32)
"""In the place of a text without any token, not even a special one, whose vector means nothing."""


class PackedModules:
    """Rows of ids → what the last module gives.

    Args:
        transformer: The first module, which is not called any more.
        rest: The others.
        device: Where they are.
        task: ``document`` or ``query``, told to those modules that ask.
    """

    def __init__(self, transformer: Forward, rest: Sequence[Any], device: str, task: str | None) -> None:
        self._transformer = Graphs(transformer) if device.startswith("cuda") else transformer
        self._rest, self._device, self._task = rest, device, task

    def for_task(self, task: str) -> PackedModules:
        """The same modules, told of another task; the weights are shared."""
        other = copy(self)
        other._task = task
        return other

    def __call__(self, rows: Sequence[IntArray], types: Sequence[IntArray] | None = None) -> dict[str, Any]:
        """The features behind the last module, for rows that the model can take, special tokens included."""
        with torch.inference_mode():
            packed = pack([row if len(row) else _NOTHING for row in rows], self._device, types)
            features = self._features(packed)
            for module in self._rest:
                asks = "task" in getattr(module, "forward_kwargs", ())
                features = module(features, task=self._task) if asks else module(features)
        return features

    def _features(self, packed: Packed) -> dict[str, Any]:
        return {
            "token_embeddings": self._transformer(packed).unsqueeze(0),
            "input_ids": packed.ids.unsqueeze(0),
            "cu_seq_lens_q": packed.offsets,
            "seq_idx": packed.segments.unsqueeze(0),
        }


class _Pooled(PackedModules):
    """With the commonest poolings by us: the library's own take longer than a question's attention."""

    def __init__(self, transformer: Forward, rest: Sequence[Any], device: str, task: str | None) -> None:
        super().__init__(transformer, rest[1:], device, task)
        self._pool = _POOLINGS[rest[0].pooling_mode]

    def _features(self, packed: Packed) -> dict[str, Any]:
        states = self._transformer(packed)
        return {"sentence_embedding": self._pool(packed, states).to(states.dtype)}


_POOLINGS = {"mean": Packed.mean, "cls": Packed.first, "lasttoken": Packed.last}


class _Scoring(PackedModules):
    """Texts, or pairs, with a score each."""

    def __init__(self, parts: tuple[Forward, Head], rest: Sequence[Any], device: str, task: str | None) -> None:
        super().__init__(parts[0], rest, device, task)
        self._head = parts[1]

    def _features(self, packed: Packed) -> dict[str, Any]:
        return {"scores": self._head(self._transformer(packed), packed)}


class _Weighing(PackedModules):
    """Of the vocabulary's words, each the greatest weight in the text or the sum: arXiv 2109.10086, 2107.05720."""

    def __init__(self, parts: tuple[Forward, Apply], rest: Sequence[Any], device: str, task: str | None) -> None:
        super().__init__(parts[0], rest[1:], device, task)
        self._head, self._pooling = parts[1], rest[0]

    def _features(self, packed: Packed) -> dict[str, Any]:
        texts = torch.split(self._transformer(packed), list(packed.lengths))
        return {"sentence_embedding": torch.stack([self._pooled(self._head(states)) for states in texts])}

    def _pooled(self, logits: torch.Tensor) -> torch.Tensor:
        takes_greatest = self._pooling.pooling_strategy == "max"
        weights = logits.amax(0) if takes_greatest else logits  # what follows rises with them, so the greatest stays
        weights = weights.relu_().log1p_()
        if self._pooling.activation_function == "log1p_relu":
            weights.log1p_()
        return weights if takes_greatest else weights.sum(0)


def packed_modules(modules: Sequence[Any], device: str, task: str | None = None) -> PackedModules | None:
    """The modules of a loaded model with their transformer packed; None: it runs as it is.

    Whether the result is the same is for the caller to try, since he knows what the model reads.
    """
    first, rest = modules[0], list(modules[1:])
    if not isinstance(first, Transformer) or device.split(":")[0] not in ("cpu", "cuda"):
        return None
    model = first.auto_model
    if first.transformer_task == "feature-extraction" and not model.config.output_hidden_states:
        forward = packed_model(model)
        kind = _Pooled if rest and _is_simple(rest[0]) else PackedModules
        return kind(forward, rest, device, task) if forward else None
    if first.transformer_task == "sequence-classification":
        scoring = packed_classifier(model)
        return _Scoring(scoring, rest, device, task) if scoring else None
    if first.transformer_task == "fill-mask" and rest and type(rest[0]) is SpladePooling:
        parts = packed_masked_lm(model)
        return _Weighing(parts, rest, device, task) if parts else None
    return None


def _is_simple(module: Any) -> bool:
    """Whether it is one of the poolings that are done here, over all tokens."""
    is_pooling = type(module) is Pooling and module.include_prompt
    return is_pooling and isinstance(module.pooling_mode, str) and module.pooling_mode in _POOLINGS


def agree_on_scores(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether each score is as near to the other as `LARGEST_GAP` allows."""
    largest = LARGEST_GAP.get(theirs.dtype, 0.0)
    first, second = ours.float().flatten(), theirs.float().flatten()
    return first.shape == second.shape and bool(((first - second).abs() <= largest * (1 + second.abs())).all())


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether rows are as near to each other as two ways to compute the same must be, see `LEAST_COSINE`."""
    least = LEAST_COSINE.get(theirs.dtype, 1.0)
    first, second = ours.float().flatten(1), theirs.float().flatten(1)
    if first.shape != second.shape or not bool(torch.isfinite(first).all()):
        return False
    gap = torch.linalg.vector_norm(first - second, dim=1)
    size = torch.linalg.vector_norm(second, dim=1)
    # of two vectors of equal length whose cosine is c, the gap is sqrt(2 - 2c) times that length
    return bool((gap <= size * (2 - 2 * least) ** 0.5 + 1e-6).all())


def is_same(
    ours: Callable[[], torch.Tensor],
    theirs: Callable[[], torch.Tensor],
    compare: Callable[[torch.Tensor, torch.Tensor], bool] = agree,
) -> bool:
    """Whether a packed model, tried on a few texts, gives what its own library gives; not, if it cannot run at all."""
    try:
        made = ours()
    except Exception as reason:  # whatever it is, the library can still run the model
        _log.warning("runs padded, since it cannot run otherwise: %s: %s", type(reason).__name__, reason)
        return False
    return compare(made, theirs())


def drop_weights(model: nn.Module) -> None:
    """Free the weights of linear layers whose copies the packed forward has; the model cannot run by itself any more.

    A layer that shares its weights with another module, such as word embeddings, keeps them.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if type(module) is nn.Linear and id(module.weight) not in shared:
            module.weight.data = module.weight.data.new_empty(0)
