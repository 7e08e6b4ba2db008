"""Models behind Hugging Face's Text Embeddings Inference (TEI), by its own routes.

From its sources and interface description (1.7): ``/info`` names the model, with the commit of its weights where it
came from the hub, and the limits; ``/tokenize`` counts exactly; ``/embed`` refuses an empty text and, unless
``truncate`` is set, a too long one, both with status 413, which it also gives to a batch of too many texts. Newer
versions truncate in silence by default, so ``truncate`` is always said. Vectors are shortened here: versions without
``dimensions`` overlook it. A prompt that the server adds (``--default-prompt``) is not told by ``/info``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tarragon.encoders.http import CONCURRENCY, Answer, HttpEncoder, checked_rows
from tarragon.encoders.http_client import HttpModel
from tarragon.encoders.http_openai import estimated_sizes
from tarragon.errors import EncodingFailed, ModelNotFound
from tarragon.types import IntArray

PIECE = 16_384
"""Characters that are tokenised at once; longer texts in pieces of it. A request stays below the server's 2 MB."""

CHARACTERS_PER_TOKEN = 16
"""Of a text that is too long anyway, this many for each token of the limit are sent, as in `tarragon.chunking`."""


class TeiTokenizer:
    """The server's own tokenizer, asked over HTTP.

    Args:
        http: The server.
        batch_texts: Most texts in a request.
    """

    sliceable = False

    def __init__(self, http: HttpModel, batch_texts: int) -> None:
        self._http = http
        self._batch = batch_texts

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """See `tarragon.protocols.Tokenizer`. Raises `ModelUnavailable`, `EncodingFailed`."""
        pieces = [
            (i, text[start : start + PIECE]) for i, text in enumerate(texts) for start in range(0, len(text), PIECE)
        ]
        batches = [pieces[start : start + self._batch] for start in range(0, len(pieces), self._batch)]
        ids: list[list[IntArray]] = [[] for _ in texts]
        with ThreadPoolExecutor(CONCURRENCY, "tarragon-http") as pool:
            counted = pool.map(lambda batch: self._ask([text for _, text in batch]), batches)
            for batch, rows in zip(batches, counted, strict=True):
                for (i, _), row in zip(batch, rows, strict=True):
                    ids[i].append(np.array([token["id"] for token in row], dtype=np.int32))
        return [np.concatenate([np.empty(0, dtype=np.int32), *parts]) for parts in ids]

    def special_tokens(self) -> int:
        """How many tokens the model adds to a text."""
        row = self._ask(["a"], special=True)[0]
        return sum(bool(token.get("special")) for token in row)

    def _ask(self, texts: Sequence[str], *, special: bool = False) -> list[list[dict[str, Any]]]:
        rows = self._http.post("/tokenize", {"inputs": list(texts), "add_special_tokens": special})
        whole = isinstance(rows, list) and len(rows) == len(texts) and all(isinstance(row, list) for row in rows)
        if not whole or not all(isinstance(token, dict) and "id" in token for row in rows for token in row):
            raise EncodingFailed(f"{self._http.base_url}/tokenize answers with something else than tokens")
        return list(rows)


class TeiServer:
    """A `tarragon.encoders.http.EmbeddingServer` that is Text Embeddings Inference.

    Args:
        http: The server.

    Raises:
        ModelNotFound: It is something else, or serves no embedding model.
        ModelUnavailable: It cannot be reached.
    """

    def __init__(self, http: HttpModel) -> None:
        info = http.get("/info")
        try:
            self.name = str(info["model_id"])
            self._revision = str(info.get("model_sha") or "")
            self._pooling = str(info["model_type"]["embedding"]["pooling"])
            self.batch_texts = max(1, int(info["max_client_batch_size"]))
            longest = int(info["max_input_length"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"{http.base_url}/info does not tell of an embedding model: {type(error).__name__} {error}"
            raise ModelNotFound(f"{message}. Is it Text Embeddings Inference, with an embedding model?") from error
        self._http = http
        self.tokenizer = TeiTokenizer(http, self.batch_texts)
        self.limit = longest - self.tokenizer.special_tokens()

    @property
    def identity(self) -> Mapping[str, str]:
        """The model's name, and the commit of its weights where the server knows it."""
        return {"provider": "tei", "model": self.name, "revision": self._revision, "pooling": self._pooling}

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Estimated: what does not fit is refused, and counted then."""
        return estimated_sizes(texts)

    def embed(self, texts: Sequence[str]) -> Answer:
        """See `tarragon.encoders.http.EmbeddingServer`. ``tokens`` is an estimate."""
        return self._request(texts, sum(estimated_sizes(texts)), truncate=False)

    def embed_cut(self, text: str) -> Answer:
        """The text as far as the model reads; what it leaves is counted by the server's tokenizer."""
        tokens = len(self.tokenizer.tokenize([text])[0])
        answer = self._request([text[: self.limit * CHARACTERS_PER_TOKEN]], min(tokens, self.limit), truncate=True)
        return answer._replace(truncated=max(0, tokens - self.limit))

    def _request(self, texts: Sequence[str], tokens: int, *, truncate: bool) -> Answer:
        rows = self._http.post("/embed", {"inputs": list(texts), "truncate": truncate, "normalize": True})
        return Answer(checked_rows(rows, len(texts), self.name), tokens, 0)


def tei_encoder(http: HttpModel, *, document_prompt: str | None = None, dimensions: int | None = None) -> HttpEncoder:
    """The model that a TEI server runs as a `tarragon.protocols.DenseEncoder`. Raises as `TeiServer`, `HttpEncoder`."""
    return HttpEncoder(TeiServer(http), document_prompt=document_prompt, dimensions=dimensions)
