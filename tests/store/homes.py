"""Every home of an index, for the conformance suite."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wire import LocalQdrant, QdrantStub

from tarragon.contract import Contract
from tarragon.protocols import Catalog
from tarragon.recipe import IndexRecipe
from tarragon.store.embedded import attach
from tarragon.store.server_catalog import ServerCatalog
from tarragon.store.server_client import ServerConnection
from tarragon.store.server_options import ServerOptions

DIMENSIONS = 8


def contract(salt: str = "") -> Contract:
    """Another salt is another space."""
    return Contract.of(IndexRecipe(language="neutral"), "words", DIMENSIONS, {"kind": "words", "salt": salt}, 256)


QDRANT_URL = os.environ.get("QDRANT_URL")


@dataclass(frozen=True)
class Home:
    """Where the index of a test lives.

    Attributes:
        name: For the ids of tests.
        open: A handle on the index, as another process would have one where the home can do that.
        many: Whether two handles that are open at once exclude one another as two processes do.
    """

    name: str
    open: Callable[[], Catalog]
    many: bool = False


class _Shared(ServerConnection):
    """Of a client in memory, which must outlive its handles."""

    def close(self) -> None:
        pass


@contextmanager
def embedded(folder: Path) -> Iterator[Home]:
    """The engine in this process, and SQLite."""
    yield Home("embedded", lambda: attach(folder / "handbook.tarragon"))


@contextmanager
def local(folder: Path) -> Iterator[Home]:
    """The server's code over qdrant-client's local mode, in memory."""
    client = LocalQdrant(":memory:")
    yield Home("local", lambda: ServerCatalog(_Shared(client, "local/handbook"), "handbook"), many=True)
    client.close()


@contextmanager
def local_disk(folder: Path) -> Iterator[Home]:
    """The same on disk: closing a handle closes the files."""
    options = ServerOptions(retries=0)

    def opened() -> Catalog:
        client = LocalQdrant(path=str(folder / "qdrant"), force_disable_check_same_thread=True)
        return ServerCatalog(ServerConnection(client, "local/handbook", options), "handbook")

    yield Home("local-disk", opened)


@contextmanager
def wire(folder: Path) -> Iterator[Home]:
    """The REST interface through a socket, answered by local mode."""
    with QdrantStub() as stub:
        yield Home("wire", lambda: ServerCatalog.open(f"{stub.url}/handbook"), many=True)


@contextmanager
def server(folder: Path) -> Iterator[Home]:
    """A Qdrant server: only with QDRANT_URL, such as http://localhost:6333. Its collections are removed."""
    name = f"conformance_{uuid.uuid4().hex[:12]}"
    with ExitStack() as stack:
        yield Home("server", lambda: ServerCatalog.open(f"{QDRANT_URL}/{name}"), many=True)
        from qdrant_client import QdrantClient

        client = QdrantClient(url=QDRANT_URL, api_key=os.environ.get("QDRANT_API_KEY"))
        stack.callback(client.close)
        for collection in client.get_collections().collections:
            if collection.name.startswith(f"{name}--"):
                client.delete_collection(collection.name)


HOMES = {"embedded": embedded, "local": local, "wire": wire}
if QDRANT_URL:
    HOMES["server"] = server
LASTING = {**HOMES, "local-disk": local_disk}
"""Also those that are too slow to run everything in: local mode commits each point by itself."""
