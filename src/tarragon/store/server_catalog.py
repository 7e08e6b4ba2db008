"""An index on a Qdrant server: its versions, and the alias that says which of them serves.

handbook                    alias of the collection that serves; one request moves it, atomically
handbook--v1                chunks of a version
handbook--v1--ledger        what it holds of each document
handbook--catalog           a record of each version, the order in which they served, and the writer's lease
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tarragon.contract import Contract, VersionRecord
from tarragon.errors import IndexLocked, InvalidInput
from tarragon.store.server import ServerStore, create_collection
from tarragon.store.server_client import ServerConnection
from tarragon.store.server_directory import ServerDirectory
from tarragon.store.server_lease import ServerLease
from tarragon.store.server_ledger import ServerLedger, create_ledger
from tarragon.store.server_options import ServerOptions, parse_address


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """The data of a version: see `tarragon.protocols.OpenVersion`."""

    record: VersionRecord
    store: ServerStore
    ledger: ServerLedger


class ServerCatalog:
    """An index on a server; see `tarragon.protocols.Catalog`. Made by `open`.

    Args:
        connection: To the server. `close` closes it.
        name: Of the index.

    Raises:
        NotAnIndex: Something else has this name.
        ServerUnavailable: There is no server.
        StorageProblem: The server is too old, or refuses the key.
    """

    def __init__(self, connection: ServerConnection, name: str) -> None:
        connection.require_version()
        self._connection = connection
        self._directory = ServerDirectory(connection, name)
        self._lease = ServerLease(self._directory.points, connection.options.lease_seconds)
        self._writing = threading.Lock()

    def __repr__(self) -> str:
        return f"ServerCatalog({self.location!r})"

    @classmethod
    def open(cls, url: str, *, api_key: str | None = None, **options: Any) -> ServerCatalog:
        """Connect to ``http(s)://host:6333/name``. Nothing is written.

        Args:
            url: Of the index, which need not exist yet.
            api_key: By default what the environment variable ``QDRANT_API_KEY`` says.
            **options: See `ServerOptions`.
        """
        address = parse_address(url)
        settings = ServerOptions.of(api_key or os.environ.get("QDRANT_API_KEY"), options)
        connection = ServerConnection.open(address, settings)
        try:
            return cls(connection, address.name)
        except BaseException:
            connection.close()
            raise

    @property
    def location(self) -> str:
        """See `tarragon.protocols.Catalog`."""
        return self._connection.location

    # --- versions -----------------------------------------------------------------------------------------------------
    def versions(self) -> list[VersionRecord]:
        """See `tarragon.protocols.Catalog`."""
        return self._directory.records()

    def serving(self) -> str | None:
        """See `tarragon.protocols.Catalog`."""
        return self._directory.serving()

    def former(self) -> tuple[str, ...]:
        """See `tarragon.protocols.Catalog`."""
        return self._directory.former()

    def create(self, contract: Contract, *, serve: bool, canaries: str = "") -> VersionRecord:
        """See `tarragon.protocols.Catalog`.

        The record comes last, so that half a version is never taken for one. What an interrupted call leaves is an
        empty collection whose name is not used again.
        """
        self._directory.make()
        name = self._directory.next_name()
        record = VersionRecord(name, contract, canaries, created=time.time(), promoted=serve)
        collection = self._directory.collection(name)
        create_collection(self._connection, collection, contract)
        create_ledger(self._connection, f"{collection}--ledger")
        self._directory.add(record)
        if serve:
            self._directory.point_to(name, ())
        return record

    def update(self, record: VersionRecord) -> None:
        """See `tarragon.protocols.Catalog`."""
        self._directory.update(record)

    def point_to(self, name: str, *, former: Sequence[str]) -> None:
        """See `tarragon.protocols.Catalog`."""
        self._require(name)
        self._directory.point_to(name, former)

    def drop(self, name: str) -> None:
        """See `tarragon.protocols.Catalog`. The record goes last, so that an interrupted call can be repeated."""
        if name == self.serving():
            raise InvalidInput(f"{name} serves; promote another version before dropping it", name=name)
        self._require(name)
        collection = self._directory.collection(name)
        self._delete(f"{collection}--ledger")
        self._delete(collection)
        self._directory.remove(name)

    def _delete(self, collection: str) -> None:
        self._connection.call(f"delete {collection}", lambda client: client.delete_collection(collection))

    def _require(self, name: str) -> None:
        if not self._directory.known([name]):
            raise self._directory.unknown(name)

    # --- reading and writing ------------------------------------------------------------------------------------------
    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[ServerVersion | None]:
        """See `tarragon.protocols.Catalog`. A version that another process drops meanwhile answers with an error."""
        name = name or self.serving()
        yield None if name is None else self._version(name)

    def _version(self, name: str) -> ServerVersion:
        record, collection = self._directory.record(name), self._directory.collection(name)
        store = ServerStore(self._connection, collection, record.contract.space, guard=self._lease.check)
        return ServerVersion(record, store, ServerLedger(self._connection, f"{collection}--ledger", self._lease))

    @contextmanager
    def writing(self, wait: float = 0.0) -> Iterator[None]:
        """See `tarragon.protocols.Catalog`. Makes the catalog's collection, which holds the lease, if there is none."""
        until = time.monotonic() + wait
        if not self._writing.acquire(timeout=wait) if wait > 0 else not self._writing.acquire(blocking=False):
            raise IndexLocked(f"{self.location} is being written already; wait until that is done")
        try:
            self._directory.make()
            self._lease.acquire(max(0.0, until - time.monotonic()))
            try:
                yield
            finally:
                self._lease.release()
        finally:
            self._writing.release()

    # --- upkeep -------------------------------------------------------------------------------------------------------
    def require_room(self, needed: int) -> None:
        """See `tarragon.protocols.Catalog`. A server does not say; it refuses a write that does not fit."""

    def size(self, name: str) -> int:
        """See `tarragon.protocols.Catalog`. A server does not say: 0."""
        return 0

    def compact(self, *, in_place: bool = False) -> bool:
        """See `tarragon.protocols.Catalog`. A server does it by itself: False."""
        return False

    def close(self) -> None:
        """See `tarragon.protocols.Catalog`."""
        self._connection.close()
