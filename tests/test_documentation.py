"""Every Python block of the README and every example runs, and says what it should."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from handbook import HANDBOOK, write

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_code_comes_before_line_30() -> None:
    assert "```python" in "\n".join(README.splitlines()[:30])
    assert len(BLOCKS) >= 4


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in HANDBOOK.items():
        write(tmp_path / "docs" / name, text)
    return tmp_path


def test_the_blocks_of_the_readme_run_in_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for block in BLOCKS:
        names: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), names)
        outputs.append(capsys.readouterr().out)
        if "index" in names:
            names["index"].close()  # type: ignore[attr-defined]
    assert "keyctl rotate --stage" in outputs[0].split("\n\n")[1]
    assert outputs[1] == "True 0\nfresh keys.md v1\nfresh keys.md v1\n"
    assert outputs[2].startswith("friday {'team': 'storage'")
    assert outputs[3].strip() == "0 0 0 0", "nothing has changed since the first block"
    assert outputs[4].splitlines()[0].endswith("} 1")


def test_the_blocks_about_retrieval_run_in_order(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "retrieval.md").read_text(), re.DOTALL):
        exec(compile(block, "retrieval.md", "exec"), {})
        outputs.append(capsys.readouterr().out)
    assert "'legs', 'fuse', 'serve'" in outputs[0]
    assert outputs[0].splitlines()[1:] == ["1", "keys.md is hit 1 of 5"]
    assert outputs[2] == "[]\n[]\n", "no document is of this tenant"
    assert outputs[-1] == "['a', 'b'] ['The cache is warmed at six.']\n1 ['a']\n"


def test_the_commands_of_the_readme_run(here: Path) -> None:
    commands = re.findall(r"^\$ (tarragon .*)$", README, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        run = subprocess.run(
            [sys.executable, "-m", *command.replace("tarragon", "tarragon.cli", 1).split('"')[0].split()]
            + [part for quoted in command.split('"')[1:2] for part in [quoted]]
            + "".join(command.split('"')[2:]).split(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr


def test_the_standard_library_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "python_docs.py"
    script.write_text((ROOT / "examples" / "python_docs.py").read_text())
    monkeypatch.setattr(sys, "argv", ["python_docs.py", "cache the results of a function"])
    module = runpy.run_path(str(script))
    assert sum(len(document.text) for document in module["documents"]()) > 200_000
    module["main"].__globals__["MODULES"] = "functools shlex shutil"
    module["main"]()
    first = capsys.readouterr().out
    assert "3 modules" in first
    assert "functools.md" in first.split("? cache the results")[1].splitlines()[1]
    module["main"]()
    assert ": 0 embedded" in capsys.readouterr().out


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {"chat_backend.py", "python_docs.py"}


def test_links_of_the_documentation_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
