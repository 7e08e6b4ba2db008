"""Adapters: a linear bridge from a new model's vectors to the space of the old one.

While an upgrade builds, the old index is searched by its own encoder. Where that cannot run any more, queries of the
new model can be mapped into the old space, by a map fitted on texts whose vectors are known in both. That costs
answers, and how many is measured on texts that the map has not seen: docs/bridges.md says what was found.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import AdapterRefused, InvalidInput
from tarragon.types import FloatArray

NEIGHBOURS = 10
"""Depth of the overlap: a page of results."""

MINIMUM_PAIRS = 100
"""Fewer pairs are refused unseen. From 100 on the promise was within .05 of what unseen texts gave, if all neighbours
were given (docs/bridges.md)."""

JUDGED_ROWS = 1_000
"""Held-out rows that are looked at, at most: the standard error of their mean overlap is then below .01."""

FLOOR = 0.75
"""Least overlap@10 of an adapter. Fitted on documents, those above it kept .92 or more of the old model's recall, those
below it .91 down to nothing (docs/bridges.md); .91 is the median of published measurements."""

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Strengths of ridge, strongest first, in units of the mean variance of a dimension of the new vectors. The
best for real pairs of spaces ran from .001 to 3, for unrelated ones to 10 (docs/bridges.md)."""

UNIT_TOLERANCE = 0.01
"""Vectors whose lengths are this near to 1 count as unit vectors: bfloat16 rounds by .004."""

