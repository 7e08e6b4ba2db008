"""Rerankers behind HTTP: text-embeddings-inference, and services that speak like Cohere's or Jina's.

All of them answer sorted by score and name each passage by its place in the request. An answer that leaves a passage
out, or names one twice, is refused: some score would be another passage's.

Read in the services' documentation, not tried against their servers: Cohere's ``/v2/rerank`` takes up to 1,000
documents; Jina's listwise models (v3) score a passage by what else is in the request, so that there all passages go in
one request, and the promise that a score does not depend on its batch is theirs to break.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import Any

from tarragon.encoders.http_client import HttpModel, checked_url
from tarragon.errors import ModelProblem, ModelUnavailable, RerankingFailed
from tarragon.protocols import RerankScores
from tarragon.rerankers.batching import never, remaining

TIMEOUT = 30.0
"""Seconds that a server may be silent: half of what an encoder waits, since a question is waiting."""

TRIES = 3
"""Requests before giving up, after 1.5 to 3 seconds of waiting."""

MOST_DOCUMENTS = 1_000
"""In one request to a service."""

MOST_LEFT = 32
"""Calls with a deadline at a time, those included that nobody waits for any more."""

_LEFT_BEHIND = BoundedSemaphore(MOST_LEFT)
_TIMED_OUT = object()


@dataclass(frozen=True, slots=True)
class Service:
    """A way to speak: address, path, where the key is, and what else a request says."""

    name: str
    url: str
    path: str
    key_env: str
    extra: Mapping[str, Any] = field(default_factory=dict)


COHERE = Service("cohere", "https://api.cohere.com", "/v2/rerank", "COHERE_API_KEY")
JINA = Service("jina", "https://api.jina.ai", "/v1/rerank", "JINA_API_KEY", {"return_documents": False})


class ServiceReranker:
    """A model of Cohere, Jina, or a server that speaks like one of them, as a `Reranker`.

    Args:
        service: `COHERE` or `JINA`.
        model: Its name there.
        url: Of another server; the service's path (``/v2/rerank``, ``/v1/rerank``) is appended. The service's own key
            is not sent there: its key is in ``TARRAGON_KEY_<HOST>``, see `tarragon.encoders.http_client`.

    Raises:
        InvalidRecipe: ``url`` is no address.
        ModelNotFound: The service's key is not in the environment.
    """

    def __init__(self, service: Service, model: str, url: str | None = None) -> None:
        self._service = service
        self._model = model
        own = url is None
        self._client = HttpModel(
            url or service.url,
            api_key_env=service.key_env if own else None,
            needs_key=own,
            timeout=TIMEOUT,
            tries=TRIES,
        )
        self.name = f"{service.name}:{model}" + ("" if own else f"@{self._client.base_url}")

    @property
    def identity(self) -> Mapping[str, str]:
        """What is known of it: the name. The service may change the model behind it."""
        return {"schema": "1", "kind": "http-reranker", "name": self.name}

    def score(self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = never) -> RerankScores:
        """See `tarragon.protocols.Reranker`."""
        return _in_batches(passages, MOST_DOCUMENTS, is_over, partial(self._ask, query))

    def _ask(self, query: str, passages: Sequence[str]) -> tuple[list[float], int]:
        body = {"model": self._model, "query": query, "documents": list(passages), "top_n": len(passages)}
        answer = self._client.post(self._service.path, {**body, **self._service.extra})
        if not isinstance(answer, Mapping):
            raise RerankingFailed(f"{self.name} answers with {type(answer).__name__} and not with an object")
        return _in_input_order(answer.get("results"), "relevance_score", len(passages), self.name), _tokens(answer)


class TeiReranker:
    """A text-embeddings-inference server with a reranker, as a `Reranker`. Its scores are the model's logits.

    The server is asked what it runs when it is first needed, so that one that is down costs a search its reranking and
    not its answer.

    Args:
        url: Its address. A key, if it wants one, is in ``TARRAGON_KEY_<HOST>``.

    Raises:
        InvalidRecipe: ``url`` is no address.
    """

    def __init__(self, url: str) -> None:
        self._client = HttpModel(checked_url(url), timeout=TIMEOUT, tries=TRIES)
        self.name = f"tei:{self._client.base_url}"
        self._known: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Mapping[str, str]:
        """The model that the server runs, and its revision. Raises `RerankingFailed` if it cannot be asked."""
        info = _failing(self._info)
        return {"schema": "1", "kind": "tei-reranker", **{key: str(info.get(key)) for key in ("model_id", "model_sha")}}

    def score(self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = never) -> RerankScores:
        """See `tarragon.protocols.Reranker`. What is too long is cut by the server, which does not say how much."""
        size = _within(is_over, self._batch_size) if passages and not is_over() else 1
        if size is _TIMED_OUT:
            return RerankScores([None] * len(passages))
        return _in_batches(passages, size, is_over, partial(self._ask, query))

    def _info(self) -> Mapping[str, Any]:
        if self._known is None:
            info = self._client.get("/info")
            if not isinstance(info, Mapping):
                raise RerankingFailed(f"{self.name}/info answers with no object. Is it a text-embeddings-inference?")
            kind = info.get("model_type")
            if isinstance(kind, Mapping) and "reranker" not in kind:
                raise RerankingFailed(f"{self.name} runs {info.get('model_id')}, which is no reranker: {list(kind)}")
            self._known = info
        return self._known

    def _batch_size(self) -> int:
        size = self._info().get("max_client_batch_size")
        return size if isinstance(size, int) and size > 0 else 32

    def _ask(self, query: str, passages: Sequence[str]) -> tuple[list[float], int]:
        body = {"query": query, "texts": list(passages), "raw_scores": True, "truncate": True}
        try:
            answer = self._client.post("/rerank", body)
        except ModelUnavailable as error:
            if not error.data.get("too_large") or len(passages) < 2:
                raise
            middle = len(passages) // 2  # the server's limit on bytes or tokens, which /info does not tell
            first, second = self._ask(query, passages[:middle]), self._ask(query, passages[middle:])
            return first[0] + second[0], 0
        return _in_input_order(answer, "score", len(passages), self.name), 0


def _in_batches(
    passages: Sequence[str],
    size: int,
    is_over: Callable[[], bool],
    ask: Callable[[Sequence[str]], tuple[list[float], int]],
) -> RerankScores:
    """Consecutive batches until time is over; a request that is not answered by then is not waited for."""
    scores: list[float | None] = [None] * len(passages)
    tokens = 0
    for start in range(0, len(passages), size):
        if is_over():
            break
        answer = _within(is_over, partial(ask, passages[start : start + size]))
        if answer is _TIMED_OUT:
            break
        scores[start : start + size], read = answer
        tokens += read
    return RerankScores(scores, tokens)


def _within(is_over: Callable[[], bool], call: Callable[[], Any]) -> Any:
    """What the call returns, or `_TIMED_OUT`.

    A client's own timeouts cannot keep a deadline: they count from byte to byte, and for each try anew. So it runs in a
    thread of its own, which is left behind when time is over and ends by those timeouts.
    """
    seconds = remaining(is_over)
    if math.isinf(seconds):
        return _failing(call)
    if not _LEFT_BEHIND.acquire(blocking=False):
        raise RerankingFailed(f"{MOST_LEFT} calls of rerankers have not come back; is the server up?")
    box: SimpleQueue[tuple[Any, RerankingFailed | None]] = SimpleQueue()

    def run() -> None:
        try:
            box.put((_failing(call), None))
        except RerankingFailed as error:
            box.put((None, error))
        finally:
            _LEFT_BEHIND.release()

    Thread(target=run, daemon=True, name="tarragon-rerank").start()
    try:
        answer, error = box.get(timeout=seconds)
    except Empty:
        return _TIMED_OUT
    if error is not None:
        raise error
    return answer


def _failing(call: Callable[[], Any]) -> Any:
    """What the call returns. Raises `RerankingFailed` for whatever goes wrong."""
    try:
        return call()
    except RerankingFailed:
        raise
    except ModelProblem as error:
        raise RerankingFailed(str(error), **error.data) from error
    except Exception as error:
        raise RerankingFailed(f"{type(error).__name__}: {error}") from error


def _in_input_order(rows: Any, name: str, count: int, server: str) -> list[float]:
    """The scores of an answer, each at its passage's place. Raises `RerankingFailed` unless there is one for each."""
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise RerankingFailed(f"{server} gives no list of results")
    places = [row.get("index") for row in rows]
    if any(type(place) is not int for place in places) or sorted(places) != list(range(count)):
        raise RerankingFailed(f"{server} gives {len(rows)} results for {count} passages, and not one for each of them")
    scores = [row.get(name) for row in rows]
    if wrong := [score for score in scores if isinstance(score, bool) or not isinstance(score, (int, float))]:
        raise RerankingFailed(f"{server} gives a {name} that is no number: {wrong[0]!r}")
    by_place = dict(zip(places, scores, strict=True))
    return [float(by_place[place]) for place in range(count)]


def _tokens(answer: Mapping[str, Any]) -> int:
    usage = answer.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return total if isinstance(total, int) else 0
