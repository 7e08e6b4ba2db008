"""The values that flow through an evaluation: questions with judgements, and what a configuration answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

Grades: TypeAlias = Mapping[str, int]
"""Document id → grade; 0 is judged and not relevant."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters of a document that answer a question: ``document.text[start:end]``."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is known of its answer. At least one of ``relevant`` and ``spans`` is not empty.

    Attributes:
        id: Unique in its set.
        text: As it is put to the index.
        relevant: Documents that were judged. Where a set has only spans, their documents with grade 1.
        spans: Exact characters that answer it.
        answer: What a good answer says.
    """

    id: str
    text: str
    relevant: Grades = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Questions with judgements, in a fixed order.

    Attributes:
        name: For people.
        questions: In the order of the file.
        digest: Of ids, texts and judgements: two results can be compared if it is the same.
    """

    name: str
    questions: tuple[Question, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A place in a ranking. Where it is of a chunk, ``chunk_id`` and the span are set.

    Attributes:
        document_id: The document.
        score: Higher is better.
        chunk_id: The chunk; empty for a document.
        start: First character of the chunk in its document.
        end: One past the last.
    """

    document_id: str
    score: float
    chunk_id: str = ""
    start: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What one configuration answered.

    Attributes:
        name: Of the configuration.
        rankings: Question id → places, best first, equal scores in order of their ids. A question without hits has none.
        configuration: Settings and fingerprints, as JSON.
        seconds: Question id → seconds it took, where that was measured.
    """

    name: str
    rankings: Mapping[str, tuple[Ranked, ...]]
    configuration: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over questions with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """A run, scored.

    Attributes:
        run: Name of the run.
        golden: Digest of the questions.
        per_question: Metric, such as ``nDCG@10`` → question id → value. A question without hits has 0.
        means: Metric → mean over all questions of the set, with its interval.
    """

    run: str
    golden: str
    per_question: Mapping[str, Mapping[str, float]]
    means: Mapping[str, Interval]
