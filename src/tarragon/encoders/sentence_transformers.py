"""Dense encoder over any sentence-transformers model.

The library loads the model and runs its forward; what happens around it is ours: texts are tokenised once (chunks bring
their ids), sorted by true length, and batched under a token budget. On two cores that makes a whole sync 1.35 × as fast
as ``SentenceTransformer.encode`` alone at its default batch size, and 1.06 × at its best (benchmarks/README.md).

Found in sentence-transformers 6.2: ``encode`` sorts by characters and counts batches in texts. ``prompts`` holds empty
strings for both roles when the model's configuration has none, and because of that ``encode_document`` overlooks a
configured "passage" prompt, and both methods the default prompt; here they are used, as the model's author meant.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.utils import logging as transformers_logging

from tarragon.encoders.bundled import NAME, bundled_model_path, file_sha256
from tarragon.encoders.heap import release_free_memory
from tarragon.encoders.prompts import Prompts, family_prompts
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import DeviceUnavailable, EncodingFailed, ModelNotFound
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.recipe import BUNDLED
from tarragon.types import FloatArray, IntArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

TOKEN_BUDGET = {"cpu": 2_048, "cuda": 65_536, "mps": 8_192}
"""Tokens in a batch. CPU: best of 512 to 16,384 for MiniLM on two cores (``benchmarks.encoder --sweep``). CUDA: from
the launch cost against the arithmetic of a small model; not measured. MPS: a guess between the two, not measured."""

WIDTH_STEP = 8
"""Batches are padded to a multiple of this, so that they come in few shapes, for each of which torch prepares anew."""

RELEASE_EVERY = 4
"""Batches on the CPU between giving freed memory back."""

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_PROBES = ("A short probe.", "Ünïcode, naïve — 漢字かな مرحبا", "x = f(a_b)[0]  # code\n\tindented")
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
_Rows = NDArray[np.int64]
_log = logging.getLogger(__name__)


class SentenceTransformerEncoder:
    """A sentence-transformers model as a `DenseEncoder`.

    Args:
        model: Name on the model hub, local folder, or None for the bundled one.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        document_prompt: Replaces the document prompt of the model's configuration or card.
        dimensions: Keep only the first so many.
        token_budget: Tokens in a batch, padding included. Halved for good when the device runs out of memory.

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
    ) -> None:
        self.device = choose_device(device)
        bundled = model in (None, BUNDLED)
        path = str(bundled_model_path()) if bundled else str(model)
        self.name = NAME if bundled else path
        self._model = _load(path, self.device)
        self._folder = path
        prompts = _prompts(self._model, self.name)
        self.query_prompt = prompts.query
        self.document_prompt = prompts.document if document_prompt is None else document_prompt
        self._similarity = _similarity(self._model, self.name)
        self._budget = token_budget or TOKEN_BUDGET[self.device.split(":")[0]]
        self.dimensions = _dimensions(self._model, dimensions, self.name)
        self.tokenizer = _tokenizer(self._model, self.name)
        self._limit = _length_limit(self._model)
        self._takes_ids = self._accepts_own_ids()
        special = len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        self.max_tokens = self._limit - special - self._prompt_length(self.document_prompt)
        if self.max_tokens < 1:
            raise ModelNotFound(f"{self.name}: the document prompt leaves no room in {self._limit} tokens")

    # --- identity -----------------------------------------------------------------------------------------------------
    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector."""
        return {
            "schema": "1",
            "kind": "dense",
            "behaviour": str(BEHAVIOUR_REVISION),
            "weights": _weights_digest(self._folder),
            "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
            "max_tokens": str(self._limit),
            "padding": str(getattr(self._model.tokenizer, "padding_side", "right")),
            "truncation": str(getattr(self._model.tokenizer, "truncation_side", "right")),
            "document_prompt": self.document_prompt,
            "modules": json.dumps([_module_identity(module) for module in self._model], sort_keys=True),
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
        vectors = np.empty((len(inputs), self.dimensions), dtype=np.float32)

        def run(batch: _Rows) -> None:
            features = self._features([sequences[i] for i in batch], [inputs[i].text for i in batch], prompt, task)
            vectors[batch] = self._forward(features, task)

        for number, batch in enumerate(self._batches(lengths), start=1):
            self._run_halving(run, batch)
            if self.device == "cpu" and number % RELEASE_EVERY == 0:
                release_free_memory()
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

    def _batches(self, lengths: _Rows) -> Iterator[_Rows]:
        """Longest first, so that memory peaks at once; each batch within the budget, or one text."""
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            size = max(1, self._budget // self._width(int(lengths[order[start]])))
            yield order[start : start + size]
            start += size

    def _width(self, length: int) -> int:
        """Padded length of a batch: rounded up, so that batches come in few shapes."""
        return min(-(-max(1, length) // WIDTH_STEP) * WIDTH_STEP, self._limit)

    def _run_halving(self, run: Callable[[_Rows], None], batch: _Rows) -> None:
        """Run a batch; where the device has too little memory for it, run its halves, and keep the smaller budget."""
        try:
            run(batch)
            return
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EncodingFailed(f"{self.device} has too little memory for a single text: {error}") from error
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self._budget = max(1, self._budget // 2)
        _log.warning("out of memory on %s: continuing with %d tokens a batch", self.device, self._budget)
        middle = len(batch) // 2
        self._run_halving(run, batch[:middle])
        self._run_halving(run, batch[middle:])

    def _features(self, rows: list[IntArray], texts: list[str], prompt: str, task: str) -> dict[str, Any]:
        if not self._takes_ids:
            return dict(self._model.preprocess(texts, prompt=prompt or None, task=task))
        tail = len(self.tokenizer.suffix)
        width = self._width(max(len(row) for row in rows))
        pad = self._model.tokenizer.pad_token_id or 0
        ids = np.full((len(rows), width), pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        left = self._model.tokenizer.padding_side == "left"
        for i, row in enumerate(rows):
            if len(row) > width:
                row = np.concatenate([row[: width - tail], row[len(row) - tail :]])
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = row, 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def _forward(self, features: dict[str, Any], task: str) -> FloatArray:
        moved = {key: value.to(self.device) if hasattr(value, "to") else value for key, value in features.items()}
        with torch.inference_mode():
            output = self._model(moved, **({} if self._takes_ids else self._forward_task(task)))["sentence_embedding"]
            output = output[:, : self.dimensions].float()
            if self._similarity == "cosine":
                output = torch.nn.functional.normalize(output, p=2, dim=1)
            vectors: FloatArray = output.cpu().numpy()
        return vectors

    def _forward_task(self, task: str) -> dict[str, str]:
        return {"task": task} if "task" in self._model.get_model_kwargs() else {}

    # --- what the model is --------------------------------------------------------------------------------------------
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
            theirs = self._model.preprocess(list(_PROBES), prompt=prompt or None)
            self._takes_ids = True
            ours = self._features(
                self._sequences([EncoderInput(text) for text in _PROBES], prompt), list(_PROBES), prompt, ""
            )
            same = [_same_but_padding(theirs[key].cpu(), ours[key], ours["attention_mask"]) for key in ours]
            extra = set(theirs) - set(ours) - {"token_type_ids", "modality", "prompt_length"}
            if not all(same) or extra or bool(torch.any(theirs.get("token_type_ids", torch.zeros(1)) != 0)):
                return False
        return True


def _same_but_padding(theirs: torch.Tensor, ours: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether our features are theirs, padded to a larger width or not."""
    width = theirs.shape[1]
    return torch.equal(theirs, ours[:, :width]) and not bool(mask[:, width:].any())


