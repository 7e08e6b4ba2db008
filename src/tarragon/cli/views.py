"""What the command line shows to people. With ``--json`` the same values go out as they are."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tarragon.findings import Examination
from tarragon.receipts import Explanation, Receipt
from tarragon.reports import (
    Comparison,
    IndexStatus,
    Plan,
    SyncReport,
    UpgradeReport,
    VerifyReport,
    VersionInfo,
    duration,
)
from tarragon.tuning import Tuning
from tarragon.types import Hit

SIGNS = {"new": "+", "moved": ">", "failed": "!"}
"""Before each kind of change in a plan; ``~`` before all others."""

SHOWN = 5
"""Documents named for each kind of change."""


COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "red"}
"""Of findings, by their severity."""


def output(as_json: bool, value: Any, show: Callable[[Any], None]) -> None:
    """A report: as JSON, or as ``show`` prints it."""
    if as_json:
        output_json(value.to_dict())
    else:
        show(value)


def output_json(value: Any) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def fail(as_json: bool, kind: str, message: str) -> None:
    """An error: one line on stderr, and with ``--json`` one object on stdout."""
    if as_json:
        output_json({"error": {"type": kind, "message": message}})
    print(f"tarragon: {message}", file=sys.stderr)


def console() -> Any:
    """Where people read."""
    from rich.console import Console

    return Console(highlight=False)


def show_report(report: SyncReport) -> None:
    """What a sync did."""
    from rich.markup import escape

    out = console()
    counts = ("added", "changed", "unchanged", "deleted", "failed")
    documents = ", ".join(f"{getattr(report, f'documents_{name}')} {name}" for name in counts)
    chunks = f"{report.chunks_embedded} embedded, {report.chunks_reused} reused, {report.chunks_deleted} deleted"
    out.print(f"[bold]documents[/bold]  {documents}")
    out.print(f"[bold]chunks[/bold]     {chunks}")
    where = f" on {report.device} by {escape(report.model)}" if report.device else ""
    out.print(f"[bold]tokens[/bold]     {report.tokens_embedded:,} embedded{where} in {report.seconds:.1f} s")
    if report.tokens_truncated:
        out.print(f"[yellow]{report.tokens_truncated:,} tokens are beyond the model's limit: not embedded[/yellow]")
    if report.files_skipped:
        out.print("[bold]skipped[/bold]    " + ", ".join(f"{n} {reason}" for reason, n in report.files_skipped.items()))
    if report.documents_left:
        out.print(f"[yellow]left[/yellow]       {report.documents_left} documents are beyond the budget: sync again")
    for other in report.others:
        out.print(f"[bold]also[/bold]       {other.version}: {other.chunks_embedded} chunks embedded")
    for name, reason in report.behind.items():
        out.print(f"[yellow]behind[/yellow]     {name}: {escape(reason)}", soft_wrap=True)
    for failure in report.failures:
        out.print(f"[red]failed[/red]     {escape(failure.document_id)}: {escape(failure.reason)}")


def show_hits(hits: Sequence[Hit], explanations: Sequence[Explanation] = ()) -> None:
    """What a search found, and where each hit stood in every stage."""
    from rich.markup import escape

    out = console()
    if not hits:
        out.print("nothing found")
    if hits and hits[0].bridge:
        out.print(f"[yellow]bridged[/yellow]  {escape(hits[0].bridge)}")
    for place, hit in enumerate(hits, start=1):
        heading = f"  {escape(' > '.join(hit.heading))}" if hit.heading else ""
        source = f"{escape(hit.document_id)}[{hit.start}:{hit.end}]".replace("[", r"\[", 1)
        score = f"[dim]score {hit.score:.3f}[/dim]"
        told = f"  [yellow]{hit.freshness}[/yellow]" if hit.freshness in ("stale", "missing") else ""
        out.print(f"[bold]{place}. {source}[/bold]{heading}  {score}{told}")
        if explanations:
            places = explanations[place - 1].places.items()
            ranks = [f"{name} {at.rank} ({at.score:.3f})" for name, at in places if at.rank is not None]
            out.print(f"[dim]ranks (scores): {escape(', '.join(ranks))}[/dim]")
        out.print(escape(hit.text), style="none", soft_wrap=True)
        out.print()


def show_receipt(receipt: Receipt) -> None:
    """How the hits came to be."""
    from rich.markup import escape

    out = console()
    for stage in receipt.stages:
        detail = f"  {escape(stage.detail)}" if stage.detail else ""
        out.print(f"{escape(stage.name):<24} {stage.candidates:>6} {1000 * stage.seconds:>9.2f} ms{detail}")
    out.print(f"{'in all':<24} {'':>6} {1000 * receipt.seconds:>9.2f} ms  {receipt.version}")
    if receipt.truncated:
        out.print(f"[yellow]{receipt.truncated} tokens of the question were not seen by a model[/yellow]")
    for problem in receipt.degraded:
        out.print(f"[yellow]degraded[/yellow]  {escape(problem)}")


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is being done, if a person is looking."""
    from rich.console import Console

    out = Console(stderr=True)
    if quiet or not out.is_terminal:
        yield lambda _: None
        return
    with out.status("looking") as status:
        yield status.update


