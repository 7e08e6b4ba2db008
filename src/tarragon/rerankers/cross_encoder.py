"""Cross-encoders by sentence-transformers.

The library loads the model. What happens around it is ours: the question is tokenised once, a passage once in its life
(`PairTokenizer`), pairs are sorted by true length, batched under a token budget and run without padding where the
architecture is known (`tarragon.encoders.packed`), which the library does for no cross-encoder; and before a deadline
the best passages go first, in small groups.

Found in sentence-transformers 6.2: ``predict`` sorts by characters, counts batches in pairs, tokenises the question
again for each passage, and gives one scalar tensor a pair. ``CrossEncoder(path)`` takes an embedding model without a
word of protest and puts a head of random weights on it: such a model is refused here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer

from tarragon.encoders.library import choose_device, module_identity, quiet, weights_digest
from tarragon.encoders.packed.library import (
    PackedModules,
    agree_on_scores,
    drop_weights,
    is_same,
    packed_modules,
)
from tarragon.encoders.side_model import check_formats
from tarragon.encoders.token_batches import TOKEN_BUDGET, Rows, TokenBatches
from tarragon.errors import ModelNotFound, RerankingFailed
from tarragon.protocols import RerankScores
from tarragon.rerankers.batching import groups, never, remaining
from tarragon.rerankers.pairs import Pair, PairTokenizer, probes
from tarragon.rerankers.turns import Share, turns_of

Dtype = Literal["float32", "bfloat16", "float16"]
Scores = list[float | None]


BEHAVIOUR_REVISION = 1
"""Raised when this file changes the scores it makes."""


class SentenceTransformerReranker:
    """A sentence-transformers cross-encoder as a `Reranker`.

    A score is what the model's own activation makes of its logit, in single precision: a sigmoid unless the model's
    configuration names another, such as the identity of the MS MARCO models.

    Args:
        model: Name on the model hub, or a local folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        token_budget: Tokens in a batch. Halved for good when the device runs out of memory.
        unpad: Whether to run pairs end to end, without padding, where the model's architecture is known and the result
            is the same. ``is_unpadded`` says what it became.
        dtype: Of the weights. In half precision a GPU is faster, and a score depends on what else is in its batch: with
            MiniLM and logits that spread over .7, by .007 in ``bfloat16`` and by .0005 in ``float16``, on the CPU.

    Raises:
        ModelNotFound: It cannot be loaded, has no safetensors weights, or is no model that gives a pair one score.
        DeviceUnavailable: The device that was asked for is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        token_budget: int | None = None,
        unpad: bool = True,
        dtype: Dtype = "float32",
    ) -> None:
        self.name = model
        self.device = choose_device(device)
        self._model = _load(model, self.device, dtype)
        self._budget = token_budget or TOKEN_BUDGET[self.device.split(":")[0]]
        self._limit = _fix_limit(self._model)
        self._batches = TokenBatches(self.device, self._budget, self._limit)
        self._prompt = self._model.prompts.get(self._model.default_prompt_name or "") or ""
        self._activation: Any = self._model.activation_fn
        self._lock = Lock()  # transformers' tokenizers change their settings at each call
        self._pairs = self._own_pairs()
        self._packed = self._packed_if_equal() if unpad and self._pairs else None
        self._batches.padded = self._packed is None

    @property
    def takes_ids(self) -> bool:
        """Whether pairs are built from ids here, and not by the library for want of equal ids."""
        return self._pairs is not None

    @property
    def is_unpadded(self) -> bool:
        """Whether pairs are run end to end, without padding."""
        return self._packed is not None

    # --- identity -----------------------------------------------------------------------------------------------------
    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a score."""
        backend = getattr(self._model.tokenizer, "backend_tokenizer", None)
        return {
            "schema": "1",
            "kind": "cross-encoder",
            "behaviour": str(BEHAVIOUR_REVISION),
            "weights": weights_digest(self.name),
            "tokenizer": sha256(backend.to_str().encode()).hexdigest() if backend is not None else "",
            "chat_template": str(getattr(self._model.tokenizer, "chat_template", None) or ""),
            "max_tokens": str(self._limit),
            "activation": type(self._activation).__name__,
            "prompt": self._prompt,
            "modules": json.dumps([module_identity(module) for module in self._model], sort_keys=True),
            "numeric": str(self._model.dtype),
        }

    # --- scoring ------------------------------------------------------------------------------------------------------
    def score(self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = never) -> RerankScores:
        """See `tarragon.protocols.Reranker`."""
        try:
            return self._score(query, passages, is_over)
        except RerankingFailed:
            raise
        except Exception as error:
            raise RerankingFailed(f"{self.name} cannot score: {type(error).__name__}: {error}") from error

    def _score(self, query: str, passages: Sequence[str], is_over: Callable[[], bool]) -> RerankScores:
        scores: Scores = [None] * len(passages)
        tokens = truncated = 0
        score = self._score_pairs if self._pairs else self._score_texts
        with turns_of(str(self._model.device)).line(remaining(is_over)) as turn:
            for group in groups(passages, self._budget, is_over):
                values, read, cut = score(query, [passages[place] for place in group], Share(turn, is_over))
                scores[group.start : group.stop] = values
                tokens, truncated = tokens + read, truncated + cut
        return RerankScores(scores, tokens, truncated)

    def _score_pairs(self, query: str, passages: list[str], share: Share) -> tuple[Scores, int, int]:
        """Scores in order, tokens read, tokens cut, from ids of our own making."""
        assert self._pairs is not None
        pairs = self._pairs.pairs(self._prompt + query, passages)
        lengths = [len(pair.ids) for pair in pairs]
        scores = self._run(lengths, lambda batch: self._logits([pairs[place] for place in batch]), share)
        return scores, sum(lengths), sum(pair.truncated for pair in pairs)

    def _score_texts(self, query: str, passages: list[str], share: Share) -> tuple[Scores, int, int]:
        """The same where the library must tokenise: by estimated lengths, and what it cut is not known."""
        tokens = 0

        def logits(batch: Rows) -> torch.Tensor:
            nonlocal tokens
            with self._lock:
                made = dict(
                    self._model.preprocess([[query, passages[place]] for place in batch], prompt=self._prompt or None)
                )
            tokens += int(made["attention_mask"].sum())
            return self._forward(made)

        lengths = [min((len(query) + len(passage)) // 4 + 8, self._limit) for passage in passages]
        return self._run(lengths, logits, share), tokens, 0

    def _run(self, lengths: Sequence[int], logits: Callable[[Rows], torch.Tensor], share: Share) -> Scores:
        """Scores in order; None of those whose time was over when it was their turn."""
        scores: Scores = [None] * len(lengths)

        def forward(batch: Rows) -> None:
            with share.turn() as has_waited:
                if not has_waited or not share.is_over():
                    for place, score in zip(batch, self._activated(logits(batch)), strict=True):
                        scores[place] = float(score)

        self._batches.run(np.array(lengths, dtype=np.int64), forward)
        return scores

    def _logits(self, pairs: Sequence[Pair]) -> torch.Tensor:
        if self._packed is None:
            return self._forward(self._features(pairs))
        types = [pair.types for pair in pairs] if "token_type_ids" in self._feature_names else None
        logits: torch.Tensor = self._packed([pair.ids for pair in pairs], types)["scores"]
        return logits

    def _features(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        tokenizer = self._model.tokenizer
        width = self._batches.width(max(len(pair.ids) for pair in pairs))
        ids = np.full((len(pairs), width), tokenizer.pad_token_id or 0, dtype=np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            length = len(pair.ids)
            place = slice(width - length, width) if tokenizer.padding_side == "left" else slice(0, length)
            ids[row, place], types[row, place], mask[row, place] = pair.ids, pair.types, 1
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {key: torch.from_numpy(array) for key, array in arrays.items() if key in self._feature_names}

    def _forward(self, features: dict[str, Any]) -> torch.Tensor:
        moved = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in features.items()}
        with torch.inference_mode():
            logits: torch.Tensor = self._model(moved)["scores"]
        return logits

    def _activated(self, logits: torch.Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            scores = self._activation(logits.float())
            row: NDArray[np.float32] = scores.reshape(scores.shape[0]).cpu().numpy()
        return row

    # --- what the model is --------------------------------------------------------------------------------------------
    def _packed_if_equal(self) -> PackedModules | None:
        """The model without padding, if it gives the same logits of `probes`; its own weights are then freed."""
        packed = packed_modules(list(self._model), self.device)
        if packed is None:
            return None
        assert self._pairs is not None
        pairs = [
            self._pairs.pairs(self._prompt + query, [passage])[0] for query, passage in probes(min(self._limit, 300))
        ]
        types = [pair.types for pair in pairs] if "token_type_ids" in self._feature_names else None
        ids = [pair.ids for pair in pairs]
        theirs = self._features(pairs)
        same = is_same(lambda: packed(ids, types)["scores"], lambda: self._forward(theirs), agree_on_scores)
        if not same:
            return None
        drop_weights(self._model[0])
        return packed

    def _own_pairs(self) -> PairTokenizer | None:
        """Our pairs, if they are exactly what the library feeds the model, tried on `probes`; else None."""
        first, tokenizer = self._model[0], self._model.tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(first, Transformer) or list(first.modality_config) != ["text"] or backend is None:
            return None
        ours = PairTokenizer(backend, self._limit, cuts_left=tokenizer.truncation_side == "left")
        tried = probes(self._limit)
        theirs = self._model.preprocess([list(pair) for pair in tried], prompt=self._prompt or None)
        names = {"input_ids", "attention_mask", "token_type_ids"}
        self._feature_names = names & set(theirs)
        if set(theirs) - names - {"modality", "prompt_length"}:
            return None
        types = theirs.get("token_type_ids")
        for row, (query, passage) in enumerate(tried):
            pair, mask = ours.pairs(self._prompt + query, [passage])[0], theirs["attention_mask"][row].bool()
            if theirs["input_ids"][row][mask].tolist() != pair.ids.tolist():
                return None
            if types is not None and types[row][mask].tolist() != pair.types.tolist():
                return None
        return ours


def _load(name: str, device: str, dtype: Dtype) -> CrossEncoder:
    try:
        with quiet():
            model: CrossEncoder = CrossEncoder(
                name,
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)},
                config_kwargs={"trust_remote_code": False},
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"cannot load the reranker {name!r}: {reason}. It must be a cross-encoder: a local folder or a name on the "
            "model hub, with safetensors weights and no code of its own",
            model=name,
        ) from error
    check_formats(name)
    if model.num_labels != 1:
        raise ModelNotFound(
            f"{name!r} gives a pair {model.num_labels} labels and not one score; name a model that was trained to rank",
            model=name,
            labels=model.num_labels,
        )
    if len(model) == 1 and not _has_trained_head(model):
        raise ModelNotFound(
            f"{name!r} is an embedding model: it has no trained weights to score a pair with. Name a cross-encoder, or "
            f"'late:{name}' for a late-interaction model",
            model=name,
        )
    model.eval()
    return model


def _has_trained_head(model: CrossEncoder) -> bool:
    architectures = getattr(model.config, "architectures", None) or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _fix_limit(model: CrossEncoder) -> int:
    """Most tokens in a pair, and the library's own limit set to it: a tokenizer without one lets the model crash."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or 0
    if positions and any(kind in str(getattr(config, "model_type", "")) for kind in ("roberta", "camembert", "mpnet")):
        positions -= (getattr(config, "pad_token_id", 1) or 0) + 1  # their positions start behind the padding's
    known = [int(value) for value in (model.max_seq_length, positions) if value and 0 < value < 1_000_000]
    limit = min(known) if known else 1_000_000
    if known:
        model.max_seq_length = limit
    return limit
