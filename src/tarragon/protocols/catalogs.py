"""Where an index lives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tarragon.contract import Contract, VersionRecord
from tarragon.protocols.ledgers import Ledger
from tarragon.protocols.stores import Store


class OpenVersion(Protocol):
    """The data of a version, open."""

    @property
    def record(self) -> VersionRecord:
        """What it is."""
        ...

    @property
    def store(self) -> Store:
        """Its chunks."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Its records."""
        ...


class Catalog(Protocol):
    """Where an index lives: its versions, and the pointer that says which of them serves.

    Safe to use from several threads. Nothing is written before the first `create`.
    """

    @property
    def location(self) -> str:
        """The path or URL, without secrets."""
        ...

    def versions(self) -> list[VersionRecord]:
        """All versions, oldest first."""
        ...

    def serving(self) -> str | None:
        """Name of the version that serves; None before the first one."""
        ...

    def former(self) -> tuple[str, ...]:
        """Names of the versions that served before, the last one last; those that were dropped are left out."""
        ...

    def create(self, contract: Contract, *, serve: bool, canaries: str = "") -> VersionRecord:
        """Make an empty version. With ``serve`` the pointer moves to it; only for the first one."""
        ...

    def update(self, record: VersionRecord) -> None:
        """Replace the record of this name in one step."""
        ...

    def point_to(self, name: str, *, former: Sequence[str]) -> None:
        """Let this version serve from now on, in one atomic step; ``former`` is what `former` returns afterwards."""
        ...

    def drop(self, name: str) -> None:
        """Delete a version's data and record. Never the serving one: raises `InvalidInput`."""
        ...

    def reading(self, name: str | None = None) -> AbstractContextManager[OpenVersion | None]:
        """The version of this name, or the serving one (None before the first), open at least until the block ends.

        While it is being read, a version may stop serving or be compacted, but it is not closed.
        """
        ...

    def writing(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """One writer at a time.

        Raises `IndexLocked` if another thread, or another process, is still writing after so many seconds.
        """
        ...

    def require_room(self, needed: int) -> None:
        """Raise `DiskFull` if there is less room than so many bytes. Does nothing where that cannot be known."""
        ...

    def size(self, name: str) -> int:
        """Bytes that a version takes; 0 where that cannot be known."""
        ...

    def compact(self, *, in_place: bool = False) -> bool:
        """Build the vector index of the serving version and free what deleted chunks took.

        Searches do not wait, unless it is done ``in_place``, which needs no second copy. True if there was work.
        Raises `IndexLocked` while something is writing.
        """
        ...

    def close(self) -> None:
        """Release files, connections and locks. The catalog cannot be used afterwards."""
        ...
