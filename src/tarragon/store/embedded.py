"""An embedded index that is open in this process: its lock, its serving version, and that version's data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from tarragon.errors import IndexLocked, StorageProblem
from tarragon.protocols import Ledger, Store
from tarragon.store.folder import Contract, IndexFolder, VersionFolder


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """The data of a version, open."""

    folder: VersionFolder
    store: Store
    ledger: Ledger

    @property
    def contract(self) -> Contract:
        """What the version was built under."""
        return self.folder.contract


class EmbeddedIndex:
    """Made by `attach`: the engine opens a shard once per process, so that all handles on a path share one.

    Args:
        path: The index's folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = IndexFolder(path)
        self._handles = 0
        self._locked = False
        self._open: OpenVersion | None = None
        self._mutex = threading.RLock()
        self._writing = threading.Lock()
        if path.exists() and self.folder.serving() is not None:
            self._take_lock()

    @property
    def version(self) -> OpenVersion | None:
        """The serving version, opened when first asked for; None before the first sync."""
        with self._mutex:
            if self._open is None and (serving := self.folder.serving()):
                self._take_lock()
                self._open = self._open_version(serving)
            return self._open

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time. Raises `IndexLocked` if another thread, or this one, is syncing already."""
        if not self._writing.acquire(blocking=False):
            raise IndexLocked(f"{self.folder.path} is being synced already; wait until that sync is done")
        try:
            yield
        finally:
            self._writing.release()

    def create_version(self, contract: Contract) -> OpenVersion:
        """Make the first version and let it serve; the serving one if there is one already."""
        with self._mutex:
            self._take_lock()
            if (version := self.version) is not None:
                return version
            folder = self.folder.create_version(contract)
            self._open = self._open_version(folder, create=True)
            self.folder.point_to(folder)
            return self._open

    def _open_version(self, folder: VersionFolder, *, create: bool = False) -> OpenVersion:
        from tarragon.store.edge import EdgeStore  # the engine's library is loaded only where it is used

        if missing := [path for path in (folder.shard, folder.ledger_path) if not path.exists() and not create]:
            raise StorageProblem(
                f"{missing[0]} is missing: the index is damaged. Restore it from a copy, or sync a new one",
                path=missing[0],
            )

        contract = folder.contract
        language = contract.recipe.language
        store = EdgeStore(folder.shard, space=contract.space, dimensions=contract.dimensions, language=language)
        return OpenVersion(folder, store, folder.ledger())

    def _take_lock(self) -> None:
        if not self._locked:
            self.folder.lock()
            self._locked = True

    def _close(self) -> None:
        with self._mutex:
            if self._open is not None:
                self._open.ledger.close()
                self._open.store.close()
                self._open = None
            if self._locked:
                self.folder.unlock()
                self._locked = False

    def attach(self) -> EmbeddedIndex:
        """Count one more handle."""
        self._handles += 1
        return self

    def detach(self) -> None:
        """Count one handle less; the last one closes the files and lets other processes have the index."""
        with _opening:
            self._handles -= 1
            if self._handles == 0:
                _opened.pop(self.folder.path.resolve(), None)
                self._close()


_opened: WeakValueDictionary[Path, EmbeddedIndex] = WeakValueDictionary()
_opening = threading.Lock()


def attach(path: Path) -> EmbeddedIndex:
    """A handle on the index at this path; one that is open in this process already is shared.

    Raises:
        IndexLocked: Another process has it open.
        NotAnIndex: Something else is there.
    """
    with _opening:
        index = _opened.get(path.resolve())
        if index is None:
            index = _opened[path.resolve()] = EmbeddedIndex(path)
        return index.attach()
