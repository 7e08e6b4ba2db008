"""Static embeddings: a table with one vector a token, averaged; model2vec's folders, GloVe and word2vec, on NumPy.

A folder with ``modules.json`` is loaded by sentence-transformers too, and a few are known to fastembed by name; this is
for the rest, and loads neither torch nor onnxruntime. What a text's vector is follows model2vec, whose tools make most
of these tables: no special tokens, unknown tokens left out, tokens weighted where the folder has weights, and then the
mean. sentence-transformers averages unknown tokens in, so that the two agree only on texts without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tarragon.encoders.bundled import file_sha256
from tarragon.encoders.tokens import FastTokenizer
from tarragon.errors import InvalidInput, ModelNotFound
from tarragon.protocols import Embeddings, EncoderInput
from tarragon.types import FloatArray, IntArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

MAX_TOKENS = 1_000_000
"""A mean has no limit; chunks need one."""

_UNKNOWN = "[UNK]"
_TABLES = ("embeddings", "embedding.weight")
"""The table in the files of model2vec and of sentence-transformers."""


class StaticEncoder:
    """A table of token vectors as a `tarragon.protocols.DenseEncoder`.

    Vectors are unit vectors. A text without a known token has the zero vector: it is like nothing.

    Args:
        folder: With ``tokenizer.json`` and ``model.safetensors``; see also `save_word_vectors`.
        document_prompt: Put before each document.
        dimensions: Keep only the first so many.

    Raises:
        ModelNotFound: The folder holds no such table.
    """

    device = "cpu"
    max_tokens = MAX_TOKENS
    query_prompt = ""

    def __init__(self, folder: str, *, document_prompt: str | None = None, dimensions: int | None = None) -> None:
        self.name = folder
        self.document_prompt = document_prompt or ""
        self._weights = Path(folder) / "model.safetensors"
        backend = _tokenizer(Path(folder) / "tokenizer.json")
        self.tokenizer = FastTokenizer(backend)
        self._table = _table(self._weights, backend.get_vocab_size())
        self._unknown = _unknown_token(self.tokenizer.definition)
        full = self._table.shape[1]
        if dimensions is not None and dimensions > full:
            raise ModelNotFound(f"dimensions={dimensions}, but the vectors of {folder} have only {full}")
        self.dimensions = dimensions or full

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector."""
        return {
            "schema": "1",
            "kind": "dense",
            "behaviour": str(BEHAVIOUR_REVISION),
            "runner": "static",
            "weights": file_sha256(self._weights),
            "tokenizer": sha256(self.tokenizer.definition.encode()).hexdigest(),
            "document_prompt": self.document_prompt,
            "pooling": "mean",
            "normalisation": "unit",
            "dimensions": str(self.dimensions),
            "numeric": "float",
        }

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. Token ids are used where there is no prompt to put before them."""
        known = [None if self.document_prompt else item.token_ids for item in inputs]
        fresh = iter(
            self.tokenizer.tokenize(
                [self.document_prompt + item.text for item, ids in zip(inputs, known, strict=True) if ids is None]
            )
        )
        return self._mean([next(fresh) if ids is None else ids for ids in known])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`."""
        return self._mean(self.tokenizer.tokenize([(prompt or "") + text for text in texts]))

    def _mean(self, rows: Sequence[IntArray]) -> Embeddings:
        """Each text by itself, so that its vector does not depend on others."""
        vectors = np.zeros((len(rows), self.dimensions), dtype=np.float32)
        for place, ids in enumerate(rows):
            ids = ids if self._unknown is None else ids[ids != self._unknown]
            total = self._table[ids, : self.dimensions].sum(axis=0, dtype=np.float64)
            length = float(np.linalg.norm(total))
            vectors[place] = total / length if length else 0
        return Embeddings(vectors, sum(map(len, rows)), 0)


def save_word_vectors(source: Path, folder: Path, *, lowercase: bool = True) -> Path:
    """Turn word vectors as text into a folder for `StaticEncoder` (or ``static:FOLDER`` in a recipe).

    Args:
        source: GloVe's or word2vec's text format: a word and its numbers a line, parted by blanks; with word2vec, a
            first line of two numbers before them.
        folder: Where it is written.
        lowercase: Whether texts are lowercased before they are looked up, as the words of most tables are.

    Raises:
        InvalidInput: A line is no word with as many numbers as the first one has.
    """
    words: dict[str, int] = {_UNKNOWN: 0}
    rows: list[FloatArray] = []
    for word, vector in _lines(source):
        if word not in words:  # the first of equal words is the most frequent one
            words[word] = len(words)
            rows.append(vector)
    if not rows:
        raise InvalidInput(f"{source} holds no word vectors")
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": np.stack([np.zeros_like(rows[0]), *rows])}, folder / "model.safetensors")
    return folder


def _lines(source: Path) -> Iterator[tuple[str, FloatArray]]:
    size: int | None = None
    with source.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1:
                continue  # word2vec: how many words and numbers
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError as error:
                raise InvalidInput(f"{source}, line {number}: {error}", line=number) from error
            size = size or len(vector)
            if not word or not size or len(vector) != size:
                message = f"{source}, line {number}: a word and {size} numbers are due, and {len(vector)} are there"
                raise InvalidInput(message, line=number)
            yield word, vector


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more special
        raise ModelNotFound(
            f"{path} cannot be read: {error}; a static model needs it beside model.safetensors"
        ) from error


def _table(path: Path, tokens: int) -> FloatArray:
    """One row a token id. A smaller table with a ``mapping`` is what model2vec's vocabulary quantization leaves."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, TypeError, AttributeError) as error:
        raise ModelNotFound(f"{path} cannot be read: {error}; a static model needs a table of numbers") from error
    table = next((tensors[name] for name in _TABLES if name in tensors), None)
    if table is None or table.ndim != 2:
        raise ModelNotFound(f"{path} holds no table {' or '.join(_TABLES)}, but {', '.join(sorted(tensors))}")
    table = table.astype(np.float32)
    if (mapping := tensors.get("mapping")) is not None:
        table = table[mapping.astype(np.int64)]
    if (weights := tensors.get("weights")) is not None and len(weights) == len(table):
        table = table * weights.astype(np.float32)[:, None]
    elif weights is not None or len(table) < tokens:
        raise ModelNotFound(
            f"{path} has {len(table)} rows for a tokenizer of {tokens} tokens; they do not belong together"
        )
    return table


def _unknown_token(definition: str) -> int | None:
    """The id of what stands for every unknown word."""
    model = json.loads(definition)["model"]
    if "unk_id" in model:
        return None if model["unk_id"] is None else int(model["unk_id"])
    vocabulary = model.get("vocab")
    return vocabulary.get(model.get("unk_token")) if isinstance(vocabulary, dict) else None
