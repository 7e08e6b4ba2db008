"""Sentence-transformers models beside the dense one: what sparse and late-interaction encoders have in common.

As with the dense encoder, the library loads the model and runs its modules, but for transformers of known architecture,
which run without padding (`packed`); and texts are tokenised once, sorted by true length and batched under a token
budget. A model has two roles, documents and queries, that can differ in
everything: prompt, length limit, query expansion, and with a Router in the modules themselves.

Found in sentence-transformers 6.2: a model of another kind is converted without an error, by a layer of random weights
where one is missing; here it is refused. A `SpladePooling` writes the width of its first batch into its own
configuration; that is no part of the identity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from sentence_transformers.util import load_file_path

from tarragon.encoders.library import (
    LONG_PROBE,
    PROBES,
    module_identity,
    prompts_of,
    quiet,
    same_tokens,
    tokenizer_of,
    weights_digest,
)
from tarragon.encoders.packed.library import PackedModules, is_same, packed_modules
from tarragon.encoders.token_batches import TOKEN_BUDGET, Rows, TokenBatches, cut_row, pad_rows, usable_positions
from tarragon.errors import ModelNotFound
from tarragon.types import IntArray

Task = Literal["document", "query"]
_UNLIMITED = 1_000_000
_LONG_PROBE = 10_000
"""Longest limit that is tried out when a model is loaded."""


class TokenCounts(NamedTuple):
    """Tokens that the model was given, and those beyond its limit."""

    tokens: int
    truncated: int


class SideModel:
    """A loaded model with its two roles.

    Args:
        library: What `load_library` returns.
        name: Name or folder that it was loaded from.
        device: Where it is.
        budget: Tokens in a batch.

    Raises:
        ModelNotFound: It has no fast tokenizer.
    """

    def __init__(self, library: Any, name: str, device: str, budget: int | None = None) -> None:
        self.name, self.device, self._library = name, device, library
        prompts = prompts_of(library, "")
        lock = Lock()
        budget = budget or TOKEN_BUDGET[device.split(":")[0]]
        settings = TokenSettings(name, device, budget, lock)
        document = Role(library, "document", prompts.document, settings)
        query = Role(library, "query", prompts.query, settings, document)
        self.roles: dict[Task, Role] = {"document": document, "query": query}

    def run(self, texts: Sequence[str], task: Task, take: Callable[[Rows, dict[str, Any]], None]) -> TokenCounts:
        """Give ``take`` the model's output for each batch, on the device, and which texts are in it."""
        role = self.roles[task]
        sequences = role.sequences(texts)
        full = np.array([len(row) for row in sequences], dtype=np.int64)
        lengths = np.minimum(full, role.limit)

        def forward(batch: Rows) -> None:
            output = role.output([sequences[i] for i in batch], [texts[i] for i in batch])
            with torch.inference_mode():
                take(batch, output)

        role.batches.run(lengths, forward)
        return TokenCounts(int(lengths.sum()), int((full - lengths).sum()))

    def identity(self, kind: str) -> dict[str, str]:
        """What changes a document's vectors, whatever the encoder makes of the output."""
        role = self.roles["document"]
        return {
            "schema": "1",
            "kind": kind,
            "weights": weights_digest(self.name),
            "tokenizer": sha256(role.tokenizer.definition.encode()).hexdigest(),
            "max_tokens": str(role.limit),
            "padding": role.side,
            "document_prompt": role.prompt,
            "modules": json.dumps([_identity(module) for module in _modules(self._library)], sort_keys=True),
            "numeric": "float",
        }


class TokenSettings(NamedTuple):
    """What the roles of a model share."""

    name: str
    device: str
    budget: int
    lock: Lock


