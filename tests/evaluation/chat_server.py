"""A real HTTP server that speaks as OpenAI's ``/chat/completions``; what it says is a function of what it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class ChatServer:
    """What it was asked, and what it says: a text, another JSON body, or a `Refusal` that is raised."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self.say = say
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = Lock()

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    def answer(self, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
        try:
            said = self.say(body["messages"][-1]["content"] if len(body["messages"]) == 1 else json.dumps(body))
        except Refusal as refusal:
            return refusal.status, {"error": {"message": refusal.message}}
        if isinstance(said, str):
            said = {"choices": [{"message": {"content": said}}], "usage": {"total_tokens": len(said)}}
        return 200, said


@contextmanager
def chatting(say: Callable[[str], Any]) -> Iterator[tuple[ChatServer, str]]:
    """A server and its address."""
    model = ChatServer(say)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, said = model.answer(dict(self.headers), body) if self.path == "/v1/chat/completions" else (404, {})
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield model, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
