"""What an index held at one time, small enough to keep: every chunk's id in eight bytes, and the vectors of some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import InvalidInput
from tarragon.evaluation.drift import MOST
from tarragon.index import Index
from tarragon.protocols import OpenVersion
from tarragon.serving import PAGE
from tarragon.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The chunks of an index at one time.

    Attributes:
        fingerprint: Of the dense space.
        ids: The first half of each chunk's id, ascending, shape ``(chunks,)``. Ids are digests: no two of a million
            chunks have the same first half but once in 30 million such indexes.
        vectors: Of at most `MOST` chunks, one of a document, shape ``(n, dimensions)``.
    """

    fingerprint: str
    ids: NDArray[np.uint64]
    vectors: FloatArray

    @classmethod
    def of(cls, index: Index) -> Reference:
        """What the index holds now."""
        with index._opened.reading() as version:
            ids = sorted(version.store.ids())
            halves = np.array([_half(id_) for id_ in ids], dtype=np.uint64)
            return cls(version.record.contract.fingerprint, halves, sample(version, ids))

    def write(self, path: Path) -> None:
        """In one step."""
        new = path.with_name(f".{path.name}.new")
        with new.open("wb") as file:
            np.savez(file, fingerprint=np.array(self.fingerprint), ids=self.ids, vectors=self.vectors)
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Reference:
        """What `write` wrote. Raises `InvalidInput` if it is missing or broken."""
        try:
            with np.load(path, allow_pickle=False) as values:
                return cls(str(values["fingerprint"]), values["ids"], values["vectors"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InvalidInput(f"{path} cannot be read: {error}; begin anew with --rebase", path=str(path)) from error

    def added(self, version: OpenVersion) -> tuple[int, int, FloatArray]:
        """How many chunks are new since then, how many are gone, and vectors of new ones as in `vectors`."""
        now = sorted(version.store.ids())
        halves = np.array([_half(id_) for id_ in now], dtype=np.uint64)
        is_new = ~np.isin(halves, self.ids)
        new = [now[place] for place in np.flatnonzero(is_new)]
        return len(new), int(np.count_nonzero(~np.isin(self.ids, halves))), sample(version, new)


def sample(version: OpenVersion, ids: Iterable[UUID], most: int = MOST) -> FloatArray:
    """Vectors of the first chunks that are each of another document, in this order; shape ``(n, dimensions)``.

    Chunks of one document are alike, and a test of whether two batches are would take them for more than they are.
    """
    rows: dict[str, FloatArray] = {}
    rest = iter(ids)
    while len(rows) < most and (page := list(islice(rest, PAGE))):
        payloads, vectors = version.store.payloads(page), version.store.vectors(page)
        for id_ in page:
            if id_ in payloads and id_ in vectors and len(rows) < most:
                rows.setdefault(payloads[id_]["document_id"], vectors[id_])
    return np.stack(list(rows.values())) if rows else np.empty((0, version.record.contract.dimensions), np.float32)


def _half(id_: UUID) -> int:
    return id_.int >> 64
