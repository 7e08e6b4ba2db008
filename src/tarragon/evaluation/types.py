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
        alternatives: Other answers that are as good.
    """

    id: str
    text: str
    relevant: Grades = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    answer: str | None = None
    alternatives: tuple[str, ...] = ()


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
        rankings: Question id → places, best first; the order decides, not the scores. A question without hits has none.
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

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two runs, in one metric, over the same questions.

    Attributes:
        metric: Such as ``nDCG@10``.
        first: Name of the run that others are compared with.
        second: Name of the other one.
        means: Of the first and of the second.
        difference: Second less first, with its bootstrap interval: above 0, the second is better.
        p: Of a paired randomisation test, two-sided: how often chance alone would differ so much.
        adjusted: The same, for as many runs as were compared (Holm).
        wins: Questions that the second answers better.
        losses: Worse.
        ties: As well.
    """

    metric: str
    first: str
    second: str
    means: tuple[float, float]
    difference: Interval
    p: float
    adjusted: float
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True, slots=True)
class Change:
    """A question that two runs answer differently.

    Attributes:
        question: With its judgements.
        metric: In which they differ.
        runs: Names of the first and the second.
        first: Value of the first.
        second: Value of the second.
        rankings: The first places of both; empty if the runs were not given.
    """

    question: Question
    metric: str
    runs: tuple[str, str]
    first: float
    second: float
    rankings: tuple[tuple[Ranked, ...], tuple[Ranked, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs against a reference, over the same questions.

    Attributes:
        golden: Digest of the questions.
        questions: How many there are.
        reference: Name of the first run, which others are compared with.
        differences: By metric, in the order that they were scored in; within it, by run.
        changes: Of each run, the questions that changed most, the largest change first.
    """

    golden: str
    questions: int
    reference: str
    differences: tuple[Difference, ...]
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same names and values, ready for JSON."""
        return asdict(self)
