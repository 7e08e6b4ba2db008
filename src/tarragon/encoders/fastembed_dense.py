"""Dense encoder over fastembed: models as ONNX, run by onnxruntime without torch.

The library downloads, tokenises, runs and pools; around it are our batches and our counts. Found in fastembed 0.9.1:

- ``embed`` pads each batch to its longest text and does not sort: here batches are sorted and bounded in tokens.
- It truncates in silence: what a model does not see is counted here.
- It adds no prompts of its own; ``query_embed`` and ``passage_embed`` differ for task-specific models alone.
- Some classes normalise (``PooledNormalizedEmbedding``), others with models of the same kind do not
  (``PooledEmbedding``: multilingual-e5-large, nomic-embed-text): here all that compare by cosine give unit vectors.
- It pays no heed to dynamic quantization, which scales activations by the largest of a whole batch, so that a text's
  vector depends on its neighbours. Such models get one text at a time here.
- Its registry of custom models is one global list: a local folder gets a class of its own instead.
- Without a network, a download is tried again for 12 seconds, unless ``HF_HUB_OFFLINE=1``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from fastembed import TextEmbedding
from fastembed.common.model_description import DenseModelDescription, ModelSource, PoolingType
from fastembed.text.custom_text_embedding import CustomTextEmbedding
from numpy.typing import NDArray

from tarragon.encoders.onnx_folder import read_onnx_folder, scales_by_batch, weights_digest
from tarragon.encoders.prompts import Prompts, family_prompts
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import DeviceUnavailable, EncodingFailed, ModelNotFound
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.types import FloatArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

TOKEN_BUDGET = 2_048
"""Tokens in a batch, padding included, as in `tarragon.encoders.sentence_transformers`: the same CPU time
from 512 to 8,192 for all-MiniLM-L6-v2, within the noise, and 25 % less than fastembed's own unsorted batches."""

_POOLINGS = {"cls": PoolingType.CLS, "mean": PoolingType.MEAN, "lasttoken": PoolingType.LAST_TOKEN}
_POOLED = "sentence_embedding"
"""The output of an ONNX that pools by itself, as sentence-transformers and Optimum export it."""


