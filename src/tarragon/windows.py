"""What a sync reads, cut into windows of bounded size: read and chunked ahead of what is computed and stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tarragon.planning import WantedChunk, wanted_chunks
from tarragon.preparing import Writer
from tarragon.survey import Job, Outcome, Survey, SurveyOptions, format_of

TOLD_EVERY = 50
"""Documents between two calls of the progress callback, where nothing is written."""


@dataclass(frozen=True, slots=True)
class Window:
    """Documents that are written together, each with its chunks."""

    jobs: Sequence[Job]
    wanted: Sequence[Sequence[WantedChunk]]


Seen: TypeAlias = "list[Outcome]"


def windows(survey: Survey, options: SurveyOptions, writer: Writer, size: Callable[[], int]) -> Iterator[Seen | Window]:
    """Each document of the survey as it is seen, and each window once it is full; the last one at the end.

    Touches neither ledger nor store, so that it may run in a thread of its own.

    Args:
        survey: What is to be read.
        options: How.
        writer: Has the chunker. It loads the encoder, so it is asked for only where there is something to write.
        size: Characters of text in a window, which has at least one document; asked for only then, too.
    """
    seen: Seen = []
    jobs: list[Job] = []
    characters = 0
    for outcome in survey.outcomes():
        seen.append(outcome)
        if isinstance(outcome, Job):
            jobs.append(outcome)
            characters += len(outcome.document.text)
        is_full = bool(jobs) and characters >= size()
        if is_full or len(seen) == TOLD_EVERY:
            yield seen
            seen = []
        if is_full:
            yield chunked(jobs, options, writer)
            jobs, characters = [], 0
    if seen:
        yield seen
    if jobs:
        yield chunked(jobs, options, writer)


def chunked(jobs: Sequence[Job], options: SurveyOptions, writer: Writer) -> Window:
    """These documents in chunks."""
    found = writer.chunker.chunk([(job.document, format_of(job.document, options)) for job in jobs])
    return Window(jobs, [wanted_chunks(job.document, chunks) for job, chunks in zip(jobs, found, strict=True)])
