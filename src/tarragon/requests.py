"""From a query to what the store is asked, and from its answer to candidates that do not hang on storage order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from uuid import UUID

from tarragon.errors import InvalidInput
from tarragon.filters import Filter
from tarragon.fusion import LEVEL_DEPTH
from tarragon.protocols import (
    LEXICAL_DECIMALS,
    DenseLeg,
    FirstPass,
    LateStage,
    LegScores,
    LexicalLeg,
    Scores,
    SearchRequest,
    SparseLeg,
    Store,
)
from tarragon.recipe import SearchRecipe
from tarragon.types import FloatArray, SparseVector

Leg = TypeVar("Leg", DenseLeg, LexicalLeg, SparseLeg)

LEGS = ("dense", "lexical", "sparse")

FIRST_DEPTH = SearchRecipe().depth
"""Least candidates of a first pass: with so many `Index.tune` measures what it keeps."""

MOST_TIES = 256
"""A tie is followed to this many times the leg's limit; a larger one is cut where the engine cuts it."""


@dataclass(frozen=True, slots=True)
class SideQueries:
    """The query in the spaces beside the dense one; None where the index has no such space, or it is not wanted.

    Attributes:
        first: Space and short form of the query for a first pass, and candidates for each that the leg wants.
        sparse: Space and weights.
        late: Space and vectors, shape ``(tokens, dimensions)``.
    """

    first: tuple[str, FloatArray, float] | None = None
    sparse: tuple[str, SparseVector] | None = None
    late: tuple[str, FloatArray] | None = None


def wants(recipe: SearchRecipe, *, has_sparse: bool) -> frozenset[str]:
    """The legs of a search, on an index with or without a learned sparse space.

    Raises:
        InvalidInput: The recipe wants that space, and there is none.
    """
    wanted = recipe.mode == "sparse" or (recipe.mode == "hybrid" and recipe.words in ("sparse", "both"))
    if wanted and not has_sparse:
        named = "mode='sparse'" if recipe.mode == "sparse" else f"words={recipe.words!r}"
        raise InvalidInput(
            f"{named} needs a sparse model, and the index has none: build it with IndexRecipe(sparse_model=...) or "
            "Index.open(sparse_encoder=...), or search without"
        )
    if recipe.mode != "hybrid":
        return frozenset({recipe.mode})
    words = recipe.words or ("both" if has_sparse else "bm25")
    return frozenset({"dense", *(("lexical",) if words != "sparse" else ()), *(("sparse",) if words != "bm25" else ())})


def build_request(
    query: str,
    vector: FloatArray | None,
    k: int,
    filter: Filter | None,
    recipe: SearchRecipe,
    sides: SideQueries | None = None,
) -> SearchRequest:
    """One query as data. ``vector`` is None where the search has no dense leg."""
    sides = sides or SideQueries()
    depth = max(k, recipe.depth)
    legs = wants(recipe, has_sparse=sides.sparse is not None or recipe.words == "bm25")
    first = None
    if sides.first is not None:
        space, short, times = sides.first
        first = FirstPass(space, short, math.ceil(times * max(depth, FIRST_DEPTH)))
    return SearchRequest(
        dense=DenseLeg(vector, depth, first) if vector is not None and "dense" in legs else None,
        lexical=LexicalLeg(query, depth, _scores(depth, recipe)) if "lexical" in legs else None,
        filter=filter,
        sparse=SparseLeg(*sides.sparse, depth) if sides.sparse is not None and "sparse" in legs else None,
        late=LateStage(*sides.late) if sides.late is not None else None,
    )


def _scores(depth: int, recipe: SearchRecipe) -> int:
    """Lexical scores that fusion looks at."""
    return max(depth, LEVEL_DEPTH) if recipe.fusion == "calibrated" else 0


def candidates(store: Store, request: SearchRequest) -> LegScores:
    """Each leg's best, as many as it asks for and all that tie with the last of them.

    The engine cuts a leg at its limit wherever that falls among equal scores, and which of them it keeps depends on the
    order in which they were stored. So one more is asked for, and more again while the cut goes through a tie.
    """
    wanted = {name: leg for name in LEGS if (leg := getattr(request, name)) is not None}
    asked = {name: with_limit(leg, leg.limit + 1) for name, leg in wanted.items()}
    if (lexical := request.lexical) is not None and lexical.scores:
        asked["lexical"] = replace(asked["lexical"], scores=lexical.scores + 1)
    while True:
        legs = _steady(store.search(replace(request, **asked)))
        values = {name: sorted(getattr(legs, name).values(), reverse=True) for name in wanted}
        least = {name: _least(values[name], leg.limit, asked[name].limit) for name, leg in wanted.items()}
        tied = [name for name in wanted if _is_tied(legs, name, values[name], least[name], asked[name].limit)]
        tied = [name for name in tied if asked[name].limit <= MOST_TIES * wanted[name].limit]
        if not tied:
            return _told(_chosen(legs, least), request.lexical, least, values.get("lexical", []))
        asked |= {name: with_limit(asked[name], 4 * asked[name].limit) for name in tied}


