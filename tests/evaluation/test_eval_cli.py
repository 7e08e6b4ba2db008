"""The commands that measure: what they say, what they write, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from handbook import write

from tarragon.cli import main
from tarragon.evaluation.runs import read_run
from tarragon.testing import WordEncoder

QUESTIONS: list[dict[str, Any]] = [
    {"id": "rotate", "query": "rotate the signing key", "relevant": ["keys.md"]},
    {"id": "restore", "query": "restore from cold storage", "relevant": ["backup.md"]},
    {"id": "pages", "query": "who answers pages within ten minutes", "relevant": ["guide/oncall.txt"]},
]


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in QUESTIONS))
    return path


@pytest.fixture
def index(tmp_path: Path, handbook: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["sync", str(tmp_path / "i.tarragon"), str(handbook)]) == 0
    capsys.readouterr()
    return tmp_path / "i.tarragon"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_eval_measures(capsys: pytest.CaptureFixture[str], index: Path, golden: Path) -> None:
    code, found = run_json(capsys, "eval", index, "--golden", golden)
    assert code == 0
    assert found["golden"]["questions"] == 3
    assert list(found["scores"]) == ["nDCG@10", "R@10", "R@100", "RR@10"]
    assert found["scores"]["R@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["run"]["configuration"]["documents"] == 3
    assert set(found["milliseconds"]) == {"p50", "p95", "p99"}
    assert found["stages"] is found["comparison"] is found["verdict"] is None
    code, out, _ = run(capsys, "eval", index, "--golden", golden)
    assert code == 0
    assert "golden  3 questions" in out
    assert "1.0000 (1.000-1.000)" in out


def test_settings_reach_the_search(capsys: pytest.CaptureFixture[str], index: Path, golden: Path) -> None:
    settings = ("--mode", "lexical", "-k", 3, "--metrics", "MRR, Recall@3", "--name", "x")
    _, found = run_json(capsys, "eval", index, "--golden", golden, *settings)
    assert found["run"]["name"] == "x"
    assert found["run"]["configuration"]["search"]["mode"] == "lexical"
    assert list(found["scores"]) == ["RR", "R@3"]
    nothing = ("--filter", '{"nothing": 1}')
    assert run_json(capsys, "eval", index, "--golden", golden, *nothing)[1]["scores"]["R@10"]["mean"] == 0


def test_a_metric_deeper_than_the_ranking_is_refused(
    capsys: pytest.CaptureFixture[str], index: Path, golden: Path
) -> None:
    code, _, err = run(capsys, "eval", index, "--golden", golden, "-k", 10)
    assert code == 1
    assert "say -k 100" in err


def test_stages_are_told(capsys: pytest.CaptureFixture[str], index: Path, golden: Path) -> None:
    code, found = run_json(capsys, "eval", index, "--golden", golden, "--stages")
    assert code == 0
    names = [row["name"] for row in found["stages"]["rows"]]
    assert names == ["embed", "dense", "lexical", "legs", "fused", "serve", "freshness", "hits"]
    assert found["stages"]["ceilings"]["fused"]["mean"] == 1
    _, out, _ = run(capsys, "eval", index, "--golden", golden, "--stages")
    assert "ceiling" in out


def test_the_gate(capsys: pytest.CaptureFixture[str], index: Path, golden: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert run(capsys, "eval", index, "--golden", golden, "--write-baseline", baseline)[0] == 0
    kept = baseline.read_text()
    gate = ("eval", index, "--golden", golden, "--baseline", baseline)
    code, out, _ = run(capsys, *gate)
    assert code == 0
    assert "passed" in out
    fewer = ("--filter", '{"nothing": 1}', "--write-baseline", baseline)
    code, out, _ = run(capsys, *gate, "--max-drop", "0.01", *fewer)
    assert code == 3
    assert "nDCG@10 fell by 1.0000, from 1.0000 to 0.0000 (difference -1.0000, 95 % interval" in out
    assert "at most 0.01 may be lost. Fell most: pages 'who answers pages within ten minutes' 1.000 → 0.000" in out
    assert baseline.read_text() == kept, "what failed does not become the baseline"
    code, found = run_json(capsys, *gate, "--mode", "lexical", "--max-drop", 1)
    assert code == 0
    assert found["verdict"]["changed"]["search.mode"] == ["hybrid", "lexical"]
    (tmp_path / "other.jsonl").write_text(json.dumps(QUESTIONS[0]))
    code, _, err = run(capsys, "eval", index, "--golden", tmp_path / "other.jsonl", "--baseline", baseline)
    assert code == 1
    assert "other questions" in err


def test_runs_are_saved_and_compared(
    capsys: pytest.CaptureFixture[str], index: Path, golden: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.trec"
    assert run(capsys, "eval", index, "--golden", golden, "--save-run", one)[0] == 0
    assert run(capsys, "eval", index, "--golden", golden, "--mode", "dense", "--save-run", two)[0] == 0
    assert read_run(two).name == "dense"
    code, found = run_json(capsys, "compare-runs", one, two, "--golden", golden)
    assert code == 0
    assert list(found["scores"]) == ["default", "dense"]
    assert {one["second"] for one in found["comparison"]["differences"]} == {"dense"}
    code, out, _ = run(capsys, "eval", index, "--golden", golden, "--mode", "dense", "--against", one, "--against", two)
    assert code == 0
    assert "dense (2) - default" in out
    code, _, err = run(capsys, "compare-runs", one, "--golden", golden)
    assert code == 1
    assert "two runs or more" in err


def test_reports_are_written(capsys: pytest.CaptureFixture[str], index: Path, golden: Path, tmp_path: Path) -> None:
    html, markdown, one = tmp_path / "report.html", tmp_path / "report.md", tmp_path / "one.json"
    run(capsys, "eval", index, "--golden", golden, "--save-run", one, "--mode", "lexical")
    code, _, _ = run(
        capsys, "eval", index, "--golden", golden, "--stages", "--against", one, "--html", html, "--markdown", markdown
    )
    assert code == 0
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert "lexical" in markdown.read_text()


def test_sweep(capsys: pytest.CaptureFixture[str], golden: Path, handbook: Path, tmp_path: Path) -> None:
    grid = {
        "name": "legs",
        "datasets": [{"golden": golden.name, "source": "handbook", "name": "handbook"}],
        "search": {"mode": ["hybrid", "lexical"]},
    }
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(grid))
    code, out, _ = run(capsys, "sweep", path, "--into", tmp_path / "out")
    assert code == 0
    assert "mode=lexical" in out
    code, found = run_json(capsys, "sweep", path, "--into", tmp_path / "out")
    assert code == 0
    assert [cell["configuration"] for cell in found["cells"]] == ["mode=hybrid", "mode=lexical"]
    assert found["cells"][0]["scores"]["R@10"]["mean"] == 1
    assert "kept" in run(capsys, "sweep", path, "--into", tmp_path / "out")[1]


def test_monitor(capsys: pytest.CaptureFixture[str], index: Path, golden: Path, handbook: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "monitor", index, "--golden", golden)
    assert code == 0
    assert "well; this is the baseline now" in out
    write(handbook / "keys.md", "Nothing is left of it.")
    code, found = run_json(capsys, "monitor", index, "--golden", golden)
    assert code == 3
    assert found["sources"]["stale"] == 1
    assert "1 have changed" in found["alerts"][0]
    assert run(capsys, "sync", index, handbook)[0] == 0
    code, out, _ = run(capsys, "monitor", index, "--golden", golden)
    assert code == 3
    assert "alert  RR@10 fell by 0.2222" in out
    assert "needs a look; baseline of" in out
    assert len((index / "monitor" / "history.jsonl").read_text().splitlines()) == 3
    assert run(capsys, "monitor", index, "--golden", golden, "--rebase")[0] == 0
    assert run(capsys, "monitor", index, "--golden", golden, "--filter", "{}")[0] == 1


def test_errors_name_the_line(capsys: pytest.CaptureFixture[str], index: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "a", "relevant": ["b"]}\n{"query": 7}\n')
    code, found = run_json(capsys, "eval", index, "--golden", tmp_path / "bad.jsonl")
    assert code == 1
    assert found["error"]["type"] == "InvalidGolden"
    assert "line 2" in found["error"]["message"]
