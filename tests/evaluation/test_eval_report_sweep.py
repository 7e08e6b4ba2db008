"""The report of a sweep: every configuration on every data set, against the first."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sample_report import golden, run, score

from tarragon.cli import main
from tarragon.evaluation.report import SweepReport, to_html, to_markdown
from tarragon.evaluation.sweeping import Cell
from tarragon.testing import WordEncoder


def cells(configurations: int, datasets: int = 2, questions: int = 60) -> list[Cell]:
    found = []
    for dataset in range(datasets):
        asked = golden(questions)
        for number in range(configurations):
            name = f"chunk_tokens={64 * (number + 1)}, fusion=rrf" if number else "as it is"
            made = run(name, asked, 2.0 + 0.3 * number, 5.0 + number, 100 * dataset + number, 20)
            settings = {"index": {"chunk_tokens": 64 * (number + 1)}, "model": "words"}
            times = {"p50": 5.0 + number, "p95": 9.0, "p99": 10.0}
            found.append(Cell(f"data {dataset}", name, f"{number}", settings, score(made, asked), times, 1.0))
    return found


def test_every_cell_is_told_and_compared_with_the_first() -> None:
    made = cells(4)
    page = to_html(SweepReport("sizes <&>", made, "2026-10-01", {"cores": "2"}))
    assert "<h1>sizes &lt;&amp;&gt;</h1>" in page
    assert "2 data sets · 4 configurations · 2026-10-01" in page
    for cell in made:
        for mean in cell.scores.means.values():
            assert f"{mean.mean:.3f}" in page
    assert page.count("<svg") == 2
    assert page.count("chunk_tokens=128, fusion=rrf against as it is") == 4, "by both metrics, on both data sets"
    markdown = to_markdown(SweepReport("sizes", made, "", {"cores": "2"}))
    assert markdown.count("## data") == 2
    best = max(made[:4], key=lambda cell: cell.scores.means["RR"].mean)
    assert f"**{best.scores.means['RR'].mean:.3f}**" in markdown


def test_one_configuration_and_many() -> None:
    alone = to_html(SweepReport("one", cells(1, 1), "", {}))
    assert "1 data set · 1 configuration<" in alone
    assert 'class="best"' not in alone
    assert "against as it is" not in alone
    assert len(to_html(SweepReport("many", cells(40), "", {})).encode()) < 2_000_000


def test_the_command_writes_it(
    handbook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())
    asked = [
        {"query": "rotate the signing key", "relevant": ["keys.md"]},
        {"query": "noon", "relevant": ["guide/oncall.txt"]},
    ]
    (tmp_path / "golden.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    grid = {
        "name": "fusions",
        "datasets": [{"golden": "golden.jsonl", "source": str(handbook), "name": "ours"}],
        "search": {"fusion": ["calibrated", "rrf"]},
    }
    (tmp_path / "grid.json").write_text(json.dumps(grid))
    report = tmp_path / "sweep.html"
    assert main(["sweep", str(tmp_path / "grid.json"), "--into", str(tmp_path / "out"), "--html", str(report)]) == 0
    page = report.read_text(encoding="utf-8")
    assert "<h2>ours</h2>" in page
    assert re.search(r"1 data set · 2 configurations · \d{4}-\d\d-\d\d", page)
    assert "search.fusion" in page