def with_limit(leg: Leg, limit: int) -> Leg:
    """The same leg with another limit; its first pass, if it has one, goes deeper in proportion."""
    if isinstance(leg, DenseLeg) and leg.first is not None:
        first = replace(leg.first, limit=math.ceil(leg.first.limit * limit / leg.limit))
        return replace(leg, limit=limit, first=first)
    return replace(leg, limit=limit)


def depth_of(request: SearchRequest) -> int:
    """Candidates that a leg of the request contributes; the deepest one's."""
    legs = (request.dense, request.lexical, request.sparse)
    return max(leg.limit for leg in legs if leg is not None)


def twice_as_deep(request: SearchRequest) -> SearchRequest:
    """The same request for twice as many candidates."""
    legs = {name: leg for name in LEGS if (leg := getattr(request, name)) is not None}
    return replace(request, **{name: with_limit(leg, 2 * leg.limit) for name, leg in legs.items()})


def is_cut(legs: LegScores, request: SearchRequest) -> bool:
    """Whether a leg may have more candidates than it gave."""
    pairs = ((getattr(legs, name), getattr(request, name)) for name in LEGS)
    return any(scores is not None and leg is not None and len(scores) >= leg.limit for scores, leg in pairs)


def _steady(legs: LegScores) -> LegScores:
    """The same, with lexical scores rounded.

    The engine adds them up in single precision, segment by segment, so that equal passages can differ by a millionth,
    and in another order after another history.
    """
    if legs.lexical is None:
        return legs
    rounded = [round(score, LEXICAL_DECIMALS) for score in legs.lexical.values()]
    return replace(legs, lexical=dict(zip(legs.lexical, rounded, strict=True)))


def _least(values: Sequence[float], wanted: int, asked: int) -> float:
    """The score of the last hit within the wanted limit; of the values, best first, so many were asked for."""
    return values[wanted - 1] if min(len(values), asked) > wanted else -math.inf


def _is_tied(legs: LegScores, name: str, values: Sequence[float], least: float, asked: int) -> bool:
    """Whether hits that tie with the least one of a leg may be missing, or their scores in other spaces.

    Of words more scores may be told than candidates are asked for, and a store may have followed the tie through them.
    """
    if len(values) < asked or values[asked - 1] != least:
        return False
    if name != "lexical" or legs.lexical is None or values[-1] == least:
        return True
    others = [scores for scores in (legs.dense, legs.sparse) if scores is not None]
    tied = [id_ for id_, score in legs.lexical.items() if score == least]
    return not all(id_ in scores for scores in others for id_ in tied)


def _chosen(legs: LegScores, least: Mapping[str, float]) -> LegScores:
    """The candidates that reach the least score of any leg, with their scores in all.

    Nearly all stay, so that only the others are looked for: hashing an id takes longer than comparing a score.
    """
    lost = _lost(legs, least)
    return replace(
        legs, dense=_without(legs.dense, lost), sparse=_without(legs.sparse, lost), late=_without(legs.late, lost)
    )


def _told(legs: LegScores, leg: LexicalLeg | None, least: Mapping[str, float], values: Sequence[float]) -> LegScores:
    """The same with the lexical scores that do not hang on where the engine cut.

    Those of the leg's own candidates, and with other legs those above the first that was not to be told; of the values
    alone, all that were to be told. ``values`` are all lexical scores, best first.
    """
    if legs.lexical is None or leg is None:
        return legs
    bound = least["lexical"]
    if len(least) > 1 and leg.scores:
        bound = min(bound, math.nextafter(values[leg.scores], math.inf)) if len(values) > leg.scores else -math.inf
    lost = [id_ for id_, score in legs.lexical.items() if score < bound] if values and values[-1] < bound else []
    return replace(legs, lexical=_without(legs.lexical, lost), told=tuple(values[: leg.scores]))


def _lost(legs: LegScores, least: Mapping[str, float]) -> list[UUID]:
    """Ids that no leg wants, among those that the first leg has scored, which are all."""
    first, *others = least
    lost = [id_ for id_, score in getattr(legs, first).items() if score < least[first]]
    for name in others:
        scores, bound = getattr(legs, name), least[name]
        lost = [id_ for id_ in lost if id_ not in scores or scores[id_] < bound]
    return lost


def _without(scores: Scores | None, lost: Sequence[UUID]) -> Scores | None:
    if scores is None or not lost:
        return scores
    kept = dict(scores)
    for id_ in lost:
        kept.pop(id_, None)
    return kept
