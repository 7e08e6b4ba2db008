"""What each command of the command line does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from tarragon.cli import views
from tarragon.cli.questions import read_queries
from tarragon.copying import copy_index
from tarragon.encoders.loading import load_encoder
from tarragon.encoders.on_ray import RayEncoder
from tarragon.errors import InvalidInput
from tarragon.index import Index
from tarragon.recipe import IndexRecipe
from tarragon.reports import Plan
from tarragon.status import read_status
from tarragon.watching import did_something

CHANGES, SOME_FAILED, BLOCKED, UNSOUND = 2, 3, 3, 3


def plan(options: argparse.Namespace) -> int:
    """``tarragon plan``."""
    with Index.open(options.index, recipe=_recipe(options), device=options.device) as index:
        found = index.plan(options.source, **_scope(options))
    if options.out:
        Path(options.out).write_text(json.dumps(found.to_dict(), ensure_ascii=False), encoding="utf-8")
    views.output(options.json, found, views.show_plan)
    if not options.exit_code:
        return 0
    return BLOCKED if found.blocked else 0 if found.is_empty else CHANGES


def sync(options: argparse.Namespace) -> int:
    """``tarragon sync``."""
    with _to_be_synced(options) as index:
        quiet = False if options.json else None
        if options.watch is not None:
            for report in index.watch(options.source, interval=options.watch, progress=quiet, **_scope(options)):
                views.output(options.json, report, views.show_report)
            return 0
        saved = _read_plan(options.plan) if options.plan else None
        report = index.sync(options.source, budget=options.budget, plan=saved, progress=quiet, **_scope(options))
        if did_something(report):
            index.optimize(in_place=True)
    views.output(options.json, report, views.show_report)
    return SOME_FAILED if report.documents_failed else 0


def status(options: argparse.Namespace) -> int:
    """``tarragon status``."""
    views.output(options.json, read_status(options.index, create=False), views.show_status)
    return 0


def optimize(options: argparse.Namespace) -> int:
    """``tarragon optimize``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        worked = index.optimize(in_place=True)
    _say(options.json, {"optimized": worked}, "optimized" if worked else "nothing to do")
    return 0


def verify(options: argparse.Namespace) -> int:
    """``tarragon verify``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        found = index.verify(deep=options.deep, sample=options.sample, repair=options.repair)
    views.output(options.json, found, views.show_verification)
    return 0 if found.is_sound else UNSOUND


def doctor(options: argparse.Namespace) -> int:
    """``tarragon doctor``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        found = index.doctor(k=options.k, deep=options.deep)
    views.output(options.json, found, views.show_examination)
    return 0 if found.is_healthy else UNSOUND


def versions(options: argparse.Namespace) -> int:
    """``tarragon versions``."""
    with Index.open(options.index, create=False) as index:
        found = index.versions()
    if options.json:
        views.output_json({"versions": [info.to_dict() for info in found]})
    else:
        views.show_versions(found)
    return 0


def upgrade(options: argparse.Namespace) -> int:
    """``tarragon upgrade``: tells the cost first."""
    recipe = _recipe(options) or IndexRecipe.from_dict(read_status(options.index, create=False).recipe)
    sources = _sources(options.source)
    with Index.open(options.index, device=options.device, create=False) as index:
        plans = index.plan_upgrade(recipe, sources=sources)
        if options.dry_run and options.json:
            views.output_json({"plans": [found.to_dict() for found in plans]})
        elif not options.json:
            for found in plans:
                views.show_plan(found)
        if options.dry_run:
            return 0
        quiet = False if options.json else None
        report = index.upgrade(recipe, sources=sources, promote_above=options.promote_above, progress=quiet)
    views.output(options.json, report, views.show_upgrade)
    return SOME_FAILED if any(done.documents_failed for done in report.syncs) else 0


