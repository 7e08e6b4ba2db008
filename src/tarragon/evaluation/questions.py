"""From questions to a golden set: what it must hold, and what identifies it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tarragon.errors import InvalidGolden
from tarragon.evaluation.types import GoldenSet, Question
from tarragon.identity import canonical_json, digest


def golden_set(name: str, questions: Iterable[Question]) -> GoldenSet:
    """Check questions and identify them as a set.

    A question that has spans and no judged documents gets the documents of its spans with grade 1.

    Raises:
        InvalidGolden: There is none, two have the same id, or one has nothing relevant.
    """
    found = tuple(_complete(question) for question in questions)
    if not found:
        raise InvalidGolden(f"{name}: no question has a relevant document; nothing can be scored", name=name)
    seen: set[str] = set()
    for question in found:
        if question.id in seen:
            raise InvalidGolden(
                f"{name}: two questions have the id {question.id!r}; ids must be unique", id=question.id
            )
        if max(question.relevant.values(), default=0) < 1:
            raise InvalidGolden(
                f"{name}: nothing is relevant to question {question.id!r}: leave it out, or judge a document 1 or more",
                id=question.id,
            )
        seen.add(question.id)
    return GoldenSet(name, found, _digest(found))


def _complete(question: Question) -> Question:
    if question.relevant or not question.spans:
        return question
    return replace(question, relevant=dict.fromkeys((span.document_id for span in question.spans), 1))


def _digest(questions: Iterable[Question]) -> str:
    """Of ids, texts and judgements, whatever their order; not of answers, which no retrieval is scored by."""
    judged = sorted(
        canonical_json(
            [
                question.id,
                question.text,
                dict(question.relevant),
                sorted([span.document_id, span.start, span.end] for span in question.spans),
            ]
        )
        for question in questions
    )
    return digest("golden", *(line.encode("utf-8", "surrogatepass") for line in judged)).hex()
