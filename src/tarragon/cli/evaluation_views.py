"""What the commands that measure show to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tarragon.cli.views import console
from tarragon.evaluation.baseline import Verdict
from tarragon.evaluation.grid import Grid
from tarragon.evaluation.monitor import Health
from tarragon.evaluation.stages import Stages
from tarragon.evaluation.sweeping import Cell
from tarragon.evaluation.types import Comparison, GoldenSet, Interval, Run, Scores

CHANGES = 5
"""Questions that are named of a comparison."""

CHARACTERS = 70
"""Of a question."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns: the first is text, all others are figures. Never wrapped: logs are read, too."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for number, (name, *figures) in enumerate([columns, *rows]):
        padded = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        line = "  ".join([name.ljust(widths[0]), *padded]).rstrip()
        console().print(line, style="dim" if number == 0 else None, markup=False, soft_wrap=True)


def interval(value: Interval) -> str:
    """A mean with its interval."""
    return f"{value.mean:.4f} ({value.low:.3f}-{value.high:.3f})"


def show_scores(golden: GoldenSet, runs: Sequence[Run], scored: Sequence[Scores]) -> None:
    """Each run's figures with their 95 % intervals."""
    from rich.markup import escape

    out = console()
    out.print(f"[bold]{escape(golden.name)}[/bold]  {len(golden.questions):,} questions; means and 95 % intervals")
    metrics = list(scored[0].means)
    rows = [
        [found.name, *(interval(scores.means[name]) for name in metrics), _times(found)]
        for found, scores in zip(runs, scored, strict=True)
    ]
    print_table(["run", *metrics, "p50 / p95 ms"], rows)


def measured(
    golden: GoldenSet,
    found: Run,
    scores: Scores,
    told: Stages | None,
    comparison: Comparison | None,
    verdict: Verdict | None,
) -> dict[str, Any]:
    """An evaluation as JSON: figures, not rankings."""
    return {
        "golden": {"name": golden.name, "digest": golden.digest, "questions": len(golden.questions)},
        "run": {"name": found.name, "configuration": dict(found.configuration)},
        "scores": {name: asdict(mean) for name, mean in scores.means.items()},
        "milliseconds": milliseconds(found),
        "stages": None if told is None else stages_dict(told),
        "comparison": None if comparison is None else comparison.to_dict(),
        "verdict": None if verdict is None else verdict.to_dict(),
    }


def show_measured(
    golden: GoldenSet,
    runs: Sequence[Run],
    scored: Sequence[Scores],
    told: Stages | None,
    comparison: Comparison | None,
    verdict: Verdict | None,
) -> None:
    """An evaluation."""
    show_scores(golden, runs, scored)
    if told is not None:
        show_stages(told)
    if comparison is not None:
        show_comparison(comparison)
    if verdict is not None:
        show_verdict(verdict)


def milliseconds(found: Run) -> dict[str, float] | None:
    """Of a question: percentiles; None where it was not timed."""
    if not found.seconds:
        return None
    values = np.percentile(list(found.seconds.values()), [50, 95, 99]) * 1000
    return dict(zip(("p50", "p95", "p99"), (round(float(value), 3) for value in values), strict=True))


def _times(found: Run) -> str:
    times = milliseconds(found)
    return "-" if times is None else f"{times['p50']:.1f} / {times['p95']:.1f}"


def stages_dict(told: Stages) -> dict[str, Any]:
    """Stages as JSON, without rankings and without scores of each question."""
    return {
        "rows": [asdict(row) for row in told.rows],
        "ceilings": {name: asdict(ceiling) for name, ceiling in told.ceilings.items()},
    }


def show_stages(told: Stages) -> None:
    """What each stage is worth and costs."""
    metrics = list(told.scores[-1].means)
    rows = []
    for row in told.rows:
        worth = [f"{row.means[name].mean:.4f}" if name in row.means else "" for name in metrics]
        ceiling = f"{told.ceilings[row.name].mean:.4f}" if row.name in told.ceilings else ""
        times = ["" if value is None else f"{1000 * value:.2f}" for value in (row.p50, row.p95, row.p99)]
        counts = ["" if not value else f"{value:,.1f}" for value in (row.candidates, row.tokens, row.calls)]
        rows.append([row.name, *worth, ceiling, *times, *counts])
    columns = ["stage", *metrics, "ceiling", "p50 ms", "p95", "p99", "candidates", "tokens", "calls"]
    print_table(columns, rows)
    console().print("[dim]ceiling: recall of what a stage is given to rank. Times of a leg: asked alone.[/dim]")


