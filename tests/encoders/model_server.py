"""A real HTTP server over a small deterministic model, that speaks as OpenAI's and as TEI's do, and fails on demand."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import numpy as np

from tarragon.protocols import EncoderInput
from tarragon.testing import WordEncoder

SPECIAL = 2


@dataclass
class Reply:
    """What to say in place of an answer; ``status`` 0 drops the connection."""

    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


class Refusal(Exception):
    def __init__(self, status: int, body: Any) -> None:
        self.reply = Reply(status, body)


class ModelServer:
    """What it should do, and what it was asked."""

    def __init__(self, **settings: Any) -> None:
        self.model = WordEncoder(32, max_tokens=10_000)
        self.model_id = "words"
        self.model_sha: str | None = "0123abcd"
        self.model_type: dict[str, Any] = {"embedding": {"pooling": "mean"}}
        self.limit = 10_000
        self.batch = 32
        self.takes_base64 = True
        self.takes_dimensions = True
        self.says_dimensions_are_unknown = False
        self.shuffles = False
        self.jitter = 0.0
        self.replies: list[Reply] = []
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = Lock()
        self.__dict__.update(settings)

    def asked(self, path: str) -> list[Any]:
        """Bodies of the requests to a path."""
        return [body for asked, _, body in self.requests if asked == path]

    def answer(self, path: str, headers: dict[str, str], body: Any) -> Reply:
        with self._lock:
            self.requests.append((path, headers, body))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            scripted = self.replies.pop(0) if self.replies else None
        try:
            time.sleep(random.random() * self.jitter)
            return scripted or Reply(200, self._routes[path](self, body))
        except Refusal as refusal:
            return refusal.reply
        except KeyError:
            return Reply(404, {"error": {"message": f"no route {path}"}})
        finally:
            with self._lock:
                self._now -= 1

    def _words(self, text: str) -> int:
        return len(self.model.tokenizer.tokenize([text])[0])

    def _openai(self, body: Any) -> Any:
        texts = body["input"]
        if body["model"] != self.model_id:
            raise Refusal(404, {"error": {"message": f"The model `{body['model']}` does not exist"}})
        if not all(texts):
            raise Refusal(400, {"error": {"message": "'$.input' is invalid"}})
        if body.get("encoding_format") == "base64" and not self.takes_base64:
            raise Refusal(400, {"error": {"message": "encoding_format: only float is known"}})
        if "dimensions" in body and self.says_dimensions_are_unknown:
            raise Refusal(400, {"error": {"message": "does not support specifying dimensions"}})
        if len(texts) > self.batch:
            raise Refusal(400, {"error": {"message": "maximum request size exceeded"}})
        if any(self._words(text) > self.limit for text in texts):
            raise Refusal(400, {"error": {"message": f"This model's maximum context length is {self.limit} tokens"}})
        vectors = self.model.encode_documents([EncoderInput(text) for text in texts]).vectors
        if self.takes_dimensions and "dimensions" in body:
            vectors = vectors[:, : body["dimensions"]]
        packed = body.get("encoding_format") == "base64"
        data = [
            {"index": i, "embedding": base64.b64encode(row.tobytes()).decode() if packed else row.tolist()}
            for i, row in enumerate(vectors)
        ]
        if self.shuffles:
            random.Random(len(data)).shuffle(data)
        return {"data": data, "usage": {"prompt_tokens": sum(self._words(text) for text in texts)}}

    def _info(self, _: Any) -> Any:
        return {
            "model_id": self.model_id,
            "model_sha": self.model_sha,
            "model_dtype": "float32",
            "model_type": self.model_type,
            "max_input_length": self.limit,
            "max_client_batch_size": self.batch,
        }

    def _checked(self, texts: list[str]) -> list[str]:
        if len(texts) > self.batch:
            raise Refusal(413, {"error": f"batch size {len(texts)} > maximum allowed batch size {self.batch}"})
        if not all(texts):
            raise Refusal(413, {"error": "`inputs` cannot be empty", "error_type": "Validation"})
        return texts

    def _tokenize(self, body: Any) -> Any:
        extra = [{"id": 1, "text": "<s>", "special": True}] * (SPECIAL if body["add_special_tokens"] else 0)
        rows = self.model.tokenizer.tokenize(self._checked(body["inputs"]))
        return [[*extra, *({"id": int(i), "text": "", "special": False} for i in row)] for row in rows]

    def _embed(self, body: Any) -> Any:
        most = self.limit - SPECIAL
        rows = self.model.tokenizer.tokenize(self._checked(body["inputs"]))
        if not body["truncate"] and any(len(row) > most for row in rows):
            raise Refusal(413, {"error": f"`inputs` must have less than {self.limit} tokens"})
        model = WordEncoder(self.model.dimensions, max_tokens=most, salt=self.model._salt)
        return model.encode_queries(body["inputs"]).vectors.tolist()

    _routes = {"/v1/embeddings": _openai, "/info": _info, "/tokenize": _tokenize, "/embed": _embed}  # noqa: RUF012


@contextmanager
def running(**settings: Any) -> Iterator[tuple[ModelServer, str]]:
    """A server and its address, without a path."""
    model = ModelServer(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            reply = model.answer(self.path, dict(self.headers), json.loads(body) if body else None)
            if reply.status == 0:
                self.close_connection = True
                return
            time.sleep(reply.delay)
            data = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            try:
                self.send_response(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except ConnectionError:
                self.close_connection = True  # the client did not wait

        do_GET = do_POST  # noqa: N815 # http.server names it

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield model, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def expected(texts: list[str], dimensions: int = 32, *, salt: str = "") -> Any:
    """The model's own vectors, apart from any server."""
    vectors = WordEncoder(32, max_tokens=10_000, salt=salt).encode_queries(texts).vectors[:, :dimensions]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
