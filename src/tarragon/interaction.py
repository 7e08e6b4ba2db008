"""Late interaction: how two texts with one vector a token are compared."""

from __future__ import annotations

import numpy as np

from tarragon.errors import InvalidInput
from tarragon.types import FloatArray


def maxsim(query: FloatArray, document: FloatArray) -> float:
    """Σ over the query's tokens of the largest dot product with any of the document's (ColBERT, arXiv 2004.12832).

    Args:
        query: Shape ``(tokens, dimensions)``. Without a token the score is 0.
        document: Shape ``(tokens, dimensions)``, of at least one token.

    Returns:
        For unit vectors between minus and plus the number of the query's tokens. NaN if any vector holds one.

    Raises:
        InvalidInput: The shapes do not fit, or the document has no token.
    """
    if query.ndim != 2 or document.ndim != 2 or query.shape[1] != document.shape[1] or not len(document):
        raise InvalidInput(
            f"MaxSim compares (tokens, dimensions) with (tokens, dimensions), not {query.shape} with {document.shape}; "
            "both must come from the same late-interaction model"
        )
    return float(np.max(query @ document.T, axis=1).sum()) if len(query) else 0.0
