"""Two or more scored runs over the same questions: by how much they differ, and in which questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tarragon.errors import InvalidInput
from tarragon.evaluation.significance import EQUAL, bootstrap_interval, holm, randomisation_test, wins_losses_ties
from tarragon.evaluation.types import Change, Comparison, Difference, GoldenSet, Ranked, Run, Scores

CHANGES = 10
"""Questions that are named of each run."""

PLACES = 10
"""Of each ranking that is shown beside another."""


def compare(
    scored: Sequence[Scores], golden: GoldenSet, runs: Sequence[Run] = (), *, changes: int = CHANGES, seed: int = 0
) -> Comparison:
    """Compare runs with the first of them, in every metric that all have.

    p-values are adjusted for as many runs as are compared in a metric. Changes are in the first metric.

    Args:
        scored: Two or more, with names of their own, of the same questions; the first is the reference.
        golden: The questions.
        runs: By their names, their rankings are shown beside each change.
        changes: How many questions to name of each run.
        seed: Of chance.

    Raises:
        InvalidInput: Fewer than two, two of one name, other questions, or no metric in common.
    """
    _check(scored, golden)
    reference, *others = scored
    metrics = [name for name in reference.per_question if all(name in other.per_question for other in others)]
    if not metrics:
        raise InvalidInput("the runs have no metric in common; score them with the same metrics")
    rankings = {run.name: run.rankings for run in runs}
    return Comparison(
        golden.digest,
        len(golden.questions),
        reference.run,
        tuple(one for metric in metrics for one in differences(reference, others, metric, seed=seed)),
        tuple(
            change for other in others for change in changed(reference, other, metrics[0], golden, rankings)[:changes]
        ),
    )


def differences(reference: Scores, others: Sequence[Scores], metric: str, *, seed: int = 0) -> list[Difference]:
    """Each of the others less the reference, with p-values adjusted for all of them."""
    base = _values(reference, metric)
    gaps = [_values(other, metric, like=reference) - base for other in others]
    chances = [randomisation_test(gap, seed=seed) for gap in gaps]
    return [
        Difference(
            metric,
            reference.run,
            other.run,
            (float(base.mean()), float((base + gap).mean())),
            bootstrap_interval(gap, seed=seed),
            p,
            adjusted,
            *wins_losses_ties(gap),
        )
        for other, gap, p, adjusted in zip(others, gaps, chances, holm(chances), strict=True)
    ]


def changed(
    reference: Scores,
    other: Scores,
    metric: str,
    golden: GoldenSet,
    rankings: Mapping[str, Mapping[str, Sequence[Ranked]]] | None = None,
) -> list[Change]:
    """The questions with different values, the largest change first, then in order of their ids.

    Args:
        reference: Before.
        other: After.
        metric: That both have.
        golden: The questions.
        rankings: Run → question → places, to be shown.
    """
    before, after = reference.per_question[metric], other.per_question[metric]
    shown = rankings or {}

    def places(run: str, question: str) -> tuple[Ranked, ...]:
        return tuple(shown.get(run, {}).get(question, ())[:PLACES])

    found = [
        Change(
            question,
            metric,
            (reference.run, other.run),
            before[question.id],
            after[question.id],
            (places(reference.run, question.id), places(other.run, question.id)),
        )
        for question in golden.questions
        if abs(after[question.id] - before[question.id]) > EQUAL
    ]
    return sorted(found, key=lambda change: (-abs(change.second - change.first), change.question.id))


def _values(scores: Scores, metric: str, like: Scores | None = None) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = scores.per_question[metric]
    return np.array([values[question] for question in (like or scores).per_question[metric]], dtype=np.float64)


def _check(scored: Sequence[Scores], golden: GoldenSet) -> None:
    names = [scores.run for scores in scored]
    if len(names) < 2 or len(set(names)) < len(names):
        raise InvalidInput(f"two or more runs with names of their own are needed, not {names}", runs=names)
    for scores in scored:
        if scores.golden != golden.digest:
            raise InvalidInput(
                f"run {scores.run!r} was scored on other questions than {golden.name!r} has now; score it again",
                run=scores.run,
            )
