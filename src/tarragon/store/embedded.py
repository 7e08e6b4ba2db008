"""An embedded index that is open in this process: its lock, its versions and their data."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from tarragon.contract import Contract, VersionRecord
from tarragon.errors import IndexLocked, InvalidInput, StorageProblem
from tarragon.store.edge import EdgeStore
from tarragon.store.folder import FIRST_SHARD, IndexFolder
from tarragon.store.ledger import SqliteLedger


class EmbeddedVersion:
    """The data of a version.

    The ledger is open; the shard is opened when it is first needed, which for an unchanged folder is never.

    Attributes:
        readers: How many are reading it now.
        replaced: Whether it closes when the last of them is done.
    """

    def __init__(self, record: VersionRecord, shard: Path, ledger: Path) -> None:
        self.record = record
        self.ledger = SqliteLedger(ledger)
        self.readers = 0
        self.replaced = False
        self._shard = shard
        self._store: EdgeStore | None = None
        self._opening = threading.Lock()

    @property
    def store(self) -> EdgeStore:
        """Its chunks."""
        with self._opening:
            if self._store is None:
                contract = self.record.contract
                language = contract.recipe.language
                self._store = EdgeStore(
                    self._shard, space=contract.space, dimensions=contract.dimensions, language=language
                )
            return self._store

    def close(self) -> None:
        """Release its files."""
        self.ledger.close()
        with self._opening:
            if self._store is not None:
                self._store.close()


class EmbeddedCatalog:
    """A `tarragon.protocols.Catalog` in a folder.

    Made by `attach`: the engine opens a shard once per machine, so that all handles of a process share one.

    Args:
        path: The index's folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = IndexFolder(path)
        self._handles = 0
        self._locked = False
        self._closed = False
        self._open: dict[str, EmbeddedVersion] = {}
        self._mutex = threading.RLock()
        self._writing = threading.Lock()
        if path.exists() and self.folder.serving() is not None:
            self._take_lock()

    @property
    def location(self) -> str:
        """See `tarragon.protocols.Catalog`."""
        return str(self.folder.path)

    # --- versions -----------------------------------------------------------------------------------------------------
    def versions(self) -> list[VersionRecord]:
        """See `tarragon.protocols.Catalog`."""
        return self.folder.versions()

    def serving(self) -> str | None:
        """See `tarragon.protocols.Catalog`."""
        return self.folder.serving()

    def former(self) -> tuple[str, ...]:
        """See `tarragon.protocols.Catalog`."""
        return self.folder.former()

    def create(self, contract: Contract, *, serve: bool, canaries: str = "") -> VersionRecord:
        """See `tarragon.protocols.Catalog`."""
        with self._mutex:
            self._take_lock()
            if serve and self.serving() is not None:
                raise IndexLocked(f"{self.location} was made by another process meanwhile; sync again")
            record = replace(self.folder.reserve(contract), promoted=serve, canaries=canaries)
            shard = self.folder.version_path(record.name) / FIRST_SHARD
            version = self._open[record.name] = EmbeddedVersion(record, shard, self.folder.ledger_path(record.name))
            version.store.flush()
            self.folder.add(record)  # last, so that a killed process leaves no version without data
            if serve:
                self.folder.point_to(record.name)
            return record

    def update(self, record: VersionRecord) -> None:
        """See `tarragon.protocols.Catalog`."""
        with self._mutex:
            self.folder.update(record)
            if record.name in self._open:
                self._open[record.name].record = record

    def point_to(self, name: str, *, former: Sequence[str]) -> None:
        """See `tarragon.protocols.Catalog`."""
        self.folder.point_to(name, former)

    def drop(self, name: str) -> None:
        """See `tarragon.protocols.Catalog`."""
        with self._mutex:
            if name == self.serving():
                raise InvalidInput(f"{name} serves; promote another version before dropping it", name=name)
            if name in self._open:
                self._replace(name, None)
            self.folder.drop(name)

    # --- reading and writing ------------------------------------------------------------------------------------------
    @contextmanager
    def reading(self, name: str | None = None) -> Iterator[EmbeddedVersion | None]:
        """See `tarragon.protocols.Catalog`."""
        version = self._acquire(name)
        try:
            yield version
        finally:
            if version is not None:
                self._release(version)

    @contextmanager
    def writing(self, wait: float = 0.0) -> Iterator[None]:
        """See `tarragon.protocols.Catalog`. Also this thread itself cannot write twice at a time."""
        if not self._writing.acquire(timeout=wait) if wait else not self._writing.acquire(blocking=False):
            raise IndexLocked(f"{self.location} is being written already; wait until that is done")
        try:
            self._check_open()
            yield
        finally:
            self._writing.release()

    def _acquire(self, name: str | None) -> EmbeddedVersion | None:
        with self._mutex:
            self._check_open()
            name = name or self.serving()
            if name is None:
                return None
            if name not in self._open:
                self._take_lock()
                self._open[name] = self._opened(self.folder.record(name))
            version = self._open[name]
            version.readers += 1
            return version

    def _release(self, version: EmbeddedVersion) -> None:
        with self._mutex:
            version.readers -= 1
            if version.replaced and version.readers == 0:
                version.close()

    def _replace(self, name: str, version: EmbeddedVersion | None) -> None:
        """Put another version into an open one's place; the old one is closed when nobody reads it any more."""
        with self._mutex:
            old = self._open.pop(name)
            old.replaced = True
            if version is not None:
                self._open[name] = version
            if old.readers == 0:
                old.close()

    def _opened(self, record: VersionRecord) -> EmbeddedVersion:
        shard, ledger = self.folder.shard_path(record.name), self.folder.ledger_path(record.name)
        if missing := [path for path in (shard, ledger) if not path.exists()]:
            raise StorageProblem(
                f"{missing[0]} is missing: the index is damaged. Restore it from a copy, or sync a new one",
                path=missing[0],
            )
        return EmbeddedVersion(record, shard, ledger)

    # --- upkeep -------------------------------------------------------------------------------------------------------
    def require_room(self, needed: int) -> None:
        """See `tarragon.protocols.Catalog`."""
        self.folder.require_room(needed)

    def size(self, name: str) -> int:
        """See `tarragon.protocols.Catalog`."""
        return self.folder.size(name)

    def compact(self, *, in_place: bool = False) -> bool:
        """See `tarragon.protocols.Catalog`.

        The engine holds the interpreter's lock while it optimizes, so a child process does it on a copy of the shard,
        which then takes the place of the original.
        """
        with self.writing(), self.reading() as version:
            if version is None:
                return False
            if in_place:
                return version.store.optimize()
            name = version.record.name
            self.require_room(2 * self.size(name))
            current, target = self.folder.shard_path(name), self.folder.next_shard_path(name)
            version.store.flush()
            shutil.copytree(current, target)
            if not _optimize_in_child(target):
                shutil.rmtree(target)
                return False
            compacted = EmbeddedVersion(version.record, target, self.folder.ledger_path(name))
            compacted.store.count()  # opened before it takes its place
            with self._mutex:
                self.folder.use_shard(name, target)
                self._replace(name, compacted)
        shutil.rmtree(current, ignore_errors=True)  # its readers keep the open files
        return True

    # --- closing ------------------------------------------------------------------------------------------------------
    def _check_open(self) -> None:
        if self._closed:  # while a thread was waiting: opening it again would keep its lock for good
            raise InvalidInput(f"{self.location} is closed; open it again with Index.open")

    def _take_lock(self) -> None:
        self._check_open()
        if not self._locked:
            self.folder.lock()
            self._locked = True

    def attach(self) -> EmbeddedCatalog:
        """Count one more handle."""
        self._handles += 1
        return self

    def close(self) -> None:
        """Count one handle less; the last one closes the files and lets other processes have the index."""
        with _opening, self._mutex:
            self._handles -= 1
            if self._handles > 0:
                return
            self._closed = True
            _catalogs.pop(self.folder.path.resolve(), None)
            while self._open:
                self._open.popitem()[1].close()
            if self._locked:
                self.folder.unlock()
                self._locked = False


def _optimize_in_child(shard: Path) -> bool:
    """Optimize a shard that nobody has open; whether there was work."""
    command = [sys.executable, "-m", "tarragon.store.edge", str(shard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1) or done.stderr:
        shutil.rmtree(shard, ignore_errors=True)
        raise StorageProblem(f"optimizing {shard} failed: {done.stderr.strip() or done.returncode}", path=shard)
    return done.returncode == 0


_catalogs: WeakValueDictionary[Path, EmbeddedCatalog] = WeakValueDictionary()
_opening = threading.Lock()


def attach(path: Path) -> EmbeddedCatalog:
    """A handle on the index at this path; one that is open in this process already is shared.

    Raises:
        IndexLocked: Another process has it open.
        NotAnIndex: Something else is there.
    """
    with _opening:
        catalog = _catalogs.get(path.resolve())
        if catalog is None:
            catalog = _catalogs[path.resolve()] = EmbeddedCatalog(path)
        return catalog.attach()
