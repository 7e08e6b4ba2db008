"""A folder with a model as ONNX: which files it is made of, and what its settings say.

The layout is that of sentence-transformers with the ONNX beside it, as its own export, Optimum's and most repositories
on the hub have it.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from tarragon.encoders.bundled import file_sha256
from tarragon.encoders.prompts import Prompts
from tarragon.errors import ModelNotFound

MODEL_FILES = ("model.onnx", "onnx/model.onnx")
NEEDED = ("tokenizer.json", "tokenizer_config.json", "config.json")

_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = ("cls", "mean", "lasttoken")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
_SCALES_BY_BATCH = b"DynamicQuantize"
"""Begins the names of the operators that scale activations by the largest of a whole batch."""


class OnnxFolder(NamedTuple):
    """What a folder says of its model.

    Attributes:
        model_file: The ONNX, relative to the folder.
        files: With it, the files that hold its weights.
        pooling: ``cls``, ``mean`` or ``lasttoken``; None where the settings name none.
        similarity: ``cosine`` or ``dot``.
        max_tokens: The length that sentence-transformers would cut at; None where only the tokenizer limits it.
        prompts: Of the model's configuration, if there are any.
    """

    model_file: str
    files: list[Path]
    pooling: str | None
    similarity: str
    max_tokens: int | None
    prompts: Prompts | None


def read_onnx_folder(folder: Path) -> OnnxFolder:
    """Read the settings of a model in a local folder.

    Raises:
        ModelNotFound: A file is missing or cannot be read, or the model has parts that an ONNX run leaves out.
    """
    model_file = next((name for name in MODEL_FILES if (folder / name).is_file()), None)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if model_file is None or missing:
        wanted = ", ".join(([" or ".join(MODEL_FILES)] if model_file is None else []) + missing)
        raise ModelNotFound(f"{folder} has no {wanted}; an ONNX model needs these beside each other", folder=folder)
    settings = _read(folder / "config_sentence_transformers.json")
    similarity = str(settings.get("similarity_fn_name") or "cosine")
    if similarity not in ("cosine", "dot"):
        raise ModelNotFound(f"{folder} compares by {similarity!r}; only cosine and dot product can be searched")
    return OnnxFolder(
        model_file=model_file,
        files=weight_files(folder / model_file),
        pooling=_pooling(folder),
        similarity=similarity,
        max_tokens=_read(folder / "sentence_bert_config.json").get("max_seq_length"),
        prompts=_prompts(settings),
    )


def weight_files(model: Path) -> list[Path]:
    """The ONNX, and the files beside it that it names: large models keep their weights there."""
    beside = sorted(path for path in model.parent.iterdir() if path.is_file() and path != model)
    return [model, *(path for path in beside if path.suffix != ".json" and _holds(model, path.name.encode()))]


def weights_digest(files: Sequence[Path]) -> str:
    """Of the files by their names and contents."""
    return sha256("\n".join(f"{file.name} {file_sha256(file)}" for file in files).encode()).hexdigest()


def scales_by_batch(model: Path) -> bool:
    """Whether a text's vector depends on the others in its batch: the ONNX is quantized dynamically."""
    return _holds(model, _SCALES_BY_BATCH)


def _holds(path: Path, part: bytes) -> bool:
    if path.stat().st_size == 0:
        return False  # nothing to map
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(part) >= 0


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelNotFound(f"{path} is no JSON: {error}") from error
    return values if isinstance(values, dict) else {"items": values}


def _pooling(folder: Path) -> str | None:
    modules = _read(folder / "modules.json").get("items", [])
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: folder / str(module["path"]) for module in modules}
    if unknown := sorted(set(kinds) - set(_MODULES)):
        message = f"{folder} has the modules {', '.join(unknown)} after its transformer, and they are not run as ONNX"
        raise ModelNotFound(f"{message}; run it with sentence-transformers", modules=unknown)
    settings = _read(kinds.get("Pooling", folder / "1_Pooling") / "config.json")
    old = [name for name in _POOLINGS if settings.get(f"pooling_mode_{_OLD_NAMES[name]}")]
    pooling = settings.get("pooling_mode") or (old[0] if len(old) == 1 else "+".join(old) or None)
    if pooling is not None and pooling not in _POOLINGS:
        raise ModelNotFound(f"{folder} pools by {pooling!r}; known are {', '.join(_POOLINGS)}", pooling=pooling)
    return pooling


_OLD_NAMES = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
"""Settings of sentence-transformers before version 6."""


def _prompts(settings: dict[str, Any]) -> Prompts | None:
    """As `tarragon.encoders.sentence_transformers` reads them."""
    configured = {role: text for role, text in (settings.get("prompts") or {}).items() if text}
    if not configured:
        return None
    default = configured.get(settings.get("default_prompt_name") or "", "")
    document = next((configured[role] for role in _DOCUMENT_PROMPTS if role in configured), default)
    return Prompts(configured.get("query", default), document)
