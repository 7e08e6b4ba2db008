"""Dense encoders behind HTTP: what any server of embeddings has in common.

That is prompts, batches by count and by tokens, a few requests at once in a fixed order, and halves of what a server
calls too large. What they differ in is an `EmbeddingServer`: `tarragon.encoders.http_openai`,
`tarragon.encoders.http_tei`.

Vectors become unit vectors here. Servers differ in whether they do it, and shortened vectors need it again; stores
compare by dot product, so that a server that changes its mind would change every score. A model that is trained for
raw dot products loses its lengths by it: run it locally.

The weights of a remote model cannot be hashed. Its identity is what it is called; that it still makes the same vectors
is for the canaries to tell (`tarragon.canaries`). The address is no part of it: servers move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tarragon.encoders.prompts import Prompts, family_prompts
from tarragon.errors import EncodingFailed, ModelNotFound, ModelUnavailable
from tarragon.protocols import Embeddings, EncoderInput, Tokenizer
from tarragon.types import FloatArray

BEHAVIOUR_REVISION = 1
"""Raised when this file changes the vectors it makes."""

BATCH_TOKENS = 16_384
"""Estimated tokens in a request. OpenAI takes 300,000; smaller ones come back sooner. Not measured."""

CONCURRENCY = 4
"""Requests at once. Not measured: enough to hide the way there and back, few enough for most rate limits."""

_PROBE = "A short probe."
_EMPTY = " "
"""Sent in place of an empty text, which both kinds of server refuse."""


class Answer(NamedTuple):
    """What a server made of some texts.

    Attributes:
        vectors: One row per text, in their order, as long as the server makes them; NaN where it gave no number.
        tokens: Tokens that it read.
        truncated: Tokens that it was not given or did not read.
    """

    vectors: FloatArray
    tokens: int
    truncated: int


class EmbeddingServer(Protocol):
    """A model on a server."""

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Everything the server says of what changes its vectors."""
        ...

    @property
    def limit(self) -> int:
        """Most tokens of a text, special ones subtracted."""
        ...

    @property
    def batch_texts(self) -> int:
        """Most texts in a request."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Counts in its tokens, or estimates them."""
        ...

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Roughly how many tokens each text has; asks nobody."""
        ...

    def embed(self, texts: Sequence[str]) -> Answer:
        """One request. Raises `ModelUnavailable` with ``data["too_large"]`` where fewer or shorter texts could do."""
        ...

    def embed_cut(self, text: str) -> Answer:
        """Embed as much of the text as can be, where `embed` has refused it as too long."""
        ...


class HttpEncoder:
    """A model on a server as a `tarragon.protocols.DenseEncoder`.

    Args:
        server: Where the model is. One request is made at once, so that what is wrong shows now.
        document_prompt: Replaces the document prompt of the model's card. The server must not add one of its own.
        dimensions: Keep only the first so many.
        concurrency: Requests at once.

    Raises:
        ModelUnavailable: The server cannot be reached, or refuses.
        ModelNotFound: It does not have the model, or makes shorter vectors than ``dimensions``.
        EncodingFailed: It answers with something else than embeddings.
    """

    device = "remote"

    def __init__(
        self,
        server: EmbeddingServer,
        *,
        document_prompt: str | None = None,
        dimensions: int | None = None,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._server = server
        self._concurrency = concurrency
        self.name = server.name
        prompts = family_prompts(server.name) or Prompts("", "")
        self.query_prompt = prompts.query
        self.document_prompt = prompts.document if document_prompt is None else document_prompt
        self.tokenizer = server.tokenizer
        self.max_tokens = server.limit - self._prompt_length()
        if self.max_tokens < 1:
            raise ModelNotFound(f"{self.name}: the document prompt leaves no room in {server.limit} tokens")
        self.dimensions = self._probed_dimensions(dimensions)

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector, as far as it can be known."""
        return {
            "schema": "1",
            "kind": "dense",
            "behaviour": str(BEHAVIOUR_REVISION),
            **self._server.identity,
            "max_tokens": str(self._server.limit),
            "document_prompt": self.document_prompt,
            "normalisation": "unit",
            "dimensions": str(self.dimensions),
            "numeric": "float",
        }

    def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. A server reads texts, so that token ids are of no use to it.

        Raises:
            ModelUnavailable: The server cannot be reached, or refuses, also after several tries.
            EncodingFailed: It refuses these texts, or answers with something else than their embeddings.
        """
        return self._encode([self.document_prompt + item.text for item in inputs])

    def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
        """See `tarragon.protocols.DenseEncoder`. Raises as `encode_documents`."""
        prompt = self.query_prompt if prompt is None else prompt
        return self._encode([prompt + text for text in texts])

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        texts = [text or _EMPTY for text in texts]
        batches = list(self._batches(texts))
        work = [[texts[i] for i in batch] for batch in batches]
        if len(work) == 1:
            answers = [self._ask(work[0])]
        else:
            with ThreadPoolExecutor(max(1, min(self._concurrency, len(work))), "tarragon-http") as pool:
                answers = list(pool.map(self._ask, work))
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for batch, answer in zip(batches, answers, strict=True):
            vectors[batch] = self._shortened(answer.vectors)
        return Embeddings(vectors, sum(a.tokens for a in answers), sum(a.truncated for a in answers))

    def _batches(self, texts: Sequence[str]) -> Iterator[NDArray[np.int64]]:
        """Longest first, so that texts of like length share a request: many servers pad."""
        sizes = np.array(self._server.sizes(texts), dtype=np.int64)
        order = np.argsort(-sizes, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, min(self._server.batch_texts, BATCH_TOKENS // max(1, int(sizes[order[start]]))))
            yield order[start : start + count]
            start += count

    def _ask(self, texts: Sequence[str]) -> Answer:
        """One batch; its halves, where the server calls it too large; a part of the text, where one alone is."""
        try:
            return self._server.embed(texts)
        except ModelUnavailable as error:
            if not error.data.get("too_large"):
                raise _told_apart(error) from error
        if len(texts) > 1:
            middle = len(texts) // 2
            first, second = self._ask(texts[:middle]), self._ask(texts[middle:])
            vectors = np.concatenate([first.vectors, second.vectors])
            return Answer(vectors, first.tokens + second.tokens, first.truncated + second.truncated)
        try:
            return self._server.embed_cut(texts[0])
        except ModelUnavailable as error:
            raise _told_apart(error) from error

    def _shortened(self, vectors: FloatArray) -> FloatArray:
        """The first dimensions, as unit vectors. NaN where any number is not finite: the caller decides."""
        if vectors.shape[1] < self.dimensions:
            raise EncodingFailed(
                f"{self.name} gives vectors of {vectors.shape[1]} dimensions, and gave {self.dimensions} before",
                dimensions=vectors.shape[1],
            )
        return _unit(vectors[:, : self.dimensions])

    def _prompt_length(self) -> int:
        return len(self.tokenizer.tokenize([self.document_prompt])[0]) if self.document_prompt else 0

    def _probed_dimensions(self, wanted: int | None) -> int:
        vectors = self._server.embed([_PROBE]).vectors
        if not np.isfinite(vectors).all() or not vectors.any():
            raise EncodingFailed(f"{self.name} gives no vector for {_PROBE!r}, but zeros, NaN or infinity")
        if wanted is not None and wanted > vectors.shape[1]:
            raise ModelNotFound(f"dimensions={wanted}, but the vectors of {self.name} have only {vectors.shape[1]}")
        return wanted or vectors.shape[1]


def checked_rows(rows: object, count: int, name: str) -> FloatArray:
    """What a server gave as vectors, as an array of shape ``(count, dimensions)``; null becomes NaN.

    Raises:
        EncodingFailed: Another number of rows, rows of several lengths, or something else than numbers.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and the caller sees that
            vectors = np.array(rows, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise EncodingFailed(f"{name} answers with what is no table of numbers: {error}") from error
    if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0:
        message = f"{name} answers {count} texts with an array of shape {vectors.shape}, not one vector each"
        raise EncodingFailed(message, shape=vectors.shape)
    return vectors


def _unit(vectors: FloatArray) -> FloatArray:
    """Rows of length 1; a row of zeros stays, one that is not finite becomes NaN."""
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    clean = np.where(finite[:, None], vectors, 0.0).astype(np.float64)
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    units = clean / np.where(lengths == 0, 1.0, lengths)
    units[~finite] = np.nan
    result: FloatArray = units.astype(np.float32)
    return result


def _told_apart(error: ModelUnavailable) -> ModelUnavailable | EncodingFailed:
    """The texts are at fault, or the server is. The first request of all has shown that others are answered."""
    if error.data.get("status") in (400, 413, 422):
        return EncodingFailed(str(error), **error.data)
    return error
