"""The read path, top to bottom: query → request → scores of the legs → one ranking → what the ledger serves → hits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from tarragon.filters import Filter, matches
from tarragon.fusion import Ranking, fuse
from tarragon.protocols import (
    DenseEncoder,
    DenseLeg,
    DocumentRecord,
    LegScores,
    LexicalLeg,
    OpenVersion,
    Scores,
    SearchRequest,
    ServedChunk,
    Store,
)
from tarragon.recipe import SearchRecipe
from tarragon.types import FloatArray, Hit

Leg = TypeVar("Leg", DenseLeg, LexicalLeg)

DECIMALS = 4
"""Of lexical scores; they lie between 0 and some 50."""

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


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, and what the ledger says of its document."""

    hit: Hit
    record: DocumentRecord


def search(
    version: OpenVersion,
    request: SearchRequest,
    k: int,
    recipe: SearchRecipe,
    *,
    scored: Callable[[LegScores, SearchRequest], LegScores] = lambda legs, _: legs,
) -> list[Found]:
    """The ``k`` best that may be served, best first, equal scores in order of their chunk ids; fewer if that is all.

    The ledger has the last word on each hit, after its text was read: so no deleted document is served, and no document
    in two states. A document that was rewritten while the store was being searched is searched again.

    ``scored`` may choose among what the legs found and score it in another way, before it is fused.
    """
    refused: set[UUID] = set()
    while True:
        legs = candidates(version.store, request)
        found, now = _serve(fuse(scored(legs, request), recipe.fusion), version, k, request.filter)
        if len(found) < k and now and _is_cut(legs, request):
            request = _twice_as_deep(request)
        elif now <= refused:
            return found
        refused |= now


def _serve(ranking: Ranking, version: OpenVersion, k: int, filter: Filter | None) -> tuple[list[Found], set[UUID]]:
    """The first ``k`` of a ranking that may be served, and those before them that may not."""
    found: list[Found] = []
    refused: set[UUID] = set()
    rest = iter(ranking)
    while len(found) < k and (page := list(islice(rest, k - len(found)))):
        ids = [id_ for id_, _ in page]
        payloads = version.store.payloads(ids)
        served = version.ledger.served(ids)  # after the payloads: what it says is at least as new
        for id_, score in page:
            chunk, payload = served.get(id_), payloads.get(id_)
            if chunk is None or payload is None or (current := _current(payload, chunk)) is None:
                refused.add(id_)
            elif current is payload or filter is None or matches(filter, current["metadata"]):
                found.append(Found(_hit(id_, score, current, version.record.name), chunk.record))
            else:
                refused.add(id_)  # its metadata have changed, and no longer pass
    return found, refused


def _current(payload: Mapping[str, Any], chunk: ServedChunk) -> Mapping[str, Any] | None:
    """The payload that the ledger wants served; None if it was replaced after it was read."""
    if payload.get("digest") == chunk.payload.hex():
        return payload
    return {**payload, **chunk.pending} if chunk.pending is not None else None


def _is_cut(legs: LegScores, request: SearchRequest) -> bool:
    """Whether a leg may have more candidates than it gave."""
    pairs = ((legs.dense, request.dense), (legs.lexical, request.lexical))
    return any(scores is not None and leg is not None and len(scores) >= leg.limit for scores, leg in pairs)


def _twice_as_deep(request: SearchRequest) -> SearchRequest:
    dense, lexical = request.dense, request.lexical
    return replace(
        request,
        dense=None if dense is None else replace(dense, limit=2 * dense.limit),
        lexical=None if lexical is None else replace(lexical, limit=2 * lexical.limit),
    )


def candidates(store: Store, request: SearchRequest) -> LegScores:
    """Each leg's best, as many as it asks for and all that tie with the last of them.

    The engine cuts a leg at its limit wherever that falls among equal scores, and which of them it keeps depends on the
    order in which they were stored. So one more is asked for, and more again while the cut goes through a tie.
    """
    dense, lexical = request.dense, request.lexical
    while True:
        legs = _steady(store.search(replace(request, dense=_one_more(dense), lexical=_one_more(lexical))))
        dense_least, dense_ties = _least(legs.dense, request.dense, dense)
        lexical_least, lexical_ties = _least(legs.lexical, request.lexical, lexical)
        if not dense_ties and not lexical_ties:
            return _at_least(legs, dense_least, lexical_least)
        dense = _deeper(dense) if dense_ties else dense
        lexical = _deeper(lexical) if lexical_ties else lexical


def _steady(legs: LegScores) -> LegScores:
    """The same, with lexical scores rounded.

    The engine adds them up in single precision, segment by segment, so that equal passages can differ by a millionth,
    and in another order after another history.
    """
    if legs.lexical is None:
        return legs
    return LegScores(legs.dense, {id_: round(score, DECIMALS) for id_, score in legs.lexical.items()})


def _one_more(leg: Leg | None) -> Leg | None:
    return None if leg is None else replace(leg, limit=leg.limit + 1)


def _deeper(leg: Leg | None) -> Leg | None:
    return None if leg is None else replace(leg, limit=4 * leg.limit)


def _least(scores: Scores | None, wanted: Leg | None, asked: Leg | None) -> tuple[float, bool]:
    """The score of the last hit within the wanted limit, and whether hits that tie with it may be missing."""
    if scores is None or wanted is None or asked is None:
        return math.inf, False
    own = sorted(scores.values(), reverse=True)[: asked.limit + 1]
    if len(own) <= wanted.limit:
        return -math.inf, False
    least = own[wanted.limit - 1]
    was_cut = len(own) == asked.limit + 1 and asked.limit < MOST_TIES * wanted.limit
    return least, was_cut and own[-1] == least


def _at_least(legs: LegScores, dense_least: float, lexical_least: float) -> LegScores:
    """The candidates that reach the least score of either leg, with their scores in both."""
    dense, lexical = legs.dense, legs.lexical
    if dense is None or lexical is None:
        least = dense_least if lexical is None else lexical_least
        chosen = {id_: score for id_, score in (dense or lexical or {}).items() if score >= least}
        return LegScores(chosen if dense is not None else None, chosen if lexical is not None else None)
    words = lexical.get
    chosen = {id_: score for id_, score in dense.items() if score >= dense_least or words(id_, -1.0) >= lexical_least}
    return LegScores(chosen, {id_: score for id_, score in lexical.items() if score >= lexical_least and id_ in chosen})


def _hit(id_: UUID, score: float, payload: Mapping[str, Any], version: str) -> Hit:
    return Hit(
        document_id=payload["document_id"],
        chunk_id=str(id_),
        text=payload["content"][payload["offset"] :],
        start=payload["start"],
        end=payload["end"],
        heading=tuple(payload["heading"]),
        metadata=payload["metadata"],
        score=score,
        version=version,
    )
