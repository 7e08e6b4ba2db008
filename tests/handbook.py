"""A small folder of documents, and ways to make and look into an index of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tarragon import Index
from tarragon.protocols import Ledger, OpenVersion, Store

HANDBOOK = {
    "keys.md": """# Signing keys

Every release is signed.

## Rotate the signing key

Run `keyctl rotate --stage` first. The old key stays valid for one hour, then the new key signs alone.

## Revoke a key

Revoke a leaked key at once with `keyctl revoke`. Clients refuse it within five minutes.
""",
    "backup.md": """# Backups

The database is copied every night to cold storage.

## Restore

Stop the writers, then run `restore --from cold`. It takes about an hour for each terabyte.
""",
    "guide/oncall.txt": "The engineer on call answers pages within ten minutes.\n\nHand over at noon.\n",
}


def version_of(index: Index) -> OpenVersion:
    """The serving version's store and ledger, for looking behind the door."""
    with index._opened.reading() as version:
        return version


@dataclass
class Interrupted:
    """A version with something that happens after each of the first readings of its store."""

    version: OpenVersion
    events: list[Callable[[], object]]

    @property
    def record(self) -> Any:
        return self.version.record

    @property
    def ledger(self) -> Ledger:
        return self.version.ledger

    @property
    def store(self) -> Store:
        return self  # type: ignore[return-value]

    def payloads(self, ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, Any]]:
        found = self.version.store.payloads(ids)
        if self.events:
            self.events.pop(0)()
        return found


def write(path: Path, text: str | bytes) -> Path:
    """Write a file and set its modification time an hour back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    earlier = path.stat().st_mtime - 3600
    os.utime(path, (earlier, earlier))
    return path