class FastembedEncoder:
    """A fastembed model as a `tarragon.protocols.DenseEncoder`.

    Args:
        model: A name that fastembed knows, or a local folder with ``model.onnx`` (or ``onnx/model.onnx``),
            ``tokenizer.json``, ``tokenizer_config.json``, ``config.json`` and, unless the ONNX gives one vector a text,
            the pooling as sentence-transformers keeps it: ``modules.json`` and ``1_Pooling/config.json``.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where onnxruntime has it.
        document_prompt: Replaces the document prompt of the model's card.
        dimensions: Keep only the first so many.
        threads: Of onnxruntime. None: its own choice, all cores.
        token_budget: Tokens in a batch, padding included.

    Raises:
        ModelNotFound: The model cannot be loaded.
        DeviceUnavailable: The device that was asked for is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        document_prompt: str | None = None,
        dimensions: int | None = None,
        threads: int | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        self.name = model
        options = {"threads": threads, **_device_options(device)}
        self._loaded = _load_folder(Path(model), options) if Path(model).is_dir() else _load_named(model, options)
        self._runner = self._loaded.runner
        self.device = _device_of(self._runner, device)
        prompts = self._loaded.prompts or family_prompts(model) or Prompts("", "")
        self.query_prompt = prompts.query
        self.document_prompt = prompts.document if document_prompt is None else document_prompt
        self._budget = token_budget
        self.tokenizer = FastTokenizer(self._runner.tokenizer)
        self._special = 0 if _is_static(self._runner) else len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        self._limit = int(self._runner.tokenizer.truncation["max_length"])
        self.max_tokens = self._limit - self._special - self._length(self.document_prompt)
        if self.max_tokens < 1:
            raise ModelNotFound(f"{model}: the document prompt leaves no room in {self._limit} tokens")
        self.dimensions = self._chosen_dimensions(dimensions)
        self._digest = ""

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector. Reads the weights the first time."""
        self._digest = self._digest or weights_digest(self._loaded.files)
        return {
            "schema": "1",
            "kind": "dense",
            "behaviour": str(BEHAVIOUR_REVISION),
            "runner": "fastembed",
            "weights": self._digest,
            "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
            "max_tokens": str(self._limit),
            "truncation": str(self._runner.tokenizer.truncation["direction"]),
            "document_prompt": self.document_prompt,
            "pooling": self._loaded.pooling,
            "normalisation": "unit" if self._loaded.is_unit else "none",
            "dimensions": str(self.dimensions),
            "numeric": "float",
        }

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. fastembed tokenises texts itself: token ids only tell the length."""
        texts = [self.document_prompt + item.text for item in inputs]
        known = [None if item.token_ids is None else len(item.token_ids) for item in inputs]
        fresh = iter(self._lengths([text for text, length in zip(texts, known, strict=True) if length is None]))
        prompt = self._length(self.document_prompt)
        lengths = [next(fresh) if length is None else length + prompt + self._special for length in known]
        return self._encode(texts, lengths, self._runner.passage_embed)

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        prompt = self.query_prompt if prompt is None else prompt
        texts = [prompt + text for text in texts]
        return self._encode(texts, self._lengths(texts), self._runner.query_embed)

    def _encode(self, texts: Sequence[str], lengths: Sequence[int], embed: Callable[..., Iterable[Any]]) -> Embeddings:
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        true = np.array(lengths, dtype=np.int64)
        seen = np.minimum(true, self._limit)
        for batch in self._batches(seen):
            try:
                rows = list(embed([texts[i] for i in batch], batch_size=len(batch)))
            except Exception as error:  # onnxruntime's errors share no class of their own
                raise EncodingFailed(f"{self.name} failed on {len(batch)} texts: {error}") from error
            vectors[batch] = self._finished(np.array(rows, dtype=np.float32), len(batch))
        return Embeddings(vectors, int(seen.sum()), int((true - seen).sum()))

    def _batches(self, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Longest first, so that memory peaks at once; each batch within the budget, or one text."""
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            fitting = self._budget // max(1, int(lengths[order[start]]))
            count = 1 if self._loaded.is_alone else max(1, fitting)
            yield order[start : start + count]
            start += count

    def _finished(self, rows: FloatArray, count: int) -> FloatArray:
        if rows.ndim != 2 or len(rows) != count or rows.shape[1] < self.dimensions:
            message = f"{self.name} gives an array of shape {rows.shape} for {count} texts"
            raise EncodingFailed(f"{message}, not one vector of {self.dimensions} dimensions each", shape=rows.shape)
        rows = rows[:, : self.dimensions]
        if not self._loaded.is_unit:
            return rows
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        units: FloatArray = rows / np.where(lengths == 0, np.float32(1), lengths)
        return units

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) + self._special for ids in self.tokenizer.tokenize(texts)]

    def _length(self, prompt: str) -> int:
        return len(self.tokenizer.tokenize([prompt])[0]) if prompt else 0

    def _chosen_dimensions(self, wanted: int | None) -> int:
        full = len(next(iter(self._runner.passage_embed(["A short probe."]))))
        if wanted is not None and wanted > full:
            raise ModelNotFound(f"dimensions={wanted}, but the vectors of {self.name} have only {full}")
        return wanted or full


class _Loaded(NamedTuple):
    """A model and what is known of it.

    Attributes:
        runner: Of fastembed.
        files: The weights.
        pooling: How token vectors become one.
        is_unit: Whether it compares by cosine.
        is_alone: Whether a text's vector would depend on its neighbours in a batch.
        prompts: Of its own configuration, if there are any.
    """

    runner: Any
    files: list[Path]
    pooling: str
    is_unit: bool
    is_alone: bool
    prompts: Prompts | None


