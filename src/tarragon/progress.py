"""A progress bar on a terminal, or the caller's own callback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tarragon.reports import Progress

Callback = Callable[[Progress], None]


@contextmanager
def progress_bar(progress: bool | Callback | None) -> Iterator[Callback]:
    """What to call after each step.

    Args:
        progress: A callback is used as it is; True shows a bar on stderr, False nothing, None a bar on a terminal.
    """
    if callable(progress):
        yield progress
    elif progress or (progress is None and sys.stderr.isatty()):
        with _rich_bar() as callback:
            yield callback
    else:
        yield lambda _: None


@contextmanager
def _rich_bar() -> Iterator[Callback]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("documents, {task.fields[chunks]} chunks embedded, {task.fields[rate]} tokens/s"),
        rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("syncing", total=None, chunks=0, rate=0)

        def update(progress: Progress) -> None:
            rate = round(progress.tokens_embedded / max(progress.seconds, 1e-9))
            done, total = progress.documents, progress.documents_total
            bar.update(task, completed=done, total=total, chunks=progress.chunks_embedded, rate=rate)

        yield update
