"""Models behind OpenAI's ``/embeddings``: OpenAI's own, and those of vLLM, llama.cpp, Ollama, LiteLLM and many others.

The servers agree on less than the name says. Some refuse ``dimensions``, some overlook it; some refuse base64, some
answer with lists all the same; answers may come in any order; a text that is too long is refused (OpenAI, vLLM) or cut
in silence (Ollama). The first request finds out which form is taken, and none of it is taken for granted later.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tarragon.encoders.http import Answer, HttpEncoder, checked_rows
from tarragon.encoders.http_client import HttpModel, checked_url
from tarragon.errors import EncodingFailed, ModelUnavailable
from tarragon.types import IntArray

PUBLIC_URL = "https://api.openai.com/v1"

MAX_TOKENS = 8_191
"""Of OpenAI's embedding models, by their documentation."""

BATCH_TEXTS = 128
"""Texts in a request. OpenAI takes 2,048, others fewer. Not measured."""

_PIECE = re.compile(r"[A-Za-zÀ-ɏ]{1,6}|[0-9]{1,3}|[\u0370-\u1fff]{1,2}|\S")
"""What is taken for one token."""

_SHORTER = 3 / 4
_LEAST = 16
"""A text that is still too long at this many tokens is refused for another reason."""

_log = logging.getLogger(__name__)


class EstimatingTokenizer:
    """Estimates tokens where a model's tokenizer is not at hand: 6 Latin letters, 3 digits, 2 letters of another
    alphabet, or any other sign. The ids say nothing.

    For each token of all-MiniLM-L6-v2's WordPiece it gives 1.09 on SciFact's abstracts and 1.03 on a thousand pages of
    AWS's documentation; of a single text .87 to 1.32, first to last percentile. Byte-level BPE was not at hand.
    """  # noqa: D205

    sliceable = False

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """See `tarragon.protocols.Tokenizer`: as many zeros as there may be tokens."""
        return [np.zeros(size, dtype=np.int32) for size in estimated_sizes(texts)]


def estimated_sizes(texts: Sequence[str]) -> list[int]:
    """About how many tokens each text has."""
    return [sum(1 for _ in _PIECE.finditer(text)) for text in texts]


def cut_to(text: str, tokens: int) -> str:
    """The text up to the end of its last estimated token that fits."""
    end = 0
    for number, match in enumerate(_PIECE.finditer(text)):
        if number == tokens:
            return text[:end]
        end = match.end()
    return text