def show_tuning(found: Tuning) -> None:
    """What was measured and chosen."""
    from rich.markup import escape

    out = console()
    asked = "passages held back" if found.held_back else "queries"
    out.print(f"{found.chunks:,} chunks, {found.queries} {asked}, target recall {found.target_recall}")
    for way in found.ways:
        mark = "[green]→[/green]" if way.chosen else " "
        figures = f"recall@10 {way.recall:.4f}  {way.milliseconds:7.3f} ms  {way.bytes:6.0f} bytes"
        out.print(f"{mark} {figures}  {escape(way.way)}", soft_wrap=True)
    for one in found.recipes:
        mark = "[green]→[/green]" if one.chosen else " "
        mean, low, high = one.difference
        figures = f"nDCG@10 {one.ndcg:.4f}  {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        out.print(f"{mark} {figures}  {escape(one.recipe)}", soft_wrap=True)
    out.print(escape(found.sentence), soft_wrap=True)


def show_status(status: IndexStatus) -> None:
    """What an index holds."""
    from rich.markup import escape

    out = console()
    out.print(f"[bold]{escape(status.path)}[/bold]  {status.version}")
    out.print(f"documents  {status.documents:,} ({len(status.failures)} failed, {status.unfinished} unfinished)")
    out.print(f"chunks     {status.chunks:,}")
    model = f"{escape(status.model)}, {status.dimensions} dimensions, fingerprint {status.fingerprint[:12]}"
    out.print(f"model      {model}")
    out.print(f"disk       {status.bytes / 2**20:.1f} MiB")
    for failure in status.failures:
        out.print(f"[red]failed[/red]     {escape(failure.document_id)}: {escape(failure.reason)}")


def show_plan(plan: Plan) -> None:
    """What a sync would do, kind by kind, and what it would cost."""
    from rich.markup import escape

    out = console()
    version = f"serving {plan.version}" if plan.version else "not made yet"
    out.print(
        f"[bold]{escape(plan.path)}[/bold]  {version} ({escape(plan.model)}, {plan.fingerprint[:12]})   "
        f"{plan.documents:,} documents ({plan.by_stat:,} by stat, {plan.hashed:,} read)"
    )
    for kind in dict.fromkeys(change.change for change in plan.changes):
        changes = [change for change in plan.changes if change.change == kind]
        chunks, embed = sum(change.chunks for change in changes), sum(change.embed for change in changes)
        costs = "" if kind == "failed" else f"  {chunks:,} chunks: {embed:,} to embed, {chunks - embed:,} reused"
        out.print(f"  {SIGNS.get(kind, '~')} {kind:<11}{len(changes):>7,} documents{costs}")
        for change in changes[:SHOWN]:
            source = f"  from {escape(change.moved_from)}" if change.moved_from else ""
            reason = f"  {escape(change.reason)}" if change.reason else ""
            out.print(f"      [dim]{escape(change.document_id)}{source}{reason}[/dim]", soft_wrap=True)
        if len(changes) > SHOWN:
            out.print(f"      [dim]and {len(changes) - SHOWN:,} more[/dim]")
    if plan.deletions:
        chunks = sum(deletion.chunks for deletion in plan.deletions)
        out.print(f"  - deleted    {len(plan.deletions):>7,} documents  {chunks:,} chunks")
        for deletion in plan.deletions[:SHOWN]:
            out.print(f"      [dim]{escape(deletion.document_id)}[/dim]")
    if plan.foreign:
        out.print(f"    [dim]{plan.foreign:,} documents of other namespaces are not touched[/dim]")
    if plan.orphans:
        out.print(f"  ? orphans    {plan.orphans:>7,} chunks that no document owns: tarragon verify --repair")
    canaries = f"   canaries: {plan.canaries}" if plan.canaries else ""
    out.print(
        f"  embeddings {plan.embeddings:,} ({plan.tokens:,} tokens, about {duration(plan.seconds)}, "
        f"{plan.bytes / 2**20:,.1f} MiB){canaries}"
    )
    if plan.blocked:
        out.print(f"[red]blocked[/red]  {escape(plan.blocked)}", soft_wrap=True)


