"""Retrieval metrics of a run, by ir-measures, over every question of a golden set.

nDCG@k, R@k (recall), RR (reciprocal rank), AP (average precision), Success@k and P@k, as ir-measures spells them; also
Recall@k, MRR and MAP. Each is computed for each question, and a question without hits has 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from tarragon.errors import InvalidInput, InvalidRun, MissingDependency
from tarragon.evaluation.significance import bootstrap_intervals
from tarragon.evaluation.types import GoldenSet, Grades, Ranked, Run, Scores

Level: TypeAlias = Literal["document", "chunk"]
"""What is judged: a document, which stands where its best chunk stands; or each chunk by itself."""

METRICS = ("nDCG@10", "R@10", "R@100", "RR@10")
"""What is measured if nothing is named: what evals/README.md reports."""

_SPELLINGS = {"recall": "R", "mrr": "RR", "map": "AP", "ndcg": "nDCG", "success": "Success", "precision": "P"}
_KNOWN = ("nDCG", "R", "RR", "AP", "Success", "P")
_NEED_A_CUT = ("R", "Success", "P")


def score(run: Run, golden: GoldenSet, metrics: Sequence[str] = METRICS, *, level: Level = "document") -> Scores:
    """Score a run on every question of a golden set; questions that only the run has do not count.

    Args:
        run: What a configuration answered.
        golden: The questions. For ``level="chunk"``, one whose judgements name chunks: `chunk_golden` makes it.
        metrics: Names.
        level: What is judged.

    Raises:
        InvalidInput: An unknown metric.
        InvalidRun: A place without a chunk at the level of chunks.
        MissingDependency: ir-measures is not installed.
    """
    rankings = {question.id: ids(run.rankings.get(question.id, ()), level) for question in golden.questions}
    values = measure(rankings, {question.id: question.relevant for question in golden.questions}, metrics)
    intervals = bootstrap_intervals([list(by_question.values()) for by_question in values.values()])
    return Scores(run.name, golden.digest, values, dict(zip(values, intervals, strict=True)))


def measure(
    rankings: Mapping[str, Sequence[str]], judgements: Mapping[str, Grades], metrics: Sequence[str] = METRICS
) -> dict[str, dict[str, float]]:
    """Metric → question → value, for every judged question in its order.

    ir-measures sorts a ranking by its scores again, in single precision and ties in its own way. So it is given the
    ranks, as strictly falling whole numbers. A negative grade counts as 0.

    Args:
        rankings: Question → ids, best first, none twice.
        judgements: Question → id → grade.
        metrics: Names, as for `score`.
    """
    measures = [parse(name) for name in metrics]
    values = {str(one): dict.fromkeys(judgements, 0.0) for one in measures}
    run = {
        question: {id_: float(-rank) for rank, id_ in enumerate(rankings[question])}
        for question in judgements
        if rankings.get(question)
    }
    grades = {question: {id_: max(0, grade) for id_, grade in judgements[question].items()} for question in run}
    if run and measures:
        for found in _library().iter_calc(measures, grades, run):
            values[str(found.measure)][found.query_id] = float(found.value)
    return values


def ids(ranking: Iterable[Ranked], level: Level = "document") -> list[str]:
    """What is judged of a ranking: each id where it first stands."""
    if level == "document":
        return list(dict.fromkeys(place.document_id for place in ranking))
    chunks = [(place.chunk_id, place) for place in ranking]
    if missing := [place for id_, place in chunks if not id_]:
        raise InvalidRun(
            f"a place of document {missing[0].document_id!r} has no chunk; score this run with level='document'",
            document_id=missing[0].document_id,
        )
    return list(dict.fromkeys(id_ for id_, _ in chunks))


def parse(name: str) -> Any:
    """The measure of ir-measures that a name means; ``str`` of it is the name in `Scores`.

    Raises:
        InvalidInput: There is none.
    """
    library = _library()
    head, at, cut = name.partition("@")
    head = _SPELLINGS.get(head.lower(), head)
    whole = not at or (cut.isdecimal() and int(cut) > 0)
    if head not in _KNOWN or not whole or (head in _NEED_A_CUT and not at):
        raise InvalidInput(f"{name!r} is no metric: use nDCG@10, R@100, RR, AP, Success@5, P@5, ...", metric=name)
    return library.parse_measure(f"{head}{at}{int(cut) if at else ''}")


def _library() -> Any:
    try:
        import ir_measures
    except ImportError as error:
        raise MissingDependency("metrics need ir-measures: pip install 'tarragon[evaluation]'") from error
    return ir_measures
