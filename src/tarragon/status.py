"""What an index holds, found without opening it: works beside a process that has it open."""

from __future__ import annotations

import os
from pathlib import Path

from tarragon.errors import IndexNotFound, InvalidInput
from tarragon.store.folder import IndexFolder
from tarragon.types import Failure, IndexStatus


def read_status(path: str | os.PathLike[str], *, create: bool = True) -> IndexStatus:
    """What the index at this path holds. Only looks: works while another process has it open.

    Raises:
        IndexNotFound: There is none and ``create`` is False.
        NotAnIndex: The path holds something else.
    """
    if not create:
        require_index(local_path(path))
    folder = IndexFolder(local_path(path))
    version = folder.serving() if folder.path.exists() else None
    if version is None:
        return IndexStatus(str(folder.path))
    ledger = version.ledger(readonly=True)
    try:
        documents, chunks, unfinished = ledger.counts()
        failed = sorted(record for record in ledger.documents().items() if record[1].failure)
    finally:
        ledger.close()
    contract = version.contract
    return IndexStatus(
        path=str(folder.path),
        version=version.name,
        documents=documents,
        chunks=chunks,
        failures=tuple(Failure(name, record.failure or "") for name, record in failed),
        unfinished=unfinished,
        model=contract.model,
        fingerprint=contract.fingerprint,
        dimensions=contract.dimensions,
        recipe=contract.recipe.to_dict(),
        bytes=folder.size(),
    )


def local_path(path: str | os.PathLike[str]) -> Path:
    """The folder that a path names. Raises `InvalidInput` for a URL."""
    text = os.fspath(path)
    if "://" in text:
        raise InvalidInput(f"{text}: an index is a folder; Qdrant servers are not supported yet", path=text)
    return Path(text).expanduser().absolute()


def require_index(path: Path) -> None:
    """Raise `IndexNotFound` if there is no index."""
    if not path.exists() or IndexFolder(path).serving() is None:
        raise IndexNotFound(f"no index at {path} (in {Path.cwd()}). Make one: tarragon sync {path} FOLDER", path=path)
