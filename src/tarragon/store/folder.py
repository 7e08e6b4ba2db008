"""An embedded index on disk: the lock, the pointer and the versions.

handbook.tarragon/
    tarragon.json               the pointer: which version serves, and which did before; replaced atomically
    lock                        held by the process that has the index open
    cache.sqlite                vectors that a bridge has made, see `tarragon.store.cache`; often not there
    versions/v1/version.json    the version's record, and the name of its shard's folder
    versions/v1/ledger.sqlite   what it holds of each document
    versions/v1/shard-1/        the engine's files
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tarragon.contract import Contract, VersionRecord
from tarragon.errors import DiskFull, IndexLocked, InvalidInput, NotAnIndex, StorageProblem
from tarragon.store.cache import NAME as CACHE

FORMAT = 2
"""Of this layout. Any other is refused."""

POINTER = "tarragon.json"
FIRST_SHARD = "shard-1"
_OWN_NAMES = {
    *(POINTER, "lock", "holder.json", "versions", f".{POINTER}.new", ".holder.json.new"),
    *(CACHE, f"{CACHE}-journal"),
}


class IndexFolder:
    """The folder of an index. Looking needs no lock; `lock` before writing.

    Args:
        path: The folder; it need not exist yet.

    Raises:
        NotAnIndex: Something else is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / "lock", timeout=0, thread_local=False)
        if path.exists() and (not path.is_dir() or (not self._is_index() and not self._is_blank())):
            raise NotAnIndex(
                f"{path} exists and is not a Tarragon index. Name a new folder, such as handbook.tarragon",
                path=path,
            )

    def _is_index(self) -> bool:
        return (self.path / POINTER).is_file()

    def _is_blank(self) -> bool:
        names = {entry.name for entry in self.path.iterdir()}
        return not names or (names <= _OWN_NAMES and "lock" in names)

    def lock(self) -> None:
        """Take the index for this process. Released by `unlock`, and by the system if the process dies.

        Raises:
            IndexLocked: Another process has it.
        """
        holder = self.path / "holder.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            who = _read_json(holder).get("pid", "unknown") if holder.is_file() else "unknown"
            raise IndexLocked(
                f"{self.path} is open in another process (pid {who}). Close the index there or end that process, then "
                "try again; 'tarragon status' works meanwhile. To search from several processes, keep the index on a "
                "Qdrant server: tarragon copy",
                path=self.path,
                pid=who,
            ) from None
        except OSError as error:
            raise StorageProblem(f"{self.path} cannot be locked: {error.strerror or error}", path=self.path) from error
        with suppress(StorageProblem):  # it only helps others to word their error
            _write_json(holder, {"pid": os.getpid()})

    def unlock(self) -> None:
        """Let other processes have it."""
        self._lock.release()

    # --- the pointer --------------------------------------------------------------------------------------------------
    def serving(self) -> str | None:
        """Name of the version that the pointer names; None before the first one."""
        return str(self._pointer()["serving"]) if self._is_index() else None

    def former(self) -> tuple[str, ...]:
        """The versions that served before and are still there, the last one last."""
        names = self._pointer()["former"] if self._is_index() else ()
        return tuple(name for name in names if self._record_path(name).is_file())

    def point_to(self, name: str, former: Sequence[str] = ()) -> None:
        """Let this version serve, in one atomic step."""
        _write_json(self.path / POINTER, {"format": FORMAT, "serving": name, "former": list(former)})

    def _pointer(self) -> dict[str, Any]:
        pointer = _read_json(self.path / POINTER)
        if pointer.get("format") != FORMAT:
            raise NotAnIndex(
                f"{self.path} has layout {pointer.get('format')!r}, and this Tarragon reads {FORMAT}. Use the Tarragon "
                "that made it, or sync a new index",
                path=self.path,
            )
        return pointer

    # --- versions -----------------------------------------------------------------------------------------------------
    def versions(self) -> list[VersionRecord]:
        """All versions, oldest first."""
        found = [path.parent.name for path in self.path.glob("versions/v*/version.json")]
        return [self.record(name) for name in sorted(found, key=_number)]

    def record(self, name: str) -> VersionRecord:
        """The record of one version. Raises `InvalidInput` if there is none of this name."""
        if not self._record_path(name).is_file():
            there = ", ".join(record.name for record in self.versions()) or "none"
            raise InvalidInput(f"no version {name!r}; there are {there}", name=name)
        return VersionRecord.from_dict(_read_json(self._record_path(name))["record"])

    def reserve(self, contract: Contract) -> VersionRecord:
        """Make a folder for a new version. It is one only once `add` has been called, when its data are there."""
        taken = [_number(path.name) for path in self.path.glob("versions/v*")]
        record = VersionRecord(f"v{1 + max(taken, default=0)}", contract, created=time.time())
        self.version_path(record.name).mkdir(parents=True)
        return record

    def add(self, record: VersionRecord) -> None:
        """Let a reserved folder be a version; it serves only once `point_to` names it."""
        _write_json(self._record_path(record.name), {"shard": FIRST_SHARD, "record": record.to_dict()})

    def update(self, record: VersionRecord) -> None:
        """Replace a version's record in one step."""
        values = _read_json(self._record_path(record.name))
        _write_json(self._record_path(record.name), {**values, "record": record.to_dict()})

    def drop(self, name: str) -> None:
        """Delete a version. Its record goes first, so that half a version is never taken for one.

        An empty folder stays, so that its name is not used again.
        """
        if name == self.serving():
            raise InvalidInput(f"{name} serves; promote another version before dropping it", name=name)
        self._record_path(name).unlink(missing_ok=True)
        shutil.rmtree(self.version_path(name), ignore_errors=True)
        self.version_path(name).mkdir(exist_ok=True)

    def version_path(self, name: str) -> Path:
        """Folder of a version."""
        return self.path / "versions" / name

    def ledger_path(self, name: str) -> Path:
        """The ledger's file."""
        return self.version_path(name) / "ledger.sqlite"

    def shard_path(self, name: str) -> Path:
        """The engine's folder."""
        return self.version_path(name) / str(_read_json(self._record_path(name))["shard"])

    def next_shard_path(self, name: str) -> Path:
        """Where the engine's next folder for this version goes; what an interrupted compaction left is removed."""
        current = self.shard_path(name)
        for leftover in self.version_path(name).glob("shard-*"):
            if leftover != current:
                shutil.rmtree(leftover)
        return current.with_name(f"shard-{int(current.name.removeprefix('shard-')) + 1}")

    def use_shard(self, name: str, path: Path) -> None:
        """Let the version have this engine folder from now on."""
        _write_json(self._record_path(name), {**_read_json(self._record_path(name)), "shard": path.name})

    def _record_path(self, name: str) -> Path:
        return self.version_path(name) / "version.json"

    # --- disk ---------------------------------------------------------------------------------------------------------
    def size(self, name: str | None = None) -> int:
        """Bytes on disk, as allocated, of one version or of all."""
        root = self.version_path(name) if name else self.path
        folders = os.walk(root)  # unlike rglob, it passes over what the engine drops meanwhile
        return sum(_allocated(Path(folder, name)) for folder, _, names in folders for name in names)

    def require_room(self, needed: int) -> None:
        """Raise `DiskFull` if the disk has less room. The engine maps files into memory: a full disk would kill us."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise DiskFull(
                f"{self.path} needs {needed >> 20} MiB of free disk to go on and has {free >> 20} MiB. "
                "What was synced so far is kept; free some room and sync again",
                path=self.path,
                needed=needed,
                free=free,
            )


def _number(name: str) -> int:
    return int(name[1:]) if name[1:].isdigit() else 0


def _allocated(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:  # gone meanwhile: the engine drops old segments
        return 0
    return int(getattr(status, "st_blocks", status.st_size // 512)) * 512


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageProblem(
            f"{path} cannot be read: {error}. Restore the index from a copy or sync a new one"
        ) from error
    return dict(values)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the file in one step: a reader sees the old content or the new."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageProblem(f"{path} cannot be written: {error.strerror}", path=path) from error
