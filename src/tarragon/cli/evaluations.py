"""The commands that measure: ``eval``, ``compare-runs``, ``sweep``, ``monitor``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from tarragon.cli import evaluation_views as show
from tarragon.cli import views
from tarragon.cli.questions import read_filter, read_queries, recipe_typed
from tarragon.errors import InvalidInput
from tarragon.evaluation.baseline import Baseline, judge, read_baseline, write_baseline
from tarragon.evaluation.contrast import compare
from tarragon.evaluation.golden import read_golden
from tarragon.evaluation.grid import read_grid
from tarragon.evaluation.metrics import METRICS, parse, score
from tarragon.evaluation.monitor import Limits
from tarragon.evaluation.monitor import monitor as look
from tarragon.evaluation.report import Report, SweepReport, to_html, to_markdown
from tarragon.evaluation.running import run
from tarragon.evaluation.runs import read_run, write_json, write_trec_run
from tarragon.evaluation.stages import Stages, stages
from tarragon.evaluation.sweeping import sweep as measure
from tarragon.evaluation.types import Comparison, GoldenSet, Run, Scores
from tarragon.index import Index
from tarragon.retriever import Retriever

WORSE = 3
"""Exit code of a gate that fails, and of an index that needs somebody."""


def evaluate(options: argparse.Namespace) -> int:
    """``tarragon eval``."""
    golden = read_golden_typed(options)
    baseline = None if options.baseline is None else read_baseline(options.baseline)
    metrics = _metrics(options, tuple(baseline.scores.per_question) if baseline else METRICS)
    _check_depth(metrics, options.k)
    found, told = _asked(options, golden)
    runs = _named([*map(read_run, options.against), found])
    scored = [score(one, golden, metrics) for one in runs]
    comparison = compare(scored, golden, runs) if len(runs) > 1 else None
    verdict = None
    if baseline is not None:
        verdict = judge(baseline, found, scored[-1], golden, max_drop=options.max_drop, metrics=metrics)
    passed = verdict is None or verdict.passed
    if options.save_run:
        _save(found, options.save_run)
    if options.write_baseline and passed:
        write_baseline(Baseline.of(found, scored[-1], golden), options.write_baseline)
    stages_told, notes = () if told is None else (told,), () if verdict is None else verdict.sentences
    _write_report(options, golden, runs, scored, comparison, stages_told, notes)
    if options.json:
        views.output_json(show.measured(golden, found, scored[-1], told, comparison, verdict))
    else:
        show.show_measured(golden, runs, scored, told, comparison, verdict)
    return 0 if passed else WORSE


def compare_runs(options: argparse.Namespace) -> int:
    """``tarragon compare-runs``."""
    if len(options.runs) < 2:
        raise InvalidInput(f"two runs or more are compared, and there is one: {options.runs[0]}")
    golden, metrics = read_golden_typed(options), _metrics(options, METRICS)
    runs = _named([read_run(path) for path in options.runs])
    scored = [score(one, golden, metrics) for one in runs]
    comparison = compare(scored, golden, runs)
    _write_report(options, golden, runs, scored, comparison)
    if options.json:
        means = {one.run: {name: asdict(mean) for name, mean in one.means.items()} for one in scored}
        views.output_json({"scores": means, "comparison": comparison.to_dict()})
    else:
        show.show_scores(golden, runs, scored)
        show.show_comparison(comparison)
    return 0


def sweep(options: argparse.Namespace) -> int:
    """``tarragon sweep``."""
    grid = read_grid(options.grid)
    with views.steps(options.json) as said:
        cells = measure(grid, options.into, device=options.device, workers=options.workers, said=said)
    _write(options, SweepReport(grid.name, cells, date.today().isoformat()))
    if options.json:
        views.output_json(
            {"name": grid.name, "cells": [cell.to_dict() | {"scores": show.means(cell)} for cell in cells]}
        )
    else:
        show.show_sweep(grid, cells)
    return 0


def monitor(options: argparse.Namespace) -> int:
    """``tarragon monitor``."""
    golden = read_golden_typed(options)
    asked = [query if isinstance(query, str) else query[0] for query in read_queries(options.asked)]
    if options.filter is not None:
        raise InvalidInput("--filter: monitoring looks at the whole index; leave it out")
    with Index.open(options.index, device=options.device, create=False) as index:
        found = look(
            index,
            golden,
            k=options.k,
            recipe=recipe_typed(index, options),
            questions=asked,
            limits=Limits(options.max_drop, options.max_stale, options.alert_on_drift),
            folder=options.history,
            rebase=options.rebase,
        )
    views.output(options.json, found, show.show_health)
    return 0 if found.is_well else WORSE


# --- what they share --------------------------------------------------------------------------------------------------
def _asked(options: argparse.Namespace, golden: GoldenSet) -> tuple[Run, Stages | None]:
    with Index.open(options.index, device=options.device, create=False) as index:
        recipe = recipe_typed(index, options)
        with Retriever(index, recipe=recipe, filter=read_filter(options.filter)) as retriever:
            if not options.stages:
                return run(retriever, golden, k=options.k, name=options.name), None
            told = stages(retriever, golden, k=options.k, name=options.name)
            return told.run, told


def read_golden_typed(options: argparse.Namespace) -> GoldenSet:
    """The golden set that was named."""
    return read_golden(options.golden, split=options.split, queries=options.topics)


def _metrics(options: argparse.Namespace, otherwise: Sequence[str]) -> tuple[str, ...]:
    if options.metrics is None:
        return tuple(otherwise)
    return tuple(name.strip() for name in options.metrics.split(","))


def _check_depth(metrics: Sequence[str], k: int) -> None:
    """Raise `InvalidInput` for a metric that looks deeper than the ranking goes: it would look like a worse one."""
    deepest = max((int(name.partition("@")[2] or 0) for name in map(str, map(parse, metrics))), default=0)
    if deepest > k:
        raise InvalidInput(f"-k {k} is not deep enough for {', '.join(metrics)}: say -k {deepest}", k=k)


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs with names of their own: a second one of a name gets a number."""
    names: dict[str, int] = {}
    found = []
    for one in runs:
        names[one.name] = names.get(one.name, 0) + 1
        found.append(one if names[one.name] == 1 else replace(one, name=f"{one.name} ({names[one.name]})"))
    return found


def _save(found: Run, path: str) -> None:
    if path.endswith(".json"):
        write_json(found, path)
    else:
        write_trec_run(found, path)


def _write_report(
    options: argparse.Namespace,
    golden: GoldenSet,
    runs: Sequence[Run],
    scored: Sequence[Scores],
    comparison: Comparison | None,
    told: tuple[Stages, ...] = (),
    notes: tuple[str, ...] = (),
) -> None:
    if not (options.html or options.markdown):
        return
    compared: tuple[Any, ...] = () if comparison is None else (comparison,)
    made = date.today().isoformat()
    _write(options, Report(golden.name, golden, tuple(runs), tuple(scored), compared, told, notes, made))


def _write(options: argparse.Namespace, report: Report | SweepReport) -> None:
    for path, write in ((options.html, to_html), (options.markdown, to_markdown)):
        if path:
            Path(path).write_text(write(report), encoding="utf-8")
