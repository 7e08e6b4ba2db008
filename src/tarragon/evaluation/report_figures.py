"""The charts of a report, and the numbers behind each."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tarragon.evaluation.report_charts import COLOURS
from tarragon.evaluation.report_page import Axis, Cell, Chart, Figure, Point, Series, Table
from tarragon.evaluation.report_values import Report
from tarragon.evaluation.types import Difference, GoldenSet, Interval, Question, Ranked, Run

DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)
PLACES = 10
"""Of a ranking, whose scores a histogram shows."""

BINS = 24
HISTOGRAMS = 4
"""Most of them in a report."""


def quality_and_time(report: Report) -> Iterator[Figure]:
    """Each run as a point: what it is worth, and how long it takes. None unless times were measured."""
    names = numbered([run.name for run in report.runs])
    timed = [(name, run, one) for name, run, one in zip(names, report.runs, report.scores, strict=True) if run.seconds]
    if timed and report.metrics:
        metric = report.metrics[0]
        medians = [1000 * float(np.median(list(run.seconds.values()))) for _, run, _ in timed]
        found = [(name, ms, one.means[metric]) for (name, _, one), ms in zip(timed, medians, strict=True)]
        yield quality_chart("Quality against time", metric, found)


def numbered(names: Sequence[str]) -> list[str]:
    """The names of runs as they stand in tables: with numbers, if there are more than a chart has room to name."""
    return [f"{place}. {name}" for place, name in enumerate(names, 1)] if len(names) > COLOURS else list(names)


def quality_chart(title: str, metric: str, found: Sequence[tuple[str, float, Interval]]) -> Figure:
    """Points of name, milliseconds and worth; many points have the numbers of their names only."""
    many = len(found) > COLOURS
    points = tuple(
        Point(ms, mean.mean, mean.low, mean.high, label=name.partition(".")[0] if many else name)
        for name, ms, mean in found
    )
    rows = tuple(
        (Cell(name), Cell(f"{ms:.1f}"), Cell(f"{mean.mean:.3f}", interval(mean.low, mean.high)))
        for name, ms, mean in found
    )
    note = "Up is better, left is faster. The bar is the 95 % interval of the mean over questions."
    return Figure(
        title,
        f"{note} Numbers as in the table." if many else note,
        Chart("points", Axis("milliseconds a question (median)", log=True), Axis(metric), (Series("", points),)),
        Table(("run", "ms, median", metric), rows),
    )


def recall_and_depth(report: Report) -> Iterator[Figure]:
    """Recall of documents at every depth; of the best runs, if there are more than can be told apart."""
    shown = _best(report)
    curves = [(run.name, recall_curve(report.golden, run)) for run in shown]
    curves = [(name, curve) for name, curve in curves if len(curve) > 1]
    if not curves:
        return
    depths = sorted({depth for _, curve in curves for depth, _ in curve})
    rows = []
    for name, curve in curves:
        values = dict(curve)
        rows.append((Cell(name), *(Cell(f"{values[depth]:.3f}" if depth in values else "–") for depth in depths)))
    left_out = f" The {len(shown)} best of {len(report.runs)} runs." if len(shown) < len(report.runs) else ""
    yield Figure(
        "Recall against depth",
        f"Share of the relevant documents among the first so many.{left_out}",
        Chart(
            "lines",
            Axis("documents read", log=True, low=1.0, high=float(depths[-1])),
            Axis("recall", high=1.0),
            tuple(Series(name, tuple(Point(float(x), y) for x, y in curve)) for name, curve in curves),
        ),
        Table(("run", *(f"R@{depth}" for depth in depths)), tuple(rows)),
    )


def recall_curve(golden: GoldenSet, run: Run) -> list[tuple[int, float]]:
    """Mean recall at every depth of `DEPTHS` that the rankings reach, over questions with something to find."""
    shares = []
    deepest = 0
    for question in golden.questions:
        wanted = {id_ for id_, grade in question.relevant.items() if grade > 0}
        if not wanted:
            continue
        ids = list(documents(run.rankings.get(question.id, ())))
        deepest = max(deepest, len(ids))
        ranks = [rank for rank, id_ in enumerate(ids, start=1) if id_ in wanted]
        shares.append([bisect_right(ranks, depth) / len(wanted) for depth in DEPTHS])
    means = np.mean(shares, axis=0) if shares else np.zeros(len(DEPTHS))
    return [(depth, float(mean)) for depth, mean in zip(DEPTHS, means, strict=True) if depth <= deepest]


def score_histograms(report: Report) -> Iterator[Figure]:
    """Scores of relevant and of other places among the first, by run."""
    for run in _best(report)[:HISTOGRAMS]:
        good, other = _scores(report.golden, run)
        if not good or not other or len({*good, *other}) < 3:
            continue
        edges = np.histogram_bin_edges([*good, *other], BINS)
        shares = [np.histogram(values, edges)[0] / len(values) for values in (good, other)]
        names = ("relevant", "not relevant")
        highest = float(max(map(max, shares)))
        series = tuple(
            Series(
                name, tuple(Point(float(edge), float(share)) for edge, share in zip(edges, [*heights, 0], strict=True))
            )
            for name, heights in zip(names, shares, strict=True)
        )
        rows = tuple(
            (Cell(f"{low:.3g} to {high:.3g}"), Cell(f"{a:.3f}"), Cell(f"{b:.3f}"))
            for low, high, a, b in zip(edges, edges[1:], *shares, strict=False)
        )
        yield Figure(
            f"Scores: {run.name}",
            f"Of the first {PLACES} places of each question: {len(good):,} relevant, {len(other):,} not. The less they "
            "overlap, the better a score tells whether a hit is relevant.",
            Chart("areas", Axis("score"), Axis("share of places", low=0.0, high=1.15 * highest), series),
            Table(("score", *names), rows),
        )


def _bars(edges: Iterable[float], heights: Iterable[float]) -> tuple[Point, ...]:
    return tuple(Point(float(edge), float(height)) for edge, height in zip(edges, [*heights, 0.0], strict=True))


def question_by_question(report: Report, gap: Difference) -> Iterator[Figure]:
    """Each question as a point: its score in the first run and in the second."""
    scores = {one.run: one.per_question.get(gap.metric, {}) for one in report.scores}
    first, second = scores.get(gap.first, {}), scores.get(gap.second, {})
    pairs = Counter((round(first[id_], 2), round(second[id_], 2)) for id_ in first if id_ in second)
    if not pairs:
        return
    points = tuple(Point(x, y, weight=count) for (x, y), count in sorted(pairs.items()))
    yield Figure(
        f"{gap.second} against {gap.first}",
        f"{gap.metric} of each question; above the line {gap.second} is better. Larger means more questions.",
        Chart(
            "points",
            Axis(gap.first, low=-0.04, high=1.04),
            Axis(gap.second, low=-0.04, high=1.04),
            (Series("", points),),
            diagonal=True,
        ),
        _crossed(gap, pairs),
    )


def _crossed(gap: Difference, pairs: Counter[tuple[float, float]]) -> Table:
    """How many questions are in which fifth by either run."""
    bands = ("0", "to .25", "to .5", "to .75", "below 1", "1")
    counts: Counter[tuple[int, int]] = Counter()
    for (x, y), count in pairs.items():
        counts[_band(x), _band(y)] += count
    rows = tuple(
        (Cell(name), *(Cell(f"{counts[row, column]:,}") for column in range(len(bands))))
        for row, name in enumerate(bands)
    )
    return Table((f"{gap.first} ↓ {gap.second} →", *bands), rows)


def _band(value: float) -> int:
    if value <= 0 or value >= 1:
        return 0 if value <= 0 else 5
    return min(int(value * 4), 3) + 1


def _best(report: Report) -> Sequence[Run]:
    """The best by the first metric, no more than can be told apart, in the order of the report."""
    if len(report.runs) <= COLOURS or not report.metrics:
        return report.runs[:COLOURS]
    metric = report.metrics[0]
    order = sorted(range(len(report.runs)), key=lambda i: (-report.scores[i].means[metric].mean, i))
    return [report.runs[i] for i in sorted(order[:COLOURS])]


def _scores(golden: GoldenSet, run: Run) -> tuple[list[float], list[float]]:
    good: list[float] = []
    other: list[float] = []
    for question in golden.questions:
        for place in run.rankings.get(question.id, ())[:PLACES]:
            (good if is_relevant(question, place) else other).append(place.score)
    return good, other


def is_relevant(question: Question, place: Ranked) -> bool:
    """Whether a place answers: a chunk where the question has spans of its document must share characters with one."""
    spans = [span for span in question.spans if span.document_id == place.document_id]
    if place.chunk_id and spans:
        return any(span.start < place.end and place.start < span.end for span in spans)
    return question.relevant.get(place.document_id, 0) > 0


def documents(ranking: Iterable[Ranked]) -> Iterator[str]:
    """Each document once, where its best chunk stands."""
    return iter(dict.fromkeys(place.document_id for place in ranking))


def interval(low: float, high: float) -> str:
    """``[0.700, 0.771]``."""
    return f"[{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")
