"""JSON over HTTP to a model server, again where that can help: for encoders and rerankers alike.

Keys come from the environment alone. A recipe is stored with its index and travels with it, so that an address in it
may be a stranger's: unless a caller names the variable, a key is bound to its host by the variable's name
(`key_variable`), and no key of another service is sent there. Redirects are not followed, for the same reason.

Found in httpx 0.28: it logs each request's whole URL at INFO, so that nothing secret may be in one; its ``json=`` fails
on a lone surrogate, which here becomes a question mark.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx

from tarragon.errors import EncodingFailed, InvalidRecipe, ModelNotFound, ModelUnavailable

TIMEOUT = 60.0
"""Seconds that a server may be silent. A CPU server with a large batch needs several; not measured."""

TRIES = 5
"""Requests before giving up: with `FIRST_WAIT`, after 7.5 to 15 seconds of waiting."""

FIRST_WAIT = 1.0
"""Seconds before the second try, doubled for each one after it; half of it is drawn at random, so that requests that
failed together do not come back together."""

LONGEST_WAIT = 120.0
"""Seconds. A server that asks for more is given up at once: the caller can do better than to sleep."""

CONNECT_TIMEOUT = 10.0

_TOO_LARGE = re.compile(
    r"too (long|large|many)|must have less than|context length|maximum (allowed|batch|input|length|request|sequence)",
    re.I,
)
"""In the words of OpenAI, TEI, vLLM and llama.cpp; the last one says it with status 500."""

_JSON = {"Content-Type": "application/json"}
_AGAIN = (408, 424, 425, 429)
"""Beside 5xx. 424 is how TEI says that its own inference failed."""
_log = logging.getLogger(__name__)


class HttpModel:
    """A model server. Safe to use from several threads.

    Args:
        base_url: ``http(s)://host[:port][/path]``, without a key in it.
        api_key_env: The environment variable with the key. None: `key_variable` of the address.
        needs_key: Whether to refuse without a key; otherwise requests go without one.
        timeout: Seconds.
        tries: Requests before giving up.
        sleep: Waits between two tries.

    Raises:
        InvalidRecipe: ``base_url`` is no such address.
        ModelNotFound: A key is needed and not in the environment, or cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key_env: str | None = None,
        needs_key: bool = False,
        timeout: float = TIMEOUT,
        tries: int = TRIES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.key_env = api_key_env or key_variable(self.base_url)
        self._key = os.environ.get(self.key_env, "").strip()
        if needs_key and not self._key:
            raise ModelNotFound(f"{self.base_url} needs a key: set the environment variable {self.key_env}")
        if self._key and not re.fullmatch(r"[!-~]+", self._key):
            raise ModelNotFound(f"the key in {self.key_env} holds white space or other characters that no key has")
        self._tries = tries
        self._sleep = sleep
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
            follow_redirects=False,
            verify=self.base_url.startswith("https:"),  # plain HTTP needs no certificates, which take 20 ms to load
        )
        self.close = weakref.finalize(self, self._client.close)
        """Closes the connections; so does the end of this object."""

    def __repr__(self) -> str:
        return f"HttpModel({self.base_url!r})"

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a POST of ``body`` to ``base_url + path`` is answered with.

        Raises:
            ModelUnavailable: It cannot be reached, or refuses, also after several tries. ``data["status"]`` is the last
                answer's status, None where there was none; ``data["too_large"]`` says whether less could be taken.
            ModelNotFound: It knows no such path or model: 404.
            EncodingFailed: The answer is no JSON.
        """
        return self._ask("POST", path, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))

    def get(self, path: str) -> Any:
        """The JSON that a GET is answered with. Raises as `post`."""
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, content: bytes | None) -> Any:
        url = self.base_url + path
        for attempt in range(1, self._tries + 1):
            wait = min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311 # no secret
            status, problem = None, ""
            try:
                response = self._client.request(method, url, content=content, headers=_JSON)
            except httpx.RequestError as error:
                problem = f"{url} cannot be reached ({type(error).__name__}: {self._redacted(str(error))})"
            else:
                if response.is_success:
                    return self._json(url, response)
                status, problem = response.status_code, self._problem(url, response)
                if not _is_passing(response):
                    raise self._refusal(problem, response)
                wait = _asked_wait(response, wait)
            if attempt == self._tries or wait > LONGEST_WAIT:
                break
            _log.info("%s; trying again in %.1f s (%d of %d)", problem, wait, attempt, self._tries)
            self._sleep(wait)
        asked = f" and asks to wait {wait:.0f} s" if wait > LONGEST_WAIT else ""
        message = f"{problem}, {attempt} times{asked}. Check that the server runs and is not overloaded, and try again"
        raise ModelUnavailable(message, url=url, status=status, too_large=False)

    def _refusal(self, problem: str, response: httpx.Response) -> ModelNotFound | ModelUnavailable:
        status = response.status_code
        if status == 404:
            return ModelNotFound(f"{problem}. Check the address and the model's name", status=status)
        hint = "Check what the server can take"
        if status in (401, 403):
            hint = f"{'Check' if self._key else 'Set'} the key in the environment variable {self.key_env}"
        elif status == 429:
            hint = "Waiting does not help: check the account's quota"
        elif response.is_redirect:
            hint = "Redirects are not followed: name the address that it leads to"
        return ModelUnavailable(f"{problem}. {hint}", status=status, too_large=_is_too_large(response))

    def _problem(self, url: str, response: httpx.Response) -> str:
        """What the server said, without what it may repeat of the key."""
        status = response.status_code
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "?"
        said = "" if status in (401, 403) else _message(response, self._redacted)
        return f"{url} answers {status} {phrase}{': ' + said if said else ''}"

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _json(self, url: str, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            start = self._redacted(response.text)[:80]
            raise EncodingFailed(f"{url} answers with what is no JSON: {start!r}. Is it a model server?") from error


def checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        InvalidRecipe: It is none, or has a user, a query or a fragment: it is stored and logged, and these may be
            secret. What it holds is not repeated.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        shown = "" if "@" in url or "?" in url else f"{url!r} "
        raise InvalidRecipe(f"{shown}is no address of a model server; write http://host:port or https://host/path")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidRecipe(
            f"the address of {parts.hostname} holds a user, a query or a fragment, and it is stored with the index; "
            f"put the key into the environment variable {key_variable(f'{parts.scheme}://{parts.hostname}')} instead"
        )
    return url.rstrip("/")


def key_variable(url: str) -> str:
    """The environment variable for the key of this address's host: ``TARRAGON_KEY_API_EXAMPLE_COM``."""
    return "TARRAGON_KEY_" + re.sub(r"[^A-Z0-9]", "_", (urlsplit(url).hostname or "").upper())


def _is_passing(response: httpx.Response) -> bool:
    """Whether the same request may succeed later. A quota that is used up is told as 429 and is not refilled."""
    if response.status_code == 429:
        return "insufficient_quota" not in response.text
    return response.status_code in _AGAIN or (response.status_code >= 500 and not _is_too_large(response))


def _is_too_large(response: httpx.Response) -> bool:
    """Whether a part of the request could be taken. TEI says 413 of a text and of a batch alike."""
    status = response.status_code
    return status == 413 or (status in (400, 422, 500) and bool(_TOO_LARGE.search(response.text)))


def _asked_wait(response: httpx.Response, otherwise: float) -> float:
    """Seconds from Retry-After, a number or a date; ``otherwise`` without a readable one."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return otherwise
    date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _message(response: httpx.Response, redacted: Callable[[str], str]) -> str:
    """The text in the usual places of an error's JSON, else the start of the body, on one line."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return " ".join(redacted(str(body)).split())[:200]
