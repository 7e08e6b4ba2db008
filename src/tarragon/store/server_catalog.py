"""An index on a Qdrant server: its versions, and the alias that says which of them serves.

    handbook                    alias of the collection that serves; one request moves it, atomically
    handbook--v1                chunks of a version
    handbook--v1--ledger        what it holds of each document
    handbook--catalog           a record of each version, the order in which they served, and the writer's lease

The alias is the only pointer. Which versions served before is kept under the name of the version that serves, so that
it changes in the same step.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tarragon.contract import Contract, VersionRecord
from tarragon.errors import IndexLocked, IndexProblem, InvalidInput, NotAnIndex
from tarragon.identity import digest
from tarragon.store.server import ServerStore, create_collection, make_collection, scroll
from tarragon.store.server_client import QdrantClient, ServerConnection, models
from tarragon.store.server_fence import STAMP, FencedPoints
from tarragon.store.server_lease import ServerLease
from tarragon.store.server_ledger import ServerLedger, create_ledger
from tarragon.store.server_options import ServerOptions, parse_address

FORMAT = 1
"""Of this layout. Any other is refused."""

HEAD = UUID(bytes=digest("server catalog", "head"))

_TRIES = 5
"""How often a record of the catalog is read and written again because somebody else wrote it meanwhile."""


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
        self._connection = connection
        self._name = name
        self._points = FencedPoints(connection, f"{name}--catalog")
        self._lease = ServerLease(self._points, connection.options.lease_seconds)
        self._writing = threading.Lock()
        self._records: dict[str, tuple[str, VersionRecord]] = {}
        connection.require_version()
        self._exists = self._check()

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
        if not self._is_there():
            return []
        is_version = models.Filter(must=[models.FieldCondition(key="kind", match=models.MatchValue(value="version"))])
        found = scroll(self._connection, self._points.collection, filter=is_version, with_payload=True)
        records = [VersionRecord.from_dict((point.payload or {})["record"]) for point in found]
        return sorted(records, key=lambda record: _number(record.name))

    def serving(self) -> str | None:
        """See `tarragon.protocols.Catalog`."""
        collection = self._alias()
        return None if collection is None else collection[len(self._name) + 2 :]

    def former(self) -> tuple[str, ...]:
        """See `tarragon.protocols.Catalog`."""
        serving = self.serving()
        if serving is None:
            return ()
        names = self._head().get("former", {}).get(serving, ())
        there = self._points_of(names)
        return tuple(name for name in names if name in there)

    def _points_of(self, names: Sequence[str]) -> set[str]:
        there = self._points.read([_version_point(name) for name in names], with_payload=False)
        return {name for name in names if _version_point(name) in there}

    def create(self, contract: Contract, *, serve: bool) -> VersionRecord:
        """See `tarragon.protocols.Catalog`.

        The record comes last, so that half a version is never taken for one. What an interrupted call leaves is an
        empty collection whose name is not used again.
        """
        self._make()
        number = self._next_number()
        record = VersionRecord(f"v{number}", contract, created=time.time(), promoted=serve)
        create_collection(self._connection, self._collection(record.name), contract)
        create_ledger(self._connection, f"{self._collection(record.name)}--ledger")
        point = _version_point(record.name)
        if self._points.write({point: _version_payload(record)}, {}):
            raise self._conflict(f"version {record.name}")
        if serve:
            self.point_to(record.name, former=())
        return record

    def _next_number(self) -> int:
        """One more than any before, also those that were dropped."""
        taken: list[int] = []

        def count_up(head: dict[str, Any]) -> dict[str, Any]:
            taken.append(head["last"] + 1)
            return {**head, "last": taken[-1]}

        self._change_head(count_up)
        return taken[-1]

    def update(self, record: VersionRecord) -> None:
        """See `tarragon.protocols.Catalog`."""
        point = _version_point(record.name)
        for _ in range(_TRIES):
            seen = self._points.read([point])
            if not seen:
                raise self._unknown(record.name)
            if not self._points.write({point: _version_payload(record)}, seen):
                return
        raise self._conflict(f"version {record.name}")

    def point_to(self, name: str, *, former: Sequence[str]) -> None:
        """See `tarragon.protocols.Catalog`."""
        if not self._is_there() or not self._points_of([name]):
            raise self._unknown(name)
        serving = self.serving()

        def remember(head: dict[str, Any]) -> dict[str, Any]:
            kept = {serving: head["former"].get(serving, [])} if serving is not None else {}
            return {**head, "former": {**kept, name: list(former)}}

        self._change_head(remember)
        alias = models.CreateAlias(collection_name=self._collection(name), alias_name=self._name)
        self._connection.call(
            f"let {name} serve",
            lambda client: client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)]),
        )

    def drop(self, name: str) -> None:
        """See `tarragon.protocols.Catalog`. The record goes last, so that an interrupted call can be repeated."""
        if name == self.serving():
            raise InvalidInput(f"{name} serves; promote another version before dropping it", name=name)
        point = _version_point(name)
        seen = self._points.read([point]) if self._is_there() else {}
        if not seen:
            raise self._unknown(name)
        for collection in (f"{self._collection(name)}--ledger", self._collection(name)):
            self._delete_collection(collection)
        self._points.delete(seen)
        self._records.pop(name, None)

    def _delete_collection(self, collection: str) -> None:
        self._connection.call(f"delete {collection}", lambda client: client.delete_collection(collection))

    # --- reading and writing ------------------------------------------------------------------------------------------
    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[ServerVersion | None]:
        """See `tarragon.protocols.Catalog`. A version that another process drops meanwhile answers with an error."""
        name = name or self.serving()
        yield None if name is None else self._version(name)

    def _version(self, name: str) -> ServerVersion:
        collection = self._collection(name)
        record = self._record(name)
        store = ServerStore(self._connection, collection, record.contract.space, guard=self._lease.check)
        return ServerVersion(record, store, ServerLedger(self._connection, f"{collection}--ledger", self._lease))

    def _record(self, name: str) -> VersionRecord:
        """The record as it is now; only its stamp is read where it has not changed."""
        point = _version_point(name)
        now = self._points.read([point], with_payload=[STAMP]).get(point) if self._is_there() else None
        if now is None:
            raise self._unknown(name)
        stamp, record = self._records.get(name, ("", None))
        if record is None or stamp != now[STAMP]:
            payload = self._points.read([point]).get(point)
            if payload is None:
                raise self._unknown(name)
            record = VersionRecord.from_dict(payload["record"])
            self._records[name] = (payload[STAMP], record)
        return record

    @contextmanager
    def writing(self, wait: float = 0.0) -> Iterator[None]:
        """See `tarragon.protocols.Catalog`. Makes the catalog's collection, which holds the lease, if there is none."""
        until = time.monotonic() + wait
        if not self._writing.acquire(timeout=wait) if wait > 0 else not self._writing.acquire(blocking=False):
            raise IndexLocked(f"{self.location} is being written already; wait until that is done")
        try:
            self._make()
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

    # --- the catalog's collection -------------------------------------------------------------------------------------
    def _collection(self, name: str) -> str:
        return f"{self._name}--{name}"

    def _alias(self) -> str | None:
        """The collection that serves. Raises `NotAnIndex` if the alias is not ours."""
        aliases = self._connection.call("list the aliases", lambda client: client.get_aliases()).aliases
        target = next((alias.collection_name for alias in aliases if alias.alias_name == self._name), None)
        if target is not None and not re.fullmatch(re.escape(self._name) + r"--v\d+", target):
            raise self._foreign(f"an alias of {target!r}")
        return target

    def _check(self) -> bool:
        """Whether the index exists. Raises `NotAnIndex` if something else has its name."""

        def look(client: QdrantClient) -> tuple[bool, bool]:
            return client.collection_exists(self._name), client.collection_exists(self._points.collection)

        alias = self._alias()
        is_taken, has_catalog = self._connection.call("look for the index", look)
        if is_taken and alias is None:
            raise self._foreign("a collection")
        if not has_catalog:
            if alias is not None:
                raise self._foreign(f"an alias of {alias!r}, beside which there is no {self._points.collection!r}")
            return False
        head = self._points.read([HEAD]).get(HEAD)
        if head is None:
            count = self._connection.call("count", lambda client: client.count(self._points.collection)).count
            if count:
                raise self._foreign(f"beside a collection {self._points.collection!r}")
            return False
        if head["format"] != FORMAT:
            raise NotAnIndex(
                f"{self.location} has layout {head['format']!r}; this Tarragon reads {FORMAT}. Upgrade Tarragon"
            )
        return True

    def _is_there(self) -> bool:
        """Whether the index exists by now: another process may have made it since."""
        self._exists = self._exists or self._check()
        return self._exists

    def _make(self) -> None:
        if not self._is_there():
            make_collection(self._connection, self._points.collection, {}, shard_number=1)
            head = {"kind": "head", "format": FORMAT, "last": 0, "former": {}}
            self._points.write({HEAD: head}, {})  # refused if another process was quicker, which is as good
            self._exists = True

    def _head(self) -> Mapping[str, Any]:
        return self._points.read([HEAD]).get(HEAD, {}) if self._is_there() else {}

    def _change_head(self, change: Any) -> None:
        for _ in range(_TRIES):
            seen = self._points.read([HEAD])
            if not self._points.write({HEAD: change(seen[HEAD])}, seen):
                return
        raise self._conflict("the catalog")

    # --- errors -------------------------------------------------------------------------------------------------------
    def _foreign(self, what: str) -> NotAnIndex:
        return NotAnIndex(
            f"{self.location}: the name {self._name!r} is taken by {what} that Tarragon did not make. Choose another "
            "name for the index",
            name=self._name,
        )

    def _unknown(self, name: str) -> InvalidInput:
        return InvalidInput(f"{self.location} has no version {name!r}; `versions` lists those there are", name=name)

    def _conflict(self, what: str) -> IndexProblem:
        return IndexProblem(f"{self.location}: another process keeps writing {what}; try again when it is done")


def _version_point(name: str) -> UUID:
    return UUID(bytes=digest("server catalog", "version", name))


def _version_payload(record: VersionRecord) -> dict[str, Any]:
    return {"kind": "version", "record": record.to_dict()}


def _number(name: str) -> int:
    return int(name[1:])
