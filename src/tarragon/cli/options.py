"""The command line's commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args

from tarragon import __version__
from tarragon.cli import commands, evaluation_options, questions
from tarragon.recipe import Chunking, Language
from tarragon.sources import DEFAULT_MAX_BYTES


def parser() -> argparse.ArgumentParser:
    """Everything that can be typed."""
    made = argparse.ArgumentParser(prog="tarragon", description="The retrieval half of RAG, kept fresh.")
    made.add_argument("--version", action="version", version=f"tarragon {__version__}")
    found = made.add_subparsers(required=True, metavar="COMMAND")
    _add_plan(_command(found, "plan", commands.plan, "what a sync would do and cost; writes nothing"))
    _add_sync(_command(found, "sync", commands.sync, "make an index hold what a source holds"))
    questions.add_search(_command(found, "search", questions.search, "find the passages for a question"))
    why = "at which stage a question loses a document"
    questions.add_why_not(_command(found, "why-not", questions.why_not, why))
    questions.add_tune(_command(found, "tune", questions.tune, "measure how the index is best searched, and do so"))
    well = "how well questions with known answers are answered"
    evaluation_options.add_eval(_command(found, "eval", _later("evaluations", "evaluate"), well))
    better = "which of several saved runs answers better, and where"
    evaluation_options.add_compare_runs(_plain(found, "compare-runs", _later("evaluations", "compare_runs"), better))
    grid = "measure a grid of settings on several data sets"
    evaluation_options.add_sweep(_plain(found, "sweep", _later("evaluations", "sweep"), grid))
    asked = "make questions for a corpus that has none, each with its source"
    evaluation_options.add_questions(_command(found, "questions", _later("answering", "questions"), asked))
    answered = "write and judge answers from what is found; by words, or by a language model"
    evaluation_options.add_answers(_command(found, "answers", _later("answering", "answers"), answered))
    watched = "whether an index still answers as it did; for a weekly job"
    evaluation_options.add_monitor(_command(found, "monitor", _later("evaluations", "monitor"), watched))
    _command(found, "status", commands.status, "what an index holds; works while another process uses it")
    _add_device(_command(found, "optimize", commands.optimize, "build the vector graph and free deleted space"))
    _add_verify(_command(found, "verify", commands.verify, "compare ledger, chunks and vectors; mend what is wrong"))
    _add_doctor(_command(found, "doctor", commands.doctor, "look for faults that no answer shows; changes nothing"))
    _command(found, "versions", commands.versions, "every version of an index")
    _add_upgrade(_command(found, "upgrade", commands.upgrade, "build a version of another model or other settings"))
    _add_compare(_command(found, "compare", commands.compare, "how alike a version and the serving one answer"))
    _add_promote(_command(found, "promote", commands.promote, "let a version serve"))
    _command(found, "rollback", commands.rollback, "let the version serve that served before")
    _add_gc(_command(found, "gc", commands.gc, "delete versions that are not needed any more"))
    _add_adopt(_command(found, "adopt", commands.adopt, "take over a model that makes the same vectors"))
    _add_copy(_command(found, "copy", commands.copy, "copy an index to a folder or a server, embedding nothing"))
    return made


def _command(found: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    made = _plain(found, name, run, text)
    made.add_argument("index", metavar="INDEX", help="a folder, such as handbook.tarragon, or http://host:6333/name")
    return made


def _plain(found: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """A command without an index."""
    made: argparse.ArgumentParser = found.add_parser(name, help=text, description=text)
    made.set_defaults(command=run)
    made.add_argument("--json", action="store_true", help="one JSON object on stdout, nothing else there")
    return made


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command of a module that no other command has to wait for."""

    def run(options: argparse.Namespace) -> int:
        command: Callable[[argparse.Namespace], int] = getattr(import_module(f"tarragon.cli.{module}"), name)
        return command(options)

    return run


def _add_device(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", help="cpu, cuda, cuda:1, mps; cuda:0,cuda:1 or all for several (default: the best)")


def _add_source(made: argparse.ArgumentParser) -> None:
    made.add_argument("source", metavar="SOURCE", help="a folder, a .jsonl file, or another single file")
    _add_device(made)
    made.add_argument("--include", action="append", default=[], metavar="GLOB", help="only these files; repeatable")
    made.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="not these files; repeatable")
    made.add_argument("--max-bytes", type=int, default=DEFAULT_MAX_BYTES, metavar="N", help="largest file to read")
    made.add_argument("--namespace", default="", metavar="NAME", help="tells several sources in one index apart")
    made.add_argument("--no-prune", action="store_true", help="keep documents that the source no longer has")
    made.add_argument("--max-delete", type=float, metavar="SHARE", help="largest share that may be deleted")
    made.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="only these documents; repeatable",
    )
    _add_recipe(made, "settings of a new index")