def choose_device(device: str | None) -> str:
    """The device to use: what was asked for if it is there, else an error; without a wish, CUDA, MPS or CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    available = ["cpu", *(["mps"] if mps else []), *(["cuda"] if count else []), *(f"cuda:{i}" for i in range(count))]
    if device is None:
        return "cuda" if count else "mps" if mps else "cpu"
    if device not in available:
        raise DeviceUnavailable(
            f"device {device!r} is not available; this machine has {', '.join(available)}. "
            "For CUDA, install a CUDA build of torch and check nvidia-smi; or leave out the device",
            device=device,
            available=available,
        )
    return device


def _load(path: str, device: str) -> SentenceTransformer:
    dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    try:
        with _quiet():
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


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar of the library while a model loads."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _prompts(model: SentenceTransformer, name: str) -> Prompts:
    configured = {role: text for role, text in model.prompts.items() if text}
    default = configured.get(model.default_prompt_name or "", "")
    family = family_prompts(name) or Prompts("", "")
    document = next((configured[role] for role in _DOCUMENT_PROMPTS if role in configured), None)
    if configured:
        return Prompts(configured.get("query", default), default if document is None else document)
    return family


def _similarity(model: SentenceTransformer, name: str) -> str:
    similarity = str(model.similarity_fn_name)
    if similarity not in ("cosine", "dot"):
        raise ModelNotFound(f"{name} compares by {similarity!r}; only cosine and dot product can be searched")
    return similarity


def _dimensions(model: SentenceTransformer, wanted: int | None, name: str) -> int:
    full = model.get_embedding_dimension()
    if full is None:
        raise ModelNotFound(f"{name} does not say how long its vectors are")
    if wanted is not None and wanted > full:
        raise ModelNotFound(f"dimensions={wanted}, but the vectors of {name} have only {full}")
    return wanted or full


def _tokenizer(model: SentenceTransformer, name: str) -> FastTokenizer:
    backend = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not hasattr(backend, "encode_batch"):
        raise ModelNotFound(f"{name} has no fast tokenizer (tokenizer.json), which the chunk limits are counted with")
    return FastTokenizer(backend)


def _length_limit(model: SentenceTransformer) -> int:
    limit = model.max_seq_length
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    known = [value for value in (limit, positions) if value and value < 1_000_000]
    return int(min(known)) if known else 1_000_000


def _module_identity(module: Any) -> dict[str, Any]:
    if isinstance(module, Transformer):
        config = json.loads(module.auto_model.config.to_json_string())
        kept = {key: value for key, value in config.items() if key not in _VOLATILE}
        return {"type": type(module.auto_model).__name__, "config": kept}
    return {"type": type(module).__name__, "config": json.loads(json.dumps(module.get_config_dict(), default=str))}


def _weights_digest(path: str) -> str:
    """Of all safetensors files of the model, by their names and contents."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, local_files_only=True, allow_patterns=["*.safetensors"]))
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ModelNotFound(f"{path} has no safetensors weights; other formats can run code when they are loaded")
    return sha256("\n".join(f"{file.relative_to(folder)} {file_sha256(file)}" for file in files).encode()).hexdigest()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(sign in str(error) for sign in ("out of memory", "not enough memory", "can't allocate memory"))
