"""An embedded index on disk: the lock, the pointer and the versions.

handbook.tarragon/
    tarragon.json               the pointer: which version serves; replaced atomically
    lock                        held by the process that has the index open
    versions/v1/contract.json   what the version was built under; never changed
    versions/v1/ledger.sqlite   what it holds of each document
    versions/v1/shard/          the engine's files
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tarragon.errors import DiskFull, IndexLocked, NotAnIndex, StorageProblem
from tarragon.identity import fingerprint, space_name
from tarragon.protocols import DenseEncoder
from tarragon.recipe import IndexRecipe
from tarragon.store.ledger import SqliteLedger

FORMAT = 1
"""Of this layout. A newer one is refused."""

POINTER = "tarragon.json"
_OWN_NAMES = {POINTER, "lock", "holder.json", "versions", f".{POINTER}.new", ".holder.json.new"}


@dataclass(frozen=True, slots=True)
class Contract:
    """What a version was built under.

    Attributes:
        recipe: The settings.
        model: Name of the model, for people.
        dimensions: Length of its vectors.
        identity: What makes its space, field by field, to say what differs; see `tarragon.identity.fingerprint`.
    """

    recipe: IndexRecipe
    model: str
    dimensions: int
    identity: Mapping[str, str]

    @classmethod
    def of(cls, recipe: IndexRecipe, encoder: DenseEncoder) -> Contract:
        """The contract under which this recipe and encoder build."""
        return cls(recipe, encoder.name, encoder.dimensions, dict(encoder.identity))

    @property
    def fingerprint(self) -> str:
        """Identifies the space."""
        return fingerprint(self.identity)

    @property
    def space(self) -> str:
        """Name of the vectors in the store."""
        return space_name(self.fingerprint)


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """One version on disk: a contract and the places of its data."""

    path: Path
    contract: Contract

    @property
    def name(self) -> str:
        """Such as ``v1``."""
        return self.path.name

    @property
    def shard(self) -> Path:
        """The engine's folder."""
        return self.path / "shard"

    @property
    def ledger_path(self) -> Path:
        """The ledger's file."""
        return self.path / "ledger.sqlite"

    def ledger(self, *, readonly: bool = False) -> SqliteLedger:
        """Open the ledger."""
        return SqliteLedger(self.ledger_path, readonly=readonly)


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
                "try again. 'tarragon status' works meanwhile",
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

    def serving(self) -> VersionFolder | None:
        """The version that the pointer names; None before the first one."""
        if not self._is_index():
            return None
        pointer = _read_json(self.path / POINTER)
        if pointer.get("format") != FORMAT:
            raise NotAnIndex(
                f"{self.path} has layout {pointer.get('format')!r}; this Tarragon reads {FORMAT}. Upgrade Tarragon",
                path=self.path,
            )
        path = self.path / "versions" / str(pointer["serving"])
        values = _read_json(path / "contract.json")
        recipe = IndexRecipe.from_dict(values["recipe"])
        return VersionFolder(path, Contract(recipe, values["model"], values["dimensions"], values["identity"]))

    def create_version(self, contract: Contract) -> VersionFolder:
        """Make a folder for a new version. It serves only once `point_to` names it."""
        versions = self.path / "versions"
        number = 1 + max((int(entry.name[1:]) for entry in versions.glob("v*") if entry.name[1:].isdigit()), default=0)
        version = VersionFolder(versions / f"v{number}", contract)
        version.path.mkdir(parents=True)
        values = asdict(contract) | {"recipe": contract.recipe.to_dict(), "fingerprint": contract.fingerprint}
        _write_json(version.path / "contract.json", values)
        return version

    def point_to(self, version: VersionFolder) -> None:
        """Let this version serve, in one atomic step."""
        _write_json(self.path / POINTER, {"format": FORMAT, "serving": version.name})

    def size(self) -> int:
        """Bytes on disk, as allocated."""
        folders = os.walk(self.path)  # unlike rglob, it passes over what the engine drops meanwhile
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
