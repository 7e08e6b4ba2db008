"""How many terms of a text a sparse vector holds."""

from __future__ import annotations

import numpy as np

from tarragon.types import FloatArray, IntArray, SparseVector

MAX_TERMS = 256
"""Terms that are kept of a text. It bounds what a text costs in the store; a model that is trained to be sparse stays
below it with most passages, so that nothing is lost. Not measured: where this is built no published
weights can be had."""


def greatest_terms(indices: IntArray, values: FloatArray, limit: int) -> SparseVector:
    """The ``limit`` terms of the greatest magnitude, zeros left out; of equal ones at the limit, the first."""
    found = np.flatnonzero(values)
    if len(found) > limit:
        found = found[np.argsort(-np.abs(values[found]), kind="stable")[:limit]]
    found = found[np.argsort(indices[found])]
    return SparseVector(indices[found].astype(np.int32), values[found].astype(np.float32))
