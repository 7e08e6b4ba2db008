"""Vectors beside the dense one, on the way into the store: a short form for a first pass, learned sparse, late ones.

They belong to a chunk as its dense vector does, and go into the store with it, in one write. So a chunk that is served
is found by every leg.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol
from uuid import UUID

import numpy as np

from tarragon.contract import Prefix, SideContract
from tarragon.errors import EncodingFailed, StorageProblem
from tarragon.protocols import LateEncoder, SideSpace, SideVector, SparseEncoder, Store
from tarragon.statistics import fit
from tarragon.types import FloatArray, SparseVector

PAGE = 500
"""Chunks that are completed at once."""

SAMPLE = 4_096
"""Chunks that statistics are made from: those with the least ids, which are as good as drawn at random."""

FEWEST = 64
"""Chunks from which statistics are made; of fewer they would say little."""

Sides = dict[str, dict[bytes, SideVector]]
"""By space, by chunk hash."""


class SideMaker(Protocol):
    """Makes the vectors of one space."""

    @property
    def space(self) -> SideSpace:
        """Where they go."""
        ...

    @property
    def is_derived(self) -> bool:
        """Whether they follow from the dense vectors, so that making them costs nothing."""
        ...

    def make(self, texts: Mapping[bytes, str], dense: Mapping[bytes, FloatArray]) -> dict[bytes, SideVector]:
        """By chunk hash; without those that the model could not make, or that are not finite."""
        ...


@dataclass(frozen=True, slots=True)
class PrefixMaker:
    """Short vectors, from the dense ones.

    Attributes:
        prefix: How.
        axes: What they are turned onto, shape ``(at least the prefix's dimensions, dimensions)``, or None.
    """

    prefix: Prefix
    axes: FloatArray | None

    @property
    def space(self) -> SideSpace:
        """See `SideMaker`."""
        return prefix_space(self.prefix)

    @property
    def is_derived(self) -> bool:
        """See `SideMaker`."""
        return True

    def make(self, texts: Mapping[bytes, str], dense: Mapping[bytes, FloatArray]) -> dict[bytes, SideVector]:
        """See `SideMaker`. Raises `StorageProblem` where the axes are lost: without them short vectors mean nothing."""
        if not texts:
            return {}
        if self.prefix.rotation and self.axes is None:
            raise StorageProblem(f"the axes of the first pass {self.prefix.space} are lost; tune again: Index.tune")
        rows = shorten(np.stack([dense[hash_] for hash_ in texts]), self.prefix, self.axes)
        return dict(zip(texts, rows, strict=True))


@dataclass(frozen=True, slots=True)
class EncodedSide:
    """Vectors of a model of their own.

    Attributes:
        contract: What the space is built with.
        load: Gives the encoder. Called only when there is something to encode.
    """

    contract: SideContract
    load: Callable[[], SparseEncoder | LateEncoder]

    @property
    def space(self) -> SideSpace:
        """See `SideMaker`."""
        return side_space(self.contract)

    @property
    def is_derived(self) -> bool:
        """See `SideMaker`."""
        return False

    def make(self, texts: Mapping[bytes, str], dense: Mapping[bytes, FloatArray]) -> dict[bytes, SideVector]:
        """See `SideMaker`."""
        if not texts:
            return {}
        encoder = self.load()
        try:
            vectors: Sequence[SideVector] = encoder.encode_documents(list(texts.values())).vectors
        except EncodingFailed:
            if len(texts) == 1:
                return {}
            entries = list(texts.items())
            middle = len(entries) // 2
            return self.make(dict(entries[:middle]), dense) | self.make(dict(entries[middle:]), dense)
        if len(vectors) != len(texts):
            raise EncodingFailed(f"{encoder.name} returned {len(vectors)} vectors for {len(texts)} texts")
        return {hash_: vector for hash_, vector in zip(texts, vectors, strict=True) if _is_sound(vector)}


def _is_sound(vector: SideVector) -> bool:
    return bool(np.isfinite(vector.values if isinstance(vector, SparseVector) else vector).all())


def side_space(contract: SideContract) -> SideSpace:
    """Where the vectors of a side model go."""
    return SideSpace(contract.space, contract.kind, contract.dimensions, contract.datatype)


def add_spaces(store: Store, sides: Sequence[SideContract]) -> None:
    """Make the spaces of an empty version, so that it can be searched before its first chunk."""
    for side in sides:
        store.add_space(side_space(side))


def prefix_space(prefix: Prefix) -> SideSpace:
    """Where short vectors go."""
    return SideSpace(prefix.space, "prefix", prefix.dimensions)


def shorten(vectors: FloatArray, prefix: Prefix, axes: FloatArray | None) -> FloatArray:
    """The short form of vectors, shape ``(n, dimensions)``: their first numbers, turned onto axes first if there are.

    Of unit length, if the prefix says so; a zero vector stays one.
    """
    short = vectors[:, : prefix.dimensions] if axes is None else vectors @ axes[: prefix.dimensions].T
    if prefix.unit:
        lengths = np.linalg.norm(short, axis=1, keepdims=True)
        short = short / np.where(lengths > 0, lengths, 1.0)
    return np.ascontiguousarray(short, dtype=np.float32)


def sample_statistics(store: Store) -> str:
    """The statistics of the dense vectors, packed; empty if there are too few.

    They depend on what is stored and not on how it came there: the sample is made of the least ids, in their order.
    """
    if store.count() < FEWEST:
        return ""
    ids = sorted(islice(store.ids(), SAMPLE))
    vectors = store.vectors(ids)
    return fit(np.stack([vectors[id_] for id_ in ids if id_ in vectors])).pack()


def complete(store: Store, makers: Sequence[SideMaker], on_chunks: Callable[[int], None] = lambda _: None) -> int:
    """Make what is missing in these spaces, from what is stored; how many vectors were made.

    Args:
        store: Of the chunks.
        makers: Of the spaces, which are made if they are not there.
        on_chunks: Called with how many chunks are left in a space, before each page of them.
    """
    made = 0
    for maker in makers:
        store.add_space(maker.space)
        missing = list(store.without(maker.space))
        for start in range(0, len(missing), PAGE):
            on_chunks(len(missing) - start)
            page = missing[start : start + PAGE]
            dense = {id_.bytes: vector for id_, vector in store.vectors(page).items()}
            payloads = {} if maker.is_derived else store.payloads(page)
            texts = {key: str(payloads.get(UUID(bytes=key), {}).get("content", "")) for key in dense}
            vectors = maker.make(texts, dense)
            store.set_sides(maker.space, {UUID(bytes=key): vector for key, vector in vectors.items()})
            made += len(vectors)
    store.flush()
    return made


def size_of(vector: SideVector) -> int:
    """Bytes of a vector's numbers."""
    return vector.indices.nbytes + vector.values.nbytes if isinstance(vector, SparseVector) else vector.nbytes
