"""The read path, top to bottom: query → request → scores of the legs → one ranking → hits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from tarragon.filters import Filter
from tarragon.fusion import Ranking, fuse, ranking
from tarragon.protocols import DenseEncoder, DenseLeg, LegScores, LexicalLeg, Scores, SearchRequest, Store
from tarragon.recipe import SearchRecipe
from tarragon.types import FloatArray, Hit

MOST_TIES = 256
"""A tie is followed to this many times the leg's limit; a larger one is cut where the engine cuts it."""


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
    best = fuse(candidates(store, request), recipe.fusion)[:k]
    return to_hits(best, store.payloads([id_ for id_, _ in best]))


def candidates(store: Store, request: SearchRequest) -> LegScores:
    """Each leg's best, as many as it asks for and all that tie with the last of them.

    The engine cuts a leg at its limit wherever that falls among equal scores, and which of them it keeps depends on the
    order in which they were stored. So one more is asked for, and more again while the cut goes through a tie.
    """
    factor = 1
    while True:
        legs = store.search(_deeper(request, factor))
        dense = _cut(legs.dense, request.dense, factor)
        lexical = _cut(legs.lexical, request.lexical, factor)
        if (dense is not None and lexical is not None) or factor >= MOST_TIES:
            return _of_either(legs, dense or legs.dense or {}, lexical or legs.lexical or {})
        factor *= 4


def _deeper(request: SearchRequest, factor: int) -> SearchRequest:
    dense, lexical = request.dense, request.lexical
    return replace(
        request,
        dense=replace(dense, limit=dense.limit * factor + 1) if dense else None,
        lexical=replace(lexical, limit=lexical.limit * factor + 1) if lexical else None,
    )


def _cut(scores: Scores | None, leg: DenseLeg | LexicalLeg | None, factor: int) -> Scores | None:
    """The leg's own hits down to its limit and the ties there; None if these may go on beyond what was fetched."""
    if scores is None or leg is None:
        return {}
    own = ranking(scores)[: leg.limit * factor + 1]
    if len(own) <= leg.limit:
        return dict(own)
    last = own[leg.limit - 1][1]
    if own[-1][1] == last and len(own) == leg.limit * factor + 1:
        return None
    return {id_: score for id_, score in own if score >= last}


def _of_either(legs: LegScores, dense: Scores, lexical: Scores) -> LegScores:
    chosen = {**dense, **lexical}
    return LegScores(
        None if legs.dense is None else {id_: legs.dense[id_] for id_ in chosen if id_ in legs.dense},
        None if legs.lexical is None else {id_: legs.lexical[id_] for id_ in chosen if id_ in legs.lexical},
    )


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
