"""The spaces of a joint model, and what waits to be asked for in one of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tarragon.protocols import EncoderInput, LateEmbeddings, SparseEmbeddings
from tarragon.types import FloatArray, SparseVector

if TYPE_CHECKING:
    from tarragon.encoders.joint import JointEncoder


class Facet(NamedTuple):
    """A text in one space.

    Attributes:
        value: A dense vector, a `SparseVector` or one vector a token.
        tokens: Of the text, as the model was given them.
        truncated: Those that it was not given.
    """

    value: Any
    tokens: int
    truncated: int


JointParts = dict[str, Facet]
"""A text in several spaces, by the name of the space."""


class Memo:
    """Holds each part until it is asked for, once; the oldest text makes room. Thread-safe.

    Handing a part out once frees its memory as soon as the last space has been served, and a text that is encoded again
    is really encoded again.

    Args:
        limit: Bytes of vectors at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: OrderedDict[str, JointParts] = OrderedDict()
        self._lock = Lock()
        self.size = 0

    def put(self, text: str, parts: JointParts) -> None:
        """Keep what a text is in these spaces, instead of what was kept of it before."""
        with self._lock:
            self._drop(text)
            if not parts:
                return
            self._parts[text] = parts
            self.size += _bytes(parts)
            while self.size > self._limit:
                self._drop(next(iter(self._parts)))

    def take(self, text: str, space: str) -> Facet | None:
        """Hand out what a text is in a space; None if it is not here."""
        with self._lock:
            parts = self._parts.get(text, {})
            facet = parts.pop(space, None)
            if facet is not None:
                self.size -= _bytes({space: facet})
            if text in self._parts and not parts:
                del self._parts[text]
            return facet

    def _drop(self, text: str) -> None:
        self.size -= _bytes(self._parts.pop(text, {}))


def _bytes(parts: JointParts) -> int:
    return sum(_size(facet.value) for facet in parts.values())


def _size(value: Any) -> int:
    if isinstance(value, SparseVector):
        return value.indices.nbytes + value.values.nbytes
    return int(np.asarray(value).nbytes)


class JointSparse:
    """The sparse space of a `JointEncoder`: of each token id in the text its greatest weight, but of special tokens."""

    def __init__(self, joint: JointEncoder, space: str) -> None:
        self._joint, self._space = joint, space
        self.name, self.device = joint.name, joint.device

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vector."""
        return self._joint.identity_of(self._space)

    def encode_documents(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`."""
        parts = self._joint.parts([EncoderInput(text) for text in texts], self._space)
        vectors: list[SparseVector] = [part.value for part in parts]
        return SparseEmbeddings(vectors, sum(part.tokens for part in parts), sum(part.truncated for part in parts))

    def encode_queries(self, texts: Sequence[str]) -> SparseEmbeddings:
        """See `tarragon.protocols.SparseEncoder`. The same as for documents."""
        return self.encode_documents(texts)


class JointLate:
    """The late space of a `JointEncoder`: a unit vector for each token but the first."""

    def __init__(self, joint: JointEncoder, space: str) -> None:
        self._joint, self._space = joint, space
        self.name, self.device, self.dimensions = joint.name, joint.device, joint.late_dimensions

    @property
    def identity(self) -> Mapping[str, str]:
        """See `tarragon.identity.fingerprint`: what changes a document's vectors."""
        return self._joint.identity_of(self._space)

    def encode_documents(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`."""
        parts = self._joint.parts([EncoderInput(text) for text in texts], self._space)
        vectors: list[FloatArray] = [part.value for part in parts]
        return LateEmbeddings(vectors, sum(part.tokens for part in parts), sum(part.truncated for part in parts))

    def encode_queries(self, texts: Sequence[str]) -> LateEmbeddings:
        """See `tarragon.protocols.LateEncoder`. The same as for documents."""
        return self.encode_documents(texts)
