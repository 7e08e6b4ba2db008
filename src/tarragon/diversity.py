"""A ranking with less of the same: maximal marginal relevance, and a limit per document. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tarragon.errors import InvalidInput
from tarragon.types import FloatArray

DECIMALS = 6
"""Of a cosine: equal rows can differ by a millionth of that, by where they stand in the matrix."""

Id = TypeVar("Id", bound=Hashable)


def mmr(scores: Sequence[float], vectors: FloatArray, k: int, diversity: float) -> list[int]:
    """Positions of ``k`` candidates, each of them the best beside those chosen before it.

    Maximal marginal relevance, greedy: the next is argmax (1 - λ)·rᵢ - λ·max cos(vᵢ, vⱼ) over the chosen j, where λ is
    ``diversity`` and r the scores on a scale from 0, the least, to 1, the largest; all equal ones are 1. The first has
    nothing to be like, so that it is the best by score, and for λ = 1 the first of all. O(k · candidates · dimensions).

    Source: Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing
    summaries", SIGIR 1998; its λ is 1 - ``diversity``.

    Args:
        scores: Of the candidates, finite; higher is better.
        vectors: Theirs, of any length but finite, shape ``(candidates, dimensions)``. A row of zeros is like none.
        k: How many; all, if there are fewer.
        diversity: 0 keeps the order that is given, whatever the scores say; 1 looks at nothing but likeness.

    Returns:
        Positions in ``scores``, the first choice first. Equal ones in the order that is given.
    """
    _check(scores, vectors, k, diversity)
    count = min(k, len(scores))
    if diversity == 0 or not count:
        return list(range(count))
    relevance = (1 - diversity) * _from_0_to_1(np.asarray(scores, dtype=np.float64))
    units = _units(vectors)
    marginal = relevance
    likeness = np.full(len(scores), -np.inf)
    chosen: list[int] = []
    while True:
        best = int(np.argmax(marginal))
        chosen.append(best)
        if len(chosen) == count:
            return chosen
        np.maximum(likeness, np.round(units @ units[best], DECIMALS), out=likeness)
        marginal = relevance - diversity * likeness
        marginal[chosen] = -np.inf


def _check(scores: Sequence[float], vectors: FloatArray, k: int, diversity: float) -> None:
    if not 0 <= diversity <= 1:
        raise InvalidInput(f"diversity={diversity} must be between 0 and 1", diversity=diversity)
    if k < 0:
        raise InvalidInput(f"k={k} must not be negative", k=k)
    if vectors.ndim != 2 or len(vectors) != len(scores):
        raise InvalidInput(f"{len(scores)} scores need as many rows of vectors, not an array of shape {vectors.shape}")
    for position, score in enumerate(scores):
        if not math.isfinite(score):
            raise InvalidInput(f"score {score} of candidate {position} cannot be ranked", position=position)
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise InvalidInput(f"the vector of candidate {row} holds NaN or infinity", position=row)


def _from_0_to_1(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    least = scores.min()
    spread = scores.max() - least
    return (scores - least) / spread if spread > 0 else np.ones_like(scores)


def _units(vectors: FloatArray) -> NDArray[np.float64]:
    rows = vectors.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def at_most_per_document(ranking_ids: Sequence[Id], documents: Mapping[Id, str], limit: int | None) -> list[Id]:
    """The ids in their order, without those that come after ``limit`` others of their document.

    Args:
        ranking_ids: Passages, the best first.
        documents: The document of each of them.
        limit: None: no limit.
    """
    if limit is None:
        return list(ranking_ids)
    if limit < 1:
        raise InvalidInput(f"limit={limit} passages of a document must be at least 1", limit=limit)
    seen: Counter[str] = Counter()
    kept = []
    for id_ in ranking_ids:
        if id_ not in documents:
            raise InvalidInput(f"no document is given for the passage {id_!r}", id=id_)
        seen[documents[id_]] += 1
        if seen[documents[id_]] <= limit:
            kept.append(id_)
    return kept