def _load_named(model: str, options: dict[str, Any]) -> _Loaded:
    """One that fastembed knows. A static one runs on NumPy, and warns of options that it has no use for."""
    known = {str(entry["model"]).lower(): entry for entry in TextEmbedding.list_supported_models()}
    entry = known.get(model.lower())
    if entry is None:
        close = get_close_matches(model.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {known[close[0]]['model']!r}? " if close else ""
        raise ModelNotFound(
            f"fastembed knows no model {model!r}, and there is no such folder; {hint}"
            "fastembed.TextEmbedding.list_supported_models() lists them",
            model=model,
        )
    if str(entry["model_file"]).endswith(".safetensors"):
        options = {}
    runner = _guarded(model, lambda: TextEmbedding(entry["model"], **options).model)
    weights = runner._model_dir / entry["model_file"]
    files = [weights, *(runner._model_dir / name for name in entry["additional_files"])]
    is_alone = weights.suffix == ".onnx" and scales_by_batch(weights)
    return _Loaded(runner, files, type(runner).__name__, True, is_alone, None)


def _load_folder(folder: Path, options: dict[str, Any]) -> _Loaded:
    """One from a local folder: with a class of its own, so that nothing is added to fastembed's list."""
    found = read_onnx_folder(folder)

    class Local(CustomTextEmbedding):
        """One folder's model."""

        SUPPORTED_MODELS: list[DenseModelDescription] = []  # noqa: RUF012 # fastembed's own attribute
        POSTPROCESSING_MAPPING: dict[str, Any] = {}  # noqa: RUF012 # likewise

    pooling = _POOLINGS.get(found.pooling or "", PoolingType.DISABLED)
    source = ModelSource(hf="local")
    description = DenseModelDescription(str(folder), source, found.model_file, "", "", 0.0, dim=0)
    Local.add_model(description, pooling, normalization=False)
    place: dict[str, Any] = {"cache_dir": str(folder), "specific_model_path": str(folder)}
    runner = _guarded(str(folder), lambda: Local(str(folder), **place, **options))
    outputs = {output.name: len(output.shape) for output in runner.model.get_outputs()}
    how = found.pooling
    if _POOLED in outputs:
        runner.ONNX_OUTPUT_NAMES, runner._pooling, how = [_POOLED], PoolingType.DISABLED, _POOLED
    elif how is None and next(iter(outputs.values())) != 2:
        raise ModelNotFound(
            f"{folder} does not say how it pools: add 1_Pooling/config.json with pooling_mode cls, mean or lasttoken, "
            f"or export an ONNX with the output {_POOLED}"
        )
    limits = [limit for limit in (runner.tokenizer.truncation["max_length"], found.max_tokens) if limit]
    runner.tokenizer.enable_truncation(min(limits), direction=runner.tokenizer.truncation["direction"])
    is_alone = scales_by_batch(folder / found.model_file)
    return _Loaded(runner, found.files, how or "none", found.similarity == "cosine", is_alone, found.prompts)


def _guarded(model: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # onnxruntime's errors share no class of their own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelNotFound(
            f"fastembed cannot load {model!r}: {reason}. A name needs the network once, or a filled "
            "FASTEMBED_CACHE_PATH; a folder, the files of a complete ONNX model",
            model=model,
        ) from error


def _is_static(runner: Any) -> bool:
    """Whether it is a table of token vectors, which takes no special tokens and runs on NumPy."""
    return not hasattr(runner, "onnx_embed")


def _device_options(device: str | None) -> dict[str, Any]:
    if device is None:
        return {}
    if device == "cpu":
        return {"cuda": False}
    available = ["cpu", *(["cuda"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else [])]
    name, _, number = device.partition(":")
    if name not in available or not (number.isdigit() or device == name):
        raise _unavailable(device, available)
    return {"cuda": True, "device_ids": [int(number)] if number else None}


def _device_of(runner: Any, wanted: str | None) -> str:
    """Where it really runs: onnxruntime falls back to the CPU with no more than a warning."""
    providers = [] if _is_static(runner) else runner.model.get_providers()
    if "CUDAExecutionProvider" in providers:
        return wanted or "cuda"
    if wanted not in (None, "cpu") and not _is_static(runner):
        raise _unavailable(str(wanted), ["cpu"])
    return "cpu"


def _unavailable(device: str, available: list[str]) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"device {device!r} is not available to onnxruntime, which has {', '.join(available)}. For CUDA, install "
        "onnxruntime-gpu in place of onnxruntime and check nvidia-smi; or leave out the device",
        device=device,
        available=available,
    )