Kind: TypeAlias = Literal["procrustes", "ridge"]
_Matrix: TypeAlias = NDArray[np.float64]
_Places: TypeAlias = NDArray[np.intp]
_MAGIC = b"tarragon adapter 1\n"
_BLOCK = 64


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A linear map from one space to another, and what it was found to keep.

    Attributes:
        kind: ``procrustes``: a rotation with one scale. ``ridge``: any linear map.
        strength: Of the ridge, one of `RIDGES`; 0 for a rotation.
        overlap: Share of the 10 nearest old vectors that the mapped and the true vector of a text have in common, 0 to
            1, each text mapped by a fit that has not seen it.
        pairs: Distinct pairs that it was fitted on.
        matrix: Shape ``(new dimensions, old dimensions)``, float32.
        offset: Shape ``(old dimensions,)``, float32; added after the matrix.
        unit: Whether mapped vectors are brought to unit length, as the old ones are.
    """

    kind: Kind
    strength: float
    overlap: float
    pairs: int
    matrix: FloatArray
    offset: FloatArray
    unit: bool

    def apply(self, vectors: FloatArray) -> FloatArray:
        """Map new vectors, shape ``(n, new dimensions)``, into the old space: ``(n, old dimensions)``, float32.

        Raises:
            InvalidInput: Another shape, NaN or infinity.
        """
        values = _checked("vectors", vectors)
        if values.shape[1] != len(self.matrix):
            message = f"vectors have {values.shape[1]} dimensions, but this adapter was fitted on {len(self.matrix)}"
            raise InvalidInput(f"{message}; pass vectors of the new model", shape=values.shape)
        mapped = values @ self.matrix.astype(np.float64) + self.offset.astype(np.float64)
        return (_unit_rows(mapped) if self.unit else mapped).astype(np.float32)

    def to_bytes(self) -> bytes:
        """A header of JSON and the numbers as little-endian float32; equal for equal adapters."""
        figures = {"kind": self.kind, "strength": self.strength, "overlap": self.overlap, "pairs": self.pairs}
        header = {**figures, "shape": list(self.matrix.shape), "unit": self.unit}
        numbers = self.matrix.astype("<f4").tobytes() + self.offset.astype("<f4").tobytes()
        return _MAGIC + json.dumps(header, sort_keys=True).encode() + b"\n" + numbers

    @classmethod
    def from_bytes(cls, data: bytes) -> Adapter:
        """Read `to_bytes`.

        Raises:
            InvalidInput: It is something else, or incomplete.
        """
        head, _, numbers = data[len(_MAGIC) :].partition(b"\n")
        try:
            if not data.startswith(_MAGIC):
                raise ValueError("it does not begin as one")
            header = json.loads(head)
            rows, columns = header.pop("shape")
            values = np.frombuffer(numbers, dtype="<f4").astype(np.float32)
            matrix, offset = values[: rows * columns].reshape(rows, columns), values[rows * columns :]
            if offset.shape != (columns,):
                raise ValueError(f"{len(values)} numbers are not {rows} x {columns} and {columns}")
            return cls(matrix=matrix, offset=offset, **header)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(f"these {len(data)} bytes are no adapter: {error}", bytes=len(data)) from error


def fit(
    new: FloatArray,
    old: FloatArray,
    *,
    among: FloatArray | None = None,
    held_out: float = 0.2,
    seed: int = 0,
    floor: float = FLOOR,
) -> Adapter:
    """The best linear map from the new vectors to the old ones of the same texts.

    Candidates are a rotation (centred orthogonal Procrustes with one scale) and ridge regression of several strengths.
    Each part of the pairs is held out in turn and mapped by what was fitted on the rest. The candidate with the highest
    overlap is fitted again on all pairs; of equal ones the rotation, then the strongest ridge.

    The same pairs give the same adapter in any order. Equal pairs count once, since a text that is both fitted and held
    out would be remembered.

    Args:
        new: Shape ``(n, d)``.
        old: Shape ``(n, e)``, row by row of the same texts.
        among: More old vectors, ``(m, e)``, that count as neighbours, best all of the index: among few neighbours the
            overlap is too high.
        held_out: Share of the pairs that is held out at a time, above 0 to one half.
        seed: Of the choice which these are.
        floor: Least overlap, 0 to 1.

    Raises:
        InvalidInput: Shapes that do not fit each other, NaN or infinity, or a setting outside its range.
        AdapterRefused: The overlap is below the floor, or there are fewer than `MINIMUM_PAIRS` pairs.
    """
    if not 0 < held_out <= 0.5:
        raise InvalidInput(f"held_out={held_out} is not above 0 and at most 0.5", held_out=held_out)
    if not 0 <= floor <= 1:
        raise InvalidInput(f"floor={floor} is not between 0 and 1", floor=floor)
    first, second = _distinct(_checked("new", new), _checked("old", old))
    if len(first) < MINIMUM_PAIRS:
        message = f"{len(first)} distinct pairs are too few to judge an adapter by; {MINIMUM_PAIRS} are the least"
        raise AdapterRefused(f"{message}: embed more texts with both models", pairs=len(first), least=MINIMUM_PAIRS)
    found = _overlaps(first, second, _pool(second, among), _folds(len(first), held_out, seed))
    best = int(np.argmax(found))
    if found[best] < floor:
        raise _refused(found[best], floor, len(first))
    chosen = list(_candidates(first, second))[best]
    matrix, offset = chosen.matrix.astype(np.float32), chosen.offset.astype(np.float32)
    return Adapter(chosen.kind, chosen.strength, found[best], len(first), matrix, offset, _are_unit(second))


# --- judging ----------------------------------------------------------------------------------------------------------
def nearest(vectors: _Matrix, pool: _Matrix, without: _Places) -> _Places:
    """Places in the pool of the 10 nearest to each vector, ascending; its own place, ``without[i]``, is left out.

    Nearest by dot product, as stores compare; of equal ones the first.
    """
    found = np.empty((len(vectors), NEIGHBOURS), dtype=np.intp)
    for start in range(0, len(vectors), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ pool.T
        scores[np.arange(len(scores)), without[start : start + _BLOCK]] = -np.inf
        least = np.partition(scores, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
        for i, row in enumerate(scores):
            above, equal = np.flatnonzero(row > least[i]), np.flatnonzero(row == least[i])
            found[start + i] = np.sort(np.concatenate([above, equal[: NEIGHBOURS - len(above)]]))
    return found


def shared(found: _Places, true: _Places) -> float:
    """Mean share of neighbours in common: overlap@10."""
    return float((found[:, :, None] == true[:, None, :]).sum()) / true.size


def _overlaps(new: _Matrix, old: _Matrix, pool: _Matrix, folds: list[_Places]) -> list[float]:
    """Of each candidate, over all that is held out."""
    judged = [fold[: max(1, JUDGED_ROWS // len(folds))] for fold in folds]
    true = np.concatenate([nearest(old[rows], pool, rows) for rows in judged])
    found: list[list[_Places]] = []
    for fold, rows in zip(folds, judged, strict=True):
        rest = np.delete(np.arange(len(new)), fold)
        maps = _candidates(new[rest], old[rest])
        found.append([nearest(candidate.apply_to(new[rows]), pool, rows) for candidate in maps])
    return [shared(np.concatenate(parts), true) for parts in zip(*found, strict=True)]


def _folds(count: int, held_out: float, seed: int) -> list[_Places]:
    order = np.random.default_rng(seed).permutation(count)
    return np.array_split(order, min(count, round(1 / held_out)))


def _pool(old: _Matrix, among: FloatArray | None) -> _Matrix:
    """The paired old vectors, then the others."""
    if among is None:
        return old
    others = _checked("among", among)
    if others.shape[1] != old.shape[1]:
        message = f"among has {others.shape[1]} dimensions and old has {old.shape[1]}; pass vectors of one model"
        raise InvalidInput(message, among=others.shape[1], old=old.shape[1])
    distinct = np.unique(np.concatenate([old, others + 0.0]), axis=0)
    paired = {row.tobytes() for row in old}
    rest = np.array([row.tobytes() not in paired for row in distinct], dtype=bool)
    return np.concatenate([old, distinct[rest]])


# --- candidates -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    kind: Kind
    strength: float
    matrix: _Matrix
    offset: _Matrix

    def apply_to(self, vectors: _Matrix) -> _Matrix:
        return vectors @ self.matrix + self.offset


def _candidates(new: _Matrix, old: _Matrix) -> Iterator[_Candidate]:
    """All maps that are tried, preferred ones first."""
    new_mean, old_mean = new.mean(axis=0), old.mean(axis=0)
    centred, target = new - new_mean, old - old_mean
    rotation = _procrustes(centred, target)
    yield _Candidate("procrustes", 0.0, rotation, old_mean - new_mean @ rotation)
    for strength, matrix in zip(RIDGES, _ridges(centred, target), strict=True):
        yield _Candidate("ridge", strength, matrix, old_mean - new_mean @ matrix)


def _procrustes(new: _Matrix, old: _Matrix) -> _Matrix:
    """The scaled rotation that maps centred rows best; from more dimensions to fewer, the most correlated projection.

    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966. Directions of which
    the pairs say nothing are dropped, where the plain formula would turn them at random.
    """
    left, weights, right = np.linalg.svd(new.T @ old, full_matrices=False)
    known = weights > weights.max(initial=0.0) * max(new.shape[1], old.shape[1]) * np.finfo(np.float64).eps
    rotation = left[:, known] @ right[known]
    spread = float(((new @ rotation) ** 2).sum())
    scaled: _Matrix = rotation * (float(weights[known].sum()) / spread if spread > 0 else 0.0)
    return scaled


def _ridges(new: _Matrix, old: _Matrix) -> Iterator[_Matrix]:
    """``(XᵀX + λI)⁻¹ XᵀY`` for each strength: Hoerl and Kennard, "Ridge regression", Technometrics 1970."""
    values, vectors = np.linalg.eigh(new.T @ new)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ (new.T @ old)
    unit = float(values.mean()) or 1.0
    for strength in RIDGES:
        yield vectors @ (turned / (values + strength * unit)[:, None])


# --- rows -------------------------------------------------------------------------------------------------------------
def _checked(name: str, vectors: FloatArray) -> _Matrix:
    """As float64."""
    values = np.asarray(vectors)
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        message = f"{name} must be numbers of shape (n, dimensions), not {values.dtype} of shape {values.shape}"
        raise InvalidInput(message, name=name, shape=values.shape)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        message = f"{name} holds NaN or infinity in {len(broken)} of {len(values)} rows, the first is row {broken[0]}"
        raise InvalidInput(f"{message}; leave these texts out", name=name, rows=len(broken), first=int(broken[0]))
    return values.astype(np.float64)


def _distinct(new: _Matrix, old: _Matrix) -> tuple[_Matrix, _Matrix]:
    """Each pair once, in an order that depends on nothing but the pairs."""
    if len(new) != len(old):
        message = f"{len(new)} new and {len(old)} old vectors are no pairs; pass both vectors of each text"
        raise InvalidInput(message, new=len(new), old=len(old))
    both = np.unique(np.concatenate([new, old], axis=1) + 0.0, axis=0)
    return np.ascontiguousarray(both[:, : new.shape[1]]), np.ascontiguousarray(both[:, new.shape[1] :])


def _are_unit(vectors: _Matrix) -> bool:
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1.0) <= UNIT_TOLERANCE).all())


def _unit_rows(vectors: _Matrix) -> _Matrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows: _Matrix = vectors / np.where(lengths == 0, 1.0, lengths)
    return rows


def _refused(found: float, floor: float, pairs: int) -> AdapterRefused:
    message = f"the best adapter keeps {found:.2f} of the 10 nearest neighbours, measured on {pairs} pairs"
    return AdapterRefused(
        f"{message}; at least {floor:.2f} are asked for. Embed more texts with both models, or upgrade the index",
        overlap=found,
        floor=floor,
        pairs=pairs,
    )
