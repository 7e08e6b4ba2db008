"""What the write path reads before it writes: chunks, what is stored of them, and where their vectors are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol
from uuid import UUID

from tarragon.background import Background, Foreground
from tarragon.chunking import Chunker
from tarragon.planning import ChunkDiff, WantedChunk, diff_chunks
from tarragon.protocols import ChunkRecord, DenseEncoder, Ledger, SideSpace, SideVector, Store
from tarragon.recipe import Chunking
from tarragon.sides import SideMaker
from tarragon.survey import Job
from tarragon.types import FloatArray


class Parts(Protocol):
    """What a sync needs of a version."""

    @property
    def store(self) -> Store:
        """Its chunks."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Its records."""
        ...


class VectorSource(Protocol):
    """Where vectors of the same space may be found, so that they need not be computed."""

    def having(self, hashes: Sequence[bytes]) -> Collection[bytes]:
        """Those of these chunk hashes that it has a vector for."""
        ...

    def vectors_of(self, hashes: Sequence[bytes]) -> Mapping[bytes, FloatArray]:
        """Those it has, by chunk hash."""
        ...

    def sides_of(self, space: SideSpace, hashes: Sequence[bytes]) -> Mapping[bytes, SideVector]:
        """Those it has in a space beside the dense one."""
        ...


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """The vectors of a version, by chunk hash. Its store is not touched before a vector is wanted."""

    version: Parts

    def having(self, hashes: Sequence[bytes]) -> Collection[bytes]:
        """See `VectorSource`."""
        return self.version.ledger.holders(hashes)

    def vectors_of(self, hashes: Sequence[bytes]) -> Mapping[bytes, FloatArray]:
        """See `VectorSource`."""
        holders = self.version.ledger.holders(hashes)
        stored = self.version.store.vectors(list(holders.values())) if holders else {}
        return {hash_: stored[id_] for hash_, id_ in holders.items() if id_ in stored}

    def sides_of(self, space: SideSpace, hashes: Sequence[bytes]) -> Mapping[bytes, SideVector]:
        """See `VectorSource`."""
        holders = self.version.ledger.holders(hashes)
        stored = self.version.store.sides(space, list(holders.values())) if holders else {}
        return {hash_: stored[id_] for hash_, id_ in holders.items() if id_ in stored}


class Writer:
    """What a sync writes with.

    Args:
        version: Receives the chunks, and knows what is there.
        load: Gives the encoder. Called only when there is something to chunk, since loading a model takes seconds.
        chunking: How to cut, and the most tokens in a chunk.
        donors: Where else vectors of this space may be, in the order in which they are asked.
        before_embedding: Called once a sync, before the first text is embedded; raises if the model is not to be
            trusted.
        compute: Runs the models: in a thread of their own, or at once.
        sides: What makes the vectors beside the dense one.
        before_write: Called with the bytes about to be written, before each window; may raise `DiskFull`.
    """

    def __init__(
        self,
        version: Parts,
        load: Callable[[], DenseEncoder],
        chunking: tuple[Chunking, int],
        *,
        donors: Sequence[VectorSource] = (),
        before_embedding: Callable[[], None] = lambda: None,
        before_write: Callable[[int], None] = lambda _: None,
        compute: Background | Foreground | None = None,
        sides: Sequence[SideMaker] = (),
    ) -> None:
        self._version = version
        self.donors = donors
        self.sides = sides
        self.before_embedding = before_embedding
        self.before_write = before_write
        self.compute = compute or Foreground()
        self._load = load
        self._chunking = chunking

    @property
    def vector_sources(self) -> list[VectorSource]:
        """Where to look for a vector before it is computed, in this order."""
        return [StoredVectors(self._version), *self.donors]

    @property
    def store(self) -> Store:
        """The version's."""
        return self._version.store

    @property
    def ledger(self) -> Ledger:
        """The version's."""
        return self._version.ledger

    @cached_property
    def encoder(self) -> DenseEncoder:
        """Makes the vectors."""
        return self._load()

    @cached_property
    def chunker(self) -> Chunker:
        """Cuts the documents."""
        chunking, limit = self._chunking
        return Chunker(self.encoder.tokenizer, limit, chunking=chunking)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be written: its chunks, what must be done about them, and the hashes of those to delete."""

    job: Job
    wanted: Sequence[WantedChunk]
    diff: ChunkDiff
    dropped: Mapping[UUID, bytes]


def prepare(job: Job, wanted: Sequence[WantedChunk], writer: Writer) -> Prepared:
    """Compare a document's chunks with what is stored; writes nothing."""
    rows, stored = _stored(job, writer)
    diff = diff_chunks(wanted, stored)
    hashes = {row.id: row.hash for row in rows}
    return Prepared(job, wanted, diff, {id_: hashes[id_] for id_ in diff.drop})


def find_vectors(hashes: Sequence[bytes], writer: Writer) -> dict[bytes, FloatArray]:
    """Vectors of these chunks that need not be computed, wherever the same text is."""
    found: dict[bytes, FloatArray] = {}
    for place in writer.vector_sources:
        found |= place.vectors_of([hash_ for hash_ in hashes if hash_ not in found])
    return found


def find_sides(space: SideSpace, hashes: Sequence[bytes], writer: Writer) -> dict[bytes, SideVector]:
    """The same for a space beside the dense one."""
    found: dict[bytes, SideVector] = {}
    for place in writer.vector_sources:
        if missing := [hash_ for hash_ in hashes if hash_ not in found]:
            found |= place.sides_of(space, missing)
    return found


def has_vectors(hashes: Collection[bytes], writer: Writer) -> set[bytes]:
    """Those of these chunks for which `find_vectors` would find one."""
    found: set[bytes] = set()
    for place in writer.vector_sources:
        found.update(place.having([hash_ for hash_ in hashes if hash_ not in found]))
    return found


def _stored(job: Job, writer: Writer) -> tuple[list[ChunkRecord], dict[UUID, bytes]]:
    """Records of the document's chunks, and of those that are stored: id → digest of the payload.

    After an interruption the rows name chunks that may not be there, with payloads that may not be the recorded ones:
    then the store is asked, and every payload is written again.
    """
    if job.base is None or (job.is_new and not job.was_interrupted):
        return [], {}
    rows = writer.ledger.chunks(job.document.id)
    if not job.was_interrupted:
        return rows, {row.id: row.payload for row in rows}
    present = writer.store.vectors([row.id for row in rows])
    return rows, {row.id: b"" for row in rows if row.id in present}
