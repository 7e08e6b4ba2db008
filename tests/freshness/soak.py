"""Many long random histories with random seeds: ``python -m tests.freshness.soak --histories 1000 --steps 50``."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
import warnings
from collections import Counter

from hypothesis import seed

from tests.freshness.machine import FolderHistories, Histories
from tests.freshness.running import counted, histories

SLICE = 25
"""Histories between two lines of progress; each slice has its own seed."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, help="of the first slice; random if it is not given")
    parser.add_argument("--folder", action="store_true", help="real files instead of documents in memory")
    parser.add_argument("--no-shrink", action="store_true", help="show a violation as it was found")
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    machine = counted(FolderHistories if options.folder else Histories)
    first = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    violations, begun, done = 0, time.perf_counter(), 0
    print(f"{options.histories} histories of {options.steps} steps, first seed {first}", flush=True)
    while done < options.histories:
        number = first + done // SLICE
        count = min(SLICE, options.histories - done)
        try:
            histories(seed(number)(machine), count, options.steps, shrink=not options.no_shrink)
        except Exception:
            violations += 1
            print(f"violation with seed {number}:", flush=True)
            traceback.print_exc(file=sys.stdout)
        done += count
        seconds = time.perf_counter() - begun
        print(f"{done} histories, {machine.steps} steps, {violations} violations, {seconds:.0f} s", flush=True)
    print(_table("crashes", machine.crashes), _table("happened", machine.seen), sep="\n")
    crashes = sum(machine.crashes.values())
    print(
        f"{done} histories × {options.steps} steps: {machine.finished} finished, {machine.steps} steps, "
        f"{machine.syncs} syncs, {crashes} crashes, {violations} violations, {time.perf_counter() - begun:.0f} s"
    )
    return 1 if violations else 0


def _table(name: str, counts: Counter[str]) -> str:
    return f"{name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
