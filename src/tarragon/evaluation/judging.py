"""A language model judges answers: faithfulness, answer relevance, context precision and context recall.

Judges err, and lean towards long answers and their own kind: a figure of theirs compares set-ups that the same judge
judged with the same prompts, and says little by itself. Each judgement is kept with its evidence, to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tarragon.errors import AnsweringFailed, InvalidInput
from tarragon.evaluation.answers import WORKERS, Answer, at_once
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.journal import Journal
from tarragon.evaluation.judgements import READERS, Judgement
from tarragon.evaluation.prompting import Prompt, load_prompt, numbered
from tarragon.evaluation.significance import bootstrap_interval
from tarragon.evaluation.types import GoldenSet, Interval, Question
from tarragon.identity import canonical_json, digest

METRICS = tuple(READERS)


class _Task(NamedTuple):
    question: Question
    answer: Answer
    metric: str
    prompt: Prompt
    key: str


def judge(
    golden: GoldenSet,
    answers: Sequence[Answer],
    model: ChatModel,
    *,
    metrics: Sequence[str] = METRICS,
    file: str | Path | None = None,
    prompts: str | Path | None = None,
    workers: int = WORKERS,
) -> list[Judgement]:
    """Judge answers by each metric.

    Args:
        golden: The questions. ``context_recall`` is judged where a question has an answer.
        answers: What was answered from which passages.
        model: The judge.
        metrics: Some of `METRICS`.
        file: JSON Lines, added to after each judgement. What it holds already is not judged again.
        prompts: A folder with prompts of your own: see `tarragon.evaluation.prompting`.
        workers: Requests at a time.

    Returns:
        In the order of the answers, and for each in that of the metrics. A judge that cannot be read gives a judgement
        without a score that says why; the next run with the same file asks it again.

    Raises:
        ModelUnavailable: The judge cannot be reached or refuses; what was judged before is kept.
        InvalidInput: An unknown metric, an answer to no question of the set, or a file that holds something else.
    """
    tasks = list(_tasks(golden, answers, model, metrics, prompts))
    with Journal(file) as journal:
        return list(at_once(partial(_judged, model, journal), tasks, workers))


def means(judgements: Iterable[Judgement], *, seed: int = 0) -> dict[str, Interval]:
    """By metric, the mean of the scores with its interval. Those without a score do not count: `missing` does them."""
    scores: dict[str, list[float]] = {}
    for one in judgements:
        if one.score is not None:
            scores.setdefault(one.metric, []).append(one.score)
    return {metric: bootstrap_interval(values, seed=seed) for metric, values in scores.items()}


def missing(judgements: Iterable[Judgement]) -> dict[str, int]:
    """By metric, how many judgements have no score."""
    counts: dict[str, int] = {}
    for one in judgements:
        counts[one.metric] = counts.get(one.metric, 0) + (one.score is None)
    return counts


def _tasks(
    golden: GoldenSet,
    answers: Sequence[Answer],
    model: ChatModel,
    metrics: Sequence[str],
    folder: str | Path | None,
) -> Iterator[_Task]:
    if unknown := [metric for metric in metrics if metric not in READERS]:
        raise InvalidInput(f"unknown metrics {unknown}; known are {', '.join(METRICS)}", metrics=unknown)
    questions = {question.id: question for question in golden.questions}
    prompts = [load_prompt(metric, folder) for metric in metrics]
    for answer in answers:
        if answer.question_id not in questions:
            raise InvalidInput(
                f"an answer is to the question {answer.question_id!r}, which {golden.name} does not have; judge it "
                "with the questions that it was made for",
                question_id=answer.question_id,
            )
        question = questions[answer.question_id]
        for prompt in prompts:
            if prompt.name != "context_recall" or question.answer:
                yield _Task(question, answer, prompt.name, prompt, _key(question, answer, prompt, model))


def _judged(model: ChatModel, journal: Journal, task: _Task) -> Judgement:
    kept = journal.records.get(task.key)
    if kept is not None and not kept["problem"]:
        return Judgement.from_dict(kept)
    question, answer, metric, prompt, key = task
    passages = [one.text for one in answer.passages]
    blank = Judgement(question.id, metric, None, model=model.name, prompt=prompt.digest, key=key)
    if metric.startswith("context_") and not passages:
        made = replace(blank, score=0.0)  # nothing was retrieved
    elif not metric.startswith("context_") and not answer.text.strip():
        made = replace(blank, score=0.0 if metric == "answer_relevance" else None)
    else:
        filled = prompt.filled(
            question=question.text,
            answer=answer.text,
            reference=question.answer or "(not known)",
            passages=numbered(passages) or "(none)",
        )
        try:
            (score, evidence), reply = model.json(filled, lambda said: READERS[metric](said, passages))
            made = replace(blank, score=score, evidence=evidence, reply=reply.text)
        except AnsweringFailed as error:
            made = replace(blank, problem=str(error), reply=str(error.data.get("reply", "")))
    journal.add(made.to_dict())
    return made


def _key(question: Question, answer: Answer, prompt: Prompt, model: ChatModel) -> str:
    texts = canonical_json([one.text for one in answer.passages]).encode("utf-8", "surrogatepass")
    asked = question.id, question.text, answer.text, question.answer or "", texts
    return digest("judgement", prompt.name, prompt.digest, model.name, *asked).hex()
