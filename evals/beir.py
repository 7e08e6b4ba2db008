"""BEIR folders for our own measurements: `tarragon.evaluation.beir`, held as texts and judgements by query id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tarragon.errors import InvalidGolden as DatasetError
from tarragon.evaluation.beir import corpus_path, read_beir, read_corpus, read_queries

__all__ = ["DatasetError", "Judgements", "Questions", "corpus_path", "read_corpus", "read_queries", "read_questions"]

Judgements = dict[str, dict[str, int]]
"""Query id → document id → grade; 0 is judged not relevant."""


@dataclass(frozen=True, slots=True)
class Questions:
    """The queries of a split that have an answer.

    Attributes:
        texts: Query id → text, in the order of ``queries.jsonl``.
        judgements: Of these queries, the grade of each judged document.
    """

    texts: Mapping[str, str]
    judgements: Judgements


def read_questions(folder: Path, split: str) -> Questions:
    """The queries of the split that have at least one relevant document.

    Raises:
        DatasetError: A file is missing or malformed, a judged query is unknown, or no query has an answer.
    """
    questions = read_beir(folder, split).questions
    return Questions({one.id: one.text for one in questions}, {one.id: dict(one.relevant) for one in questions})
