"""What a server keeps of an index as a whole: its alias, and the collection of its version records.

The alias is the only pointer. Which versions served before is kept under the name of the version that serves, so that
it changes in the same step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from tarragon.contract import VersionRecord
from tarragon.errors import IndexProblem, InvalidInput, NotAnIndex
from tarragon.identity import digest
from tarragon.store.server import scroll
from tarragon.store.server_client import QdrantClient, ServerConnection, models
from tarragon.store.server_fence import STAMP, FencedPoints, create_records

FORMAT = 1
"""Of this layout. Any other is refused."""

HEAD = UUID(bytes=digest("server catalog", "head"))

_TRIES = 5
"""How often a record is read and written again because somebody else wrote it meanwhile."""


class ServerDirectory:
    """The alias and the records of one index. Safe to use from several threads.

    Args:
        connection: To the server.
        name: Of the index.

    Raises:
        NotAnIndex: Something else has this name.
    """

    def __init__(self, connection: ServerConnection, name: str) -> None:
        self.points = FencedPoints(connection, f"{name}--catalog")
        self._connection = connection
        self._name = name
        self._records: dict[str, tuple[str, VersionRecord]] = {}
        self._exists = self._check()

    def collection(self, version: str) -> str:
        """Of a version's chunks."""
        return f"{self._name}--{version}"

    # --- the pointer --------------------------------------------------------------------------------------------------
    def serving(self) -> str | None:
        """Name of the version that the alias names."""
        collection = self._alias()
        return None if collection is None else collection[len(self._name) + 2 :]

    def former(self) -> tuple[str, ...]:
        """The versions that served before the serving one and are still there."""
        serving = self.serving()
        if serving is None or not self.exists():
            return ()
        names = self.points.read([HEAD])[HEAD]["former"].get(serving, ())
        there = self.known(names)
        return tuple(name for name in names if name in there)

    def point_to(self, name: str, former: Sequence[str]) -> None:
        """Move the alias, in one atomic step."""
        serving = self.serving()

        def remember(head: dict[str, Any]) -> dict[str, Any]:
            kept = {serving: head["former"].get(serving, [])} if serving is not None else {}
            return {**head, "former": {**kept, name: list(former)}}

        self._change_head(remember)
        alias = models.CreateAlias(collection_name=self.collection(name), alias_name=self._name)
        self._connection.call(
            f"let {name} serve",
            lambda client: client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)]),
        )

    def _alias(self) -> str | None:
        """The collection that serves. Raises `NotAnIndex` if the alias is not ours."""
        aliases = self._connection.call("list the aliases", lambda client: client.get_aliases()).aliases
        target = next((alias.collection_name for alias in aliases if alias.alias_name == self._name), None)
        if target is not None and not re.fullmatch(re.escape(self._name) + r"--v\d+", target):
            raise self._foreign(f"an alias of {target!r}")
        return target

    # --- records ------------------------------------------------------------------------------------------------------
    def records(self) -> list[VersionRecord]:
        """Of all versions, oldest first."""
        if not self.exists():
            return []
        kind = models.FieldCondition(key="kind", match=models.MatchValue(value="version"))
        found = scroll(self._connection, self.points.collection, filter=models.Filter(must=[kind]), with_payload=True)
        records = [VersionRecord.from_dict((point.payload or {})["record"]) for point in found]
        return sorted(records, key=lambda record: int(record.name[1:]))

    def record(self, name: str) -> VersionRecord:
        """The record as it is now; only its stamp is read where it has not changed."""
        point = _point(name)
        now = self.points.read([point], with_payload=[STAMP]).get(point) if self.exists() else None
        if now is None:
            raise self.unknown(name)
        stamp, record = self._records.get(name, ("", None))
        if record is None or stamp != now[STAMP]:
            payload = self.points.read([point]).get(point)
            if payload is None:
                raise self.unknown(name)
            record = VersionRecord.from_dict(payload["record"])
            self._records[name] = (payload[STAMP], record)
        return record

    def known(self, names: Sequence[str]) -> set[str]:
        """Those of these names that have a record."""
        there = self.points.read([_point(name) for name in names], with_payload=False) if self.exists() else {}
        return {name for name in names if _point(name) in there}

    def add(self, record: VersionRecord) -> None:
        """Keep the record of a new version."""
        if self.points.write({_point(record.name): _payload(record)}, {}):
            raise self._conflict(f"version {record.name}")

    def update(self, record: VersionRecord) -> None:
        """Replace the record of this name."""
        point = _point(record.name)
        for _ in range(_TRIES):
            seen = self.points.read([point])
            if not seen:
                raise self.unknown(record.name)
            if not self.points.write({point: _payload(record)}, seen):
                return
        raise self._conflict(f"version {record.name}")

    def remove(self, name: str) -> None:
        """Forget a version."""
        self.points.delete(self.points.read([_point(name)], with_payload=[STAMP]))
        self._records.pop(name, None)

    def next_name(self) -> str:
        """One that no version had before, also none that was dropped."""
        taken: list[int] = []

        def count_up(head: dict[str, Any]) -> dict[str, Any]:
            taken.append(head["last"] + 1)
            return {**head, "last": taken[-1]}

        self._change_head(count_up)
        return f"v{taken[-1]}"

    def _change_head(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        for _ in range(_TRIES):
            seen = self.points.read([HEAD])
            if not self.points.write({HEAD: change(seen[HEAD])}, seen):
                return
        raise self._conflict("the catalog")

    # --- the collection -----------------------------------------------------------------------------------------------
    def exists(self) -> bool:
        """Whether the index is there by now: another process may have made it since."""
        self._exists = self._exists or self._check()
        return self._exists

    def make(self) -> None:
        """Make it if it is not there."""
        if not self.exists():
            create_records(self._connection, self.points.collection, shard_number=1)
            head = {"kind": "head", "format": FORMAT, "last": 0, "former": {}}
            self.points.write({HEAD: head}, {})  # refused if another process was quicker, which is as good
            self._exists = True

    def _check(self) -> bool:
        """Whether the index exists. Raises `NotAnIndex` if something else has its name."""

        def look(client: QdrantClient) -> tuple[bool, bool]:
            return client.collection_exists(self._name), client.collection_exists(self.points.collection)

        alias = self._alias()
        is_taken, has_catalog = self._connection.call("look for the index", look)
        if is_taken and alias is None:
            raise self._foreign("a collection")
        if not has_catalog:
            if alias is not None:
                raise self._foreign(f"an alias of {alias!r}, beside which there is no {self.points.collection!r}")
            return False
        head = self.points.read([HEAD]).get(HEAD)
        if head is None:
            counted = self._connection.call("count", lambda client: client.count(self.points.collection))
            if counted.count:
                raise self._foreign(f"a collection {self.points.collection!r}")
            return False
        if head["format"] != FORMAT:
            raise NotAnIndex(
                f"{self._connection.location} has layout {head['format']!r}; this Tarragon reads {FORMAT}. Upgrade "
                "Tarragon"
            )
        return True

    # --- errors -------------------------------------------------------------------------------------------------------
    def _foreign(self, what: str) -> NotAnIndex:
        return NotAnIndex(
            f"{self._connection.location}: the name {self._name!r} is taken by {what} that Tarragon did not make. "
            "Choose another name for the index",
            name=self._name,
        )

    def unknown(self, name: str) -> InvalidInput:
        """The error to raise for a version that is not there."""
        where = self._connection.location
        return InvalidInput(f"{where} has no version {name!r}; `versions` lists those there are", name=name)

    def _conflict(self, what: str) -> IndexProblem:
        where = self._connection.location
        return IndexProblem(f"{where}: another process keeps writing {what}; try again when it is done")


def _point(name: str) -> UUID:
    return UUID(bytes=digest("server catalog", "version", name))


def _payload(record: VersionRecord) -> dict[str, Any]:
    return {"kind": "version", "record": record.to_dict()}
