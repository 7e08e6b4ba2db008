"""Cross-encoders by fastembed, on onnxruntime: no torch.

fastembed finds, downloads and opens the model; pairs are built, sorted and batched here, as for sentence-transformers.

Found in fastembed 0.9: it scores batches in the order of the passages, each padded to its longest; it takes the first
column of whatever the model returns, so that a classifier with three labels would rank by its first one: refused here.
A folder cannot be named by itself: it is registered under a model name, and passed as ``specific_model_path`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from fastembed.common.model_description import ModelSource
from fastembed.rerank.cross_encoder import TextCrossEncoder
from numpy.typing import NDArray

from tarragon.encoders.bundled import file_sha256
from tarragon.errors import DeviceUnavailable, ModelNotFound, RerankingFailed
from tarragon.protocols import RerankScores
from tarragon.rerankers.batching import batches, groups, never
from tarragon.rerankers.pairs import Pair, PairTokenizer, probes

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the scores it makes."""

TOKEN_BUDGET = 2_048
"""Tokens in a batch: that of the CPU in the encoder's file."""

_MODEL_FILES = ("onnx/model.onnx", "model.onnx", "model_optimized.onnx", "onnx/model_quantized.onnx")
"""Where a folder's model is looked for, in this order."""


class FastembedReranker:
    """A fastembed cross-encoder as a `Reranker`. Its scores are the model's logits.

    Args:
        model: A name that fastembed knows, or a folder with ``model.onnx``, ``tokenizer.json`` and
            ``tokenizer_config.json``.
        device: ``cpu`` or ``cuda``; None lets fastembed choose.
        token_budget: Tokens in a batch, padding included.

    Raises:
        ModelNotFound: It cannot be loaded, or gives a pair more than one score.
        DeviceUnavailable: onnxruntime has no such device.
    """

    def __init__(self, model: str, *, device: str | None = None, token_budget: int = TOKEN_BUDGET) -> None:
        self.name = f"fastembed:{model}"
        loaded = _load(model, _providers(device))
        inner: Any = loaded.model
        self._session, backend = inner.model, inner.tokenizer
        self._file = Path(inner._model_dir, inner.model_description.model_file)
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        labels = self._session.get_outputs()[0].shape[-1]
        if labels != 1 and not isinstance(labels, str):
            raise ModelNotFound(f"{model!r} gives a pair {labels} labels and not one score; name a reranker")
        self._budget = token_budget
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._padding, truncation = backend.padding, backend.truncation
        self._pairs = PairTokenizer(backend, truncation["max_length"], cuts_left=truncation["direction"] == "left")
        _check_pairs(self._pairs, backend, model)

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a score."""
        return {
            "schema": "1",
            "kind": "fastembed-cross-encoder",
            "behaviour": str(BEHAVIOUR_REVISION),
            "weights": "\n".join(file_sha256(file) for file in sorted(self._file.parent.glob(f"{self._file.name}*"))),
            "tokenizer": sha256(self._pairs.definition.encode()).hexdigest(),
            "max_tokens": str(self._pairs.limit),
            "numeric": self.device,
        }

    def score(self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = never) -> RerankScores:
        """See `tarragon.protocols.Reranker`."""
        try:
            return self._score(query, passages, is_over)
        except Exception as error:
            raise RerankingFailed(f"{self.name} cannot score: {type(error).__name__}: {error}") from error

    def _score(self, query: str, passages: Sequence[str], is_over: Callable[[], bool]) -> RerankScores:
        scores: list[float | None] = [None] * len(passages)
        tokens = truncated = 0
        for group in groups(passages, self._budget, is_over):
            pairs = self._pairs.pairs(query, [passages[place] for place in group])
            lengths = [len(pair.ids) for pair in pairs]
            for batch in batches(lengths, self._budget, self._pairs.limit):
                row = self._run([pairs[place] for place in batch])
                for place, score in zip(batch, row, strict=True):
                    scores[group.start + int(place)] = float(score)
            tokens += sum(lengths)
            truncated += sum(pair.truncated for pair in pairs)
        return RerankScores(scores, tokens, truncated)

    def _run(self, pairs: Sequence[Pair]) -> NDArray[Any]:
        width = max(len(pair.ids) for pair in pairs)
        ids = np.full((len(pairs), width), self._padding["pad_id"], dtype=np.int64)
        types = np.full_like(ids, self._padding["pad_type_id"])
        mask = np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            length = len(pair.ids)
            place = slice(width - length, width) if self._padding["direction"] == "left" else slice(0, length)
            ids[row, place], types[row, place], mask[row, place] = pair.ids, pair.types, 1
        arrays = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        output = self._session.run(None, {name: array for name, array in arrays.items() if name in self._inputs})[0]
        if output.shape != (len(pairs), 1):
            raise RerankingFailed(f"the model gives an array of shape {output.shape} for {len(pairs)} pairs")
        scores: NDArray[Any] = output[:, 0].astype(np.float32)
        return scores


def _load(model: str, providers: list[str] | None) -> TextCrossEncoder:
    folder = Path(model)
    options: dict[str, Any] = {} if providers is None else {"providers": providers}
    try:
        if folder.is_dir():
            model = _register(folder.resolve())
            options["specific_model_path"] = str(folder.resolve())
        return TextCrossEncoder(model, **options)
    except Exception as error:  # fastembed, onnxruntime and tokenizers each have errors of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"cannot load the reranker {model!r} with fastembed: {reason}. Name one of "
            "TextCrossEncoder.list_supported_models() or a folder with model.onnx, tokenizer.json and "
            "tokenizer_config.json",
            model=model,
        ) from error


def _register(folder: Path) -> str:
    """The name under which fastembed knows this folder from now on."""
    file = next((name for name in _MODEL_FILES if (folder / name).is_file()), None)
    if file is None:
        raise ModelNotFound(f"it holds none of {', '.join(_MODEL_FILES)}")
    name = f"tarragon/{sha256(f'{folder} {file}'.encode()).hexdigest()[:16]}"
    if all(known["model"] != name for known in TextCrossEncoder.list_supported_models()):
        TextCrossEncoder.add_custom_model(name, ModelSource(url=folder.as_uri()), model_file=file)
    return name


def _providers(device: str | None) -> list[str] | None:
    if device is None:
        return None
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.split(":")[0], device)
    available = import_module("onnxruntime").get_available_providers()
    if provider not in available:
        raise DeviceUnavailable(
            f"device {device!r} is not available to onnxruntime, which has {', '.join(available)}. "
            "For CUDA install fastembed-gpu; or leave out the device",
            device=device,
        )
    return [provider]


def _check_pairs(ours: PairTokenizer, backend: Any, model: str) -> None:
    """Raise `ModelNotFound` unless our pairs are what fastembed would feed the model."""
    tried = probes(ours.limit)
    for (query, passage), theirs in zip(tried, backend.encode_batch(tried), strict=True):
        pair = ours.pairs(query, [passage])[0]
        kept = [place for place, real in enumerate(theirs.attention_mask) if real]
        ids, types = [theirs.ids[place] for place in kept], [theirs.type_ids[place] for place in kept]
        if ids != pair.ids.tolist() or types != pair.types.tolist():
            raise ModelNotFound(
                f"the tokenizer of {model!r} does not make a pair of its two texts' tokens; load it with "
                "sentence-transformers instead, by its plain name"
            )
