"""Fastembed's models beside the dense one: what sparse and late-interaction encoders have in common.

Found in fastembed 0.9: a model's name decides how it is run (marker tokens, activation, skipped punctuation), also when
its files come from a local folder. So a folder must be called like the model that it holds. Batches are counted in
texts and padded to the longest; here they are made of texts of like length under a token budget, or of one text where
the ONNX scales its activations by the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tarragon.encoders.onnx_folder import scales_by_batch, weights_digest
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import DeviceUnavailable, EncodingFailed, ModelNotFound

TOKEN_BUDGET = 512
"""Tokens in a batch, padding included. Fastembed copies all numbers of a batch to the host and makes three more copies
there; for SPLADE, with one for each word of BERT's vocabulary, that is 250 MB at this size. Not measured for speed."""

Row = TypeVar("Row")
onnxruntime: Any = import_module("onnxruntime")  # it has no types
_CUDA = "CUDAExecutionProvider"


class Counted(NamedTuple):
    """Which texts go into a batch, and the tokens of all texts."""

    batches: list[list[int]]
    tokens: int
    truncated: int


class FastembedModel:
    """A loaded fastembed model.

    Args:
        library: ``SparseTextEmbedding`` or ``LateInteractionTextEmbedding``.
        name: A name that it knows, or a local folder called like one.
        device: ``cpu``, ``cuda``, ``cuda:1``; None takes CUDA where this build of onnxruntime has it.
        known: The models that may be used.

    Raises:
        ModelNotFound: The model is unknown or cannot be loaded.
        DeviceUnavailable: The device is not there.
    """

    def __init__(self, library: Any, name: str, device: str | None, known: Sequence[str]) -> None:
        self.device, providers = _providers(device)
        self.model_name, folder = _locate(name, known)
        self.name = name
        self.library = _load(library, self.model_name, folder, providers)
        if self.device != "cpu" and self.library.model.model.get_providers()[0] != _CUDA:
            raise DeviceUnavailable(
                f"onnxruntime could not start CUDA for {name}; check nvidia-smi, or use device='cpu'", device=device
            )
        backend = self.library.model.tokenizer
        self.tokenizer = FastTokenizer(backend)
        self.limit = int(backend.truncation["max_length"])
        self._budget = 1 if scales_by_batch(self._files()[0]) else TOKEN_BUDGET

    def identity(self, kind: str) -> dict[str, str]:
        """What changes a document's vectors, whatever the encoder makes of the output."""
        return {
            "schema": "1",
            "kind": kind,
            "library": "fastembed",
            "model": self.model_name,
            "weights": weights_digest(self._files()),
            "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
            "max_tokens": str(self.limit),
            "numeric": "float",
        }

    def count(self, texts: Sequence[str]) -> Counted:
        """Batches of texts of like length, longest first."""
        special = len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        full = np.array([len(row) + special for row in self.tokenizer.tokenize(texts)], dtype=np.int64)
        lengths = np.minimum(full, self.limit)
        return Counted(list(_batches(lengths, self._budget)), int(lengths.sum()), int((full - lengths).sum()))

    def run(self, texts: Sequence[str], counted: Counted, embed: Callable[[list[str]], Iterable[Row]]) -> list[Row]:
        """One row for each text, in the order of the texts.

        Raises:
            EncodingFailed: The model fails, or gives more or fewer rows than texts.
        """
        rows: dict[int, Row] = {}
        try:
            for batch in counted.batches:
                rows.update(zip(batch, embed([texts[i] for i in batch]), strict=True))
        except Exception as error:  # onnxruntime's own errors derive from Exception alone
            raise EncodingFailed(f"{self.name} on {self.device}: {error}", model=self.name) from error
        return [rows[i] for i in range(len(texts))]

    def _files(self) -> list[Path]:
        """The ONNX, and what else fastembed says the model is made of."""
        description, folder = self.library.model.model_description, Path(self.library.model._model_dir)
        others = sorted(folder / file for file in description.additional_files if (folder / file).is_file())
        return list(dict.fromkeys([folder / description.model_file, *others]))


def _batches(lengths: Any, budget: int) -> Iterator[list[int]]:
    """Each within the budget, or one text."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size].tolist()
        start += size


def _providers(device: str | None) -> tuple[str, list[Any]]:
    available = onnxruntime.get_available_providers()
    device = device or ("cuda" if _CUDA in available else "cpu")
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return device, ["CPUExecutionProvider"]
    if kind == "cuda" and _CUDA in available and (number or "0").isdigit():
        return device, [(_CUDA, {"device_id": int(number or 0)})]
    raise DeviceUnavailable(
        f"device {device!r} is not available to onnxruntime, which has {', '.join(available)}. For CUDA install "
        "onnxruntime-gpu instead of onnxruntime; or use device='cpu'",
        device=device,
        available=available,
    )


def _locate(name: str, known: Sequence[str]) -> tuple[str, str | None]:
    """The model's name in fastembed, and the folder if it is a local one."""
    folder = Path(name)
    if folder.is_dir():
        found = [model for model in known if model.split("/")[-1].lower() == folder.resolve().name.lower()]
    else:
        found = [model for model in known if model.lower() == name.lower()]
    if found:
        return found[0], str(folder) if folder.is_dir() else None
    raise ModelNotFound(
        f"fastembed has no model {name!r} of this kind. It has {', '.join(known)}; a local folder must be called like "
        "the last part of one of these names, which tells fastembed how to run it",
        model=name,
    )


def _load(library: Any, model: str, folder: str | None, providers: list[Any]) -> Any:
    options: dict[str, Any] = {} if folder is None else {"specific_model_path": folder}
    try:
        return library(model, providers=providers, cuda=False, **options)
    except Exception as error:  # onnxruntime's own errors derive from Exception alone
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"fastembed cannot load {folder or model}: {reason}. Where no model hub can be reached, download it "
            "elsewhere and name its folder",
            model=model,
        ) from error
