"""What a report is made from: values of an evaluation, as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tarragon.errors import InvalidInput
from tarragon.evaluation.report_machine import machine
from tarragon.evaluation.types import Comparison, Difference, GoldenSet, Run, Scores

if TYPE_CHECKING:
    from tarragon.evaluation.stages import Stages
    from tarragon.evaluation.sweeping import Cell


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


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a report of a sweep tells.

    Attributes:
        title: Its heading.
        cells: What was measured, data set by data set; the first of each is what others are compared with.
        made: When, in words; empty: it is not told.
        machine: What it was measured on.
    """

    title: str
    cells: Sequence[Cell]
    made: str = ""
    machine: Mapping[str, str] = field(default_factory=machine)