def _add_recipe(made: argparse.ArgumentParser, title: str) -> None:
    new = made.add_argument_group(title)
    new.add_argument("--model", help="sentence-transformers name or folder (default: the bundled one)")
    new.add_argument("--document-prompt", metavar="TEXT", help="put before each embedded text")
    new.add_argument("--dimensions", type=int, metavar="N", help="keep the first N of the model's")
    new.add_argument("--chunking", choices=get_args(Chunking))
    new.add_argument("--chunk-tokens", type=int, metavar="N")
    new.add_argument("--language", choices=get_args(Language))
    new.add_argument("--sparse-model", metavar="MODEL", help="a learned sparse model beside it, such as SPLADE")
    new.add_argument("--late-model", metavar="MODEL", help="a late-interaction model, such as ColBERT")


def _add_plan(made: argparse.ArgumentParser) -> None:
    _add_source(made)
    made.add_argument("--exit-code", action="store_true", help="2 if there are changes, 3 if a sync would be refused")
    made.add_argument("--out", metavar="FILE", help="save the plan, for sync --plan FILE")


def _add_sync(made: argparse.ArgumentParser) -> None:
    _add_source(made)
    made.add_argument("--budget", type=int, metavar="TOKENS", help="embed at most so many; go on next time")
    made.add_argument("--plan", metavar="FILE", help="do what this plan says, if it still holds")
    address = "embed on a Ray cluster: auto (the one that runs here), ray://host:10001, or local for one of its own"
    made.add_argument("--ray", metavar="ADDRESS", help=address)
    made.add_argument("--ray-workers", type=int, metavar="N", help="how many (default: one a GPU, or by processors)")
    made.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=2.0,
        metavar="SECONDS",
        help="go on, looking every 2 or so many",
    )


def _add_verify(made: argparse.ArgumentParser) -> None:
    _add_device(made)
    made.add_argument("--deep", action="store_true", help="embed a random sample again and compare")
    made.add_argument("--sample", type=int, default=200, metavar="N", help="how many (default: %(default)s)")
    made.add_argument("--repair", action="store_true", help="remove what is wrong and sync these documents again")


def _add_doctor(made: argparse.ArgumentParser) -> None:
    _add_device(made)
    made.add_argument("--deep", action="store_true", help="load the model too, and look at all chunks")
    made.add_argument("-k", type=int, default=5, help="how many passages are searched for (default: %(default)s)")


def _add_upgrade(made: argparse.ArgumentParser) -> None:
    _add_device(made)
    _add_recipe(made, "settings of the new version; those that are not named stay")
    made.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="[NAMESPACE=]PATH",
        help="of the documents, where it cannot be found again; repeatable",
    )
    made.add_argument("--dry-run", action="store_true", help="only tell what it would embed, and the disk it takes")
    made.add_argument("--promote-above", type=float, metavar="OVERLAP", help="let it serve from this overlap@10 on")


def _add_compare(made: argparse.ArgumentParser) -> None:
    made.add_argument("version", metavar="VERSION", help="such as v2")
    _add_device(made)
    made.add_argument("--queries", metavar="FILE", help='JSON lines: {"query": ..., "relevant": [document ids]}')
    made.add_argument("--sample", type=int, default=100, metavar="N", help="passages used where there are no queries")


def _add_promote(made: argparse.ArgumentParser) -> None:
    made.add_argument("version", metavar="VERSION", help="such as v2")
    _add_device(made)
    made.add_argument("--floor", type=float, metavar="OVERLAP", help="refuse below this overlap@10")
    made.add_argument("--max-delete", type=float, metavar="SHARE", help="largest share of documents that may be lost")


def _add_gc(made: argparse.ArgumentParser) -> None:
    made.add_argument("--keep", type=int, default=1, metavar="N", help="former versions to keep (default: %(default)s)")


def _add_adopt(made: argparse.ArgumentParser) -> None:
    _add_device(made)
    made.add_argument("--model", required=True, help="sentence-transformers name or folder")


def _add_copy(made: argparse.ArgumentParser) -> None:
    made.add_argument("target", metavar="TARGET", help="a folder or http://host:6333/name that holds no index yet")
