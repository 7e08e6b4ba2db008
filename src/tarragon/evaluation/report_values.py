"""What a report is made from: values of an evaluation, as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tarragon.errors import InvalidInput
from tarragon.evaluation.report_machine import machine
from tarragon.evaluation.types import Comparison, Difference, GoldenSet, Interval, Run, Scores


class StageRow(Protocol):
    """A stage of a search."""

    @property
    def name(self) -> str:
        """Such as ``dense``, ``fused``, ``rerank: <model>``."""

    @property
    def means(self) -> Mapping[str, Interval]:
        """Metric → what the ranking after this stage is worth."""

    @property
    def p50(self) -> float | None:
        """Seconds that it takes: half of the questions less."""

    @property
    def p95(self) -> float | None:
        """95 of 100 less."""

    @property
    def p99(self) -> float | None:
        """99 of 100 less."""

    @property
    def candidates(self) -> float:
        """Passages that come out of it, on average."""

    @property
    def tokens(self) -> float:
        """Tokens that a model reads in it, on average."""

    @property
    def calls(self) -> float:
        """Requests to the engine, on average."""


class Stages(Protocol):
    """A run, stage by stage."""

    @property
    def run(self) -> Run:
        """The run."""

    @property
    def rows(self) -> Sequence[StageRow]:
        """Its stages, in order."""

    @property
    def ceilings(self) -> Mapping[str, Interval]:
        """Stage → recall of what it was given to rank: the best that it could do."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report tells.

    Attributes:
        title: Its heading.
        golden: The questions.
        runs: What each configuration answered: chunks or documents.
        scores: Of the runs, in their order.
        comparisons: Of runs among them with a reference.
        stages: Of some of the runs, stage by stage.
        notes: Whatever else should be said, each a paragraph.
        made: When, in words; empty: it is not told, and the same values give the same report to the byte.
        machine: What it was measured on.

    Raises:
        InvalidInput: Runs and scores do not belong together, or two runs have the same name.
    """

    title: str
    golden: GoldenSet
    runs: tuple[Run, ...]
    scores: tuple[Scores, ...]
    comparisons: tuple[Comparison, ...] = ()
    stages: tuple[Stages, ...] = ()
    notes: tuple[str, ...] = ()
    made: str = ""
    machine: Mapping[str, str] = field(default_factory=machine)

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        if not names or names != [scores.run for scores in self.scores]:
            raise InvalidInput(
                f"a report needs runs and the scores of each, in the same order; these are of the runs {names} and of "
                f"the scores {[scores.run for scores in self.scores]}"
            )
        if len(set(names)) < len(names):
            raise InvalidInput(f"two runs of a report have the same name; give them names of their own: {names}")
        if others := [scores.run for scores in self.scores if scores.golden != self.golden.digest]:
            raise InvalidInput(
                f"the scores of {others} are of other questions than {self.golden.name!r}; score them with these"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that every run has, in the order of the first; the first of them is the one that charts show."""
        return tuple(name for name in self.scores[0].means if all(name in one.means for one in self.scores))

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Of all comparisons, in order."""
        return tuple(one for comparison in self.comparisons for one in comparison.differences)
