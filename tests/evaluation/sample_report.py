"""Reports of made-up runs, whose quality is known by how they were made."""

from __future__ import annotations

import numpy as np

from tarragon.evaluation.contrast import compare
from tarragon.evaluation.report import Report
from tarragon.evaluation.significance import bootstrap_intervals
from tarragon.evaluation.stages import StageRow, Stages
from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run, Scores

NASTY = "<script>alert('x')</script> & \"quoted\" | *bold* `code` \x07 \ud800 [link](http://example.com/a.png)"
MACHINE = {"processor": "a test", "cores": "2"}


def golden(count: int, *, nasty: bool = False) -> GoldenSet:
    questions = tuple(
        Question(
            f"q{i}",
            NASTY if nasty and i % 5 == 0 else f"How is part number {i} of the machine taken off and put on again?",
            {f"doc-{i}-{j}": 1 + j % 2 for j in range(1 + i % 3)},
        )
        for i in range(count)
    )
    return GoldenSet(NASTY if nasty else "handbook", questions, "0123456789abcdef")


def run(name: str, asked: GoldenSet, quality: float, milliseconds: float, seed: int, depth: int = 100) -> Run:
    chance = np.random.default_rng(seed)
    rankings = {}
    for question in asked.questions:
        scores = {f"other-{j}": float(chance.normal(0, 1)) for j in range(depth)}
        scores |= {id_: float(chance.normal(quality, 1)) for id_ in question.relevant}
        order = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:depth]
        rankings[question.id] = tuple(Ranked(id_, score) for id_, score in order)
    seconds = {q.id: float(chance.lognormal(np.log(milliseconds / 1000), 0.4)) for q in asked.questions}
    recipe = {"mode": name, "depth": depth, "rerankers": [{"model": "x", "depth": 50}] if quality > 3 else []}
    return Run(name, rankings, {"index": {"chunk_tokens": 256, "model": None}, "search": recipe}, seconds)


def score(answered: Run, asked: GoldenSet) -> Scores:
    """Recall and reciprocal rank, in few words."""
    recall, reciprocal = {}, {}
    for question in asked.questions:
        ids = [place.document_id for place in answered.rankings[question.id]]
        recall[question.id] = len(set(ids[:10]) & set(question.relevant)) / len(question.relevant)
        ranks = [rank for rank, id_ in enumerate(ids, start=1) if id_ in question.relevant]
        reciprocal[question.id] = 1 / ranks[0] if ranks else 0.0
    values = {"RR": reciprocal, "R@10": recall}
    means = bootstrap_intervals([list(by.values()) for by in values.values()])
    return Scores(answered.name, asked.digest, values, dict(zip(values, means, strict=True)))


QUALITIES = [
    ("dense", 2.2, 9.0),
    ("bm25", 2.0, 1.2),
    ("hybrid", 3.0, 10.5),
    ("hybrid, reranked by a small one", 3.6, 95.0),
]


def sample(count: int = 300, *, nasty: bool = False, depth: int = 100, names: str = "{}") -> Report:
    """A report with everything in it."""
    asked = golden(count, nasty=nasty)
    runs = tuple(
        run(names.format(name), asked, quality, ms, seed, depth) for seed, (name, quality, ms) in enumerate(QUALITIES)
    )
    scores = tuple(score(one, asked) for one in runs)
    compared = compare(scores, asked, runs), compare(scores[2:], asked, runs)
    rows = tuple(StageRow(one.run, one.means, 0.001, 0.002, None, 100.0, 12.5, 1.0) for one in scores[:2])
    ceilings = {rows[1].name: scores[0].means["R@10"]}
    return Report(
        NASTY if nasty else "Handbook, October",
        asked,
        runs,
        scores,
        compared,
        (Stages(runs[2], rows, scores[:2], ceilings),),
        (NASTY,) if nasty else ("The questions are made up.",),
        "2026-10-01",
        MACHINE,
    )
