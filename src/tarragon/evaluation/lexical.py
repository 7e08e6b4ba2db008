"""Answers judged by their words: the same for everybody and every time, and no model needed.

What it can tell: whether a known answer is there. What it cannot: whether other words say the same, or deny it.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from tarragon.evaluation.significance import bootstrap_interval
from tarragon.evaluation.types import GoldenSet, Interval

if TYPE_CHECKING:
    from tarragon.evaluation.answers import Answer

_PUNCTUATION = frozenset(string.punctuation)
_ARTICLES = frozenset(("a", "an", "the"))

_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # a character is a token, as in MLQA
    r"|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True, slots=True)
class LexicalScores:
    """An answer by its words, each 0 to 1; None where it cannot be told.

    Attributes:
        exact: The answer is a reference, after `normalised`.
        f1: `token_f1` with the reference that it is most like.
        contained: The answer holds a reference.
        grounded: `token_precision` against the passages: how much of the answer they say.
        found: Reciprocal rank of the first passage that holds a reference; 0: none does.
    """

    exact: float | None
    f1: float | None
    contained: float | None
    grounded: float | None
    found: float | None


def judge(answer: str, references: Sequence[str], passages: Sequence[str]) -> LexicalScores:
    """Judge an answer by the words of references and of passages.

    Args:
        answer: What was generated. Blank: only ``found`` tells something.
        references: Answers that are right. None: what needs one is None.
        passages: In order of their rank.
    """
    rank = first_with(passages, references)
    return LexicalScores(
        exact=float(any(normalised(answer) == normalised(one) for one in references)) if references else None,
        f1=token_f1(answer, references) if references else None,
        contained=float(any(contains(answer, one) for one in references)) if references else None,
        grounded=token_precision(answer, passages) if tokens(answer) else None,
        found=(1 / rank if rank else 0.0) if references else None,
    )


def judge_answers(golden: GoldenSet, answers: Iterable[Answer]) -> dict[str, LexicalScores]:
    """Question id → its answer, judged by the answers that the golden set has. Answers to other questions are left out.

    An answer that is blank, because none was generated, is judged by its passages alone.
    """
    questions = {question.id: question for question in golden.questions}
    judged = {}
    for answer in answers:
        if answer.question_id in questions:
            question = questions[answer.question_id]
            references = [question.answer, *question.alternatives] if question.answer is not None else []
            scores = judge(answer.text, references, [passage.text for passage in answer.passages])
            written = bool(answer.text.strip())
            judged[question.id] = scores if written else LexicalScores(None, None, None, None, scores.found)
    return judged


def means(scores: Iterable[LexicalScores], *, seed: int = 0) -> dict[str, Interval]:
    """By name, the mean of what could be told, with its interval."""
    given = list(scores)
    values = {field.name: [getattr(one, field.name) for one in given] for field in fields(LexicalScores)}
    told = {name: [value for value in row if value is not None] for name, row in values.items()}
    return {name: bootstrap_interval(row, seed=seed) for name, row in told.items() if row}


def normalised(text: str) -> str:
    """Lower case, without punctuation and English articles, single spaces: as SQuAD compares answers.

    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016, ``evaluate-v1.1.py``; with
    the punctuation of all scripts, and Chinese and Japanese by characters, as in Lewis et al., "MLQA", 2020.
    """
    return " ".join(tokens(text))


def tokens(text: str) -> list[str]:
    """The words that `normalised` keeps."""
    bare = "".join(character for character in unicodedata.normalize("NFC", text).lower() if not _is_mark(character))
    return [token for token in _TOKEN.findall(bare) if token not in _ARTICLES]


def token_f1(answer: str, references: Iterable[str]) -> float:
    """Harmonic mean of precision and recall of the words, with the reference that gives the most; as SQuAD defines it.

    Without a word on either side it is 0; without one on both sides, 1, as in SQuAD 2.
    """
    return max((_f1(tokens(answer), tokens(reference)) for reference in references), default=0.0)


def token_precision(answer: str, passages: Iterable[str]) -> float:
    """Share of the answer's words that are in the passages: K-Precision.

    Adlakha et al., "Evaluating Correctness and Faithfulness of Instruction-Following Models for Question Answering",
    2023. A word that the answer repeats must be repeated there. 0 for an answer without words.
    """
    said = Counter(tokens(answer))
    known = Counter(token for passage in passages for token in tokens(passage))
    return (said & known).total() / said.total() if said else 0.0


def contains(text: str, answer: str) -> bool:
    """Whether the words of an answer stand in a text, one after the other. An answer without words never does."""
    wanted = tokens(answer)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {normalised(text)} "


def first_with(passages: Sequence[str], answers: Sequence[str]) -> int | None:
    """Rank from 1 of the first passage that holds one of the answers; None if none does.

    The judge of Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question Answering", 2020.
    """
    found = (rank for rank, passage in enumerate(passages, 1) if any(contains(passage, answer) for answer in answers))
    return next(found, None)


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    if not said or not right:
        return float(said == right)
    shared = (Counter(said) & Counter(right)).total()
    return 2 * shared / (len(said) + len(right))


def _is_mark(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character).startswith("P")
