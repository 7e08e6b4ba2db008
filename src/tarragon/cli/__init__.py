"""The command line: ``tarragon plan | sync | search | status | versions | upgrade | ...``.

Exit codes: 0 done · 1 an error, said on stderr · 2 wrong usage · 3 synced, but some documents failed · 130 interrupted.
``plan --exit-code``: 0 nothing to do · 1 an error · 2 changes · 3 blocked. ``verify``: 3 where something is wrong.
``doctor``: 3 where something is worse than a note. ``eval``: 3 where a metric fell too far; ``monitor``: on an alert.
With ``--json`` exactly one JSON object goes to stdout, also for an error; only wrong usage is told on stderr alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tarragon.cli.options import parser
from tarragon.cli.views import fail
from tarragon.errors import TarragonError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (TarragonError, OSError) as error:
        fail(options.json, type(error).__name__, str(error))
        return 1
    except KeyboardInterrupt:
        fail(options.json, "Interrupted", "interrupted; run the same command again to go on where it stopped")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
