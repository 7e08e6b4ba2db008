"""How alike two versions of an index answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tarragon.protocols import OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.reports import Comparison
from tarragon.searching import build_request, embed_queries, search
from tarragon.session import Session
from tarragon.types import Hit

Query: TypeAlias = "str | tuple[str, Collection[str]]"
"""A question, or a question with the ids of the documents that answer it."""

DEPTH = 10
RESAMPLES = 2_000
"""Of the bootstrap."""

WORST = 10
"""Queries that are named."""

MOST_CHARACTERS = 400
"""Of a passage that is used as a question."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question; ``but``: document and chunk that are no answer, because the question was taken from them."""

    text: str
    relevant: frozenset[str] | None = None
    but: tuple[str, str] = ("", "")


def compare(session: Session, first: str, second: str, queries: Sequence[Query], sample: int) -> Comparison:
    """Ask both versions the same; see `Index.compare`."""
    with session.reading(first) as one, session.reading(second) as two:
        a, b = one.record.contract, two.record.contract
        alike = (a.recipe.chunking, a.limit) == (b.recipe.chunking, b.limit)
        asked = [_asked(query) for query in queries] or _passages(one, sample)
        answers = [_answers(session, version, asked) for version in (one, two)]
    keys = [[_keys(hits, query, alike) for hits, query in zip(found, asked, strict=True)] for found in answers]
    pairs = list(zip(*keys, strict=True))
    overlaps = [overlap(x, y) for x, y in pairs]
    changes = [abs(x.index(key) - y.index(key)) for x, y in pairs for key in x if key in y]
    by_overlap = sorted(zip(overlaps, [query.text for query in asked], strict=True))
    ndcg, difference = _labelled(answers, asked)
    return Comparison(
        first,
        second,
        queries=len(asked),
        unit="chunk" if alike else "document",
        overlap=float(np.mean(overlaps)) if overlaps else 1.0,
        rank_change=float(np.mean(changes)) if changes else 0.0,
        worst=tuple((text, value) for value, text in by_overlap[:WORST] if value < 1),
        ndcg=ndcg,
        difference=difference,
    )


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Share of the first list that is in the second, 0 to 1; two empty lists agree."""
    if not first:
        return 0.0 if second else 1.0
    return len(set(first).intersection(second)) / len(first)


def ndcg(ranked: Sequence[str], relevant: Collection[str]) -> float:
    """nDCG@10 with binary gains: Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002."""
    gains = sum(1 / math.log2(place + 2) for place, id_ in enumerate(ranked[:DEPTH]) if id_ in relevant)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(DEPTH, len(relevant))))
    return gains / ideal if ideal else 0.0


def _asked(query: Query) -> _Asked:
    if isinstance(query, str):
        return _Asked(query)
    text, relevant = query
    return _Asked(text, frozenset(relevant))


def _passages(version: OpenVersion, sample: int) -> list[_Asked]:
    """Passages evenly spread over the chunk ids, which are digests: a sample, and always the same one."""
    ids = sorted(version.store.ids(), key=lambda id_: id_.int)
    chosen = ids[:: max(1, len(ids) // max(sample, 1))][:sample]
    payloads = version.store.payloads(chosen)
    return [
        _Asked(payloads[id_]["content"][:MOST_CHARACTERS], None, (payloads[id_]["document_id"], str(id_)))
        for id_ in chosen
        if id_ in payloads
    ]


def _answers(session: Session, version: OpenVersion, asked: Sequence[_Asked]) -> list[list[Hit]]:
    recipe = SearchRecipe()
    if not asked:
        return []
    vectors = embed_queries(session.trusted_encoder(version), [query.text for query in asked], recipe)
    depth = 10 * DEPTH
    found = []
    for query, vector in zip(asked, vectors, strict=True):
        request = build_request(query.text, vector, depth, None, recipe)
        found.append([one.hit for one in search(version, request, depth, recipe)])
    return found


def _keys(hits: Sequence[Hit], query: _Asked, alike: bool) -> list[str]:
    """The ten best chunks, or documents, without where the question is from."""
    document, chunk = query.but
    keys = (
        [hit.chunk_id for hit in hits if hit.chunk_id != chunk]
        if alike
        else [hit.document_id for hit in hits if hit.document_id != document]
    )
    return list(dict.fromkeys(keys))[:DEPTH]


def _labelled(
    answers: Sequence[Sequence[Sequence[Hit]]], asked: Sequence[_Asked]
) -> tuple[tuple[float, float] | None, tuple[float, float, float] | None]:
    """Mean nDCG@10 of both over the labelled queries, and their difference with its interval."""
    places = [place for place, query in enumerate(asked) if query.relevant is not None]
    if not places:
        return None, None
    scores = np.array(
        [
            [ndcg(list(dict.fromkeys(hit.document_id for hit in found[i])), asked[i].relevant or ()) for i in places]
            for found in answers
        ]
    )
    gaps = scores[1] - scores[0]
    chance = np.random.default_rng(0)
    means = gaps[chance.integers(0, len(gaps), (RESAMPLES, len(gaps)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    first, second = scores.mean(axis=1)
    return (float(first), float(second)), (float(gaps.mean()), float(low), float(high))
