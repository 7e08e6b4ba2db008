"""The commands that ask a language model, or do without one: ``questions``, ``answers``. Loaded only for them."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tarragon.cli import views
from tarragon.cli.evaluation_options import LLM
from tarragon.cli.evaluation_views import interval, print_table
from tarragon.cli.evaluations import read_golden_typed
from tarragon.cli.questions import read_filter, recipe_typed
from tarragon.errors import InvalidInput
from tarragon.evaluation import judging, lexical
from tarragon.evaluation.answers import Answer, generate, given
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.golden import write_jsonl
from tarragon.evaluation.running import answers as found_by
from tarragon.evaluation.running import settings_of
from tarragon.evaluation.synthetic import Synthetic, synthesise
from tarragon.evaluation.types import Interval
from tarragon.index import Index
from tarragon.retriever import Retriever


def questions(options: argparse.Namespace) -> int:
    """``tarragon questions``."""
    with _model(options.llm) as model, Index.open(options.index, device=options.device, create=False) as index:
        file = None if model is None else Path(options.into or f"{options.out}.log")
        made = synthesise(
            index, options.n, model, file=file, prompts=options.prompts, seed=options.seed, workers=options.workers
        )
    write_jsonl(made.golden, options.out)
    dropped = Counter(one.reason for one in made.dropped)
    if options.json:
        views.output_json({"questions": len(made.golden.questions), "digest": made.golden.digest, "dropped": dropped})
    else:
        _show_questions(made, options.out)
    return 0


def answers(options: argparse.Namespace) -> int:
    """``tarragon answers``."""
    golden = read_golden_typed(options)
    into = None if options.into is None else Path(options.into)
    with Index.open(options.index, device=options.device, create=False) as index:
        recipe = recipe_typed(index, options)
        with Retriever(index, recipe=recipe, filter=read_filter(options.filter)) as retriever:
            asked = found_by(retriever, golden.questions, k=options.k, recipe=settings_of(retriever))
            found = [(question, hits) for question, hits, _ in asked]
    ask = partial(generate, passages=options.k, prompts=options.prompts, workers=options.workers)
    with _model(options.llm) as writer, _model(options.judge) as judge:
        if writer is None:
            made = [Answer(question.id, "", given(hits)) for question, hits in found]
        else:
            made = ask(found, writer, file=into and into / "answers.jsonl")
        figures = lexical.means(lexical.judge_answers(golden, made).values())
        problems: dict[str, int] = {}
        if judge is not None:
            file = into and into / "judgements.jsonl"
            judged = judging.judge(golden, made, judge, file=file, prompts=options.prompts, workers=options.workers)
            figures |= judging.means(judged)
            problems = {name: count for name, count in judging.missing(judged).items() if count}
    if options.json:
        told = {name: asdict(mean) for name, mean in figures.items()}
        views.output_json({"questions": len(made), "scores": told, "not judged": problems})
    else:
        _show_answers(figures, problems, len(made))
    return 0


def _model(typed: str | None) -> closing[ChatModel] | nullcontext[None]:
    if typed is None:
        return nullcontext()
    name, at, url = typed.partition("@http")
    if not name or not at:
        raise InvalidInput(f"{typed!r} names no model: write {LLM}")
    return closing(ChatModel(name, f"http{url}"))


def _show_questions(made: Synthetic, path: str) -> None:
    views.console().print(f"{len(made.golden.questions):,} questions in {path}", markup=False)
    for reason, count in sorted(Counter(one.reason for one in made.dropped).items()):
        views.console().print(f"{count:,} left out: {reason}", markup=False)


def _show_answers(figures: dict[str, Interval], problems: dict[str, int], count: int) -> None:
    if not figures:
        views.console().print("nothing to tell: no question has an answer, and nothing was written or judged")
        return
    print_table(["", f"{count:,} questions"], [[name, interval(mean)] for name, mean in figures.items()])
    for name, missing in problems.items():
        views.console().print(f"{name}: {missing:,} without a score", markup=False)
