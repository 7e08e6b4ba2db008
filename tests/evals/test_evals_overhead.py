"""The measurement of what evaluating costs runs, and its figures belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.overhead import overhead
from tarragon import Document, Index
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.grid import read_grid
from tarragon.evaluation.types import Question
from tarragon.testing import WordEncoder

ROOT = Path(__file__).parent.parent.parent


def test_both_are_timed(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i.tarragon", encoder=WordEncoder()) as index:
        index.sync([Document(f"d{n}", f"w{n} w{n % 7} w{n % 5}") for n in range(40)])
        golden = golden_set("words", [Question(f"q{n}", f"w{n} w{n % 7}", {f"d{n}": 1}) for n in range(20)])
        found = overhead(index, golden, k=10, rounds=2)
    assert (found["queries"], found["k"], found["rounds"]) == (20, 10, 2)
    assert found["overhead"] == pytest.approx(found["evaluate"] / found["retrieve"] - 1, abs=0.02)


@pytest.mark.parametrize("path", sorted((ROOT / "evals" / "grids").glob("*.json")), ids=lambda path: path.stem)
def test_the_grids_can_be_read(path: Path) -> None:
    assert len(read_grid(path).configurations) >= 2
