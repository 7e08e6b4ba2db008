"""One model, three spaces: BGE-M3 (arXiv 2402.03216) and models of its shape.

A transformer and two linear layers on its token states. Dense: the first token's state, or the mean. Sparse: one number
a token, nothing below 0, the greatest for each token id. Late: a vector for each token but the first. One forward gives
all three; what nobody asked for yet waits in a memo, so that encoding the same texts for three spaces costs one pass.

The folder is the transformer's (``config.json``, ``tokenizer.json``, ``model.safetensors``) with
``sparse_linear.safetensors`` and ``colbert_linear.safetensors`` beside, each of ``weight`` and ``bias``. docs/models.md
says how to make it from the published files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from tarragon.encoders.joint_spaces import Facet, JointLate, JointParts, JointSparse, Memo
from tarragon.encoders.late import token_vectors
from tarragon.encoders.library import LONG_PROBE, PROBES, choose_device, quiet, weights_digest
from tarragon.encoders.packed import Forward, pack, packed_model
from tarragon.encoders.packed.library import is_same
from tarragon.encoders.token_batches import TOKEN_BUDGET, Rows, TokenBatches, cut_row, pad_rows, usable_positions
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import ModelNotFound
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.types import FloatArray, IntArray, SparseVector

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

MEMO_BYTES = 1 << 29
"""What waits to be asked for. A sync asks for one window of 256 KiB of text at a time: 65,000 tokens of English, with
1,024 dimensions a token 270 MB of late-interaction vectors; twice that, for texts of shorter tokens."""

_LAYERS = ("sparse_linear", "colbert_linear")


class _Layer(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(states, self.weight, self.bias)


class JointEncoder:
    """A local model folder as a `tarragon.protocols.DenseEncoder`, with `sparse` and `late` beside it.

    Thread-safe: threads that encode the same text at once may both run it.

    Args:
        path: The folder.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes the best there is. ``device`` says what it became.
        token_budget: Tokens in a batch, padding included. Halved for good when the device runs out of memory.
        memo_bytes: Room for what a forward made and nobody asked for yet; the oldest makes room.

    Raises:
        ModelNotFound: The folder is not as said above.
        DeviceUnavailable: The device that was asked for is not there.
    """

    query_prompt = document_prompt = ""

    def __init__(
        self, path: str, *, device: str | None = None, token_budget: int | None = None, memo_bytes: int = MEMO_BYTES
    ) -> None:
        self.name = path
        self.device = choose_device(device)
        self._model, self._hf_tokenizer = _load(path, self.device)
        self._sparse_layer, self._late_layer = (self._layer(name) for name in _LAYERS)
        self._pooling = _pooling(path)
        self.tokenizer = FastTokenizer(self._hf_tokenizer.backend_tokenizer)
        self.dimensions = int(self._model.config.hidden_size)
        self._limit = _limit(self._hf_tokenizer, self._model)
        self.max_tokens = self._limit - len(self.tokenizer.prefix) - len(self.tokenizer.suffix)
        budget = token_budget or TOKEN_BUDGET[self.device.split(":")[0]]
        self._batches = TokenBatches(self.device, budget, self._limit)
        self._special = np.array(sorted(set(self._hf_tokenizer.all_special_ids)), dtype=np.int64)
        self._packed: Forward | None = None
        self._packed = self._packed_if_equal()
        self._batches.padded = self._packed is None
        self._memo = Memo(memo_bytes)
        self._wanted: set[str] = {"dense"}
        self._identity: dict[str, str] | None = None

    # --- the three spaces ---------------------------------------------------------------------------------------------
    @property
    def sparse(self) -> JointSparse:
        """The sparse space, as a `tarragon.protocols.SparseEncoder`. Asked for once, forwards make it from then on."""
        self._wanted = {*self._wanted, "sparse"}
        return JointSparse(self, "sparse")

    @property
    def late(self) -> JointLate:
        """The late space, as a `tarragon.protocols.LateEncoder`. Asked for once, forwards make it from then on."""
        self._wanted = {*self._wanted, "late"}
        return JointLate(self, "late")

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's dense vector."""
        return self.identity_of("dense")

    def identity_of(self, space: str) -> dict[str, str]:
        """What changes a document's vectors in one of the spaces."""
        if self._identity is None:
            config = json.loads(self._model.config.to_json_string())
            volatile = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures")
            self._identity = {
                "schema": "1",
                "behaviour": str(BEHAVIOUR_REVISION),
                "weights": weights_digest(self.name),
                "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
                "max_tokens": str(self._limit),
                "model": json.dumps({key: config[key] for key in sorted(config) if key not in volatile}),
                "type": type(self._model).__name__,
                "numeric": "float",
            }
        return {**self._identity, "kind": space, **({"pooling": self._pooling} if space == "dense" else {})}

    @property
    def late_dimensions(self) -> int:
        """Length of a vector of the late space."""
        return int(self._late_layer.weight.shape[0])

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._dense(inputs, "")

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. With a prompt, the other spaces need a forward of their own."""
        return self._dense([EncoderInput(text) for text in texts], prompt or "")

    def _dense(self, inputs: Sequence[EncoderInput], prompt: str) -> Embeddings:
        parts = self.parts(inputs, "dense", prompt)
        vectors = np.empty((len(inputs), self.dimensions), dtype=np.float32)
        for i, (vector, _, _) in enumerate(parts):
            vectors[i] = vector
        return Embeddings(vectors, sum(part.tokens for part in parts), sum(part.truncated for part in parts))

    # --- one forward --------------------------------------------------------------------------------------------------
    def parts(self, inputs: Sequence[EncoderInput], space: str, prompt: str = "") -> list[Facet]:
        """What each text is in one space: from the memo, else from a forward, whose other parts go to the memo."""
        keys = [prompt + item.text for item in inputs]
        found = {key: self._memo.take(key, space) for key in dict.fromkeys(keys)}
        missing = {key: item for key, item in zip(keys, inputs, strict=True) if found[key] is None}
        for key, made in zip(missing, self._run(list(missing.values()), prompt, {*self._wanted, space}), strict=True):
            found[key] = made.pop(space)
            self._memo.put(key, made)
        return [found[key] for key in keys]  # type: ignore[misc] # none of them is missing any more

    def _run(self, inputs: Sequence[EncoderInput], prompt: str, wanted: set[str]) -> list[JointParts]:
        sequences = self._sequences(inputs, prompt)
        full = np.array([len(row) for row in sequences], dtype=np.int64)
        lengths = np.minimum(full, self._limit)
        made: list[JointParts] = [{} for _ in inputs]

        def forward(batch: Rows) -> None:
            for space, values in self._forward([sequences[i] for i in batch], wanted).items():
                for i, value in zip(batch, values, strict=True):
                    made[i][space] = Facet(value, int(lengths[i]), int(full[i] - lengths[i]))

        self._batches.run(lengths, forward)
        return made

    def _sequences(self, inputs: Sequence[EncoderInput], prompt: str) -> list[IntArray]:
        """Full id sequences; a chunk, which never has a prompt, brings its ids where they are those of the text."""
        known = self.tokenizer.sliceable
        texts = [prompt + item.text for item in inputs if not known or item.token_ids is None]
        fresh = iter(self.tokenizer.tokenize(texts))
        rows = [next(fresh) if not known or item.token_ids is None else item.token_ids for item in inputs]
        begin, end = (np.array(ids, dtype=np.int32) for ids in (self.tokenizer.prefix, self.tokenizer.suffix))
        return [np.concatenate([begin, row, end]) for row in rows]

    def _forward(self, rows: Sequence[IntArray], wanted: set[str]) -> dict[str, Sequence[Any]]:
        rows = [cut_row(row, self._limit, len(self.tokenizer.suffix)) for row in rows]
        with torch.inference_mode():
            states, ids, mask = self._states(rows)
            return self._heads(states, ids, mask, wanted)

    def _states(self, rows: Sequence[IntArray]) -> tuple[torch.Tensor, Rows, torch.Tensor]:
        """Last states, ids and mask, each padded to the longest row."""
        longest = max(len(row) for row in rows)
        width = self._batches.width(longest) if self._packed is None else longest
        ids, mask = pad_rows(rows, width, pad=self._hf_tokenizer.pad_token_id or 0, tail=0)
        attention = torch.from_numpy(mask).to(self.device)
        if self._packed is not None:
            texts = torch.split(self._packed(pack(rows, self.device)), [len(row) for row in rows])
            return torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True), ids, attention
        output = self._model(input_ids=torch.from_numpy(ids).to(self.device), attention_mask=attention)
        return output.last_hidden_state, ids, attention

    def _packed_if_equal(self) -> Forward | None:
        """The transformer without padding, if it gives the same states of `PROBES`."""
        packed = packed_model(self._model) if self.device.split(":")[0] in ("cpu", "cuda") else None
        if packed is None:
            return None
        full = self._sequences([EncoderInput(text) for text in (*PROBES, LONG_PROBE)], "")
        rows = [cut_row(row, self._limit, len(self.tokenizer.suffix)) for row in full]

        def theirs() -> torch.Tensor:
            states, _, mask = self._states(rows)
            return states[mask.bool()]

        with torch.inference_mode():
            return packed if is_same(lambda: packed(pack(rows, self.device)), theirs) else None

    def _heads(self, states: torch.Tensor, ids: Rows, mask: torch.Tensor, wanted: set[str]) -> dict[str, Sequence[Any]]:
        made: dict[str, Sequence[Any]] = {}
        if "dense" in wanted:
            made["dense"] = _pooled(states, mask, self._pooling)
        if "sparse" in wanted:
            weights = torch.relu(self._sparse_layer(states)).squeeze(-1).float().cpu().numpy()
            counts = (mask.cpu().numpy() == 1) & ~np.isin(ids, self._special)
            made["sparse"] = [_greatest(*row) for row in zip(ids, weights, counts, strict=True)]
        if "late" in wanted:
            first = min(1, len(self.tokenizer.prefix))
            made["late"] = token_vectors(self._late_layer(states[:, first:]), mask[:, first:])
        return made

    def _layer(self, name: str) -> _Layer:
        file = Path(self.name) / f"{name}.safetensors"
        try:
            tensors = load_file(file)
            layer = _Layer(tensors["weight"], tensors["bias"])
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelNotFound(
                f"{file} with 'weight' and 'bias' cannot be read. A joint model needs it; from a published {name}.pt, "
                "which is a pickle and is not read here, docs/models.md says how to make it",
                path=str(file),
            ) from error
        hidden = self._model.config.hidden_size
        if layer.weight.shape[1] != hidden or (name == "sparse_linear" and layer.weight.shape[0] != 1):
            raise ModelNotFound(f"{file}: shape {tuple(layer.weight.shape)} does not fit states of {hidden} dimensions")
        return _Layer(*(tensor.to(self.device, self._model.dtype) for tensor in layer))


def _pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> list[FloatArray]:
    if pooling == "cls":
        pooled = states[:, 0].float()
    else:
        kept = mask.unsqueeze(-1)
        pooled = (states.float() * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)
    return list(torch.nn.functional.normalize(pooled, p=2, dim=1).cpu().numpy())


def _greatest(ids: Rows, weights: FloatArray, counts: Any) -> SparseVector:
    """Of each id that counts, its greatest weight, where that is not 0."""
    terms, places = np.unique(ids[counts], return_inverse=True)
    values = np.zeros(len(terms), dtype=np.float32)
    np.maximum.at(values, places, weights[counts])
    return SparseVector(terms[values != 0].astype(np.int32), values[values != 0])


def _limit(tokenizer: Any, model: Any) -> int:
    """Most tokens of a text, special tokens included."""
    positions = usable_positions(model.config)
    return int(min(tokenizer.model_max_length, positions or tokenizer.model_max_length, 1_000_000))


def _pooling(path: str) -> str:
    """``mean`` if the folder says so in sentence-transformers' way, else ``cls`` as BGE-M3."""
    file = Path(path) / "1_Pooling" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return "mean" if config.get("pooling_mode") == "mean" or config.get("pooling_mode_mean_tokens") else "cls"


def _load(path: str, device: str) -> tuple[Any, Any]:
    dtype = torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32
    try:
        if not Path(path).is_dir():
            raise OSError("there is no such folder")
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            if not tokenizer.is_fast:
                raise OSError("it has no fast tokenizer (tokenizer.json)")
            model = AutoModel.from_pretrained(
                path, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype=dtype
            )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNotFound(
            f"cannot load the joint model {path!r}: {reason}. It must be a local folder of a transformer with "
            "safetensors weights, sparse_linear.safetensors and colbert_linear.safetensors; see docs/models.md",
            model=path,
        ) from error
    return model.to(device).eval(), tokenizer
