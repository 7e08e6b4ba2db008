"""The read path, top to bottom: request → scores of the legs → one ranking → what the ledger serves → reranked hits."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from uuid import UUID

import numpy as np

from tarragon.diversity import at_most_per_document, mmr
from tarragon.filters import Filter, has_where, matches
from tarragon.fusion import fuse, ranking
from tarragon.protocols import DenseEncoder, DocumentRecord, LegScores, OpenVersion, SearchRequest, Store
from tarragon.recipe import SearchRecipe
from tarragon.requests import build_request, candidates, depth_of, is_cut, twice_as_deep
from tarragon.reranking import Step, rerank
from tarragon.serving import current_payload, hit_of
from tarragon.statistics import Spread
from tarragon.tracing import Trace
from tarragon.types import FloatArray, Hit

__all__ = ["Found", "TruncatedQuery", "build_request", "candidates", "embed_queries", "search"]


class TruncatedQuery(UserWarning):
    """A query has more tokens than the model takes; the dense leg did not see its end."""


def embed_queries(encoder: DenseEncoder, queries: Sequence[str], recipe: SearchRecipe) -> FloatArray:
    """One vector per query, shape ``(queries, dimensions)``."""
    embeddings = encoder.encode_queries(queries, recipe.query_prompt)
    if embeddings.truncated:
        warn_of_truncation(embeddings.truncated, encoder.name)
    return embeddings.vectors


def warn_of_truncation(tokens: int, model: str) -> None:
    """Say that a query is too long."""
    warnings.warn(f"{tokens} tokens of the query are beyond what {model} can take", TruncatedQuery, stacklevel=4)


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, what the ledger says of its document, and what models read of it: its headings and its text."""

    hit: Hit
    record: DocumentRecord
    content: str


