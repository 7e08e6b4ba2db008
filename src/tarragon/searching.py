"""The read path, top to bottom: query → request → scores of the legs → one ranking → hits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from tarragon.filters import Filter
from tarragon.fusion import Ranking, fuse
from tarragon.protocols import DenseEncoder, DenseLeg, LexicalLeg, SearchRequest, Store
from tarragon.recipe import SearchRecipe
from tarragon.types import FloatArray, Hit


class TruncatedQuery(UserWarning):
    """A query has more tokens than the model takes; the dense leg did not see its end."""


def embed_queries(encoder: DenseEncoder, queries: Sequence[str], recipe: SearchRecipe) -> FloatArray:
    """One vector per query, shape ``(queries, dimensions)``."""
    embeddings = encoder.encode_queries(queries, recipe.query_prompt)
    if embeddings.truncated:
        message = f"{embeddings.truncated} tokens of the query are beyond what {encoder.name} can take"
        warnings.warn(message, TruncatedQuery, stacklevel=3)
    return embeddings.vectors


def build_request(
    query: str, vector: FloatArray | None, k: int, filter: Filter | None, recipe: SearchRecipe
) -> SearchRequest:
    """One query as data. ``vector`` is None where the mode has no dense leg."""
    depth = max(k, recipe.depth)
    return SearchRequest(
        dense=DenseLeg(vector, depth) if vector is not None else None,
        lexical=LexicalLeg(query, depth) if recipe.mode != "dense" else None,
        filter=filter,
    )


def search(store: Store, request: SearchRequest, k: int, recipe: SearchRecipe) -> list[Hit]:
    """The ``k`` best, best first, equal scores in order of their chunk ids; fewer if there are not as many."""
    best = fuse(store.search(request), recipe.fusion)[:k]
    return to_hits(best, store.payloads([id_ for id_, _ in best]))


def to_hits(ranking: Ranking, payloads: Mapping[UUID, Mapping[str, Any]]) -> list[Hit]:
    """Hits in the order of the ranking; a chunk that was deleted since it was ranked is left out."""
    return [_hit(id_, score, payloads[id_]) for id_, score in ranking if id_ in payloads]


def _hit(id_: UUID, score: float, payload: Mapping[str, Any]) -> Hit:
    return Hit(
        document_id=payload["document_id"],
        chunk_id=str(id_),
        text=payload["content"][payload["offset"] :],
        start=payload["start"],
        end=payload["end"],
        heading=tuple(payload["heading"]),
        metadata=payload["metadata"],
        score=score,
    )
