"""Qdrant's REST interface in front of qdrant-client's local mode: as much of it as Tarragon sends.

Real requests go through a real socket and are read with qdrant-client's own models, so that what JSON cannot carry, a
wrong path or a wrong body shows. What the answers mean is decided by local mode, not by a server.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models


class LocalQdrant(QdrantClient):
    """Local mode, which ranks by BM25 only over text indexes with the default tokenizer: so every text index gets that.

    It has no other indexes, and warns when one is asked for.
    """

    def create_payload_index(self, collection_name: str, field_name: str, field_schema: Any = None, **rest: Any) -> Any:
        if not isinstance(field_schema, models.TextIndexParams):
            return models.UpdateResult(status=models.UpdateStatus.COMPLETED)
        plain = models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=field_schema.scoring)
        return super().create_payload_index(collection_name, field_name, plain, **rest)


@dataclass
class Fault:
    """What happens to a request instead of an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"status": {"error": "made up"}}'
    reset: bool = False
    after: bool = False
    """Do the work first and lose only the answer."""


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    query: dict[str, list[str]]
    body: Any
    size: int


class QdrantStub:
    """A server on a free port of this machine. Use as a context manager."""

    def __init__(self, version: str = "1.20.0") -> None:
        self.client = LocalQdrant(":memory:")
        self.version = version
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.fails: Callable[[Seen], Fault | None] = lambda seen: self.faults.pop(0) if self.faults else None
        self.lock = threading.Lock()
        stub = self

        class Handler(_Handler):
            server_stub = stub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> QdrantStub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_stub: QdrantStub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        stub = self.server_stub
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else {}
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, unquote(parts.path), headers, parse_qs(parts.query), body, len(raw))
        with stub.lock:
            stub.seen.append(seen)
            fault = stub.fails(seen)
            if fault is None or fault.after:
                status, answer = self.answer(seen)
        if fault is not None:
            if fault.reset:
                self.close_connection = True
                self.connection.close()
                return
            status, answer = fault.status, fault.body
        with suppress(BrokenPipeError):  # the client had enough of waiting
            self.reply(status, fault.headers if fault else {}, answer)

    def reply(self, status: int, headers: dict[str, str], answer: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815 - the names that http.server calls

    def answer(self, seen: Seen) -> tuple[int, bytes]:
        try:
            result = _answer(self.server_stub, seen)
        except ValueError as error:
            status = 404 if "not found" in str(error) else 400
            return status, json.dumps({"status": {"error": str(error)}, "time": 0}).encode()
        if isinstance(result, _Bare):
            return 200, result.body
        return 200, json.dumps({"result": _plain(result), "status": "ok", "time": 0.0}).encode()


@dataclass
class _Bare:
    body: bytes


def _plain(value: Any) -> Any:
    return TypeAdapter(Any).dump_python(value, mode="json")


def _answer(stub: QdrantStub, seen: Seen) -> Any:
    client, body = stub.client, seen.body
    if seen.path == "/":
        return _Bare(json.dumps({"title": "qdrant", "version": stub.version}).encode())
    if seen.path == "/aliases":
        return client.get_aliases()
    if seen.path == "/collections/aliases":
        return client.update_collection_aliases(models.ChangeAliasesOperation(**body).actions)
    match = re.fullmatch(r"/collections/([^/]+)(/.*)?", seen.path)
    assert match, f"no such route: {seen.path}"
    return _of_collection(client, match[1], f"{seen.method} {match[2] or ''}", body)


def _of_collection(client: QdrantClient, name: str, route: str, body: dict[str, Any]) -> Any:
    if route == "GET /exists":
        return {"exists": client.collection_exists(name)}
    if route == "GET ":
        return client.get_collection(name)
    if route == "DELETE ":
        return client.delete_collection(name)
    if route == "PUT ":
        given = models.CreateCollection(**body)
        return client.create_collection(name, vectors_config=given.vectors or {}, metadata=given.metadata)
    if route == "PUT /index":
        index = models.CreateFieldIndex(**body)
        return client.create_payload_index(name, index.field_name, index.field_schema)
    if route == "PUT /points":
        points = models.PointsList(**body)
        condition = {"update_filter": points.update_filter, "update_mode": points.update_mode}
        return client.upsert(name, points.points, **condition)
    if route == "POST /points":
        wanted = models.PointRequest(**body)
        return client.retrieve(name, wanted.ids, with_payload=wanted.with_payload, with_vectors=wanted.with_vector)
    if route == "POST /points/scroll":
        page = models.ScrollRequest(**body)
        records, offset = client.scroll(
            name, page.filter, page.limit or 10, offset=page.offset, with_payload=page.with_payload
        )
        return {"points": _plain(records), "next_page_offset": offset}
    if route == "POST /points/count":
        return client.count(name)
    if route == "POST /points/delete":
        return client.delete(name, TypeAdapter(models.PointsSelector).validate_python(body))
    if route == "POST /points/batch":
        return client.batch_update_points(name, models.UpdateOperations(**body).operations)
    if route == "POST /points/query/batch":
        return client.query_batch_points(name, models.QueryRequestBatch(**body).searches)
    raise AssertionError(f"no such route: {route}")
