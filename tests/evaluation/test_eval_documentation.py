"""The page on evaluation and the example of a gate do what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from handbook import HANDBOOK, write

from tarragon.cli import main
from tarragon.cli.options import parser
from tarragon.evaluation.grid import read_grid
from tarragon.testing import WordEncoder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
JSON = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ (tarragon .*)$", PAGE, re.MULTILINE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())
    monkeypatch.chdir(tmp_path)
    for name, text in HANDBOOK.items():
        write(tmp_path / "docs" / name, text)
    (tmp_path / "golden.jsonl").write_text(JSON[0], encoding="utf-8")
    return tmp_path


def test_the_page_runs_from_top_to_bottom(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(block, "evaluation.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Interval(mean=")
    assert "<h2>Differences</h2>" in (here / "report.html").read_text(encoding="utf-8")
    assert len(COMMANDS) >= 7
    for command in COMMANDS:
        assert main(shlex.split(command)[1:]) == 0, command
    assert (here / "synthetic.jsonl").exists()
    (here / "grid.json").write_text(JSON[1], encoding="utf-8")
    assert read_grid(here / "grid.json").name == "fusions"


def test_the_gate_of_the_page_fails_where_something_is_lost(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "handbook.tarragon", "docs/"]) == 0
    gate = [command for command in COMMANDS if "baseline" in command]
    assert main(shlex.split(gate[0])[1:]) == 0
    (here / "docs" / "keys.md").unlink()
    assert main(["sync", "handbook.tarragon", "docs/"]) == 0
    capsys.readouterr()
    assert main([*shlex.split(gate[1])[1:], "--markdown", "report.md"]) == 3
    said = capsys.readouterr().out
    assert "nDCG@10" in said
    assert "rotate the signing key" in said
    assert "nDCG@10" in (here / "report.md").read_text(encoding="utf-8"), "a gate that fails leaves its report"


def test_commands_that_need_a_model_can_be_typed_so() -> None:
    typed = re.findall(r"^    (tarragon answers .*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert len(typed) == 1
    options = parser().parse_args(shlex.split(typed[0].replace("\\\n", " "))[1:])
    assert options.judge.startswith("gpt-5@https://")


def test_the_example_of_a_gate_is_a_workflow_of_commands_that_exist() -> None:
    yaml = pytest.importorskip("yaml", reason="comes with the models' libraries")
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / "examples" / "github-actions-eval.yml").read_text())
    assert workflow[True].keys() == {"pull_request", "push"}, "YAML reads 'on' as true"
    steps = workflow["jobs"]["quality"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    commands = [shlex.split(run)[1:] for run in runs if run.startswith("tarragon ")]
    assert [command[0] for command in commands] == ["sync", "eval"]
    for command in commands:
        parser().parse_args(command)
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps if "uses" in step)


def test_the_links_of_the_page_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        if not target.startswith("https://"):
            assert (ROOT / "docs" / target).exists(), target
    assert json.loads(JSON[0].splitlines()[0])["relevant"]
