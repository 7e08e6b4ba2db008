"""Options of the commands that measure. The commands are in `evaluations`, which is loaded only for them."""

from __future__ import annotations

import argparse

from tarragon.cli.questions import add_asking
from tarragon.evaluation.answers import PASSAGES
from tarragon.evaluation.baseline import MAX_DROP
from tarragon.evaluation.metrics import METRICS
from tarragon.evaluation.monitor import MAX_STALE
from tarragon.evaluation.monitor import K as MONITOR_K
from tarragon.evaluation.running import K

LLM = "MODEL@URL of an OpenAI-compatible server, such as qwen3@http://localhost:8000/v1"


def add_eval(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon eval``."""
    add_golden(made)
    _add_metrics(made)
    add_asking(made, K)
    made.add_argument("--name", default="", help="of this run (default: the settings that were changed)")
    made.add_argument("--stages", action="store_true", help="what each stage of the search is worth and costs; slower")
    made.add_argument(
        "--against", action="append", default=[], metavar="RUN", help="compare with a saved run; repeatable"
    )
    made.add_argument("--save-run", metavar="FILE", help="save the rankings: as JSON (.json), else as a TREC run")
    gate = made.add_argument_group("release gate: exit code 3 if a metric fell too far")
    gate.add_argument("--baseline", metavar="FILE", help="what it was worth before")
    gate.add_argument(
        "--max-drop", type=float, default=MAX_DROP, metavar="X", help="may be lost (default: %(default)s)"
    )
    gate.add_argument("--write-baseline", metavar="FILE", help="keep what it is worth now; not if the gate fails")
    _add_report(made)


def add_compare_runs(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon compare-runs``."""
    made.add_argument("runs", nargs="+", metavar="RUN", help="saved runs, JSON or TREC; the first is the reference")
    add_golden(made)
    _add_metrics(made)
    _add_report(made)


def add_sweep(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon sweep``."""
    made.add_argument("grid", metavar="GRID", help="a .json or .toml file: see docs/evaluation.md")
    made.add_argument("--into", metavar="DIR", required=True, help="keeps indexes, vectors and results: it is resumed")
    made.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    made.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    _add_report(made)


def add_monitor(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon monitor``."""
    add_golden(made)
    add_asking(made, MONITOR_K)
    made.add_argument(
        "--asked", metavar="FILE", help='questions of users, JSON lines {"query": ...}: have they drifted?'
    )
    made.add_argument(
        "--max-drop", type=float, default=MAX_DROP, metavar="X", help="may be lost (default: %(default)s)"
    )
    made.add_argument(
        "--max-stale", type=float, default=MAX_STALE, metavar="SHARE", help="of the documents (default: %(default)s)"
    )
    made.add_argument("--alert-on-drift", action="store_true", help="drift is not only a note")
    made.add_argument("--history", metavar="DIR", help="instead of the folder monitor in the index's own")
    made.add_argument("--rebase", action="store_true", help="let what is found now be the baseline")


def add_questions(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon questions``."""
    made.add_argument("--out", metavar="FILE", required=True, help="the golden set, JSON lines")
    made.add_argument("-n", type=int, default=100, help="passages that are asked about (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="another one chooses other passages")
    made.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the best there is)")
    made.add_argument(
        "--llm", metavar="MODEL@URL", help=f"writes the questions: {LLM} (default: rare words of a sentence)"
    )
    _add_model(made, "what the model says, to go on from after an interruption (default: FILE.log)")


def add_answers(made: argparse.ArgumentParser) -> None:
    """Options of ``tarragon answers``."""
    add_golden(made)
    add_asking(made, PASSAGES)
    made.add_argument(
        "--llm", metavar="MODEL@URL", help=f"writes the answers: {LLM} (default: only passages are judged)"
    )
    made.add_argument("--judge", metavar="MODEL@URL", help="judges them (default: by their words)")
    _add_model(made, "folder for answers.jsonl and judgements.jsonl, to go on from after an interruption")


def _add_model(made: argparse.ArgumentParser, text: str) -> None:
    made.add_argument("--into", metavar="PATH", help=text)
    made.add_argument("--prompts", metavar="DIR", help="prompts of your own")
    made.add_argument("--workers", type=int, default=4, metavar="N", help="requests at a time (default: %(default)s)")


def add_golden(made: argparse.ArgumentParser) -> None:
    """Options of which questions."""
    made.add_argument("--golden", metavar="FILE", required=True, help="questions with judgements: JSON lines, a BEIR "
        "folder, LlamaIndex's JSON, or TREC judgements with --topics")  # fmt: skip
    made.add_argument("--split", default="test", help="of a BEIR folder (default: %(default)s)")
    made.add_argument("--topics", metavar="FILE", help="of TREC judgements: ids and questions, a tab between them")


def _add_metrics(made: argparse.ArgumentParser) -> None:
    made.add_argument("--metrics", metavar="LIST", help=f"with commas between them (default: {','.join(METRICS)})")


def _add_report(made: argparse.ArgumentParser) -> None:
    made.add_argument("--html", metavar="FILE", help="write a report as one self-contained page")
    made.add_argument("--markdown", metavar="FILE", help="write it as Markdown")
