"""A look at an index that is in use, for a weekly job: does it answer as well as it did, and is it about the same?

    monitor/baseline.json     what it was worth when monitoring began, see `tarragon.evaluation.baseline`
    monitor/reference.npz     its chunks then, and the vectors of some
    monitor/history.jsonl     what each look found, a line each

The folder ``monitor`` is inside the index's own, so that it is moved and copied with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from tarragon.errors import InvalidInput
from tarragon.evaluation.baseline import MAX_DROP, Baseline, Verdict, judge, read_baseline, write_baseline
from tarragon.evaluation.drift import FEWEST, Drift, compare
from tarragon.evaluation.metrics import score
from tarragon.evaluation.reference import Reference
from tarragon.evaluation.running import run
from tarragon.evaluation.types import GoldenSet, Interval
from tarragon.homes import is_url
from tarragon.index import Index
from tarragon.recipe import SearchRecipe
from tarragon.types import Freshness

K = 10
"""Of recall and reciprocal rank: what is handed on to a reader."""

FOLDER = "monitor"
MOST_ASKED = 10_000
"""Documents whose source is asked: a second or two for files."""

MAX_STALE = 0.05
"""Share of documents that may differ from their source: with a weekly sync of a living corpus some always do."""

ALPHA = 0.01
"""p from which on a drift is told."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a look found.

    Attributes:
        time: When, as ISO 8601.
        index: Version, model, fingerprint, documents, chunks.
        metrics: Metric → mean over the questions, with its interval.
        verdict: Against the baseline; None at the first look, which makes it.
        sources: What the sources of documents say: how many are ``fresh``, ``stale``, ``missing``, ``unknown``.
        drift: ``documents``: chunks that are new since the baseline against those before; ``questions``: those given
            against the golden ones. Only what could be compared.
        skipped: What could not be compared: why.
        alerts: What somebody should look at; empty if nothing.
        notes: What is worth knowing.
    """

    time: str
    index: Mapping[str, Any]
    metrics: Mapping[str, Interval]
    verdict: Verdict | None
    sources: Mapping[str, int]
    drift: Mapping[str, Drift] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    alerts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether there is no alert."""
        return not self.alerts

    def to_dict(self) -> dict[str, Any]:
        """For JSON, one line of the history."""
        return {
            "time": self.time,
            "is_well": self.is_well,
            "alerts": list(self.alerts),
            "notes": list(self.notes),
            "index": dict(self.index),
            "metrics": {name: asdict(mean) for name, mean in self.metrics.items()},
            "verdict": None if self.verdict is None else self.verdict.to_dict(),
            "sources": dict(self.sources),
            "drift": {name: drift.to_dict() for name, drift in self.drift.items()},
            "skipped": dict(self.skipped),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a look alerts.

    Attributes:
        max_drop: What recall or reciprocal rank may lose.
        max_stale: Share of the documents that may differ from their source or have none any more.
        drift: Whether a drift alerts too. Without, it is a note: new documents may be about something new.
    """

    max_drop: float = MAX_DROP
    max_stale: float = MAX_STALE
    drift: bool = False


def monitor(
    index: Index,
    golden: GoldenSet,
    *,
    k: int = K,
    recipe: SearchRecipe | None = None,
    questions: Sequence[str] = (),
    limits: Limits | None = None,
    folder: str | Path | None = None,
    rebase: bool = False,
) -> Health:
    """Look at an index, compare it with the baseline, and add the finding to its history.

    Args:
        index: The index.
        golden: Questions with judgements.
        k: Of recall and reciprocal rank.
        recipe: How to search. None: as it was tuned.
        questions: That users have asked lately, to be compared with the golden ones.
        limits: From where on to alert.
        folder: Keeps baseline and history. None: ``monitor`` in the index's folder.
        rebase: Let what is found now be the baseline from now on.

    Raises:
        InvalidInput: The index is on a server and no folder is named; or the baseline is of other questions.
        IndexNotFound: Nothing has been synced yet.
    """
    limits = limits or Limits()
    place = _place(index, folder)
    names = (f"R@{k}", f"RR@{k}")
    found = run(index, golden, k=k, recipe=recipe)
    scores = score(found, golden, names)
    first = rebase or not (place / "baseline.json").is_file()
    verdict = None
    if not first:
        baseline = read_baseline(place / "baseline.json")
        verdict = judge(baseline, found, scores, golden, max_drop=limits.max_drop, metrics=names)
    drifts, skipped = _documents(index, place, first=first)
    if questions:
        drifts["questions"] = _questions(index, golden, questions)
    sources = _sources(index)
    health = Health(
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        {name: found.configuration[name] for name in ("version", "model", "fingerprint", "documents", "chunks")},
        scores.means,
        verdict,
        sources,
        drifts,
        skipped,
        *_told(verdict, sources, drifts, limits),
    )
    place.mkdir(parents=True, exist_ok=True)
    if first:
        Reference.of(index).write(place / "reference.npz")
        write_baseline(Baseline.of(found, scores, golden), place / "baseline.json")
    _append(place / "history.jsonl", health.to_dict())
    return health


# --- looking ----------------------------------------------------------------------------------------------------------
def _place(index: Index, folder: str | Path | None) -> Path:
    location = index.location
    if folder is None and is_url(location):
        raise InvalidInput(f"{location} has no folder for baseline and history: name one (--history DIR)")
    return Path(location) / FOLDER if folder is None else Path(folder)


def _documents(index: Index, place: Path, *, first: bool) -> tuple[dict[str, Drift], dict[str, str]]:
    """The drift of the chunks that are new since the baseline, or why it cannot be told."""
    if first:
        return {}, {"documents": "this look is the baseline"}
    before = Reference.read(place / "reference.npz")
    with index._opened.reading() as version:
        if version.record.contract.fingerprint != before.fingerprint:
            return {}, {"documents": "another model makes the vectors now; begin anew with --rebase"}
        new, gone, vectors = before.added(version)
    if min(len(vectors), len(before.vectors)) < FEWEST:
        told = (
            f"{new:,} chunks are new and {gone:,} gone; it takes {FEWEST} documents before and {FEWEST} with new chunks"
        )
        return {}, {"documents": told}
    return {"documents": compare(before.vectors, vectors)}, {}


def _questions(index: Index, golden: GoldenSet, questions: Sequence[str]) -> Drift:
    """The questions of users against the golden ones, as the model sees them."""
    texts = [question.text for question in golden.questions]
    asked = list(dict.fromkeys(text for text in questions if text.strip()))
    if min(len(texts), len(asked)) < FEWEST:
        raise InvalidInput(
            f"{len(asked)} different questions and {len(texts)} golden ones: it takes {FEWEST} of each to compare them"
        )
    vectors = index.encoder.encode_queries([*texts, *asked]).vectors
    return compare(vectors[: len(texts)], vectors[len(texts) :])


def _sources(index: Index) -> dict[str, int]:
    from tarragon.doctor import ask_sources  # what it brings along, the command line need not wait for

    session = index._opened
    with session.reading() as version:
        answers = ask_sources(session, version, version.ledger.documents(), MOST_ASKED)
    return {answer: answers.count(answer) for answer in get_args(Freshness)}


def _told(
    verdict: Verdict | None, sources: Mapping[str, int], drifts: Mapping[str, Drift], limits: Limits
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alerts and notes."""
    alerts = [] if verdict is None or verdict.passed else list(verdict.sentences)
    notes = [] if verdict is None or not verdict.passed else list(verdict.sentences)
    outdated, asked = sources["stale"] + sources["missing"], sum(sources.values()) - sources["unknown"]
    if outdated:
        told = (
            f"of {asked:,} documents asked of their source {sources['stale']:,} have changed and "
            f"{sources['missing']:,} are gone; sync them"
        )
        (alerts if outdated > limits.max_stale * asked else notes).append(told)
    for name, drift in drifts.items():
        if drift.p <= ALPHA:
            told = (
                f"{name} have drifted: their mean is {drift.shift:.2f} standard deviations away, mean cosine "
                f"{drift.second.cosine:.3f} among the new, {drift.first.cosine:.3f} among the former, "
                f"{drift.across:.3f} between them (kernel two-sample test: p {drift.p:.3f})"
            )
            (alerts if limits.drift else notes).append(told)
    return tuple(alerts), tuple(notes)


# --- history ----------------------------------------------------------------------------------------------------------
def _append(path: Path, values: Mapping[str, Any]) -> None:
    """A line, also after one that a crash cut off."""
    cut = path.is_file() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut else "") + f"{json.dumps(values, ensure_ascii=False)}\n")


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """What `monitor` found so far, oldest first; a line that a crash cut off is left out."""
    path = Path(folder) / "history.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found
