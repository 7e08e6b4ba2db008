"""What an index holds. Of a folder it is found without opening it: works beside a process that has it open."""

from __future__ import annotations

import os

from tarragon.contract import VersionRecord
from tarragon.homes import is_url, local_path, open_catalog, require_index
from tarragon.protocols import Catalog, Ledger
from tarragon.reports import Failure, IndexStatus
from tarragon.store.folder import IndexFolder
from tarragon.store.ledger import SqliteLedger


def read_status(path: str | os.PathLike[str], *, create: bool = True, api_key: str | None = None) -> IndexStatus:
    """What the index at this place holds. Only looks: works while another process has it open.

    Raises:
        IndexNotFound: There is none and ``create`` is False.
        NotAnIndex: The path holds something else.
    """
    if is_url(path):
        catalog = open_catalog(path, create=create, api_key=api_key)
        try:
            return catalog_status(catalog)
        finally:
            catalog.close()
    if not create:
        require_index(local_path(path))
    folder = IndexFolder(local_path(path))
    name = folder.serving() if folder.path.exists() else None
    if name is None:
        return IndexStatus(str(folder.path))
    ledger = SqliteLedger(folder.ledger_path(name), readonly=True)
    try:
        return _status(str(folder.path), folder.record(name), ledger, folder.size())
    finally:
        ledger.close()


def catalog_status(catalog: Catalog) -> IndexStatus:
    """What an open index holds."""
    with catalog.reading() as version:
        if version is None:
            return IndexStatus(catalog.location)
        size = sum(catalog.size(record.name) for record in catalog.versions())
        return _status(catalog.location, version.record, version.ledger, size)


def _status(location: str, record: VersionRecord, ledger: Ledger, size: int) -> IndexStatus:
    counts = ledger.counts()
    contract = record.contract
    return IndexStatus(
        path=location,
        version=record.name,
        documents=counts.documents,
        chunks=counts.chunks,
        failures=tuple(Failure(name, why) for name, why in sorted(ledger.failures().items()) if why),
        unfinished=counts.unfinished,
        model=contract.model,
        fingerprint=contract.fingerprint,
        dimensions=contract.dimensions,
        recipe=contract.recipe.to_dict(),
        bytes=size,
    )