def compare(options: argparse.Namespace) -> int:
    """``tarragon compare``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        found = index.compare(options.version, queries=read_queries(options.queries), sample=options.sample)
    views.output(options.json, found, views.show_comparison)
    return 0


def promote(options: argparse.Namespace) -> int:
    """``tarragon promote``."""
    with Index.open(options.index, device=options.device, create=False) as index:
        index.promote(options.version, floor=options.floor, max_delete=options.max_delete)
    _say(options.json, {"serving": options.version}, f"{options.version} serves now; tarragon rollback goes back")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """``tarragon rollback``."""
    with Index.open(options.index, create=False) as index:
        name, behind = index.rollback()
    late = f", {behind} documents behind: sync it" if behind else ""
    _say(options.json, {"serving": name, "behind": behind}, f"{name} serves now{late}")
    return 0


def gc(options: argparse.Namespace) -> int:
    """``tarragon gc``."""
    with Index.open(options.index, create=False) as index:
        dropped = index.gc(keep=options.keep)
    _say(options.json, {"dropped": dropped}, f"dropped {', '.join(dropped)}" if dropped else "nothing to do")
    return 0


def adopt(options: argparse.Namespace) -> int:
    """``tarragon adopt``."""
    recipe = IndexRecipe.from_dict({**read_status(options.index, create=False).recipe, "model": options.model})
    with Index.open(options.index, create=False) as index:
        name = index.adopt(load_encoder(recipe, options.device))
    _say(options.json, {"adopted": name}, f"{name} is declared as {options.model} now; nothing was embedded")
    return 0


def copy(options: argparse.Namespace) -> int:
    """``tarragon copy``."""
    found = copy_index(options.index, options.target)
    text = f"{found.documents:,} documents, {found.chunks:,} chunks copied; {found.queries} queries answered alike"
    _say(options.json, found.to_dict(), text)
    return 0


# --- reading the options ----------------------------------------------------------------------------------------------
def _scope(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "include": options.include,
        "exclude": options.exclude,
        "max_bytes": options.max_bytes,
        "namespace": options.namespace,
        "prune": not options.no_prune,
        "max_delete": options.max_delete,
        "only": options.only,
    }


def _sources(named: Sequence[str]) -> dict[str, str]:
    """By namespace; a path that is there may hold an equals sign itself."""
    pairs = [("", text) if Path(text).exists() else text.rpartition("=")[::2] for text in named]
    return dict(pairs)


@contextmanager
def _to_be_synced(options: argparse.Namespace) -> Iterator[Index]:
    """The index, with its dense model here or on a Ray cluster; the models beside it are here."""
    recipe = _recipe(options)
    if options.ray is None:
        with Index.open(options.index, recipe=recipe, device=options.device) as index:
            yield index
        return
    if options.watch is not None:
        raise InvalidInput("--watch would hold the workers of the Ray cluster for ever; sync with --ray once")
    recipe = recipe or IndexRecipe.from_dict(read_status(options.index).recipe)
    with (
        redirect_stdout(sys.stderr),  # Ray prints there when a worker dies
        RayEncoder(options.ray, recipe, device=options.device, workers=options.ray_workers) as encoder,
        Index.open(options.index, recipe=recipe, encoder=encoder) as index,
    ):
        yield index


def _recipe(options: argparse.Namespace) -> IndexRecipe | None:
    names = (
        "model",
        "document_prompt",
        "dimensions",
        "chunking",
        "chunk_tokens",
        "language",
        "sparse_model",
        "late_model",
    )
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not given:
        return None
    return IndexRecipe.from_dict({**read_status(options.index).recipe, **given})


def _read_plan(path: str) -> Plan:
    try:
        return Plan.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{path} is not a saved plan: {error}; make one with tarragon plan --out {path}") from error


def _say(as_json: bool, values: dict[str, Any], text: str) -> None:
    if as_json:
        views.output_json(values)
    else:
        views.console().print(text, markup=False)
