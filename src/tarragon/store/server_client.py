"""The connection to a Qdrant server: its options, its address, retries, and its errors as ours.

The only file that imports qdrant-client; the others of this home take `models` and `QdrantClient` from here.

Found in qdrant-client 1.20.0 and handled here: a 429 without Retry-After arrives as an ordinary response error, one
with a date in it as a bare ``QdrantException``; connection errors are wrapped; the compatibility check is a thread that
warns; ``httpx`` has deprecated a path for ``verify``.
"""

from __future__ import annotations

import json
import random
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any, TypeVar

from tarragon.errors import (
    DiskFull,
    InvalidInput,
    MissingDependency,
    NotAnIndex,
    ServerUnavailable,
    StorageProblem,
    TarragonError,
)
from tarragon.store.server_options import ServerAddress, ServerOptions

try:
    import grpc  # type: ignore[import-untyped]
    import httpx
    from qdrant_client import QdrantClient as QdrantClient
    from qdrant_client import models as models
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
    from qdrant_client.local.qdrant_local import QdrantLocal
except ImportError as _error:
    raise MissingDependency(
        "an index on a Qdrant server needs qdrant-client; install it with: pip install 'tarragon[server]'"
    ) from _error

T = TypeVar("T")

OLDEST_SERVER = (1, 20)
"""BM25 over a payload's text index came with 1.20; ``update_mode`` and conditional updates are older."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between tries: doubled each time up to the longest, and cut at random to half, so that clients spread."""

LONGEST_RETRY_AFTER = 120.0
"""Seconds a server may ask to wait before the call is given up instead."""

_BUSY = {429, 502, 503, 504}
_BUSY_RPC = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class ServerConnection:
    """A client with retries and our errors. Safe to use from several threads.

    Args:
        client: Connected to a server, or qdrant-client's local mode.
        location: Named in errors.
        options: Of the connection and of new collections.
    """

    def __init__(self, client: QdrantClient, location: str, options: ServerOptions | None = None) -> None:
        self._client = client
        self.location = location
        self.options = options or ServerOptions()

    def __repr__(self) -> str:
        return f"ServerConnection({self.location!r})"

    @property
    def is_local(self) -> bool:
        """Whether it is qdrant-client's local mode, which scans."""
        return isinstance(getattr(self._client, "_client", None), QdrantLocal)

    @classmethod
    def open(cls, address: ServerAddress, options: ServerOptions) -> ServerConnection:
        """Connect. Nothing is sent yet."""
        verify: Any = options.verify
        grpc_options: dict[str, Any] = {"grpc.max_receive_message_length": -1}
        if options.ca is not None and options.verify:
            try:
                verify = ssl.create_default_context(cafile=str(options.ca))
                grpc_options["root_certificates"] = Path(options.ca).read_bytes()
            except OSError as error:
                raise InvalidInput(f"ca={str(options.ca)!r} cannot be read: {error}") from error
        client = QdrantClient(
            url=address.url,
            api_key=options.api_key,
            timeout=options.timeout,
            prefer_grpc=options.prefer_grpc,
            grpc_port=options.grpc_port,
            grpc_options=grpc_options,
            check_compatibility=False,
            verify=verify,
        )
        return cls(client, address.location, options)

    def call(self, what: str, request: Callable[[QdrantClient], T], *, guard: Callable[[], object] | None = None) -> T:
        """Run a request, again if the server is away or busy. Requests must be idempotent.

        Args:
            what: What it does, for errors: "read 3 chunks".
            request: Given the client.
            guard: Called before each try; raises if the request must not be sent (any more).

        Raises:
            ServerUnavailable: The last try failed as well.
            StorageProblem: The server refused.
        """
        with driver_errors(self.location, what, self.options.api_key):
            for tried in range(self.options.retries + 1):
                if guard is not None:
                    guard()
                try:
                    return request(self._client)
                except Exception as error:
                    pause = _pause(error, tried)
                    if pause is None or tried == self.options.retries:
                        raise
                sleep(pause)
        raise AssertionError("unreachable")

    def require_version(self) -> None:
        """Raise `StorageProblem` if the server is too old for what is asked of it."""
        version = self.call("ask for its version", lambda client: client.info()).version
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST_SERVER:
            oldest = ".".join(str(part) for part in OLDEST_SERVER)
            raise StorageProblem(
                f"{self.location}: the server is Qdrant {version}, and at least {oldest} is needed, for BM25 over a "
                "text index. Upgrade the server",
                version=version,
            )

    def close(self) -> None:
        """Release the sockets."""
        self._client.close()


