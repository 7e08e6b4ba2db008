"""The ledger as a SQLite file in the version's folder, so that it travels with the data."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from tarragon.errors import DiskFull, StorageProblem
from tarragon.protocols import ChunkRecord, DocumentRecord, DocumentWrite

_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    document_id TEXT PRIMARY KEY,
    namespace   TEXT NOT NULL,
    status      TEXT NOT NULL,      -- ok, writing, deleting; failed: never indexed
    state       BLOB,               -- what it was last indexed from; NULL before the first time
    hint        TEXT,               -- of the file when it was read; NULL where only reading can tell
    failure     TEXT                -- why the last sync could not index it; its former text keeps being served
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (
    document_id TEXT NOT NULL,
    chunk_id    BLOB NOT NULL,
    chunk_hash  BLOB NOT NULL,
    payload     BLOB NOT NULL,      -- digest of what is stored beside the vector
    PRIMARY KEY (document_id, chunk_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunks_by_hash ON chunks (chunk_hash);
"""


class SqliteLedger:
    """Reads and writes one ledger file. Safe to use from several threads.

    Args:
        path: The SQLite file; made if it is not there.
        readonly: Only look, beside a process that writes.
    """

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        self._path = path
        self._lock = threading.RLock()
        uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
        with _sqlite_errors(path):
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None, timeout=10)
            if not readonly:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.executescript(_SCHEMA)

    # --- reading ------------------------------------------------------------------------------------------------------
    def documents(self, namespace: str | None = None) -> dict[str, DocumentRecord]:
        """See `tarragon.protocols.Ledger`."""
        query = """
            SELECT document_id, namespace, status, state, hint, failure FROM documents
            WHERE :namespace IS NULL OR namespace = :namespace
        """
        rows = self._rows(query, {"namespace": namespace})
        return {row[0]: DocumentRecord(*row) for row in rows}

    def document(self, document_id: str) -> DocumentRecord | None:
        """See `tarragon.protocols.Ledger`."""
        query = "SELECT document_id, namespace, status, state, hint, failure FROM documents WHERE document_id = ?"
        rows = self._rows(query, (document_id,))
        return DocumentRecord(*rows[0]) if rows else None

    def chunks(self, document_id: str) -> list[ChunkRecord]:
        """See `tarragon.protocols.Ledger`."""
        rows = self._rows("SELECT chunk_id, chunk_hash, payload FROM chunks WHERE document_id = ?", (document_id,))
        return [ChunkRecord(UUID(bytes=row[0]), row[1], row[2]) for row in rows]

    def holders(self, hashes: Iterable[bytes]) -> dict[bytes, UUID]:
        """See `tarragon.protocols.Ledger`."""
        query = """
            SELECT min(chunk_id) FROM chunks JOIN documents USING (document_id)
            WHERE chunk_hash = ? AND status = 'ok'
        """
        found = ((hash_, self._rows(query, (hash_,))[0][0]) for hash_ in hashes)
        return {hash_: UUID(bytes=chunk) for hash_, chunk in found if chunk is not None}

    def counts(self) -> tuple[int, int, int]:
        """See `tarragon.protocols.Ledger`."""
        query = """
            SELECT (SELECT count(*) FROM documents WHERE status = 'ok'),
                   (SELECT count(*) FROM chunks JOIN documents USING (document_id) WHERE status = 'ok'),
                   (SELECT count(*) FROM documents WHERE status IN ('writing', 'deleting'))
        """
        documents, chunks, unfinished = self._rows(query)[0]
        return documents, chunks, unfinished

    def _rows(self, query: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[tuple]:  # type: ignore[type-arg] # SQLite's rows
        with self._lock, _sqlite_errors(self._path):
            return self._db.execute(query, values).fetchall()

    # --- writing ------------------------------------------------------------------------------------------------------
    def intend(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO documents VALUES (?, ?, 'writing', NULL, NULL, NULL) "
                "ON CONFLICT (document_id) DO UPDATE SET status = 'writing', namespace = excluded.namespace",
                [(write.record.document_id, write.record.namespace) for write in writes],
            )
            db.executemany("INSERT OR IGNORE INTO chunks VALUES (?, ?, ?, ?)", _chunk_rows(writes))

    def commit(self, writes: Sequence[DocumentWrite]) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM chunks WHERE document_id = ?", [(write.record.document_id,) for write in writes]
            )
            db.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", _chunk_rows(writes))
            self._replace(write.record for write in writes)

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

    def close(self) -> None:
        """See `tarragon.protocols.Ledger`."""
        with self._lock:
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


def _chunk_rows(writes: Sequence[DocumentWrite]) -> Iterator[tuple[str, bytes, bytes, bytes]]:
    for write in writes:
        for chunk in write.chunks:
            yield write.record.document_id, chunk.id.bytes, chunk.hash, chunk.payload


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise DiskFull(f"the disk that holds {path} is full; free some room and sync again", path=path) from error
        raise StorageProblem(f"{path}: {error}", path=path) from error