def show_comparison(found: Comparison) -> None:
    """Differences with their intervals, and the questions that changed most."""
    from rich.markup import escape

    out = console()
    rows = [
        [
            f"{one.second} - {one.first}",
            one.metric,
            f"{one.difference.mean:+.4f} ({one.difference.low:+.4f} to {one.difference.high:+.4f})",
            f"{one.p:.4f}",
            f"{one.adjusted:.4f}",
            f"{one.wins} / {one.losses} / {one.ties}",
        ]
        for one in found.differences
    ]
    print_table(["difference", "metric", "mean and 95 %", "p", "p, Holm", "better / worse / same"], rows)
    for change in found.changes[:CHANGES]:
        text = change.question.text[:CHARACTERS]
        out.print(
            f"{change.metric} {change.first:.3f} → {change.second:.3f}  {escape(change.question.id)}  "
            f"{escape(text)!r}  [dim]{escape(change.runs[1])}[/dim]",
            soft_wrap=True,
        )


def show_verdict(verdict: Verdict) -> None:
    """Whether the gate lets it pass."""
    from rich.markup import escape

    out = console()
    word = "[green]passed[/green]" if verdict.passed else "[red]failed[/red]"
    out.print(f"{word}  against the baseline of {verdict.baseline}")
    for name, (before, now) in verdict.changed.items():
        out.print(f"[yellow]changed[/yellow]  {escape(f'{name}: {before!r} → {now!r}')}", soft_wrap=True)
    for sentence in verdict.sentences:
        out.print(escape(sentence), soft_wrap=True)


def means(cell: Cell) -> dict[str, Any]:
    """The figures of a cell as JSON, without those of each question."""
    return {name: asdict(mean) for name, mean in cell.scores.means.items()}


def show_sweep(grid: Grid, cells: Sequence[Cell]) -> None:
    """A table for each data set; the best of a column is marked."""
    from rich.markup import escape

    out = console()
    for dataset in grid.datasets:
        of_it = [cell for cell in cells if cell.dataset == dataset.name]
        metrics = list(of_it[0].scores.means)
        best: Mapping[str, float] = {name: max(cell.scores.means[name].mean for cell in of_it) for name in metrics}
        rows = [
            [
                cell.configuration,
                *(_marked(cell.scores.means[name].mean, best[name]) for name in metrics),
                f"{cell.milliseconds['p50']:.1f} / {cell.milliseconds['p95']:.1f}",
                "kept" if cell.was_there else "new",
            ]
            for cell in of_it
        ]
        out.print(f"[bold]{escape(dataset.name)}[/bold]  {len(of_it[0].scores.per_question[metrics[0]]):,} questions")
        print_table(["configuration", *metrics, "p50 / p95 ms", "result"], rows)


def _marked(value: float, best: float) -> str:
    return f"{value:.4f}{'*' if value == best else ' '}"


def show_health(found: Health) -> None:
    """What a look at an index found."""
    from rich.markup import escape

    out = console()
    held = found.index
    out.print(
        f"[bold]{escape(held['version'])}[/bold]  {held['documents']:,} documents, {held['chunks']:,} chunks, "
        f"{escape(held['model'])} ({held['fingerprint'][:12]})"
    )
    for name, mean in found.metrics.items():
        out.print(f"{name}  {interval(mean)}")
    out.print("sources  " + ", ".join(f"{count:,} {answer}" for answer, count in found.sources.items()))
    for name, drift in found.drift.items():
        out.print(f"drift of {name}  mean {drift.shift:.2f} sd, cosine across {drift.across:.3f}, p {drift.p:.3f}")
    for name, reason in found.skipped.items():
        out.print(f"[dim]drift of {name}: {escape(reason)}[/dim]", soft_wrap=True)
    for text in found.notes:
        out.print(f"[cyan]note[/cyan]   {escape(text)}", soft_wrap=True)
    for text in found.alerts:
        out.print(f"[red]alert[/red]  {escape(text)}", soft_wrap=True)
    first = "this is the baseline now" if found.verdict is None else f"baseline of {found.verdict.baseline}"
    out.print(f"{'well' if found.is_well else 'needs a look'}; {first}")