def search(
    version: OpenVersion,
    request: SearchRequest,
    k: int,
    recipe: SearchRecipe,
    *,
    scored: Callable[[LegScores, SearchRequest], LegScores] = lambda legs, _: legs,
    query: str = "",
    spread: Spread | None = None,
    steps: Sequence[Step] = (),
    trace: Trace | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> list[Found]:
    """The ``k`` best that may be served, best first, equal scores in order of their chunk ids; fewer if that is all.

    The ledger has the last word on each hit, after its text was read: so no deleted document is served, and no document
    in two states. A document that was rewritten while the store was being searched is searched again.

    Args:
        version: What to search.
        request: The query as data.
        k: Hits wanted.
        recipe: How to fuse and what to leave out.
        scored: May choose among what the legs found and score it in another way, before it is fused.
        query: Its text, for rerankers.
        spread: Of the query's dense scores over the corpus, for calibrated fusion; None: not known.
        steps: Rerankers.
        trace: Takes notes.
        turn: Held while the store is asked, and not while rerankers run.
    """
    trace = trace or Trace()
    rearranged = bool(steps) or recipe.diversity > 0
    limit = None if rearranged else recipe.per_document
    with turn or nullcontext():
        found = _retrieve(version, request, _looked_at(k, recipe, steps), recipe, scored, spread, limit, trace)
    scored_by_last = len(found)
    if steps and found:
        found, scored_by_last = _reranked(found, query, recipe, steps, trace)
    if recipe.diversity and len(found) > 1:  # what the last reranker did not score is on no scale with the rest
        found = _diverse(found[:scored_by_last], version.store, recipe.diversity, trace) + found[scored_by_last:]
    if rearranged and recipe.per_document is not None:
        documents = {place: one.record.document_id for place, one in enumerate(found)}
        found = [found[place] for place in at_most_per_document(list(documents), documents, recipe.per_document)]
    return found[:k]


def _looked_at(k: int, recipe: SearchRecipe, steps: Sequence[Step]) -> int:
    """How many of the best are read: what rerankers want, and enough to choose from where not all may stay."""
    deepest = max((step.depth for step in steps), default=0)
    chooses = recipe.diversity > 0 or (bool(steps) and recipe.per_document is not None)
    return max(k, deepest, recipe.depth if chooses else 0)


def _retrieve(
    version: OpenVersion,
    request: SearchRequest,
    wanted: int,
    recipe: SearchRecipe,
    scored: Callable[[LegScores, SearchRequest], LegScores],
    spread: Spread | None,
    limit: int | None,
    trace: Trace,
) -> list[Found]:
    """The best that are served, at most ``limit`` of a document; from as deep as it takes.

    A document that was rewritten after the store was asked, whole, and kept some chunks, is complete in its new state
    only if the store is asked again. That is found out where the ledger was changed meanwhile: the store is asked until
    each document that is found has the state that it had before.
    """
    refused: set[UUID] = set()
    known: dict[str, bytes | None] = {}
    while True:
        before = version.ledger.revision()
        with trace.stage("legs") as said:
            legs = candidates(version.store, request)
            said.append(len(legs.dense or legs.lexical or legs.sparse or {}))
        trace.legs(legs)
        with trace.stage("fuse") as said:
            order = _ranked(scored(legs, request), request, recipe, spread, trace)
            said.append(len(order))
        with trace.stage("serve") as said:
            found, now, passed_over = _serve(order, version, wanted, request.filter, limit)
            said.append(len(found))
        if len(found) < wanted and (now or passed_over) and is_cut(legs, request):
            request = twice_as_deep(request)
        elif now <= refused and (before == version.ledger.revision() or _have_rested(found, known)):
            return found
        refused |= now
        known = {one.record.document_id: one.record.state for one in found}


def _have_rested(found: Sequence[Found], known: Mapping[str, bytes | None]) -> bool:
    """Whether all are of the states that were known before the store was asked."""
    return all(known.get(one.record.document_id) == one.record.state for one in found)


def _ranked(
    legs: LegScores, request: SearchRequest, recipe: SearchRecipe, spread: Spread | None, trace: Trace
) -> Sequence[tuple[UUID, float]]:
    """One ranking of the candidates: fused, without what scores too little, the head in order of the late scores."""
    given = [scores for scores in (legs.dense, legs.lexical, legs.sparse) if scores is not None]
    own = len(given) == 1 and recipe.min_score is None  # one leg keeps its own scores: cosines, BM25
    order = ranking(given[0]) if own else fuse(legs, recipe, spread)
    trace.ranked("fused", order)
    if recipe.min_score is not None:
        least = recipe.min_score
        order = [(id_, score) for id_, score in order if score >= least]
    if legs.late is None:
        return order
    late = legs.late
    lowest = min(late.values(), default=0.0)  # of a passage whose late vectors are missing
    order = ranking({id_: late.get(id_, lowest) for id_, _ in order[: depth_of(request)]})
    trace.ranked("late", order)
    return order


def _reranked(
    found: Sequence[Found], query: str, recipe: SearchRecipe, steps: Sequence[Step], trace: Trace
) -> tuple[list[Found], int]:
    """In the rerankers' order, and how many at the head the last one scored; all, if none scored anything."""
    by_id = {UUID(one.hit.chunk_id): one for one in found}
    order = [(id_, one.hit.score) for id_, one in by_id.items()]
    texts = {id_: one.content for id_, one in by_id.items()}
    after = rerank(query, order, texts, steps, budget_ms=recipe.rerank_budget_ms, on_failure=recipe.on_rerank_failure)
    trace.stages.extend(after.stages)
    trace.degraded.extend(after.degraded)
    trace.truncated += after.truncated
    for stage, scores in after.scores.items():
        trace.ranked(stage, list(scores.items()))
    last = list(after.scores.values())[-1] if after.scores else by_id
    hits = [replace(by_id[id_], hit=replace(by_id[id_].hit, score=score)) for id_, score in after.ranking]
    return hits, len(last)


def _diverse(found: Sequence[Found], store: Store, diversity: float, trace: Trace) -> list[Found]:
    with trace.stage("diversity") as said:
        vectors = store.vectors([UUID(one.hit.chunk_id) for one in found])
        here = [one for one in found if UUID(one.hit.chunk_id) in vectors]
        if not here:
            return list(found)
        rows = np.stack([vectors[UUID(one.hit.chunk_id)] for one in here])
        order = mmr([one.hit.score for one in here], rows, len(here), diversity)
        said.append(len(here))
    return [here[place] for place in order]


def _serve(
    order: Sequence[tuple[UUID, float]], version: OpenVersion, k: int, filter: Filter | None, limit: int | None
) -> tuple[list[Found], set[UUID], bool]:
    """The first ``k`` of a ranking that may be served, at most ``limit`` of a document; those before them whose
    document was rewritten, since they may not or have another payload now; and whether any was passed over, for the
    limit or by a part of the filter that no store can judge.
    """  # noqa: D205
    found: list[Found] = []
    refused: set[UUID] = set()
    of_document: Counter[str] = Counter()
    passed_over = False
    is_judged = filter is None or not has_where(filter)
    rest = iter(order)
    while len(found) < k and (page := list(islice(rest, k - len(found)))):
        ids = [id_ for id_, _ in page]
        payloads = version.store.payloads(ids)
        served = version.ledger.served(ids)  # after the payloads: what it says is at least as new
        for id_, score in page:
            chunk, payload = served.get(id_), payloads.get(id_)
            if chunk is None or payload is None or (current := current_payload(payload, chunk)) is None:
                refused.add(id_)
            elif not is_judged and filter is not None and not matches(filter, current["metadata"]):
                passed_over = True
            elif current is not payload and filter is not None and not matches(filter, current["metadata"]):
                refused.add(id_)  # its metadata have changed, and no longer pass
            elif limit is not None and of_document[current["document_id"]] >= limit:
                passed_over = True
            else:
                if current is not payload:
                    refused.add(id_)  # it stays, but others of its document may have come after the store was asked
                of_document[current["document_id"]] += 1
                hit = hit_of(id_, score, current, version.record.name)
                found.append(Found(hit, chunk.record, current["content"]))
    return found, refused, passed_over
