"""HTTP rerankers against a real server on this machine that speaks like the services and answers what it is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from uuid import UUID

import pytest

from tarragon.encoders import http_client
from tarragon.errors import InvalidRecipe, ModelNotFound, RerankingFailed
from tarragon.protocols import Reranker
from tarragon.rerankers import load_reranker
from tarragon.reranking import Deadline, Step, rerank

INFO = {"model_id": "tiny", "model_sha": "abc", "model_type": {"reranker": {}}, "max_client_batch_size": 2}
PASSAGES = ["one", "three", "a", "seven wonders", ""]
Answer = Callable[["Server", str, Any], Any]


def shared(query: str, text: str) -> float:
    """A score that depends on both texts."""
    return float(len(text)) + len(query) / 10


class Server:
    """Notes each request, and answers it as ``answer`` says: by JSON, or by a status and JSON."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, Any, str | None]] = []
        self.ending = Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: Any) -> None:
                outer.requests.append((self.path, body, self.headers.get("Authorization")))
                made = answer(outer, self.path, body)
                status, made = made if isinstance(made, tuple) else (200, made)
                data = json.dumps(made).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def by_score(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """As the services answer: the best first."""
    return sorted(rows, key=lambda row: -row[name])


def speaking(server: Server, path: str, body: Any) -> Any:
    """All three ways to speak."""
    if path == "/info":
        return INFO
    texts = body["texts"] if path == "/rerank" else body["documents"]
    name = "score" if path == "/rerank" else "relevance_score"
    rows = by_score([{"index": i, name: shared(body["query"], text)} for i, text in enumerate(texts)], name)
    return rows if path == "/rerank" else {"results": rows, "usage": {"total_tokens": 40}}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Server]]:
    """Start a server; retries wait a moment only."""
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("TARRAGON_KEY_127_0_0_1", "secret-of-this-host")
    started: list[Server] = []

    def start(answer: Answer) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for server in started:
        server.close()


def at(kind: str, server: Server) -> Reranker:
    return load_reranker(f"{kind}:{server.url}" if kind == "tei" else f"{kind}:model-1@{server.url}")


@pytest.mark.parametrize("kind", ["tei", "cohere", "jina"])
def test_scores_come_back_in_the_order_of_the_passages(serve: Callable[[Answer], Server], kind: str) -> None:
    reranker = at(kind, serve(speaking))
    result = reranker.score("query", PASSAGES)
    assert result.scores == [shared("query", passage) for passage in PASSAGES]
    assert reranker.score("query", []).scores == []


def test_what_is_sent(serve: Callable[[Answer], Server]) -> None:
    server = serve(speaking)
    assert at("cohere", server).score("q", ["x", "yy"]).tokens == 40
    at("jina", server).score("q", ["x", "yy"])
    at("tei", server).score("q", ["x", "yy", "zzz"])
    body = {"model": "model-1", "query": "q", "documents": ["x", "yy"], "top_n": 2}
    raw = {"query": "q", "raw_scores": True, "truncate": True}
    assert [(path, sent) for path, sent, _ in server.requests] == [
        ("/v2/rerank", body),
        ("/v1/rerank", {**body, "return_documents": False}),
        ("/info", None),
        ("/rerank", {**raw, "texts": ["x", "yy"]}),  # two at a time, as /info says
        ("/rerank", {**raw, "texts": ["zzz"]}),
    ]
    assert {key for *_, key in server.requests} == {"Bearer secret-of-this-host"}


def test_a_services_key_goes_to_the_service_alone(
    serve: Callable[[Answer], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHERE_API_KEY", "secret-of-cohere")
    monkeypatch.delenv("TARRAGON_KEY_127_0_0_1")
    server = serve(speaking)
    at("cohere", server).score("q", ["x"])
    assert [key for *_, key in server.requests] == [None]
    own = load_reranker("cohere:rerank-v3.5")
    assert own.name == "cohere:rerank-v3.5"
    assert "secret" not in repr(own) + str(own.identity)
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises(ModelNotFound, match="COHERE_API_KEY"):
        load_reranker("cohere:rerank-v3.5")
    with pytest.raises(ModelNotFound, match="JINA_API_KEY"):
        load_reranker("jina:jina-reranker-v2-base-multilingual")


def rows(*places: Any, name: str = "relevance_score", score: Any = 1.0) -> Answer:
    return lambda server, path, body: {"results": [{"index": place, name: score} for place in places]}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (rows(0), "1 results for 2"),
        (rows(0, 0), "not one for each"),
        (rows(0, 1, 2), "3 results for 2"),
        (rows(0, 2), "not one for each"),
        (rows("0", 1), "not one for each"),
        (rows(0, True), "not one for each"),
        (rows(0, 1, score=None), "no number"),
        (rows(0, 1, score="high"), "no number"),
        (rows(0, 1, name="score"), "no number"),
        (lambda server, path, body: {"results": None}, "no list"),
        (lambda server, path, body: [], "not with an object"),
        (lambda server, path, body: (500, {"message": "out of order"}), "out of order"),
        (lambda server, path, body: (401, {"message": "bad key secret-of-this-host"}), "TARRAGON_KEY_127_0_0_1"),
        (lambda server, path, body: (404, {"message": "no such model"}), "no such model"),
    ],
)
def test_a_wrong_answer_is_a_failed_reranking(serve: Callable[[Answer], Server], answer: Answer, said: str) -> None:
    reranker = at("cohere", serve(answer))
    with pytest.raises(RerankingFailed, match=said) as caught:
        reranker.score("q", ["x", "yy"])
    assert "secret-of" not in str(caught.value)