class Role:
    """How a model reads documents, or queries.

    Args:
        library: The model.
        task: Of the role.
        prompt: Put before every text.
        settings: Shared with the other role.
        other: The other role, whose weights are used again where the modules are the same.
    """

    def __init__(
        self, library: Any, task: Task, prompt: str, settings: TokenSettings, other: Role | None = None
    ) -> None:
        self.task, self.prompt, self._library, self._lock = task, prompt, library, settings.lock
        self._device = settings.device
        self._module = _input_module(library, task)
        self.tokenizer = tokenizer_of(self._module, settings.name)
        self.side = str(getattr(self._module.tokenizer, "padding_side", "right"))
        self.limit = _limit(self._module, task)
        self.batches = TokenBatches(settings.device, settings.budget, self.limit)
        bare = isinstance(self._module, SparseStaticEmbedding)  # reads words alone, without special tokens
        self._begin: IntArray = np.array([] if bare else self.tokenizer.prefix, dtype=np.int32)
        self._end: IntArray = np.array([] if bare else self.tokenizer.suffix, dtype=np.int32)
        self._takes_ids = self._accepts_own_ids()
        self._packed = self._packed_if_equal(other) if self._takes_ids else None
        self.batches.padded = self._packed is None

    @property
    def is_unpadded(self) -> bool:
        """Whether texts are run end to end, without padding."""
        return self._packed is not None

    def sequences(self, texts: Sequence[str]) -> list[IntArray]:
        """Full id sequences, prompt and special tokens included and nothing truncated."""
        rows = self.tokenizer.tokenize([self.prompt + text for text in texts])
        return [np.concatenate([self._begin, row, self._end]) for row in rows]

    def output(self, rows: Sequence[IntArray], texts: Sequence[str]) -> dict[str, Any]:
        """What the last module gives for a batch, on the device."""
        if self._packed is not None:
            return self._packed([cut_row(row, self.limit, len(self._end)) for row in rows])
        return self._run(self._own(rows) if self._takes_ids else self._librarys_own(texts))

    def _run(self, features: dict[str, Any]) -> dict[str, Any]:
        """The library's own forward."""
        moved = {key: value.to(self._device) if hasattr(value, "to") else value for key, value in features.items()}
        with torch.inference_mode():
            return dict(self._library(moved, task=self.task))

    def _own(self, rows: Sequence[IntArray]) -> dict[str, Any]:
        width = self.batches.width(max(len(row) for row in rows))
        pad = self._module.tokenizer.pad_token_id or 0
        ids, mask = pad_rows(rows, width, pad=pad, tail=len(self._end), left=self.side == "left")
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), "modality": "text"}

    def _librarys_own(self, texts: Sequence[str]) -> dict[str, Any]:
        with self._lock:  # transformers changes the tokenizer's settings at each call
            return dict(self._library.preprocess(list(texts), prompt=self.prompt or None, task=self.task))

    def _accepts_own_ids(self) -> bool:
        """Whether our ids are what the library would feed the model, tried on several scripts and one long text."""
        if self.prompt and any(getattr(module, "include_prompt", True) is False for module in self._library.modules()):
            return False
        if getattr(self._module, "query_expansion", None) and self.task == "query":
            return False
        probes = [*PROBES, *(["a long text " * self.limit] if self.limit <= _LONG_PROBE else [])]
        theirs, ours = self._librarys_own(probes), self._own(self.sequences(probes))
        if set(theirs) - set(ours) - {"token_type_ids", "prompt_length", "task"}:
            return False
        if bool(torch.any(theirs.get("token_type_ids", torch.zeros(1)) != 0)):
            return False
        return same_tokens(theirs, ours)

    def _packed_if_equal(self, other: Role | None) -> PackedModules | None:
        """The modules without padding, if they give the same of `PROBES`."""
        packed: PackedModules | None
        if other is not None and other._packed is not None and other._module is self._module:
            packed = other._packed.for_task(self.task)
        else:
            packed = packed_modules(list(_modules(self._library, self.task)), self._device, self.task)
        if packed is None:
            return None
        rows = [cut_row(row, self.limit, len(self._end)) for row in self.sequences([*PROBES, LONG_PROBE])]
        same = is_same(lambda: _compared(packed(rows)), lambda: _compared(self._run(self._own(rows))))
        return packed if same else None


def _compared(output: dict[str, Any]) -> torch.Tensor:
    """A row for each text, or for each token that counts."""
    if "sentence_embedding" in output:
        return torch.as_tensor(output["sentence_embedding"])
    return torch.as_tensor(output["token_embeddings"][output["attention_mask"].bool()])


