"""What every script prints and writes: a Markdown table, and JSON with the machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.timing import Spread


def add_common_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """``--repeats``, ``--json``, ``--model`` and ``--device``."""
    parser.add_argument("--repeats", type=int, default=repeats, help=f"rounds that are counted ({repeats})")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result here")
    parser.add_argument("--model", help="name or local folder; the bundled one by default")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is by default")


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Numbers as they are given: the caller rounds. The first column is aligned left, the others right."""
    lines = [list(headers), ["---", *("---:" for _ in headers[1:])], *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def agreement(cosine: float, required: float) -> str:
    """One line on whether two ways to make the vectors agree."""
    verdict = "agree" if cosine >= required else "DISAGREE, so the speed does not count"
    return f"Vectors {verdict}: least cosine {cosine:.7f}, required {required}."


def spread_dict(spread: Spread) -> dict[str, float]:
    """For JSON."""
    return {"median": spread.median, "min": spread.low, "max": spread.high}


def publish(result: Mapping[str, Any], text: str, path: Path | None) -> None:
    """Print the text, below it the machine; write the result and the machine as JSON if there is a path."""
    machine = describe_machine()
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    hardware = " + ".join(part for part in (machine["cpu"], machine["gpu"]) if part)
    print(text)
    print(
        f"\n{hardware}, {machine['cores']} cores, {machine['threads']} threads; Python {machine['python']}, {versions}"
    )
    if path is not None:
        path.write_text(json.dumps({**result, "machine": machine}, indent=2) + "\n", encoding="utf-8")


def conclude(result: Mapping[str, Any], text: str, path: Path | None, failures: Sequence[str]) -> int:
    """`publish`, then each check that failed, to standard error; 1 if there are any: such a speed does not count."""
    publish(result, text, path)
    for failure in failures:
        print(f"CHECK FAILED: {failure}", file=sys.stderr)
    return 1 if failures else 0
