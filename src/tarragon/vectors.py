"""Vectors for the chunks of a window: found wherever the same text is, else computed, in a thread of its own.

Everything that asks the store or the ledger runs where the sync runs, in its order. Only the models run apart, so that
the window before can be stored meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np

from tarragon.errors import EncodingFailed
from tarragon.preparing import Prepared, Writer, find_sides, find_vectors
from tarragon.protocols import DenseEncoder, EncoderInput
from tarragon.sides import SideMaker, Sides, size_of
from tarragon.types import Chunk, FloatArray

SPARE_VECTORS = 20_000
"""Vectors of deleted passages that are kept until the end of a sync: 30 MB of 384 dimensions."""

SPARE_BYTES = 64 << 20
"""The same for the vectors of other models; late ones take some 90 kB a passage."""

_Vectors: TypeAlias = "dict[bytes, FloatArray]"


@dataclass(frozen=True, slots=True)
class Computed:
    """What the models made for a window.

    Attributes:
        vectors: Dense ones by chunk hash, found and computed; without those that are not finite.
        sides: Those beside, by the name of their space and by chunk hash.
        counts: ``chunks_embedded``, ``characters_embedded``, ``tokens_embedded``, ``tokens_truncated``.
        seconds: That the dense model took.
    """

    vectors: Mapping[bytes, FloatArray]
    sides: Sides
    counts: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Flight:
    """A window whose vectors are being made.

    Attributes:
        documents: To be stored.
        missing: Chunks that the model has been given, by hash.
        computed: What it makes of them.
    """

    documents: Sequence[Prepared]
    missing: Mapping[bytes, Chunk]
    computed: Future[Computed]


@dataclass(slots=True)
class Vectors:
    """Finds and makes vectors, for one sync.

    Attributes:
        writer: What to ask and to compute with.
    """

    writer: Writer
    _spare: _Vectors = field(default_factory=dict)
    _spare_sides: Sides = field(default_factory=dict)
    _has_spaces: bool = False
    _has_embedded: bool = False

    def known(self, documents: Sequence[Prepared], before: Flight | None) -> _Vectors:
        """Vectors of these documents' chunks that need not be computed.

        Of a text that the window before has given to the model there is an empty one, in the place of what comes.
        """
        hashes = list(_added(documents))
        found = {hash_: self._spare[hash_] for hash_ in hashes if hash_ in self._spare}
        if before is not None:
            found |= {hash_: _COMING for hash_ in hashes if hash_ in before.missing and hash_ not in found}
        return found | find_vectors([hash_ for hash_ in hashes if hash_ not in found], self.writer)

    def launch(self, documents: Sequence[Prepared], found: _Vectors, before: Flight | None) -> Flight:
        """Have the models make what is missing."""
        added = _added(documents)
        missing = {hash_: chunk for hash_, chunk in added.items() if hash_ not in found}
        if missing and not self._has_embedded:
            self.writer.before_embedding()
            self._has_embedded = True
        known = {hash_: vector for hash_, vector in found.items() if vector is not _COMING}
        coming = [hash_ for hash_ in found.keys() - known if hash_ in added]
        work = _Work(
            self.writer.encoder if missing else None,
            missing,
            known,
            {hash_: chunk.embed_text for hash_, chunk in added.items()},
            self._known_sides(added),
            self.writer.sides,
        )
        earlier = before.computed if before is not None and coming else None
        return Flight(documents, missing, self.writer.compute.start(partial(work.run, coming, earlier)))

    def keep(self, documents: Sequence[Prepared]) -> None:
        """Note vectors that are about to be deleted, for a document further on that their text may have moved to."""
        dropped = {id_: hash_ for document in documents for id_, hash_ in document.dropped.items()}
        if not dropped or len(self._spare) >= SPARE_VECTORS:
            return
        store = self.writer.store
        self._spare |= {dropped[id_]: vector for id_, vector in store.vectors(list(dropped)).items()}
        kept = sum(size_of(vector) for space in self._spare_sides.values() for vector in space.values())
        if kept < SPARE_BYTES:
            for maker in self.writer.sides:
                if not maker.is_derived:
                    rows = store.sides(maker.space, list(dropped))
                    space = self._spare_sides.setdefault(maker.space.name, {})
                    space.update({dropped[id_]: row for id_, row in rows.items()})

    def _known_sides(self, added: Mapping[bytes, Chunk]) -> Sides:
        """The vectors beside the dense ones that are stored somewhere."""
        makers = self.writer.sides
        if makers and added and not self._has_spaces:
            for maker in makers:
                self.writer.store.add_space(maker.space)
            self._has_spaces = True
        sides: Sides = {}
        for maker in makers:
            spare = self._spare_sides.get(maker.space.name, {})
            known = {hash_: spare[hash_] for hash_ in added if hash_ in spare}
            if not maker.is_derived:
                known |= find_sides(maker.space, [hash_ for hash_ in added if hash_ not in known], self.writer)
            sides[maker.space.name] = known
        return sides


_COMING: FloatArray = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Work:
    """What the models are to do for a window. Asks neither store nor ledger."""

    encoder: DenseEncoder | None
    missing: Mapping[bytes, Chunk]
    known: _Vectors
    texts: Mapping[bytes, str]
    known_sides: Sides
    makers: Sequence[SideMaker]

    def run(self, coming: Sequence[bytes], earlier: Future[Computed] | None) -> Computed:
        counts: Counter[str] = Counter()
        before = earlier.result() if earlier is not None else None
        shared = {hash_: before.vectors[hash_] for hash_ in coming if hash_ in before.vectors} if before else {}
        begun = time.perf_counter()
        made = self._encode(list(self.missing.items()), counts)
        seconds = time.perf_counter() - begun
        counts["chunks_embedded"] = len(self.missing)
        counts["characters_embedded"] = sum(len(chunk.embed_text) for chunk in self.missing.values())
        finite = {hash_: vector for hash_, vector in made.items() if np.isfinite(vector).all()}
        vectors = {**self.known, **shared, **finite}
        sides: Sides = {}
        for maker in self.makers:
            name = maker.space.name
            known = self.known_sides[name]
            if before is not None:
                known |= {hash_: before.sides[name][hash_] for hash_ in coming if hash_ in before.sides[name]}
            rest = {hash_: text for hash_, text in self.texts.items() if hash_ in vectors and hash_ not in known}
            sides[name] = known | maker.make(rest, vectors)
        return Computed(vectors, sides, counts, seconds)

    def _encode(self, chunks: Sequence[tuple[bytes, Chunk]], counts: Counter[str]) -> _Vectors:
        """A batch that the encoder refuses is halved until the passage that it cannot take is alone, and left out."""
        if not chunks or self.encoder is None:
            return {}
        inputs = [EncoderInput(chunk.embed_text, chunk.token_ids) for _, chunk in chunks]
        try:
            embeddings = self.encoder.encode_documents(inputs)
        except EncodingFailed:
            if len(chunks) == 1:
                return {}
            middle = len(chunks) // 2
            return self._encode(chunks[:middle], counts) | self._encode(chunks[middle:], counts)
        expected = len(chunks), self.encoder.dimensions
        if embeddings.vectors.shape != expected:
            raise EncodingFailed(
                f"{self.encoder.name} returned vectors of shape {embeddings.vectors.shape} for {len(chunks)} texts, "
                f"not {expected}",
                shape=embeddings.vectors.shape,
            )
        counts["tokens_embedded"] += embeddings.tokens
        counts["tokens_truncated"] += embeddings.truncated
        return {hash_: vector for (hash_, _), vector in zip(chunks, embeddings.vectors, strict=True)}


def _added(documents: Sequence[Prepared]) -> dict[bytes, Chunk]:
    """Chunks to be added, by hash: the same text once."""
    return {chunk.hash: chunk.chunk for chunk in chain.from_iterable(document.diff.add for document in documents)}
