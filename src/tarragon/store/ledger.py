"""The ledger as a SQLite file in the version's folder, so that it travels with the data."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from tarragon.errors import DiskFull, StorageProblem
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite, LedgerCounts, ServedChunk

_LARGE = "attachment:"
"""Begins the keys of notes that `notes` does not bring along."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    document_id TEXT PRIMARY KEY,
    namespace   TEXT NOT NULL,
    status      TEXT NOT NULL,      -- ok, writing, settling, deleting; failed: never indexed
    state       BLOB,               -- what it was last indexed from; NULL before the first time
    hint        TEXT,               -- of the file when it was read; NULL where only reading can tell
    failure     TEXT                -- why the last sync could not index it; its former text keeps being served
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (
    chunk_id    BLOB PRIMARY KEY,
    document_id TEXT NOT NULL,
    chunk_hash  BLOB NOT NULL,
    payload     BLOB NOT NULL,      -- digest of what is stored beside the vector
    tokens      INTEGER NOT NULL,
    served      INTEGER NOT NULL,   -- 0: may be stored, is not shown
    pending     TEXT                -- payload that the store may not have yet, as JSON
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_by_document ON chunks (document_id);
CREATE INDEX IF NOT EXISTS chunks_by_hash ON chunks (chunk_hash);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_RECORD = "document_id, namespace, status, state, hint, failure"


class SqliteLedger:
    """Reads and writes one ledger file. Safe to use from several threads; readers never wait for a writer.

    Args:
        path: The SQLite file; made if it is not there.
        readonly: Only look, beside a process that writes.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._reading = threading.Lock()
        with _sqlite_errors(path):
            self._db = _connect(path, "ro" if readonly else "rwc")
            if not readonly:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(_SCHEMA)
            self._reader = _connect(path, "ro")

    # --- reading ------------------------------------------------------------------------------------------------------
    def documents(self, namespace: str | None = None) -> dict[str, DocumentRecord]:
        """See `tarragon.protocols.Ledger`."""
        query = f"SELECT {_RECORD} FROM documents WHERE :namespace IS NULL OR namespace = :namespace"  # noqa: S608
        with self._lock, _sqlite_errors(self._path):
            return {row[0]: DocumentRecord._make(row) for row in self._db.execute(query, {"namespace": namespace})}

    def document(self, document_id: str) -> DocumentRecord | None:
        """See `tarragon.protocols.Ledger`."""
        rows = self._rows(f"SELECT {_RECORD} FROM documents WHERE document_id = ?", (document_id,))  # noqa: S608
        return DocumentRecord(*rows[0]) if rows else None

    def failures(self) -> dict[str, str]:
        """See `tarragon.protocols.Ledger`."""
        return dict(self._rows("SELECT document_id, failure FROM documents WHERE failure IS NOT NULL"))

    def namespaces(self) -> set[str]:
        """See `tarragon.protocols.Ledger`."""
        return {namespace for (namespace,) in self._rows("SELECT DISTINCT namespace FROM documents")}

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """See `tarragon.protocols.Ledger`."""
        query = "SELECT chunk_id, chunk_hash, payload, tokens FROM chunks WHERE document_id = ?"
        return [ChunkRecord(UUID(bytes=id_), *rest) for id_, *rest in self._rows(query, (document_id,))]

    def served(self, ids: Sequence[UUID]) -> dict[UUID, ServedChunk]:
        """See `tarragon.protocols.Ledger`. Reads through a connection of its own, which no writer blocks."""
        query = f"""
            SELECT chunk_id, payload, pending, {_RECORD} FROM chunks JOIN documents USING (document_id)
            WHERE chunk_id IN ({", ".join("?" * len(ids))}) AND served AND status != 'deleting'
        """  # noqa: S608 - only question marks are put in
        with self._reading, _sqlite_errors(self._path):
            rows = self._reader.execute(query, [id_.bytes for id_ in ids]).fetchall()
        return {UUID(bytes=row[0]): ServedChunk(DocumentRecord(*row[3:]), row[1], _loaded(row[2])) for row in rows}

    def revision(self) -> int:
        """See `tarragon.protocols.Ledger`. SQLite's own count of what other connections than the reader's committed."""
        with self._reading, _sqlite_errors(self._path):
            return int(self._reader.execute("PRAGMA data_version").fetchone()[0])

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """See `tarragon.protocols.Ledger`."""
        query = """
            SELECT min(chunk_id) FROM chunks JOIN documents USING (document_id)
            WHERE chunk_hash = ? AND served AND status != 'deleting'
        """
        found = ((hash_, self._rows(query, (hash_,))[0][0]) for hash_ in hashes)
        return {hash_: UUID(bytes=chunk) for hash_, chunk in found if chunk is not None}

    def counts(self) -> LedgerCounts:
        """See `tarragon.protocols.Ledger`."""
        query = """
            SELECT (SELECT count(*) FROM documents WHERE state IS NOT NULL AND status != 'deleting'),
                   count(*), coalesce(sum(tokens), 0),
                   (SELECT count(*) FROM documents WHERE status IN ('writing', 'settling', 'deleting'))
            FROM chunks
            WHERE served AND document_id NOT IN (SELECT document_id FROM documents WHERE status = 'deleting')
        """  # not a join, which looks up the document of every chunk: 1.5 s instead of .1 for a million
        return LedgerCounts(*self._rows(query)[0])

    def notes(self) -> dict[str, str]:
        """See `tarragon.protocols.Ledger`."""
        return dict(self._rows("SELECT key, value FROM notes WHERE substr(key, 1, ?) <> ?", (len(_LARGE), _LARGE)))

    def attachment(self, key: str) -> str | None:
        """See `tarragon.protocols.Ledger`."""
        rows = self._rows("SELECT value FROM notes WHERE key = ?", (_LARGE + key,))
        return str(rows[0][0]) if rows else None

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock, _sqlite_errors(self._path):
            return self._db.execute(query, values).fetchall()

    # --- writing ------------------------------------------------------------------------------------------------------
    def intend(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE chunks SET served = 0 WHERE document_id = ?1 AND EXISTS "
                "(SELECT 1 FROM documents WHERE document_id = ?1 AND status = 'deleting')",
                [(write.record.document_id,) for write in writes],
            )
            db.executemany(
                "INSERT INTO documents VALUES (?, ?, 'writing', NULL, NULL, NULL) "
                "ON CONFLICT (document_id) DO UPDATE SET status = 'writing', namespace = excluded.namespace",
                [(write.record.document_id, write.record.namespace) for write in writes],
            )
            db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?, ?, 0, NULL)", _chunk_rows(writes))

    def switch(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            ids = [(write.record.document_id,) for write in writes]
            db.executemany("UPDATE chunks SET served = 0, pending = NULL WHERE document_id = ?", ids)
            db.executemany(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?, 1, NULL) ON CONFLICT (chunk_id) "
                "DO UPDATE SET served = 1, payload = excluded.payload, tokens = excluded.tokens",
                _chunk_rows(writes),
            )
            db.executemany("UPDATE chunks SET pending = ? WHERE chunk_id = ?", _pending_rows(writes))
            self._replace(write.record for write in writes)
            db.executemany(
                "UPDATE documents SET status = 'settling' WHERE document_id = ?1 AND EXISTS "
                "(SELECT 1 FROM chunks WHERE document_id = ?1 AND (NOT served OR pending IS NOT NULL))",
                ids,
            )

    def settle(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""
        ids = [(document_id,) for document_id in document_ids]
        with self._transaction() as db:
            db.executemany("DELETE FROM chunks WHERE document_id = ? AND NOT served", ids)
            db.executemany("UPDATE chunks SET pending = NULL WHERE document_id = ?", ids)
            db.executemany("UPDATE documents SET status = 'ok' WHERE document_id = ?", ids)

    def record(self, records: Iterable[DocumentRecord]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction():
            self._replace(records)

    def intend_deletion(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            query = "UPDATE documents SET status = 'deleting' WHERE document_id = ?"
            db.executemany(query, [(document_id,) for document_id in document_ids])

    def commit_deletion(self, document_ids: Sequence[str]) -> None:
        """See `tarragon.protocols.Ledger`."""
        values = [(document_id,) for document_id in document_ids]
        with self._transaction() as db:
            db.executemany("DELETE FROM chunks WHERE document_id = ?", values)
            db.executemany("DELETE FROM documents WHERE document_id = ?", values)

    def note(self, key: str, value: str | None) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            if value is None:
                db.execute("DELETE FROM notes WHERE key = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def attach(self, key: str, text: str | None) -> None:
        """See `tarragon.protocols.Ledger`."""
        self.note(_LARGE + key, text)

    def close(self) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._reading, self._lock:
            self._reader.close()
            self._db.close()

    def _replace(self, records: Iterable[DocumentRecord]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)",
            [(r.document_id, r.namespace, r.status, r.state, r.hint, r.failure) for r in records],
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _sqlite_errors(self._path):
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=10)


def _chunk_rows(writes: Sequence[DocumentWrite]) -> Iterator[tuple[bytes, str, bytes, bytes, int]]:
    for write in writes:
        for chunk in write.chunks:
            yield chunk.id.bytes, write.record.document_id, chunk.hash, chunk.payload, chunk.tokens


def _pending_rows(writes: Sequence[DocumentWrite]) -> Iterator[tuple[str, bytes]]:
    for write in writes:
        for id_, payload in write.pending.items():
            yield json.dumps(payload, ensure_ascii=False), id_.bytes


def _loaded(pending: str | None) -> Mapping[str, Any] | None:
    return None if pending is None else dict(json.loads(pending))


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise DiskFull(f"the disk that holds {path} is full; free some room and sync again", path=path) from error
        raise StorageProblem(f"{path}: {error}", path=path) from error
