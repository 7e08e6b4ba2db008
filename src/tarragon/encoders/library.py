"""What a model of sentence-transformers says of itself, read in one way for every kind of encoder and reranker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from transformers.utils import logging as transformers_logging

from tarragon.encoders.bundled import file_sha256
from tarragon.encoders.prompts import Prompts, family_prompts
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import DeviceUnavailable, ModelNotFound

PROBES = ("A short probe.", "Ünïcode, naïve — 漢字かな مرحبا", "x = f(a_b)[0]  # code\n\tindented")
"""Texts of several scripts, on which own ids are compared with the library's."""

LONG_PROBE = "a text that reaches beyond any window " * 40
"""Some 300 tokens, on which a model without padding is compared, too."""

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")


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


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of the library while a model loads."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def weights_digest(path: str) -> str:
    """Of all safetensors files of the model, by their names and contents."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, local_files_only=True, allow_patterns=["*.safetensors"]))
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ModelNotFound(f"{path} has no safetensors weights; other formats can run code when they are loaded")
    return sha256("\n".join(f"{file.relative_to(folder)} {file_sha256(file)}" for file in files).encode()).hexdigest()


def module_identity(module: Any) -> dict[str, Any]:
    """What of a module's type and configuration changes a vector."""
    if isinstance(module, Transformer):
        config = json.loads(module.auto_model.config.to_json_string())
        kept = {key: value for key, value in config.items() if key not in _VOLATILE}
        return {"type": type(module.auto_model).__name__, "config": kept}
    return {"type": type(module).__name__, "config": json.loads(json.dumps(module.get_config_dict(), default=str))}


def prompts_of(model: SentenceTransformer, name: str) -> Prompts:
    """The model's own prompts, else those of its family's cards."""
    configured = {role: text for role, text in model.prompts.items() if text}
    default = configured.get(model.default_prompt_name or "", "")
    family = family_prompts(name) or Prompts("", "")
    document = next((configured[role] for role in _DOCUMENT_PROMPTS if role in configured), None)
    if configured:
        return Prompts(configured.get("query", default), default if document is None else document)
    return family


def similarity_of(model: SentenceTransformer, name: str) -> str:
    """``cosine`` or ``dot``. Raises `ModelNotFound` for any other."""
    similarity = str(model.similarity_fn_name)
    if similarity not in ("cosine", "dot"):
        raise ModelNotFound(f"{name} compares by {similarity!r}; only cosine and dot product can be searched")
    return similarity


def tokenizer_of(model: SentenceTransformer, name: str) -> FastTokenizer:
    """The model's fast tokenizer. Raises `ModelNotFound` if it has none."""
    backend = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not hasattr(backend, "encode_batch"):
        raise ModelNotFound(f"{name} has no fast tokenizer (tokenizer.json), which the chunk limits are counted with")
    return FastTokenizer(backend)


def same_tokens(theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]) -> bool:
    """Whether two batches have the same ids, padded to whatever width on whichever side."""
    ids, counts = [], []
    for features in (theirs, ours):
        mask = features["attention_mask"].cpu().bool()
        ids.append(features["input_ids"].cpu()[mask].long())
        counts.append(mask.sum(dim=1))
    return torch.equal(*counts) and torch.equal(*ids)
