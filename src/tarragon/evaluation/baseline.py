"""A release gate: the scores that were good enough are kept in a file, and later ones are judged against them.

What is compared are the same questions one by one, so that a fall of a hundredth can be told from chance. A larger one
than the caller allows fails, whatever chance says: the verdict names the interval, and the reader decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tarragon.errors import InvalidInput
from tarragon.evaluation.contrast import changed, differences
from tarragon.evaluation.types import Change, Difference, GoldenSet, Interval, Run, Scores

FORMAT = 1
"""Of the file. Any other is refused."""

MAX_DROP = 0.0
"""What may be lost if nobody says: nothing. The same index and settings give the same figures to the last digit."""

NAMED = 5
"""Questions that a sentence names."""

ROUNDING = 1e-9
"""A fall that exceeds what is allowed by no more is one of the arithmetic."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Scores that later ones are judged by.

    Attributes:
        golden: Name of the golden set; ``scores.golden`` is its digest.
        scores: Of each question.
        configuration: What made them, see `Run.configuration`.
        made: When, as ISO 8601.
    """

    golden: str
    scores: Scores
    configuration: Mapping[str, Any]
    made: str

    @classmethod
    def of(cls, run: Run, scores: Scores, golden: GoldenSet) -> Baseline:
        """What a run is worth now."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(golden.name, scores, run.configuration, now)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One metric, judged.

    Attributes:
        difference: Now less the baseline.
        max_drop: How much may be lost.
        fell: Questions that are answered worse now, the largest fall first.
    """

    difference: Difference
    max_drop: float
    fell: tuple[Change, ...]

    @property
    def passed(self) -> bool:
        """Whether no more was lost than may be."""
        return self.difference.difference.mean >= -self.max_drop - ROUNDING

    @property
    def sentence(self) -> str:
        """Metric, figures, interval, and which questions fell."""
        told = self.difference
        gap, (before, after) = told.difference, told.means
        verb = "fell" if gap.mean < 0 else "rose" if gap.mean > 0 else "stayed"
        by = f" by {abs(gap.mean):.4f}" if gap.mean else ""
        text = (
            f"{told.metric} {verb}{by}, from {before:.4f} to {after:.4f} (difference {gap.mean:+.4f}, 95 % interval "
            f"{gap.low:+.4f} to {gap.high:+.4f}, p {_p(told.p)}; {told.losses} questions fell, {told.wins} rose)"
        )
        if self.passed:
            return text
        worst = "; ".join(f"{_named(one)} {one.first:.3f} → {one.second:.3f}" for one in self.fell[:NAMED])
        more = f"; and {len(self.fell) - NAMED} more" if len(self.fell) > NAMED else ""
        return f"{text}; at most {self.max_drop:g} may be lost. Fell most: {worst}{more}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Scores, judged against a baseline.

    Attributes:
        judgements: Of each metric of the baseline.
        changed: Settings that are not those of the baseline: name → before, now.
        baseline: When it was made.
    """

    judgements: tuple[Judgement, ...]
    changed: Mapping[str, tuple[Any, Any]]
    baseline: str

    @property
    def passed(self) -> bool:
        """Whether no metric lost more than it may."""
        return all(one.passed for one in self.judgements)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Of the metrics that failed; of all, if none did."""
        failed = [one for one in self.judgements if not one.passed]
        return tuple(one.sentence for one in failed or self.judgements)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: questions by id and text, without their judgements."""
        return {
            "passed": self.passed,
            "sentences": list(self.sentences),
            "baseline": self.baseline,
            "changed": {name: list(pair) for name, pair in self.changed.items()},
            "metrics": {
                one.difference.metric: {
                    "passed": one.passed,
                    "before": one.difference.means[0],
                    "now": one.difference.means[1],
                    "difference": asdict(one.difference.difference),
                    "p": one.difference.p,
                    "max_drop": one.max_drop,
                    "fell": [
                        {"id": c.question.id, "query": c.question.text, "before": c.first, "now": c.second}
                        for c in one.fell
                    ],
                }
                for one in self.judgements
            },
        }


def judge(
    baseline: Baseline,
    run: Run,
    scores: Scores,
    golden: GoldenSet,
    *,
    max_drop: float = MAX_DROP,
    metrics: Sequence[str] = (),
    seed: int = 0,
) -> Verdict:
    """Compare scores with a baseline, question by question.

    Args:
        baseline: Of the same questions.
        run: What was scored.
        scores: Now.
        golden: The questions.
        max_drop: How much the mean of a metric may fall.
        metrics: To be judged; all of the baseline, if none is named.
        seed: Of intervals and p-values.

    Raises:
        InvalidInput: The baseline is of other questions, a metric is missing, or ``max_drop`` is negative.
    """
    _check(baseline, scores, golden, max_drop)
    judged = []
    before = replace(baseline.scores, run="baseline")
    for metric in metrics or baseline.scores.per_question:
        if metric not in scores.per_question or metric not in before.per_question:
            has = ", ".join(sorted(before.per_question))
            raise InvalidInput(f"{metric} is not in the baseline and in the new scores; the baseline has {has}")
        (difference,) = differences(before, [scores], metric, seed=seed)
        fell = tuple(one for one in changed(before, scores, metric, golden) if one.second < one.first)
        judged.append(Judgement(difference, max_drop, fell))
    return Verdict(tuple(judged), settings_changed(baseline.configuration, run.configuration), baseline.made)


def settings_changed(before: Mapping[str, Any], now: Mapping[str, Any], under: str = "") -> dict[str, tuple[Any, Any]]:
    """What is not the same in two configurations, by its path such as ``search.depth``."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= settings_changed(old, new, f"{under}{name}.")
        elif old != new:
            found[f"{under}{name}"] = old, new
    return found


# --- files ------------------------------------------------------------------------------------------------------------
def write_baseline(baseline: Baseline, path: str | Path) -> None:
    """Write in one step; a baseline that is there is replaced."""
    values = {"format": FORMAT, **asdict(baseline)}
    new = Path(path).with_name(f".{Path(path).name}.new")
    new.write_text(f"{json.dumps(values, ensure_ascii=False, indent=1)}\n", encoding="utf-8")
    new.replace(path)


def read_baseline(path: str | Path) -> Baseline:
    """What `write_baseline` wrote.

    Raises:
        InvalidInput: It is missing or malformed.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"its format is {values['format']!r}, and this Tarragon reads {FORMAT}")
        scores = values["scores"]
        means = {name: Interval(**mean) for name, mean in scores["means"].items()}
        told = Scores(scores["run"], scores["golden"], scores["per_question"], means)
        return Baseline(values["golden"], told, values["configuration"], values["made"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInput(
            f"{path} is no baseline that can be read: {error!r}. Make one: tarragon eval INDEX --golden FILE "
            f"--write-baseline {path}",
            path=str(path),
        ) from error


def _check(baseline: Baseline, scores: Scores, golden: GoldenSet, max_drop: float) -> None:
    if not max_drop >= 0:
        raise InvalidInput(f"max_drop={max_drop} must be 0 or more: how much may be lost", max_drop=max_drop)
    for digest, what in ((baseline.scores.golden, f"the baseline of {baseline.made}"), (scores.golden, "the run")):
        if digest != golden.digest:
            raise InvalidInput(
                f"{what} is of other questions or judgements than {golden.name} has now, and nothing can be compared: "
                "make the baseline anew (eval --write-baseline, monitor --rebase)",
                golden=golden.digest,
                given=digest,
            )


def _named(change: Change) -> str:
    text = " ".join(change.question.text.split())
    return f"{change.question.id} {text[:60] + '…' if len(text) > 60 else text!r}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
