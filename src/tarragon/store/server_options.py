"""Where an index on a server is, and how to reach and lay it out. Plain values; nothing here is sent anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tarragon.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.]|-(?!-))*")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to reach the server, and how to make collections there.

    Attributes:
        api_key: Sent with each request; shown nowhere.
        timeout: Seconds until a request is given up and tried again.
        retries: Tries after the first, with growing pauses.
        verify: Whether the server's certificate is checked.
        ca: A file of certificates to trust instead of the system's.
        prefer_grpc: Send points and queries by gRPC, through ``grpc_port``; collections and aliases too.
        grpc_port: Of the server.
        lease_seconds: How long a writer that was killed keeps others from writing. At least twice ``timeout``.
        shard_number: Of a version's two collections; the server's default where None, as for all that follow.
        replication_factor: Copies of each shard, of every collection of the index.
        write_consistency_factor: Copies that must have a write before it is acknowledged.
        on_disk: Whether the vectors as given are mapped from disk instead of kept in memory.
        on_disk_payload: Whether the payloads are.
        datatype: ``float32``, ``float16`` or ``uint8``: how the vectors as given are stored.
        quantization_config: As qdrant-client takes it, or as a dict of the REST interface.
        hnsw_config: The same, of the vector index.
    """

    api_key: str | None = field(default=None, repr=False)
    timeout: int = 30
    retries: int = 5
    verify: bool = True
    ca: str | Path | None = None
    prefer_grpc: bool = False
    grpc_port: int = 6334
    lease_seconds: float = 120.0
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    on_disk: bool | None = None
    on_disk_payload: bool | None = None
    datatype: str | None = None
    quantization_config: Any = None
    hnsw_config: Any = None

    def __post_init__(self) -> None:
        if self.timeout < 1 or self.retries < 0:
            raise InvalidInput(
                f"timeout={self.timeout} must be at least 1 second and retries={self.retries} at least 0"
            )
        if self.lease_seconds < 2 * self.timeout:
            raise InvalidInput(
                f"lease_seconds={self.lease_seconds} must be at least twice timeout={self.timeout}: a request must not "
                "outlive the lease it was started under"
            )
        if self.prefer_grpc and not self.verify:
            raise InvalidInput("gRPC cannot skip the check of certificates: name one with ca, or use prefer_grpc=False")

    @classmethod
    def of(cls, api_key: str | None, values: Mapping[str, Any]) -> ServerOptions:
        """Options by name. Raises `InvalidInput` on a name that does not exist."""
        known = [option.name for option in fields(cls) if option.name != "api_key"]
        if unknown := sorted(set(values) - set(known)):
            raise InvalidInput(f"unknown server option {unknown[0]!r}; known are {', '.join(known)}", option=unknown[0])
        return cls(api_key=api_key or None, **values)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where an index is: the server's URL, and the index's name."""

    url: str
    name: str

    @property
    def location(self) -> str:
        """For people."""
        return f"{self.url}/{self.name}"


def parse_address(url: str) -> ServerAddress:
    """Read ``http(s)://host:6333/name``; a path before the name is the prefix of a proxy.

    Raises:
        InvalidInput: No name, a name that cannot be used, or a password or question mark in the URL.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidInput("the URL of an index holds no user, password or query; pass api_key or set QDRANT_API_KEY")
    prefix, _, name = parts.path.rstrip("/").rpartition("/")
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise InvalidInput(f"{url} is not the URL of an index; it looks like http://localhost:6333/handbook", url=url)
    if not _NAME.fullmatch(name) or len(name) > 200:
        rule = "up to 200 letters, digits, '_', '.' and single '-'"
        raise InvalidInput(f"{name!r} cannot be the name of an index on a server: {rule}", name=name)
    port = parts.port or 6333
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return ServerAddress(f"{parts.scheme}://{host}:{port}{prefix}", name)
