"""The command line: ``tarragon sync | search | status | optimize``.

Exit codes: 0 done · 1 an error, said on stderr · 2 wrong usage · 3 synced, but some documents failed · 130 interrupted.
With ``--json`` exactly one JSON object goes to stdout, also for an error; only wrong usage is told on stderr alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

from tarragon import __version__
from tarragon.errors import InvalidFilter, TarragonError
from tarragon.index import Index
from tarragon.recipe import Chunking, IndexRecipe, Language, Mode
from tarragon.reports import IndexStatus, SyncReport
from tarragon.sources import DEFAULT_MAX_BYTES
from tarragon.status import read_status
from tarragon.types import Hit

SOME_FAILED, INTERRUPTED = 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (TarragonError, OSError) as error:
        _fail(options.json, type(error).__name__, str(error))
        return 1
    except KeyboardInterrupt:
        _fail(options.json, "Interrupted", "interrupted; run the same command again to go on where it stopped")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tarragon", description="The retrieval half of RAG, kept fresh.")
    parser.add_argument("--version", action="version", version=f"tarragon {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_sync(_command(commands, "sync", _sync, "make an index hold what a source holds"))
    _add_search(_command(commands, "search", _search, "find the passages for a question"))
    _command(commands, "status", _status, "what an index holds; works while another process uses it")
    _add_device(_command(commands, "optimize", _optimize, "build the vector graph and free deleted space"))
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=run)
    parser.add_argument("index", metavar="INDEX", help="the index's folder, such as handbook.tarragon")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")


def _add_sync(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a folder, a .jsonl file, or another single file")
    _add_device(parser)
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="only these files; repeatable")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these files; repeatable")
    parser.add_argument("--max-bytes", type=int, default=DEFAULT_MAX_BYTES, metavar="N", help="largest file to read")
    parser.add_argument("--namespace", default="", metavar="NAME", help="tells several sources in one index apart")
    parser.add_argument("--no-prune", action="store_true", help="keep documents that the source no longer has")
    parser.add_argument("--max-delete", type=float, metavar="SHARE", help="largest share that may be deleted")
    new = parser.add_argument_group("settings of a new index")
    new.add_argument("--model", help="sentence-transformers name or folder (default: the bundled one)")
    new.add_argument("--document-prompt", metavar="TEXT", help="put before each embedded text")
    new.add_argument("--dimensions", type=int, metavar="N", help="keep the first N of the model's")
    new.add_argument("--chunking", choices=get_args(Chunking))
    new.add_argument("--chunk-tokens", type=int, metavar="N")
    new.add_argument("--language", choices=get_args(Language))


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUESTION")
    _add_device(parser)
    parser.add_argument("-k", type=int, default=5, help="how many passages (default: %(default)s)")
    parser.add_argument("--mode", choices=get_args(Mode), help="default: hybrid")
    parser.add_argument("--filter", metavar="JSON", help="""such as '{"lang": "en", "year": {"$gte": 2020}}'""")


# --- commands ---------------------------------------------------------------------------------------------------------
def _sync(options: argparse.Namespace) -> int:
    with Index.open(options.index, recipe=_recipe(options), device=options.device) as index:
        report = index.sync(
            options.source,
            include=options.include,
            exclude=options.exclude,
            max_bytes=options.max_bytes,
            namespace=options.namespace,
            prune=not options.no_prune,
            max_delete=options.max_delete,
            progress=False if options.json else None,
        )
        if report.chunks_embedded or report.chunks_deleted:
            index.optimize()
    _print(options.json, report, _show_report)
    return SOME_FAILED if report.documents_failed else 0


def _recipe(options: argparse.Namespace) -> IndexRecipe | None:
    names = ("model", "document_prompt", "dimensions", "chunking", "chunk_tokens", "language")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if not given:
        return None
    status = read_status(options.index)
    return IndexRecipe.from_dict({**status.recipe, **given})


def _search(options: argparse.Namespace) -> int:
    with Index.open(options.index, device=options.device, create=False) as index:
        hits = index.search(options.query, options.k, filter=_filter(options.filter), mode=options.mode)
    if options.json:
        _print_json({"query": options.query, "hits": [hit.to_dict() for hit in hits]})
    else:
        _show_hits(hits)
    return 0


def _filter(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise InvalidFilter(f"--filter is not JSON: {error}: {text}") from None


def _status(options: argparse.Namespace) -> int:
    _print(options.json, read_status(options.index, create=False), _show_status)
    return 0


def _optimize(options: argparse.Namespace) -> int:
    with Index.open(options.index, device=options.device, create=False) as index:
        worked = index.optimize()
    if options.json:
        _print_json({"optimized": worked})
    else:
        _console().print("optimized" if worked else "nothing to do")
    return 0


# --- showing ----------------------------------------------------------------------------------------------------------
def _print(as_json: bool, value: Any, show: Callable[[Any], None]) -> None:
    if as_json:
        _print_json(value.to_dict())
    else:
        show(value)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _fail(as_json: bool, kind: str, message: str) -> None:
    if as_json:
        _print_json({"error": {"type": kind, "message": message}})
    print(f"tarragon: {message}", file=sys.stderr)


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)


def _show_report(report: SyncReport) -> None:
    from rich.markup import escape

    console = _console()
    counts = ("added", "changed", "unchanged", "deleted", "failed")
    documents = ", ".join(f"{getattr(report, f'documents_{name}')} {name}" for name in counts)
    chunks = f"{report.chunks_embedded} embedded, {report.chunks_reused} reused, {report.chunks_deleted} deleted"
    console.print(f"[bold]documents[/bold]  {documents}")
    console.print(f"[bold]chunks[/bold]     {chunks}")
    where = f" on {report.device} by {escape(report.model)}" if report.device else ""
    console.print(f"[bold]tokens[/bold]     {report.tokens_embedded:,} embedded{where} in {report.seconds:.1f} s")
    if report.tokens_truncated:
        console.print(f"[yellow]{report.tokens_truncated:,} tokens are beyond the model's limit: not embedded[/yellow]")
    if report.files_skipped:
        console.print(
            "[bold]skipped[/bold]    " + ", ".join(f"{n} {reason}" for reason, n in report.files_skipped.items())
        )
    for failure in report.failures:
        console.print(f"[red]failed[/red]     {escape(failure.document_id)}: {escape(failure.reason)}")


def _show_hits(hits: Sequence[Hit]) -> None:
    from rich.markup import escape

    console = _console()
    if not hits:
        console.print("nothing found")
    for place, hit in enumerate(hits, start=1):
        heading = f"  {escape(' > '.join(hit.heading))}" if hit.heading else ""
        source = f"{escape(hit.document_id)}[{hit.start}:{hit.end}]".replace("[", r"\[", 1)
        console.print(f"[bold]{place}. {source}[/bold]{heading}  [dim]score {hit.score:.3f}[/dim]")
        console.print(escape(hit.text), style="none", soft_wrap=True)
        console.print()


def _show_status(status: IndexStatus) -> None:
    from rich.markup import escape

    console = _console()
    console.print(f"[bold]{escape(status.path)}[/bold]  {status.version}")
    console.print(f"documents  {status.documents:,} ({len(status.failures)} failed, {status.unfinished} unfinished)")
    console.print(f"chunks     {status.chunks:,}")
    model = f"{escape(status.model)}, {status.dimensions} dimensions, fingerprint {status.fingerprint[:12]}"
    console.print(f"model      {model}")
    console.print(f"disk       {status.bytes / 2**20:.1f} MiB")
    for failure in status.failures:
        console.print(f"[red]failed[/red]     {escape(failure.document_id)}: {escape(failure.reason)}")


if __name__ == "__main__":
    sys.exit(main())