def _pause(error: Exception, tried: int) -> float | None:
    """Seconds to wait before the next try; None if another try cannot help."""
    asked = _retry_after(error)
    if asked is None and not _is_passing(error):
        return None
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**tried)
    pause = longest * random.uniform(0.5, 1)  # noqa: S311 - spreads clients, hides nothing
    if asked is None:
        return pause
    return max(asked, pause) if asked <= LONGEST_RETRY_AFTER else None


def _is_passing(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code in _BUSY
    if isinstance(error, ResponseHandlingException):
        unusable = (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects)
        certificate = "CERTIFICATE_VERIFY_FAILED" in str(error.source)
        return (
            isinstance(error.source, httpx.TransportError)
            and not isinstance(error.source, unusable)
            and not certificate
        )
    if isinstance(error, grpc.RpcError):
        return _rpc_code(error) in _BUSY_RPC
    return isinstance(error, (ResourceExhaustedResponse, QdrantException))  # 429: with seconds, or with a date


def _retry_after(error: Exception) -> float | None:
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, UnexpectedResponse) and error.status_code in _BUSY:
        with suppress(ValueError, TypeError):
            return float(error.headers["Retry-After"]) if "Retry-After" in error.headers else None
    return None


def _rpc_code(error: grpc.RpcError) -> Any:
    return error.code() if isinstance(error, grpc.Call) else None


@contextmanager
def driver_errors(location: str, what: str, secret: str | None) -> Iterator[None]:
    """Every failure of the driver as one of ours, without the secret."""
    try:
        yield
    except TarragonError:
        raise
    except Exception as error:
        text = _message(error)
        if secret:
            text = text.replace(secret, "***")
        raise _ours(error, f"{location}: cannot {what}", text) from error


def _ours(error: Exception, what: str, text: str) -> TarragonError:
    status = error.status_code if isinstance(error, UnexpectedResponse) else None
    code = _rpc_code(error) if isinstance(error, grpc.RpcError) else None
    if any(sign in text for sign in ("No space left", "os error 28", "StorageFull")):
        return DiskFull(f"{what}: the server's disk is full; free some room there and try again")
    if _retry_after(error) is not None or _is_passing(error):
        return ServerUnavailable(f"{what}: {text}. Is the server running and reachable? Then try again", status=status)
    if status in (401, 403) or code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        advice = "pass api_key or set QDRANT_API_KEY to a key that may read and write"
        return StorageProblem(f"{what}: the server refuses this key: {text}; {advice}", status=status)
    if status == 404 or code is grpc.StatusCode.NOT_FOUND:
        advice = "If the version was just dropped, ask again; else the index is damaged: restore it or sync a new one"
        return StorageProblem(f"{what}: {text}. {advice}", status=status)
    unread = isinstance(error, ResponseHandlingException) and not isinstance(error.source, httpx.HTTPError)
    if unread or isinstance(error, json.JSONDecodeError):
        return NotAnIndex(f"{what}: what answers there is no Qdrant server: {text}")
    return StorageProblem(f"{what}: {text}", status=status)


def _message(error: Exception) -> str:
    if isinstance(error, UnexpectedResponse):
        with suppress(ValueError, KeyError, TypeError):
            return f"{json.loads(error.content)['status']['error']} ({error.status_code})"
        return f"{error.status_code} {error.reason_phrase}".strip()
    if isinstance(error, ResponseHandlingException):
        return f"{type(error.source).__name__}: {str(error.source)[:300]}"
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return f"{error.details()} ({error.code().name})"
    return str(error) or type(error).__name__
