"""What a judge must say of an answer: how its reply is read, and what score follows from it.

A reply is read strictly: a passage that is missing, a grade that is none, is an error, and the judge is asked again. A
statement counts as supported only if the words that are quoted for it are in a passage, which is checked here: a judge
that invents its evidence is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from tarragon.evaluation.lexical import contains

Evidence: TypeAlias = tuple[Mapping[str, Any], ...]
Verdict: TypeAlias = tuple["float | None", Evidence]
"""A score, 0 to 1 or None where there was nothing to judge, and what it rests on."""

GRADES = 2
"""The best grade of relevance."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One metric of one answer.

    Attributes:
        question_id: Of the question.
        metric: One of `READERS`.
        score: 0 to 1; None: there was nothing to judge, or the judge could not be read.
        evidence: Statements with verdict, passage and quote; passages with verdict; or a grade with its reason.
        problem: Why the judge could not be read; empty if it could.
        reply: Its words.
        model: Its name.
        prompt: Digest of the prompt.
        key: Identifies what was judged, by whom and how.
    """

    question_id: str
    metric: str
    score: float | None
    evidence: Evidence = ()
    problem: str = ""
    reply: str = ""
    model: str = ""
    prompt: str = ""
    key: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Judgement:
        """Read `to_dict`."""
        return cls(**{**values, "evidence": tuple(values["evidence"])})


def statements(reply: Mapping[str, Any], passages: Sequence[str]) -> Verdict:
    """Share of the statements that a passage supports: faithfulness of an answer, recall of a right one.

    Es et al., "RAGAS: Automated Evaluation of Retrieval Augmented Generation", 2023; quotes are checked in addition.
    """
    evidence = tuple(_statement(one, passages) for one in _entries(reply, "statements"))
    if not evidence:
        return None, ()
    return sum(one["supported"] for one in evidence) / len(evidence), evidence


def usefulness(reply: Mapping[str, Any], passages: Sequence[str]) -> Verdict:
    """Average precision of the useful passages in their order; 0 if none is: context precision as in RAGAS."""
    entries = _entries(reply, "passages")
    numbers = [int(one["passage"]) for one in entries if type(one.get("passage")) is int]
    if len(numbers) < len(entries) or sorted(numbers) != list(range(1, len(passages) + 1)):
        raise ValueError(f"exactly one entry is needed for each of the passages 1 to {len(passages)}")
    by_number = dict(zip(numbers, entries, strict=True))
    evidence = []
    precisions: list[float] = []
    for number in range(1, len(passages) + 1):
        useful = _bool(by_number[number], "useful")
        evidence.append({"passage": number, "useful": useful, "reason": str(by_number[number].get("reason", ""))})
        if useful:
            precisions.append((len(precisions) + 1) / number)
    return (sum(precisions) / len(precisions) if precisions else 0.0), tuple(evidence)


def relevance(reply: Mapping[str, Any], passages: Sequence[str]) -> Verdict:
    """A grade as a share of the best one."""
    grade = reply.get("grade")
    if type(grade) is not int or not 0 <= grade <= GRADES:
        raise ValueError(f"'grade' must be a whole number from 0 to {GRADES}, not {grade!r}")
    return grade / GRADES, ({"grade": grade, "reason": str(reply.get("reason", ""))},)


READERS: Mapping[str, Callable[[Mapping[str, Any], Sequence[str]], Verdict]] = {
    "faithfulness": statements,
    "answer_relevance": relevance,
    "context_precision": usefulness,
    "context_recall": statements,
}
"""By metric, which is the name of its prompt too."""


def _statement(one: Mapping[str, Any], passages: Sequence[str]) -> dict[str, Any]:
    text = one.get("statement")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("every statement needs its text under 'statement'")
    claimed, quote, number = _bool(one, "supported"), str(one.get("quote") or ""), one.get("passage")
    named = [passages[number - 1]] if type(number) is int and 1 <= number <= len(passages) else []
    quoted = any(contains(passage, quote) for passage in [*named, *passages])
    return {
        "statement": text,
        "supported": claimed and quoted,
        "claimed": claimed,
        "passage": number if named else None,
        "quote": quote,
        "quoted": quoted,
    }


def _entries(reply: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = reply.get(key)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{key!r} must be a list of objects")
    return found


def _bool(one: Mapping[str, Any], key: str) -> bool:
    value = one.get(key)
    if not isinstance(value, bool):
        raise ValueError(f"{key!r} must be true or false, not {value!r}")
    return value