def test_a_passing_failure_is_tried_again(serve: Callable[[Answer], Server]) -> None:
    def answer(server: Server, path: str, body: Any) -> Any:
        return (503, {}) if len(server.requests) < 3 else speaking(server, path, body)

    server = serve(answer)
    assert at("jina", server).score("q", ["x", "yy"]).scores == [shared("q", "x"), shared("q", "yy")]
    assert len(server.requests) == 3


def test_a_server_that_is_gone_is_a_failed_reranking(serve: Callable[[Answer], Server]) -> None:
    server = serve(speaking)
    rerankers = [at("tei", server), at("cohere", server)]
    server.close()
    for reranker in rerankers:
        with pytest.raises(RerankingFailed, match="cannot be reached"):
            reranker.score("q", ["x"])


def test_tei_takes_half_of_what_is_too_large(serve: Callable[[Answer], Server]) -> None:
    def answer(server: Server, path: str, body: Any) -> Any:
        if path == "/info":
            return {**INFO, "max_client_batch_size": 32}
        if sum(map(len, body["texts"])) > 13:
            return 413, {"error": "length limit exceeded", "error_type": "Validation"}
        return speaking(server, path, body)

    server = serve(answer)
    reranker = at("tei", server)
    assert reranker.score("q", PASSAGES).scores == [shared("q", passage) for passage in PASSAGES]
    with pytest.raises(RerankingFailed, match="length limit"):
        reranker.score("q", ["x" * 14])


def test_a_tei_server_without_a_reranker_is_told(serve: Callable[[Answer], Server]) -> None:
    reranker = at("tei", serve(lambda *_: {**INFO, "model_type": {"embedding": {"pooling": "cls"}}}))
    with pytest.raises(RerankingFailed, match="tiny, which is no reranker"):
        reranker.score("q", ["x"])


def test_the_identity_of_a_tei_server_is_its_models(serve: Callable[[Answer], Server]) -> None:
    assert at("tei", serve(speaking)).identity["model_sha"] == "abc"


def hang(server: Server, path: str, body: Any) -> Any:
    if path != "/info" and len(server.requests) > 2:
        server.ending.wait(20)
    return speaking(server, path, body)


def test_a_deadline_keeps_what_was_answered_before_it(serve: Callable[[Answer], Server]) -> None:
    reranker = at("tei", serve(hang))
    start = time.perf_counter()
    result = reranker.score("q", PASSAGES, is_over=Deadline(0.5))
    assert time.perf_counter() - start < 5
    assert result.scores == [shared("q", "one"), shared("q", "three"), None, None, None]


def test_a_hanging_server_costs_a_search_its_reranking_and_no_more(serve: Callable[[Answer], Server]) -> None:
    def stuck(server: Server, path: str, body: Any) -> Any:
        server.ending.wait(20)

    ids = [UUID(int=place) for place in range(5)]
    ranking = [(id_, 1.0 - place / 10) for place, id_ in enumerate(ids)]
    texts = dict(zip(ids, PASSAGES, strict=True))
    for kind in ("tei", "jina"):
        start = time.perf_counter()
        result = rerank("q", ranking, texts, [Step(at(kind, serve(stuck)), 5)], budget_ms=200)
        assert time.perf_counter() - start < 5
        assert result.ranking == ranking
        assert "none of 5" in result.degraded[0]


def test_a_failure_before_the_deadline_is_one(serve: Callable[[Answer], Server]) -> None:
    reranker = at("cohere", serve(rows(0)))
    with pytest.raises(RerankingFailed, match="1 results for 2"):
        reranker.score("q", ["x", "yy"], is_over=Deadline(10))


@pytest.mark.parametrize("name", ["tei:localhost:8080", "tei:http://user:pass@host", "cohere:m@ftp://host"])
def test_addresses_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load_reranker(name)
    assert "pass" not in str(caught.value)
