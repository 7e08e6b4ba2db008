"""What an index really holds, read back from its store, and how two indexes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tarragon import Hit, Index, SearchRecipe
from tarragon.recipe import Mode
from tarragon.types import FloatArray

MODES: tuple[Mode, ...] = ("dense", "lexical", "hybrid")
REQUIRED_COSINE = 0.99999
TIE = 1e-5
"""Relative difference of scores that are one score: the engine adds single-precision numbers in no fixed order."""


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A chunk as it lies in the store.

    Attributes:
        payload: All that is kept beside the vector, the embedded text under ``content``.
        vector: Of the serving space.
    """

    payload: Mapping[str, Any]
    vector: FloatArray = field(repr=False)

    @property
    def text(self) -> str:
        """What was embedded."""
        return str(self.payload["content"])


def stored_passages(index: Index) -> dict[str, StoredPassage]:
    """Every chunk in the serving version's store by its id, whatever the ledger says; empty before the first sync."""
    with index._opened.catalog.reading() as version:
        if version is None:
            return {}
        ids = list(version.store.ids())
        payloads, vectors = version.store.payloads(ids), version.store.vectors(ids)
    return {str(id_): StoredPassage(payload, vectors[id_]) for id_, payload in payloads.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """How an index differs from one that was built anew from the same source.

    Attributes:
        chunks: Chunks of the index.
        lost: Chunks that only the new build has.
        orphans: Chunks that only the index has.
        payloads: Chunks that both have, with other payloads.
        least_cosine: Between the vectors of chunks that both have; 1.0 where there are none.
        answers: For each search mode, queries with another list of hits: chunk ids and their order.
        beyond_ties: Those of them in which the scores at some place differ too, by more than `TIE`: the others have
            hits of one score in another order.
    """

    chunks: int
    lost: int
    orphans: int
    payloads: int
    least_cosine: float
    answers: Mapping[Mode, int]
    beyond_ties: Mapping[Mode, int]

    @property
    def same_data(self) -> bool:
        """Whether the same chunks are stored, with the same payloads and vectors."""
        return self.lost == self.orphans == self.payloads == 0 and self.least_cosine >= REQUIRED_COSINE

    @property
    def equal(self) -> bool:
        """Whether the stored data are the same, and the same hits are found in the same order."""
        return self.same_data and not any(self.answers.values())


def compare(index: Index, built_anew: Index, queries: Sequence[str], k: int = 10) -> Difference:
    """Everything stored, and the answers to these queries."""
    ours, theirs = stored_passages(index), stored_passages(built_anew)
    both = sorted(ours.keys() & theirs.keys())
    answers = {mode: [_answers(one, queries, k, mode) for one in (index, built_anew)] for mode in MODES}
    return Difference(
        chunks=len(ours),
        lost=len(theirs.keys() - ours.keys()),
        orphans=len(ours.keys() - theirs.keys()),
        payloads=sum(ours[id_].payload != theirs[id_].payload for id_ in both),
        least_cosine=min((_cosine(ours[id_].vector, theirs[id_].vector) for id_ in both), default=1.0),
        answers={mode: sum(map(_other_hits, *pair)) for mode, pair in answers.items()},
        beyond_ties={mode: sum(map(_other_scores, *pair)) for mode, pair in answers.items()},
    )


def _answers(index: Index, queries: Sequence[str], k: int, mode: Mode) -> list[list[Hit]]:
    return [index.search(query, k, recipe=SearchRecipe(mode=mode)) for query in queries]


def _other_hits(first: Sequence[Hit], second: Sequence[Hit]) -> bool:
    return [hit.chunk_id for hit in first] != [hit.chunk_id for hit in second]


def _other_scores(first: Sequence[Hit], second: Sequence[Hit]) -> bool:
    pairs = zip(first, second, strict=False)
    far = any(abs(one.score - other.score) > TIE * abs(one.score) for one, other in pairs)
    return _other_hits(first, second) and (far or len(first) != len(second))


def _cosine(first: FloatArray, second: FloatArray) -> float:
    norms = float(np.linalg.norm(first)) * float(np.linalg.norm(second))
    return float(np.dot(first, second)) / norms
