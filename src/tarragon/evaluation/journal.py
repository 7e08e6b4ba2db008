"""Results of calls that cost money, one JSON object a line, so that none is paid for twice.

Each line is flushed to the disk when it is written. A run that was killed goes on from there: what is whole counts, and
a last line that was cut off is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from tarragon.errors import InvalidInput


class Journal:
    """A file of records, by a ``key`` that each has; the last one of a key counts. Safe to use from several threads.

    Args:
        path: The file, made if there is none. None: nothing is kept beyond this object.

    Raises:
        InvalidInput: It holds something else.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._lock = Lock()
        self._file = None
        self.records: dict[str, dict[str, Any]] = {}
        if path is not None:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            try:
                self._read(path)
            except BaseException:
                self._file.close()
                raise

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record."""
        kept = dict(record)
        line = (json.dumps(kept, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            self.records[str(kept["key"])] = kept
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path) -> None:
        assert self._file is not None
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                self.records[record["key"]] = record
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidInput(
                    f"{path}, line {number}: no record of an evaluation; name another file to write to",
                    path=str(path),
                    line=number,
                ) from error
        if whole < len(data):
            self._file.truncate(whole)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
