"""The command line's plans, versions, repairs and copies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from handbook import HANDBOOK, write

from tarragon import IndexRecipe
from tarragon.cli import main
from tarragon.testing import WordEncoder


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def load(recipe: IndexRecipe, device: str | None) -> WordEncoder:
        return WordEncoder(salt=recipe.model or "")

    monkeypatch.setattr("tarragon.session.load_encoder", load)
    monkeypatch.setattr("tarragon.cli.commands.load_encoder", load)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out + err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([str(argument) for argument in (*arguments, "--json")])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_plan_has_exit_codes_and_can_be_applied(
    capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path
) -> None:
    index, saved = tmp_path / "i", tmp_path / "plan.json"
    assert run(capsys, "plan", index, handbook, "--exit-code")[0] == 2
    run(capsys, "sync", index, handbook)
    assert run(capsys, "plan", index, handbook, "--exit-code")[0] == 0
    write(handbook / "keys.md", HANDBOOK["keys.md"].replace("five minutes", "an hour"))
    (handbook / "backup.md").rename(handbook / "moved.md")
    code, out = run(capsys, "plan", index, handbook, "--out", saved)
    assert code == 0
    for line in (
        "~ content",
        "3 chunks: 1 to embed, 2 reused",
        "> moved",
        "from backup.md",
        "- deleted",
        "canaries: same",
    ):
        assert line in out
    write(handbook / "new.md", "# New\n")
    code, report = run_json(capsys, "sync", index, handbook, "--plan", saved)
    assert (report["documents_changed"], report["documents_added"], report["documents_deleted"]) == (1, 1, 1)
    code, out = run(capsys, "sync", index, handbook, "--plan", saved)
    assert (code, "documents have changed since the plan was made" in out) == (1, True)
    (tmp_path / "broken.json").write_text("{}")
    assert "is not a saved plan" in run(capsys, "sync", index, handbook, "--plan", tmp_path / "broken.json")[1]
    (tmp_path / "empty").mkdir()
    code, plan = run_json(capsys, "plan", index, tmp_path / "empty", "--exit-code")
    assert (code, "has no documents" in plan["blocked"]) == (3, True)


def test_budget_only_and_on_stale(capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    _, out = run(capsys, "sync", index, handbook, "--budget", 60)
    assert "documents are beyond the budget" in out
    _, report = run_json(capsys, "sync", index, handbook)
    assert (report["documents_added"] > 0, report["documents_left"]) == (True, 0)
    write(handbook / "keys.md", "# Keys\n\nRotate it daily.\n")
    assert run_json(capsys, "sync", index, handbook, "--only", "guide/")[1]["documents_changed"] == 0
    assert "stale" in run(capsys, "search", index, "rotate the key", "-k", 1)[1]
    _code, found = run_json(capsys, "search", index, "rotate the key", "--on-stale", "refresh", "-k", 1)
    assert (found["hits"][0]["text"], found["hits"][0]["freshness"]) == ("# Keys\n\nRotate it daily.", "fresh")


def test_the_whole_way_of_an_upgrade(capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    run(capsys, "sync", index, handbook)
    code, found = run_json(capsys, "upgrade", index, "--model", "new", "--dry-run")
    assert [plan["embeddings"] for plan in found["plans"]] == [6]
    code, out = run(capsys, "upgrade", index, "--model", "new")
    assert (code, "~ model" in out, "v2 is built and does not serve yet" in out) == (0, True, True)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"query": "rotate the key", "relevant": ["keys.md"]}\n{"query": "call whom"}\n')
    code, out = run(capsys, "compare", index, "v2", "--queries", questions)
    assert (code, "overlap@10" in out, "nDCG@10" in out) == (0, True, True)
    code, out = run(capsys, "versions", index)
    assert ("v1  serving" in out, "v2  building" in out) == (True, True)
    assert run(capsys, "promote", index, "v2")[0] == 0
    assert run_json(capsys, "search", index, "rotate")[1]["hits"][0]["version"] == "v2"
    assert "v1 serves now" in run(capsys, "rollback", index)[1]
    assert run_json(capsys, "gc", index, "--keep", 0)[1] == {"dropped": ["v2"]}
    code, out = run(capsys, "rollback", index)
    assert (code, "nothing to go back to" in out) == (1, True)
    questions.write_text("what\n")
    assert "line 1" in run(capsys, "compare", index, "v1", "--queries", questions)[1]


def test_adopt_verify_and_copy(capsys: pytest.CaptureFixture[str], handbook: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    run(capsys, "sync", index, handbook)
    code, out = run(capsys, "adopt", index, "--model", "other")
    assert (code, "cannot take over v1" in out) == (1, True)
    assert "sound" in run(capsys, "verify", index, "--deep")[1]
    code, out = run(capsys, "copy", index, tmp_path / "copy")
    assert (code, "3 documents, 6 chunks copied; 6 queries answered alike" in out) == (0, True)
    assert run_json(capsys, "status", tmp_path / "copy")[1]["documents"] == 3


def test_watch_follows_a_folder_until_it_is_interrupted(handbook: Path, tmp_path: Path) -> None:
    script = (
        "import signal, sys, tarragon.session\n"
        "from tarragon.cli import main\n"
        "from tarragon.testing import WordEncoder\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "tarragon.session.load_encoder = lambda recipe, device: WordEncoder()\n"
        f"sys.exit(main(['sync', {str(tmp_path / 'i')!r}, {str(handbook)!r}, '--watch', '0.1', '--json']))\n"
    )
    with subprocess.Popen([sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["documents_added"] == 3
        time.sleep(0.3)
        write(handbook / "new.md", "# New\n\nA new one.\n")
        assert json.loads(process.stdout.readline())["documents_added"] == 1
        process.send_signal(2)
        assert json.loads(process.stdout.readline())["error"]["type"] == "Interrupted"
        assert process.wait(20) == 130
