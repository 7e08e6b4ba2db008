"""Retrieval metrics as slow, obvious code: what `tarragon.evaluation.metrics` must agree with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log2

Grades = Mapping[str, int]


def ndcg(ids: Sequence[str], grades: Grades, k: int) -> float:
    def gain(values: Sequence[int]) -> float:
        return sum(max(0, value) / log2(place + 1) for place, value in enumerate(values[:k], start=1))

    return gain([grades.get(id_, 0) for id_ in ids]) / gain(sorted(grades.values(), reverse=True))


def recall(ids: Sequence[str], grades: Grades, k: int) -> float:
    return _found(ids, grades, k) / _relevant(grades)


def precision(ids: Sequence[str], grades: Grades, k: int) -> float:
    return _found(ids, grades, k) / k


def success(ids: Sequence[str], grades: Grades, k: int) -> float:
    return float(_found(ids, grades, k) > 0)


def reciprocal_rank(ids: Sequence[str], grades: Grades, k: int) -> float:
    return next((1 / place for place in range(1, k + 1) if _found(ids, grades, place)), 0.0)


def average_precision(ids: Sequence[str], grades: Grades, k: int) -> float:
    places = [place for place, id_ in enumerate(ids[:k], start=1) if grades.get(id_, 0) > 0]
    return sum(precision(ids, grades, place) for place in places) / _relevant(grades)


def _found(ids: Sequence[str], grades: Grades, k: int) -> int:
    return sum(grades.get(id_, 0) > 0 for id_ in ids[:k])


def _relevant(grades: Grades) -> int:
    return sum(grade > 0 for grade in grades.values())


OBVIOUS: dict[str, tuple[Callable[[Sequence[str], Grades, int], float], int]] = {
    "nDCG": (ndcg, 1000),
    "nDCG@3": (ndcg, 3),
    "nDCG@10": (ndcg, 10),
    "R@1": (recall, 1),
    "R@10": (recall, 10),
    "R@100": (recall, 100),
    "RR": (reciprocal_rank, 1000),
    "RR@10": (reciprocal_rank, 10),
    "AP": (average_precision, 1000),
    "AP@5": (average_precision, 5),
    "Success@1": (success, 1),
    "Success@5": (success, 5),
    "P@1": (precision, 1),
    "P@10": (precision, 10),
}
