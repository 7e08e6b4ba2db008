"""Dense encoder over any sentence-transformers model.

The library loads the model; what happens around it is ours: texts are tokenised once (chunks bring their ids), sorted
by true length, batched under a token budget, and run without padding where the architecture is known (`packed`).
Poolings and whatever else stands behind the transformer are the library's. Figures: benchmarks/README.md.

Found in sentence-transformers 6.2: ``encode`` sorts by characters and counts batches in texts. ``prompts`` holds empty
strings for both roles when the model's configuration has none, and because of that ``encode_document`` overlooks a
configured "passage" prompt, and both methods the default prompt; here they are used, as the model's author meant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from tarragon.encoders.bundled import NAME, bundled_model_path
from tarragon.encoders.library import (
    LONG_PROBE,
    PROBES,
    choose_device,
    module_identity,
    prompts_of,
    quiet,
    same_tokens,
    similarity_of,
    tokenizer_of,
    weights_digest,
)
from tarragon.encoders.packed.library import PackedModules, drop_weights, is_same, packed_modules
from tarragon.encoders.token_batches import TOKEN_BUDGET, Rows, TokenBatches, cut_row, pad_rows
from tarragon.errors import ModelNotFound
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.recipe import BUNDLED
from tarragon.types import IntArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""


class SentenceTransformerEncoder:
    """A sentence-transformers model as a `DenseEncoder`.

    Args:
        model: Name on the model hub, local folder, or None for the bundled one.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        document_prompt: Replaces the document prompt of the model's configuration or card.
        dimensions: Keep only the first so many.
        token_budget: Tokens in a batch. Halved for good when the device runs out of memory.
        unpad: Whether to run texts end to end, without padding, where the model's architecture is known and the result
            is the same. ``is_unpadded`` says what it became.

    Raises:
        ModelNotFound: The model cannot be loaded, or has no safetensors weights.
        DeviceUnavailable: The device that was asked for is not there.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str | None = None,
        document_prompt: str | None = None,
        dimensions: int | None = None,
        token_budget: int | None = None,
        unpad: bool = True,
    ) -> None:
        self.device = choose_device(device)
        bundled = model in (None, BUNDLED)
        path = str(bundled_model_path()) if bundled else str(model)
        self.name = NAME if bundled else path
        self._model = _load(path, self.device)
        self._folder = path
        prompts = prompts_of(self._model, self.name)
        self.query_prompt = prompts.query
        self.document_prompt = prompts.document if document_prompt is None else document_prompt
        self._similarity = similarity_of(self._model, self.name)
        self.dimensions = _dimensions(self._model, dimensions, self.name)
        self.tokenizer = tokenizer_of(self._model, self.name)
        self._limit = _length_limit(self._model)
        budget = token_budget or TOKEN_BUDGET[self.device.split(":")[0]]
        self._batches = TokenBatches(self.device, budget, self._limit)
        self._takes_ids = self._accepts_own_ids()
        self._packed = self._packed_if_equal() if unpad and self._takes_ids else None
        self._batches.padded = self._packed is None
        special = len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        self.max_tokens = self._limit - special - self._prompt_length(self.document_prompt)
        if self.max_tokens < 1:
            raise ModelNotFound(f"{self.name}: the document prompt leaves no room in {self._limit} tokens")

    @property
    def is_unpadded(self) -> bool:
        """Whether texts are run end to end, without padding."""
        return self._packed is not None

    # --- identity -----------------------------------------------------------------------------------------------------
    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector. Weights are read for it once."""
        return {
            "schema": "1",
            "kind": "dense",
            "behaviour": str(BEHAVIOUR_REVISION),
            "weights": weights_digest(self._folder),
            "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
            "max_tokens": str(self._limit),
            "padding": str(getattr(self._model.tokenizer, "padding_side", "right")),
            "truncation": str(getattr(self._model.tokenizer, "truncation_side", "right")),
            "document_prompt": self.document_prompt,
            "modules": json.dumps([module_identity(module) for module in self._model], sort_keys=True),
            "normalisation": "unit" if self._similarity == "cosine" else "none",
            "dimensions": str(self.dimensions),
            "numeric": "float",
        }

    # --- encoding -----------------------------------------------------------------------------------------------------
    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._encode(inputs, self.document_prompt, "document")

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        prompt = self.query_prompt if prompt is None else prompt
        return self._encode([EncoderInput(text) for text in texts], prompt, "query")

    def _encode(self, inputs: Sequence[EncoderInput], prompt: str, task: str) -> Embeddings:
        sequences = self._sequences(inputs, prompt)
        lengths = np.array([min(len(ids), self._limit) for ids in sequences], dtype=np.int64)
        made: list[tuple[Rows, torch.Tensor]] = []

        def run(batch: Rows) -> None:
            rows = [cut_row(sequences[i], self._limit, len(self.tokenizer.suffix)) for i in batch]
            if self._packed is not None:
                output = self._packed(rows)
            else:
                output = self._forward(self._features(rows, [inputs[i].text for i in batch], prompt, task), task)
            made.append((batch, self._finished(output)))

        self._batches.run(lengths, run)
        vectors = np.empty((len(inputs), self.dimensions), dtype=np.float32)
        if made:  # one transfer for all batches, so that none of them waits for another to be copied
            vectors[np.concatenate([batch for batch, _ in made])] = torch.cat([part for _, part in made]).cpu().numpy()
        return Embeddings(vectors, int(lengths.sum()), sum(len(ids) for ids in sequences) - int(lengths.sum()))

    def _sequences(self, inputs: Sequence[EncoderInput], prompt: str) -> list[IntArray]:
        """Full id sequences, special tokens included and nothing truncated."""
        joins = self.tokenizer.sliceable and not prompt[-1:].isalnum()
        fresh = [i for i, item in enumerate(inputs) if item.token_ids is None or not joins]
        ids: list[IntArray] = [item.token_ids for item in inputs]  # type: ignore[misc] # the None ones follow
        for i, row in zip(fresh, self.tokenizer.tokenize([prompt + inputs[i].text for i in fresh]), strict=True):
            ids[i] = row
        begin = np.array(self.tokenizer.prefix, dtype=np.int32)
        end = np.array(self.tokenizer.suffix, dtype=np.int32)
        prompted = np.concatenate([begin, self.tokenizer.tokenize([prompt])[0]]) if prompt else begin
        is_fresh = set(fresh)
        return [np.concatenate([begin if i in is_fresh else prompted, row, end]) for i, row in enumerate(ids)]

    def _features(self, rows: list[IntArray], texts: list[str], prompt: str, task: str) -> dict[str, Any]:
        if not self._takes_ids:
            return dict(self._model.preprocess(texts, prompt=prompt or None, task=task))
        tail = len(self.tokenizer.suffix)
        ids, mask = pad_rows(
            rows,
            self._batches.width(max(len(row) for row in rows)),
            pad=self._model.tokenizer.pad_token_id or 0,
            tail=tail,
            left=self._model.tokenizer.padding_side == "left",
        )
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _forward(self, features: dict[str, Any], task: str) -> dict[str, Any]:
        moved = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in features.items()}
        with torch.inference_mode():
            return dict(self._model(moved, **({} if self._takes_ids else self._forward_task(task))))

    def _finished(self, output: dict[str, Any]) -> torch.Tensor:
        """The first dimensions, in single precision, of unit length where that is how they are compared."""
        with torch.inference_mode():
            vectors = output["sentence_embedding"][:, : self.dimensions].float()
            return torch.nn.functional.normalize(vectors, p=2, dim=1) if self._similarity == "cosine" else vectors

    def _forward_task(self, task: str) -> dict[str, str]:
        return {"task": task} if "task" in self._model.get_model_kwargs() else {}

    # --- what the model is --------------------------------------------------------------------------------------------
    def _packed_if_equal(self) -> PackedModules | None:
        """The model without padding, if it gives the same vectors of a few texts; its own weights are then freed."""
        packed = packed_modules(list(self._model), self.device)
        if packed is None:
            return None
        texts = [*PROBES, LONG_PROBE]
        full = self._sequences([EncoderInput(text) for text in texts], self.document_prompt)
        rows = [cut_row(row, self._limit, len(self.tokenizer.suffix)) for row in full]
        features = self._features(rows, texts, self.document_prompt, "")
        key = "sentence_embedding"
        if not is_same(lambda: packed(rows)[key], lambda: self._forward(features, "")[key]):
            return None
        drop_weights(self._model[0])
        return packed

    def _prompt_length(self, prompt: str) -> int:
        return len(self.tokenizer.tokenize([prompt])[0]) if prompt else 0

    def _accepts_own_ids(self) -> bool:
        """Whether our ids are exactly what the library would feed the model, tried on texts of several scripts."""
        first = self._model[0]
        if not isinstance(first, Transformer) or list(first.modality_config) != ["text"]:
            return False
        excludes_prompt = any(getattr(module, "include_prompt", True) is False for module in self._model)
        cuts_left = self._model.tokenizer.truncation_side != "right"
        if excludes_prompt or cuts_left or getattr(first, "query_expansion", None):
            return False
        for prompt in {self.document_prompt, self.query_prompt}:
            theirs = self._model.preprocess(list(PROBES), prompt=prompt or None)
            self._takes_ids = True
            ours = self._features(
                self._sequences([EncoderInput(text) for text in PROBES], prompt), list(PROBES), prompt, ""
            )
            extra = set(theirs) - set(ours) - {"token_type_ids", "modality", "prompt_length"}
            if (
                not same_tokens(theirs, ours)
                or extra
                or bool(torch.any(theirs.get("token_type_ids", torch.zeros(1)) != 0))
            ):
                return False
        return True


def _load(path: str, device: str) -> SentenceTransformer:
    dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    try:
        with quiet():
            model = SentenceTransformer(
                path,
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": dtype},
                config_kwargs={"trust_remote_code": False},
            )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"cannot load the model {path!r}: {reason}. It must be a local folder or a name on the model hub, in the "
            "sentence-transformers format with safetensors weights, and need no code of its own",
            model=path,
        ) from error
    return model.eval()


def _dimensions(model: SentenceTransformer, wanted: int | None, name: str) -> int:
    full = model.get_embedding_dimension()
    if full is None:
        raise ModelNotFound(f"{name} does not say how long its vectors are")
    if wanted is not None and wanted > full:
        raise ModelNotFound(f"dimensions={wanted}, but the vectors of {name} have only {full}")
    return wanted or full


def _length_limit(model: SentenceTransformer) -> int:
    limit = model.max_seq_length
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    known = [value for value in (limit, positions) if value and value < 1_000_000]
    return int(min(known)) if known else 1_000_000
