"""From a path or URL to the catalog of the index that lives there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tarragon.errors import IndexNotFound, InvalidInput
from tarragon.protocols import Catalog
from tarragon.store.folder import IndexFolder


def open_catalog(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    api_key: str | None = None,
    server: Mapping[str, Any] | None = None,
) -> Catalog:
    """The catalog of an index.

    Raises:
        IndexNotFound: There is none and ``create`` is False.
        InvalidInput: Options of a server are given for a folder.
    """
    if is_url(path):
        from tarragon.store.server_catalog import ServerCatalog  # needs the extra

        catalog: Catalog = ServerCatalog.open(os.fspath(path), api_key=api_key, **(server or {}))
        if not create and catalog.serving() is None:
            catalog.close()
            raise IndexNotFound(f"no index at {catalog.location}. Make one: tarragon sync {catalog.location} FOLDER")
        return catalog
    if api_key is not None or server:
        raise InvalidInput(f"{os.fspath(path)} is a folder; api_key and server are for http://host:6333/name")
    from tarragon.store.embedded import attach  # the engine's library is loaded only where it is used

    folder = local_path(path)
    if not create:
        require_index(folder)
    return attach(folder)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether this names a server."""
    return "://" in os.fspath(path)


def local_path(path: str | os.PathLike[str]) -> Path:
    """The folder that a path names."""
    return Path(os.fspath(path)).expanduser().absolute()


def require_index(path: Path) -> None:
    """Raise `IndexNotFound` if there is no index."""
    if not path.exists() or IndexFolder(path).serving() is None:
        raise IndexNotFound(f"no index at {path} (in {Path.cwd()}). Make one: tarragon sync {path} FOLDER", path=path)
