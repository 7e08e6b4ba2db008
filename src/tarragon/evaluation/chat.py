"""A language model behind an OpenAI-compatible ``/chat/completions``, asked for a text or for a JSON object.

Servers differ in what they take: some models refuse a temperature, or name the limit of an answer
``max_completion_tokens``, and not every server knows ``response_format``. A setting that a refusal names is left out
from then on. Tried against scripted servers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from tarragon.errors import AnsweringFailed, InvalidInput, MissingDependency, ModelUnavailable

if TYPE_CHECKING:
    from tarragon.encoders.http_client import HttpModel

MAX_TOKENS = 1024
"""Most tokens of an answer. A judgement of ten passages takes some 600."""

TIMEOUT = 120.0
"""Seconds that a server may be silent: it speaks only when the answer is complete."""

_FORMAT = {"response_format": {"type": "json_object"}}
_OPTIONAL = ("response_format", "seed", "temperature", "max_tokens")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said.

    Attributes:
        text: Its words.
        tokens: Read and written, as the server counts; 0 where it does not tell.
    """

    text: str
    tokens: int = 0


class ChatModel:
    """A language model. Safe to use from several threads.

    Args:
        model: Its name on the server.
        url: Up to and without ``/chat/completions``, such as ``http://localhost:8000/v1``.
        api_key_env: The environment variable with the key. None: as `tarragon.encoders.http_client` says.
        temperature: 0 for answers that are as much alike as the server can.
        max_tokens: Most tokens of an answer.
        timeout: Seconds.
        tries: Requests before giving up.

    Raises:
        InvalidRecipe: ``url`` is no address.
        MissingDependency: httpx is not installed.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        api_key_env: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = MAX_TOKENS,
        timeout: float = TIMEOUT,
        tries: int = 5,
    ) -> None:
        if not model:
            raise InvalidInput("the name of the language model is empty; name it as its server does")
        self.name = model
        self._http = _client(url, api_key_env, timeout, tries)
        self._settings = {"temperature": temperature, "max_tokens": max_tokens, "seed": 0}
        self._refused: set[str] = set()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"ChatModel({self.name!r}, {self._http.base_url!r})"

    def text(self, prompt: str) -> Reply:
        """The model's answer.

        Raises:
            ModelUnavailable: The server cannot be reached or refuses.
            AnsweringFailed: It answers with something else than a text.
        """
        return self._ask([{"role": "user", "content": prompt}], {})

    def json(self, prompt: str, read: Callable[[dict[str, Any]], T]) -> tuple[T, Reply]:
        """The model's answer as a JSON object, read; asked once more, with what was wrong, if it cannot be.

        Args:
            prompt: Says what the object should hold.
            read: Makes a value of it; raises ValueError with what is wrong.

        Raises:
            ModelUnavailable: The server cannot be reached or refuses.
            AnsweringFailed: The second answer cannot be read either; ``data["reply"]`` is what it said.
        """
        messages = [{"role": "user", "content": prompt}]
        first = self._ask(messages, _FORMAT)
        try:
            return read(_object(first.text)), first
        except ValueError as error:
            wrong = str(error)
        again = f"This cannot be used: {wrong}. Answer with the JSON object alone, as it was asked for."
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": again}]
        second = self._ask(messages, _FORMAT)
        try:
            return read(_object(second.text)), Reply(second.text, first.tokens + second.tokens)
        except ValueError as error:
            raise AnsweringFailed(
                f"{self.name} gives no usable JSON, also when asked again: {error}. Try a larger model",
                reply=second.text,
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, messages: list[dict[str, str]], extra: Mapping[str, Any]) -> Reply:
        while True:
            with self._lock:
                settings = {**self._settings, **{k: v for k, v in extra.items() if k not in self._refused}}
            try:
                body = {"model": self.name, "messages": messages, **settings}
                return self._read(self._http.post("/chat/completions", body))
            except ModelUnavailable as error:
                if not self._without(error, settings):
                    raise

    def _without(self, error: ModelUnavailable, sent: Mapping[str, Any]) -> bool:
        """Whether to ask again without the setting that the server's refusal names."""
        if error.data.get("status") not in (400, 422):
            return False
        named = next((name for name in _OPTIONAL if name in sent and name in str(error)), None)
        if named is None:
            return False
        with self._lock:
            self._refused.add(named)
            value = self._settings.pop(named, None)
            if named == "max_tokens" and value and "max_completion_tokens" in str(error):
                self._settings["max_completion_tokens"] = value
        return True

    def _read(self, answer: Any) -> Reply:
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (TypeError, KeyError, IndexError):
            text, choice = None, {}
        if not isinstance(text, str):
            reason = f"finish_reason {choice.get('finish_reason')!r}" if choice else "no choices"
            raise AnsweringFailed(f"{self.name} answers without a text ({reason}). Is it a chat model?")
        usage = answer.get("usage")
        tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else 0
        return Reply(text, tokens if isinstance(tokens, int) else 0)


def _client(url: str, api_key_env: str | None, timeout: float, tries: int) -> HttpModel:
    try:
        from tarragon.encoders.http_client import HttpModel  # brings httpx
    except ImportError as error:
        raise MissingDependency("a language model over HTTP needs httpx: pip install 'tarragon[http]'") from error
    return HttpModel(url, api_key_env=api_key_env, timeout=timeout, tries=tries)


def _object(text: str) -> dict[str, Any]:
    """The first JSON object of a text: models put words or a fence around it, or thoughts before it."""
    decoder = json.JSONDecoder()
    at = text.rfind("</think>") + 1
    while (at := text.find("{", at)) >= 0:
        try:
            found, _ = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        return dict(found)
    raise ValueError("there is no JSON object in it")
