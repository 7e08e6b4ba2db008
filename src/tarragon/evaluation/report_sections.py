"""What a report says, in order: the verdict, the numbers, what they rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tarragon.evaluation import report_figures as charts
from tarragon.evaluation.report_figures import interval, is_relevant
from tarragon.evaluation.report_page import Block, Cell, Figure, Figures, Fold, Page, Paragraph, Section, Table
from tarragon.evaluation.report_values import Report
from tarragon.evaluation.types import Change, Difference, Interval, Question, Ranked, Run

if TYPE_CHECKING:
    from tarragon.evaluation.stages import Stages

DOUBT = 0.05
"""A difference with a larger p is not told as one."""

SCATTERS = 4
"""Most comparisons that are drawn; the first of them."""

CHANGED = 10
"""Most questions that are shown of a comparison."""

DETAILED = 6
"""Most comparisons of which questions are shown."""

PLACES = 10
"""Of a ranking, where a question is shown."""

LONGEST = 400
"""Characters of a question, or of a setting, that are shown."""


def page(report: Report) -> Page:
    """The report as a page."""
    asked = f"{report.golden.name}, digest {report.golden.digest}"
    sections = (
        Section("Quality", tuple(_quality(report))),
        Section("Differences", tuple(_differences(report))),
        Section("Stages", tuple(_stages(report))),
        Section("Scores", tuple(_figures(charts.score_histograms(report)))),
        Section("Settings", tuple(settings({run.name: run.configuration for run in report.runs}))),
        Section("Made with", (made_with({"questions": asked, **report.machine}),)),
    )
    counted = f"{len(report.golden.questions):,} questions of {report.golden.name}"
    return Page(
        report.title,
        " · ".join(filter(None, [counted, count(len(report.runs), "run"), report.made])),
        tuple(section for section in sections if section.blocks),
    )


# --- quality ----------------------------------------------------------------------------------------------------------
def _quality(report: Report) -> Iterator[Block]:
    yield Paragraph(_verdict(report))
    yield from map(Paragraph, report.notes)
    best = {name: max(scores.means[name].mean for scores in report.scores) for name in report.metrics}
    timed = any(run.seconds for run in report.runs)
    rows = []
    names = charts.numbered([run.name for run in report.runs])
    for told, run, scores in zip(names, report.runs, report.scores, strict=True):
        cells = [mean_cell(scores.means[name], len(report.runs) > 1, best[name]) for name in report.metrics]
        rows.append((Cell(told), *cells, *(_times(run) if timed else ())))
    yield Table(("run", *report.metrics, *(("p50 ms", "p95 ms", "p99 ms") if timed else ())), tuple(rows))
    yield from _figures(charts.quality_and_time(report), charts.recall_and_depth(report))


def _verdict(report: Report) -> str:
    if not report.metrics:
        return "No metric was measured of every run."
    metric = report.metrics[0]
    best = max(report.scores, key=lambda scores: scores.means[metric].mean)
    mean = best.means[metric]
    said = f"{metric} {mean.mean:.3f} (95 % interval {mean.low:.3f} to {mean.high:.3f})."
    if len(report.runs) == 1:
        return f"{best.run}: {said}"
    judged = [one for one in report.differences if one.metric == metric and best.run in (one.first, one.second)]
    close = [one.first if one.second == best.run else one.second for one in judged if one.adjusted >= DOUBT]
    if not judged:
        return f"Best: {best.run}, {said} The runs were not tested against each other."
    if close:
        return f"Best: {best.run}, {said} Not beyond doubt better than {', '.join(close)}."
    return f"Best: {best.run}, {said} The differences to the runs that it was compared with are beyond chance."


def mean_cell(value: Interval, several: bool, best: float) -> Cell:
    """A mean with its interval, strong if it is the best of several."""
    return Cell(f"{value.mean:.3f}", interval(value.low, value.high), several and value.mean == best)


def _times(run: Run) -> list[Cell]:
    if not run.seconds:
        return [Cell("–")] * 3
    return [Cell(f"{1000 * value:.1f}") for value in np.percentile(list(run.seconds.values()), [50, 95, 99])]


# --- differences ------------------------------------------------------------------------------------------------------
def _differences(report: Report) -> Iterator[Block]:
    if not report.differences:
        return
    yield Paragraph(
        "Second minus first, over the same questions; p of a paired randomisation test, adjusted for all runs "
        f"that were compared. A p of {DOUBT} or more means that chance alone gives such a difference often."
    )
    main = [one for one in report.differences if one.metric == report.differences[0].metric]
    others = [one for one in report.differences if one.metric != report.differences[0].metric]
    yield difference_table(main)
    if others:
        yield Fold("By other metrics", (difference_table(others),))
    yield from _figures(*(charts.question_by_question(report, one) for one in main[:SCATTERS]))
    changes = [change for comparison in report.comparisons for change in comparison.changes]
    for one in main[:DETAILED]:
        if chosen := [change for change in changes if change.runs == (one.first, one.second)]:
            title = f"Questions that changed most: {one.second} against {one.first}, {chosen[0].metric}"
            yield Fold(title, tuple(_change(report, change) for change in chosen[:CHANGED]))


def difference_table(differences: Sequence[Difference]) -> Table:
    """Each with its interval, p and verdict."""
    heads = ("second against first", "metric", "difference", "p", "better", "worse", "same", "verdict")
    return Table(heads, tuple(map(_difference, differences)), frozenset({1, 7}))


def _difference(one: Difference) -> tuple[Cell, ...]:
    gap, sure = one.difference, one.adjusted < DOUBT and one.difference.mean != 0
    verdict = f"{one.second if gap.mean > 0 else one.first} is better" if sure else "no difference beyond chance"
    return (
        Cell(f"{one.second} against {one.first}"),
        Cell(one.metric),
        Cell(f"{gap.mean:+.3f}".replace("-", "\N{MINUS SIGN}"), interval(gap.low, gap.high), sure),
        Cell(f"{one.adjusted:.3f}" if one.adjusted >= 0.001 else "< 0.001"),
        *(Cell(f"{count:,}") for count in (one.wins, one.losses, one.ties)),
        Cell(verdict),
    )


def _change(report: Report, change: Change) -> Fold:
    rankings = {run.name: run.rankings.get(change.question.id, ()) for run in report.runs}
    lists = [
        (shown or rankings.get(name, ()))[:PLACES] for name, shown in zip(change.runs, change.rankings, strict=True)
    ]
    rows = tuple(
        (Cell(str(rank + 1)), *(_place(change.question, ranking, rank) for ranking in lists))
        for rank in range(max(map(len, lists)))
    )
    table = Table(("place", *change.runs), rows, frozenset({1, 2}))
    title = f"{change.first:.3f} → {change.second:.3f}: {_cut(change.question.text)} ({change.question.id})"
    return Fold(title, (table,))


def _place(question: Question, ranking: tuple[Ranked, ...], rank: int) -> Cell:
    if rank >= len(ranking):
        return Cell("–")
    place = ranking[rank]
    span = f" [{place.start}:{place.end}]" if place.chunk_id else ""
    good = is_relevant(question, place)
    grade = question.relevant.get(place.document_id, 1)
    return Cell(
        _cut(place.document_id) + span,
        f"score {place.score:.3f}{f', relevant ({grade})' if good else ''}",
        good,
    )


# --- stages -----------------------------------------------------------------------------------------------------------
def _stages(report: Report) -> Iterator[Block]:
    if report.stages:
        yield Paragraph(
            "The ranking after each stage, and what the stage takes: times, and averages over the questions. Ceiling: "
            "recall of what it was given to rank, which no ranking of it can exceed."
        )
    for stages in report.stages:
        if len(report.runs) > 1:
            yield Paragraph(f"{stages.run.name}:")
        yield _stage_table(stages)


def _stage_table(stages: Stages) -> Table:
    metrics = list(dict.fromkeys(name for row in stages.rows for name in row.means))
    rows = []
    for row in stages.rows:
        means = [row.means.get(metric) for metric in metrics]
        times = [f"{1000 * seconds:.2f}" if seconds is not None else "–" for seconds in (row.p50, row.p95, row.p99)]
        counts = [_count(count) for count in (row.candidates, row.tokens, row.calls)]
        cells = [*map(_interval, [*means, stages.ceilings.get(row.name)]), *map(Cell, [*times, *counts])]
        rows.append((Cell(row.name), *cells))
    heads = ("ceiling", "p50 ms", "p95 ms", "p99 ms", "candidates", "tokens", "calls")
    return Table(("stage", *metrics, *heads), tuple(rows))


def _interval(value: Interval | None) -> Cell:
    return Cell(f"{value.mean:.3f}", interval(value.low, value.high)) if value else Cell("–")


# --- what it rests on -------------------------------------------------------------------------------------------------
def settings(configurations: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """What differs between configurations by their names, and what is the same."""
    flat = [dict(_flat("", one)) for one in configurations.values()]
    names = list(dict.fromkeys(name for one in flat for name in one))
    differ = [name for name in names if len({one.get(name, "–") for one in flat}) > 1]
    alike = [name for name in names if name not in differ]
    heads = tuple(configurations)
    if differ:
        yield Paragraph("What differs between the runs:")
        grid = [[Cell(one.get(name, "–")) for name in differ] for one in flat]
        if len(heads) > len(differ):  # the longer way down, so that less is out of sight
            runs = tuple((Cell(head), *row) for head, row in zip(heads, grid, strict=True))
            yield Table(("run", *differ), runs, frozenset(range(1, len(differ) + 1)))
        else:
            rows = tuple((Cell(name), *cells) for name, cells in zip(differ, zip(*grid, strict=True), strict=True))
            yield Table(("setting", *heads), rows, frozenset(range(1, len(heads) + 1)))
    if alike:
        rows = tuple((Cell(name), Cell(flat[0][name])) for name in alike)
        title = "What all runs share" if len(heads) > 1 else "All settings and fingerprints"
        yield Fold(f"{title} ({len(alike)})", (Table(("setting", "value"), rows, frozenset({1})),))


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), inner)
    else:
        yield prefix, _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def made_with(values: Mapping[str, str]) -> Table:
    """Names and values."""
    return Table(("", ""), tuple((Cell(name), Cell(value)) for name, value in values.items()), frozenset({1}))


def _figures(*sources: Iterator[Figure]) -> Iterator[Block]:
    if figures := tuple(figure for source in sources for figure in source):
        yield Figures(figures)


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def count(number: int, name: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
