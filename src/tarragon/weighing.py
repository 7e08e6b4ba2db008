"""Legs and weights by measurement: which of them answer labelled queries better than the default.

Without labelled queries, the middle sentence of a passage has to find the other passages of its document. That judges
passages as questions, which are longer and say more in the words of the corpus than what people ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tarragon.asking import Asker
from tarragon.comparing import Query, ndcg
from tarragon.errors import InvalidInput
from tarragon.protocols import OpenVersion
from tarragon.recipe import SearchRecipe
from tarragon.searching import search

K = 10
"""Of nDCG."""

LEAST = 20
"""Questions below which nothing is judged."""

ASKED = 200
"""Passages that are used as questions where there are none."""

WEIGHTS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
RESAMPLES = 4_000


@dataclass(frozen=True, slots=True)
class Judged:
    """One choice of legs and weights, as judged.

    Attributes:
        recipe: In words.
        ndcg: nDCG@10, mean over the queries.
        difference: To the default settings: mean and its 95 % interval, by bootstrap over the queries.
        chosen: Whether searches use it from now on.
    """

    recipe: str
    ndcg: float
    difference: tuple[float, float, float]
    chosen: bool = False


def judge(asker: Asker, version: OpenVersion, queries: Sequence[Query]) -> tuple[list[Judged], dict[str, Any] | None]:
    """Every choice as judged, first the default, and the settings of the best one: another than the default only if it
    is better beyond doubt. None, and nothing judged, if there is too little to judge by.

    Args:
        asker: Makes the queries' vectors.
        version: To be searched.
        queries: Those that name the documents that answer them count. Without any, passages do.

    Raises:
        InvalidInput: The queries name documents, none of which is there.
    """  # noqa: D205
    labelled = [(text, frozenset(relevant)) for text, relevant in (q for q in queries if not isinstance(q, str))]
    if labelled and not any(version.ledger.document(id_) for _, relevant in labelled for id_ in relevant):
        some = sorted({id_ for _, relevant in labelled for id_ in relevant})[:3]
        raise InvalidInput(f"the index has none of the documents that the queries name, such as {', '.join(some)}")
    asked = [(text, relevant, "") for text, relevant in labelled] or _sentences(version)
    if len(asked) < LEAST:
        return [], None
    tried = list(_recipes(version))
    scores = [_scores(asker, version, asked, recipe) for recipe, _ in tried]
    differences = [_interval(row - scores[0]) for row in scores]
    sure = [_least(row - scores[0], len(tried) - 1) for row in scores]
    best = max(range(len(tried)), key=lambda place: (sure[place], -place))
    chosen = best if sure[best] > 0 else 0
    judged = [
        Judged(_recipe_words(settings), float(row.mean()), difference, place == chosen)
        for place, ((_, settings), row, difference) in enumerate(zip(tried, scores, differences, strict=True))
    ]
    return judged, tried[chosen][1]


def _recipes(version: OpenVersion) -> Iterator[tuple[SearchRecipe, dict[str, Any]]]:
    """First the default; then single legs, then weights, with each choice of words that the index has."""
    has_sparse = version.record.contract.side("sparse") is not None
    settings: list[dict[str, Any]] = [{}, {"mode": "dense"}, {"mode": "lexical"}]
    settings += [{"mode": "sparse"}] if has_sparse else []
    for words in ("bm25", "sparse", "both") if has_sparse else (None,):
        named = {} if words is None else {"words": words}
        settings += [{**named, "fusion": "calibrated", "dense_weight": weight} for weight in WEIGHTS]
        settings += [{**named, "fusion": "dbsf"}, {**named, "fusion": "rrf"}]
    for one in settings:
        yield SearchRecipe(**one), one


def _recipe_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "the default"


def _scores(
    asker: Asker, version: OpenVersion, asked: Sequence[tuple[str, frozenset[str], str]], recipe: SearchRecipe
) -> np.ndarray[Any, Any]:
    """nDCG@10 of each query, a document standing where its best chunk stands."""
    found = []
    put = asker.ask(version, [text for text, _, _ in asked], recipe)
    for one, (text, relevant, but) in zip(put, asked, strict=True):
        request = one.request(5 * K, None, recipe)
        hits = [found.hit for found in search(version, request, 5 * K, recipe, query=text, spread=one.spread)]
        keys = [hit.document_id for hit in hits] if not but else [hit.chunk_id for hit in hits if hit.chunk_id != but]
        found.append(ndcg(list(dict.fromkeys(keys)), relevant))
    return np.array(found)


def _sentences(version: OpenVersion) -> list[tuple[str, frozenset[str], str]]:
    """The middle sentence of passages, each to find the other passages of its document; the passage itself left out."""
    ids = sorted(version.store.ids())
    chosen = ids[:: max(1, len(ids) // ASKED)][:ASKED]
    payloads = version.store.payloads(chosen)
    asked = []
    for id_ in chosen:
        if id_ in payloads:
            others = {str(chunk.id) for chunk in version.ledger.chunks(payloads[id_]["document_id"])} - {str(id_)}
            content = payloads[id_]["content"][payloads[id_]["offset"] :]
            sentences = [part.strip() for part in content.replace("\n", " ").split(". ") if len(part.strip()) > 20]
            if others and sentences:
                asked.append((sentences[len(sentences) // 2][:300], frozenset(others), str(id_)))
    return asked


def _interval(differences: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval, by bootstrap with a fixed seed."""
    low, high = np.percentile(_means(differences), [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def _least(differences: np.ndarray[Any, Any], others: int) -> float:
    """The lower end of the interval, widened for so many choices that are looked at (Bonferroni)."""
    return float(np.percentile(_means(differences), 2.5 / others))


def _means(differences: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    picks = np.random.default_rng(0).integers(0, len(differences), (RESAMPLES, len(differences)))
    return np.asarray(differences[picks].mean(axis=1))