class OpenAIServer:
    """A `tarragon.encoders.http.EmbeddingServer` behind ``/embeddings``.

    Args:
        model: The model's name on the server.
        http: The server, with the path before ``/embeddings``.
        dimensions: Asked for; without success, `HttpEncoder` shortens the vectors, and a warning is logged.
        max_tokens: Longer texts are cut by estimate before they are sent, and counted.
    """

    batch_texts = BATCH_TEXTS

    def __init__(
        self, model: str, http: HttpModel, *, dimensions: int | None = None, max_tokens: int = MAX_TOKENS
    ) -> None:
        self.name = model
        self.limit = max_tokens
        self.tokenizer = EstimatingTokenizer()
        self._http = http
        packed: dict[str, Any] = {"encoding_format": "base64"}
        shorter: dict[str, Any] = {"dimensions": dimensions}
        plain: tuple[dict[str, Any], ...] = (packed, {})
        self._forms = plain if dimensions is None else ({**packed, **shorter}, shorter, *plain)

    @property
    def identity(self) -> Mapping[str, str]:
        """The name of the model: nothing more is told."""
        return {"provider": "openai", "model": self.name}

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Estimated."""
        return estimated_sizes(texts)

    def embed(self, texts: Sequence[str]) -> Answer:
        """See `tarragon.encoders.http.EmbeddingServer`."""
        for form in self._forms[:-1]:
            try:
                return self._settled(texts, form)
            except ModelUnavailable as error:
                if error.data.get("status") not in (400, 422) or error.data.get("too_large"):
                    raise
        return self._settled(texts, self._forms[-1])

    def embed_cut(self, text: str) -> Answer:
        """The text, cut by a quarter of its estimated tokens until it is taken."""
        size = estimated_sizes([text])[0]
        kept = min(size, self.limit)
        while (kept := int(kept * _SHORTER)) >= _LEAST:
            try:
                answer = self.embed([cut_to(text, kept)])
            except ModelUnavailable as error:
                if not error.data.get("too_large"):
                    raise
            else:
                return answer._replace(truncated=size - kept)
        raise EncodingFailed(f"{self.name} refuses a text as too long, even cut to {_LEAST} tokens", tokens=size)

    def _settled(self, texts: Sequence[str], form: Mapping[str, Any]) -> Answer:
        """One request; the form that was taken once is the only one from then on."""
        answer = self._request(texts, form)
        if len(self._forms) > 1:
            if "dimensions" in self._forms[0] and "dimensions" not in form:
                _log.warning(
                    "the server of %s does not take dimensions: vectors are shortened here, which does them no harm "
                    "only if the model was trained for it",
                    self.name,
                )
            self._forms = (dict(form),)
        return answer

    def _request(self, texts: Sequence[str], form: Mapping[str, Any]) -> Answer:
        sizes = estimated_sizes(texts)
        fitting = [
            text if size <= self.limit else cut_to(text, self.limit) for text, size in zip(texts, sizes, strict=True)
        ]
        answer = self._http.post("/embeddings", {"model": self.name, "input": fitting, **form})
        truncated = sum(max(0, size - self.limit) for size in sizes)
        vectors = checked_rows(_rows(answer, len(texts), self.name), len(texts), self.name)
        return Answer(vectors, _used(answer, sum(sizes) - truncated), truncated)


def openai_encoder(
    model: str,
    http: HttpModel,
    *,
    document_prompt: str | None = None,
    dimensions: int | None = None,
    max_tokens: int = MAX_TOKENS,
) -> HttpEncoder:
    """A model behind ``/embeddings`` as a `tarragon.protocols.DenseEncoder`. Raises as `HttpEncoder`."""
    server = OpenAIServer(model, http, dimensions=dimensions, max_tokens=max_tokens)
    return HttpEncoder(server, document_prompt=document_prompt, dimensions=dimensions)


def openai_http(url: str | None) -> HttpModel:
    """The server at an address; without one at ``OPENAI_BASE_URL``, else at OpenAI's own.

    ``OPENAI_API_KEY`` goes to these two alone. Any other address gets the key of its own variable, if there is one: see
    `tarragon.encoders.http_client.key_variable`.
    """
    own = checked_url(os.environ.get("OPENAI_BASE_URL", "").strip() or PUBLIC_URL)
    asked = own if url is None else checked_url(url)
    is_own = asked in (own, PUBLIC_URL)
    return HttpModel(asked, api_key_env="OPENAI_API_KEY" if is_own else None, needs_key=asked == PUBLIC_URL)


def _rows(answer: Any, count: int, name: str) -> list[Any]:
    """The embeddings in the order of the texts.

    Raises:
        EncodingFailed: There is none, or not one each.
    """
    try:
        items = list(answer["data"])
        places = [item.get("index", place) for place, item in enumerate(items)]
        rows = {place: _numbers(item["embedding"]) for place, item in zip(places, items, strict=True)}
        if len(items) == count:
            return [rows[place] for place in range(count)]
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        raise EncodingFailed(f"{name} answers with what is no embedding: {type(error).__name__} {error}") from error
    raise EncodingFailed(f"{name} answers {count} texts with {len(items)} embeddings", answers=len(items))


def _numbers(embedding: Any) -> Any:
    if not isinstance(embedding, str):
        return embedding
    return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")


def _used(answer: Any, estimate: int) -> int:
    """Tokens by the server's count, which some leave out or set to 0."""
    usage = answer.get("usage")
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return told if isinstance(told, int) and told > 0 else estimate