def load_library(kind: type[Any], name: str, device: str) -> Any:
    """Load a model as ``SparseEncoder`` or ``MultiVectorEncoder``, in bf16 on CUDA.

    Raises:
        ModelNotFound: It cannot be loaded, is of another kind, or has weights that are no safetensors.
    """
    dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    try:
        with quiet():
            library = kind(
                name,
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": dtype},
                config_kwargs={"trust_remote_code": False},
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"cannot load {name!r} as a {kind.__name__}: {reason}. It must be a local folder or a name on the model "
            "hub, in the sentence-transformers format with safetensors weights, and need no code of its own",
            model=name,
        ) from error
    _check_kind(kind.model_type, name)
    check_formats(name)
    return library.eval()


def _check_kind(kind: str, name: str) -> None:
    """Refuse a model that the library made into this kind with weights that nobody trained."""
    config = _json(name, "config.json")
    architectures = config.get("architectures") or []
    if load_file_path(name, "modules.json") is None:
        made_for = ("ForMaskedLM",) if kind == "SparseEncoder" else ("HF_ColBERT", "ForRetrieval")
        fits, found = any(part.endswith(made_for) for part in architectures), ", ".join(architectures)
    else:
        settings = _json(name, "config_sentence_transformers.json")
        found = settings.get("model_type", "SentenceTransformer")
        # models of the library PyLate; older ones do not say so, and are converted without random weights if they
        # have a projection of their own
        projects = any(str(module["type"]).endswith("Dense") for module in _json(name, "modules.json"))
        pylate = kind == "MultiVectorEncoder" and projects and (found == "ColBERT" or "query_prefix" in settings)
        fits = found == kind or pylate
    if not fits:
        wanted = "learned sparse" if kind == "SparseEncoder" else "late-interaction"
        raise ModelNotFound(
            f"{name} is no {wanted} model but {found or 'of an unknown kind'}: it would run with random weights. "
            f"Name a model that sentence-transformers' {kind} was trained to be; see docs/models.md",
            model=name,
        )


def check_formats(name: str) -> None:
    """Refuse a module with pickled weights, which the library would read where there are no safetensors."""
    modules = load_file_path(name, "modules.json")
    folder = Path(modules).parent if modules else Path(name)
    for file in sorted(folder.rglob("pytorch_model.bin")):
        if not any(file.parent.glob("*.safetensors")):
            raise ModelNotFound(
                f"{file} is not in the safetensors format; load the model once with sentence-transformers and save it "
                "again, which writes safetensors",
                model=name,
            )


def _json(name: str, file: str) -> Any:
    path = load_file_path(name, file)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _modules(library: Any, task: Task = "document") -> Iterator[Any]:
    """The modules that a text of this role goes through."""
    for module in library:
        if isinstance(module, Router):
            try:
                route = module._resolve_route(task=task, modality="text")
            except ValueError as error:
                raise ModelNotFound(f"the model has no way for a {task}: {error}") from error
            yield from module.get_submodule(f"sub_modules.{route}").children()
        else:
            yield module


def _input_module(library: Any, task: Task) -> Any:
    return next(_modules(library, task))


def _limit(module: Any, task: Task) -> int:
    """Most tokens of a text in this role, special tokens and prompt included."""
    expansion: Mapping[str, Any] = (getattr(module, "query_expansion", None) or {}) if task == "query" else {}
    own = getattr(module, f"{task}_length", None)
    if expansion.get("strategy") == "fixed":
        own = expansion["length"]
    elif expansion and own:
        own = max(own, expansion["length"])
    config = getattr(getattr(module, "auto_model", None), "config", None)
    known = [own or module.max_seq_length, usable_positions(config)]
    return int(min([value for value in known if value and value < _UNLIMITED], default=_UNLIMITED))


def _identity(module: Any) -> dict[str, Any]:
    if isinstance(module, SparseStaticEmbedding):  # its weights may be in a JSON file
        weights = module.weight.detach().float().cpu().numpy().tobytes()
        return {"type": type(module).__name__, "weights": sha256(weights).hexdigest()}
    identity = module_identity(module)
    if isinstance(module, SpladePooling):
        identity["config"].pop("embedding_dimension", None)
    if isinstance(module, Transformer):
        identity["task"] = str(module.transformer_task)
    return identity
