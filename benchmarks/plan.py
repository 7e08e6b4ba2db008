"""What a plan costs on a large index of which little has changed.

    python -m benchmarks.plan [--documents 100000] [--changed 100] [--repeats 3] [--json OUT]

A folder of short made-up files is synced once, with made-up vectors. Then some files are edited, and a plan is made in
a process of its own, which runs no model: its time is compared with the time of listing the folder and asking for each
file's stamp, and its memory is the most that the process ever had.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tarragon import Index
from tarragon.sources import open_source
from tarragon.testing import WordEncoder

BEYOND_STAT = 3.0
"""Seconds that a plan may take beyond listing and stat."""

MEMORY = 300
"""MB that the process may have at most."""

_WORDS = ("key", "lock", "door", "wall", "roof", "rain", "snow", "wind", "sun", "moon")


def main() -> None:
    """Build, edit, plan, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--changed", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--child", nargs=2, metavar=("INDEX", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_plan(*options.child)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = _write(Path(place) / "docs", options.documents)
        with Index.open(Path(place) / "i.tarragon", encoder=WordEncoder(32)) as index:
            begun = time.perf_counter()
            index.sync(folder, progress=False)
            built = time.perf_counter() - begun
        for path in random.Random(1).sample(sorted(folder.rglob("*.md")), options.changed):
            _set_back(path, path.read_text() + "\n\nOne more sentence.\n")
        command = [sys.executable, "-m", "benchmarks.plan", "--child", str(Path(place) / "i.tarragon"), str(folder)]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(options.repeats)
        ]
    result: dict[str, Any] = {"documents": options.documents, "changed": options.changed, "built": built, "runs": runs}
    from benchmarks.report import publish  # loads torch, which must not count as the plan's memory

    publish(result, _render(result), options.json)


def _plan(index_path: str, folder: str) -> dict[str, Any]:
    encoder = WordEncoder(32)
    begun = time.perf_counter()
    listed = sum(1 for _ in open_source(folder).items())
    listing = time.perf_counter() - begun
    with Index.open(index_path, encoder=encoder) as index:
        begun = time.perf_counter()
        plan = index.plan(folder)
        seconds = time.perf_counter() - begun
    return {
        "listed": listed,
        "listing": listing,
        "seconds": seconds,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "by_stat": plan.by_stat,
        "changes": len(plan.changes),
        "embeddings": plan.embeddings,
    }


def _write(folder: Path, documents: int) -> Path:
    chance = random.Random(0)
    for number in range(documents):
        path = folder / f"{number // 100:04}" / f"{number:06}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        _set_back(path, f"# Number {number}\n\n{' '.join(chance.choices(_WORDS, k=30))} {number}.\n")
    return folder


def _set_back(path: Path, text: str) -> None:
    """Write a file with a time stamp that has settled."""
    path.write_text(text)
    earlier = time.time() - 3600
    os.utime(path, (earlier, earlier))


def _render(result: dict[str, Any]) -> str:
    from benchmarks.report import markdown_table

    runs = result["runs"]
    beyond = statistics.median(run["seconds"] - run["listing"] for run in runs)
    listing = statistics.median(run["listing"] for run in runs)
    memory = max(run["memory"] for run in runs)
    first = runs[0]
    rows = [
        ["listing and stat, s", f"{listing:.2f}", ""],
        ["plan beyond that, s", f"{beyond:.2f}", f"≤ {BEYOND_STAT}"],
        ["most memory, MB", f"{memory:.0f}", f"≤ {MEMORY}"],
        ["documents known by stat", f"{first['by_stat']:,}", ""],
        ["documents that changed", f"{first['changes']:,}", ""],
        ["texts to embed", f"{first['embeddings']:,}", ""],
    ]
    title = f"A plan for {result['documents']:,} documents of which {result['changed']} changed"
    return f"{title}\n\n{markdown_table(['', 'figure', 'bar'], rows)}"


if __name__ == "__main__":
    main()
