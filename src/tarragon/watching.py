"""Keeping an index up to date with a folder that people edit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from threading import Event

from tarragon.errors import InvalidInput, MissingDependency, TarragonError
from tarragon.reports import SyncReport

_log = logging.getLogger(__name__)


def watch(sync: Callable[[], SyncReport], interval: float, stop: Event) -> Iterator[SyncReport]:
    """The report of each sync that did something, every ``interval`` seconds, until ``stop`` is set.

    A sync that is refused or fails (an emptied folder, another sync, a full disk, a server that is not there) is logged
    once and tried again. Wrong arguments are raised.
    """
    refusal = ""
    failures: object = None
    while True:
        try:
            report = sync()
        except (InvalidInput, MissingDependency):
            raise
        except TarragonError as error:
            if str(error) != refusal:
                refusal = str(error)
                _log.warning("not synced: %s", refusal)
        else:
            refusal = ""
            if did_something(report) or report.failures != failures:
                yield report
            failures = report.failures
        if stop.wait(interval):
            return


def did_something(report: SyncReport) -> bool:
    """Whether a sync wrote, deleted or left anything."""
    counts = report.documents_added, report.documents_changed, report.documents_deleted, report.documents_left
    return any(counts)
