"""Vectors that were made before they have a place: by encoder and text, in a SQLite file that may be deleted any time.

A bridge embeds passages with a model whose index is not built yet. What it made is kept here, and a later upgrade finds
it. Nothing depends on it: without the file, or with one that cannot be read, vectors are computed again.

Every call opens the file for itself, so that any number of threads and processes can use it and nobody has to close it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tarragon.identity import digest
from tarragon.protocols import SideSpace, SideVector
from tarragon.types import FloatArray

NAME = "cache.sqlite"
"""Of the file in an index's folder."""

REVISION = 1
"""Of the tables below. A file of any other is begun anew."""

_SCHEMA = f"""
CREATE TABLE spaces (
    fingerprint TEXT PRIMARY KEY,
    dimensions  INTEGER NOT NULL,
    label       TEXT NOT NULL       -- of the runtime that made the vectors: see VectorCache.keep
);
CREATE TABLE vectors (
    fingerprint TEXT NOT NULL,
    chunk_hash  BLOB NOT NULL,
    vector      BLOB NOT NULL,      -- little-endian float32
    PRIMARY KEY (fingerprint, chunk_hash)
);
PRAGMA user_version = {REVISION};
"""

_FOUND = """
    FROM vectors JOIN spaces USING (fingerprint)
    WHERE fingerprint = ? AND label = ? AND typeof(vector) = 'blob' AND length(vector) = 4 * dimensions
    AND chunk_hash IN
"""
_TOGETHER = 500
_PATIENCE = 10.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


def cache_path(location: str) -> Path:
    """Where the vectors of an index are kept: in its folder, or for a server in the user's own cache folder."""
    if "://" not in location and Path(location).is_absolute():
        return Path(location) / NAME
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tarragon" / f"{digest('cache', location).hex()}.sqlite"


class VectorCache:
    """Vectors by the fingerprint of their encoder and the hash of their text. Never raises what a file system does.

    Args:
        path: The file. Made, readable for its owner only, when the first vector is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    # --- reading ------------------------------------------------------------------------------------------------------
    def of(self, fingerprint: str, label: str) -> CachedVectors:
        """The vectors of an encoder that were kept under this label; the file need not be there."""
        return CachedVectors(self, fingerprint, label)

    def label(self, fingerprint: str) -> str | None:
        """The label under which an encoder's vectors are kept; None if there are none."""
        rows = self._read("SELECT label FROM spaces WHERE fingerprint = ?", (fingerprint,))
        return str(rows[0][0]) if rows else None

    def spaces(self) -> list[str]:
        """The fingerprints that it has vectors of."""
        return [str(row[0]) for row in self._read("SELECT fingerprint FROM spaces ORDER BY fingerprint")]

    def rows(self, columns: str, fingerprint: str, label: str, hashes: Sequence[bytes]) -> Iterator[Any]:
        """Columns of the vectors of these texts, without those of another length than their space."""
        for start in range(0, len(hashes), _TOGETHER):
            part = hashes[start : start + _TOGETHER]
            query = f"SELECT {columns} {_FOUND} ({', '.join('?' * len(part))})"
            yield from self._read(query, (fingerprint, label, *part))

    def _read(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        def read() -> list[Any]:
            if not self._path.is_file():
                return []
            with closing(_connect(self._path, "rw")) as db:  # not "ro", which cannot clear up after a crash
                return db.execute(query, values).fetchall() if _revision(db) == REVISION else []

        return self._guarded(read, [])

    # --- writing ------------------------------------------------------------------------------------------------------
    def keep(self, fingerprint: str, vectors: Mapping[bytes, FloatArray], *, label: str) -> None:
        """Keep vectors by chunk hash. What cannot be written is only logged.

        Args:
            fingerprint: Of the encoder.
            vectors: Each of shape ``(dimensions,)``.
            label: Of the runtime that made them, such as its canaries. Vectors of another one are dropped: one space is
                never mixed.
        """
        if vectors:
            self._guarded(lambda: self._keep(fingerprint, vectors, label), None)

    def _keep(self, fingerprint: str, vectors: Mapping[bytes, FloatArray], label: str) -> None:
        self._make()
        with closing(_connect(self._path, "rw")) as db:
            db.execute("BEGIN IMMEDIATE")
            if _revision(db) != REVISION:
                if _revision(db) or db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise sqlite3.DatabaseError(f"it is of revision {_revision(db)}, not {REVISION}")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
            space = len(next(iter(vectors.values()))), label
            if (
                db.execute("SELECT dimensions, label FROM spaces WHERE fingerprint = ?", (fingerprint,)).fetchone()
                != space
            ):
                db.execute("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint,))
                db.execute("INSERT OR REPLACE INTO spaces VALUES (?, ?, ?)", (fingerprint, *space))
            rows = ((fingerprint, hash_, vector.astype("<f4").tobytes()) for hash_, vector in vectors.items())
            db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")

    def _make(self) -> None:
        """An empty file, if there is none, that nobody else may read."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))

    def clear(self, fingerprint: str | None = None) -> None:
        """Drop the vectors of one encoder, or all and the file."""
        if fingerprint is not None and set(self.spaces()) - {fingerprint}:
            self._guarded(lambda: self._drop(fingerprint), None)
        elif fingerprint is None or self.spaces():
            self._guarded(self._remove, None)

    def _drop(self, fingerprint: str) -> None:
        with closing(_connect(self._path, "rw")) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint,))
            db.execute("DELETE FROM spaces WHERE fingerprint = ?", (fingerprint,))
            db.execute("COMMIT")
            db.execute("VACUUM")

    def _remove(self) -> None:
        for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            path.unlink(missing_ok=True)

    def _guarded(self, work: Callable[[], T], instead: T) -> T:
        """Work on the file. A broken one is removed and the work done again, on nothing; else it is done without."""
        try:
            return work()
        except (sqlite3.OperationalError, OSError) as error:  # busy, full, read-only: perhaps not for ever
            _log.warning("%s cannot be used: %s; vectors are computed again", self._path, error)
            return instead
        except sqlite3.Error as error:
            _log.warning("%s is broken: %s; it is begun anew, and vectors are computed again", self._path, error)
        with suppress(sqlite3.Error, OSError):
            self._remove()
            return work()
        return instead


@dataclass(frozen=True, slots=True)
class CachedVectors:
    """The vectors of one encoder: a `tarragon.preparing.VectorSource`."""

    cache: VectorCache
    fingerprint: str
    label: str

    def having(self, hashes: Sequence[bytes]) -> Collection[bytes]:
        """See `tarragon.preparing.VectorSource`."""
        return {row[0] for row in self.cache.rows("chunk_hash", self.fingerprint, self.label, hashes)}

    def vectors_of(self, hashes: Sequence[bytes]) -> Mapping[bytes, FloatArray]:
        """See `tarragon.preparing.VectorSource`."""
        rows = self.cache.rows("chunk_hash, vector", self.fingerprint, self.label, hashes)
        found = {hash_: np.frombuffer(data, dtype="<f4").astype(np.float32) for hash_, data in rows}
        return {hash_: vector for hash_, vector in found.items() if np.isfinite(vector).all()}

    def sides_of(self, space: SideSpace, hashes: Sequence[bytes]) -> Mapping[bytes, SideVector]:
        """See `tarragon.preparing.VectorSource`. None: bridges make dense vectors only."""
        return {}


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_PATIENCE)


def _revision(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