def show_versions(versions: Sequence[VersionInfo]) -> None:
    """A line for each version."""
    from rich.markup import escape

    out = console()
    for info in versions:
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created))
        unfinished = f", {info.unfinished} unfinished" if info.unfinished else ""
        out.print(
            f"[bold]{info.name}[/bold]  {info.role:<8}  {info.documents:,} documents, {info.chunks:,} chunks"
            f"{unfinished}  {escape(info.model)} ({info.fingerprint[:12]}), "
            f"chunks of {info.recipe['chunk_tokens']} tokens  {info.bytes / 2**20:,.1f} MiB  {made}",
            soft_wrap=True,
        )


def show_upgrade(report: UpgradeReport) -> None:
    """What an upgrade built, and whether it serves."""
    for sync in report.syncs:
        show_report(sync)
    if report.comparison is not None:
        show_comparison(report.comparison)
    if report.promoted:
        console().print(f"{report.version} serves now; tarragon rollback goes back")
    else:
        console().print(f"{report.version} is built and does not serve yet: tarragon compare, tarragon promote")


def show_comparison(found: Comparison) -> None:
    """How alike two versions answer."""
    from rich.markup import escape

    out = console()
    out.print(
        f"[bold]{found.first} and {found.second}[/bold]  overlap@10 {found.overlap:.3f} ({found.unit}s), "
        f"mean change of rank {found.rank_change:.2f}, over {found.queries} queries"
    )
    if found.ndcg is not None and found.difference is not None:
        mean, low, high = found.difference
        out.print(f"nDCG@10 {found.ndcg[0]:.4f} and {found.ndcg[1]:.4f}: {mean:+.4f} (95 %: {low:+.4f} to {high:+.4f})")
    for text, value in found.worst:
        out.print(f"  {value:.1f}  {escape(text[:100])!r}", soft_wrap=True)


def show_verification(found: VerifyReport) -> None:
    """What a verification found."""
    from rich.markup import escape

    out = console()
    looked = f", {found.vectors_checked:,} vectors" if found.vectors_checked else ""
    out.print(f"[bold]{found.version}[/bold]  {found.documents:,} documents, {found.chunks:,} chunks{looked} looked at")
    for name in ("orphans", "missing", "wrong_payloads", "wrong_texts", "wrong_vectors", "unfinished", "incomplete"):
        if count := getattr(found, name):
            out.print(f"[red]{name.replace('_', ' ')}[/red]  {count:,}")
    for document_id in found.affected[:SHOWN]:
        out.print(f"      [dim]{escape(document_id)}[/dim]")
    for document_id in found.unrepaired:
        out.print(f"[red]not repaired[/red]  {escape(document_id)}: its source cannot be read")
    if found.is_sound:
        out.print("repaired" if found.orphans or found.affected else "sound")


def show_examination(found: Examination) -> None:
    """What a doctor found: the worst first, what to do about it, and what could not be looked at."""
    from rich.markup import escape

    out = console()
    out.print(
        f"[bold]{escape(found.path)}[/bold]  {found.version}: {found.documents:,} documents, {found.chunks:,} chunks"
    )
    order = list(COLOURS)
    for finding in sorted(found.findings, key=lambda finding: -order.index(finding.severity)):
        mark = f"[{COLOURS[finding.severity]}]{finding.severity:<7}[/]"
        out.print(f"{mark}  [bold]{finding.name}[/bold]  {escape(finding.sentence)}", soft_wrap=True)
        if finding.remedy:
            out.print(f"         → {escape(finding.remedy)}", soft_wrap=True)
    for name, reason in found.skipped.items():
        out.print(f"[dim]skipped  {name}  {escape(reason)}[/dim]", soft_wrap=True)
    worse = sum(1 for finding in found.findings if finding.severity in ("warning", "fault"))
    out.print("healthy" if found.is_healthy else f"{worse} of {len(found.findings)} findings need something done")
