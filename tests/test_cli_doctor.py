"""``tarragon doctor``: what it says, its JSON, and its exit code for CI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handbook import version_of

from tarragon import Index, IndexRecipe
from tarragon.cli import main
from tarragon.protocols import StoredChunk
from tarragon.testing import WordEncoder


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def load(recipe: IndexRecipe, device: str | None) -> WordEncoder:
        return WordEncoder(salt=recipe.model or "")

    monkeypatch.setattr("tarragon.session.load_encoder", load)


@pytest.fixture
def made(handbook: Path, tmp_path: Path) -> Path:
    """An index of the handbook."""
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(handbook)
    return tmp_path / "i"


def erase_one_vector(path: Path) -> None:
    with Index.open(path) as index:
        store = version_of(index).store
        id_ = min(store.ids())
        store.upsert([StoredChunk(id_, np.zeros(64, dtype=np.float32), store.payloads([id_])[id_])])


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out + err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([str(argument) for argument in (*arguments, "--json")])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


def test_a_healthy_index_exits_with_0(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    code, out = run(capsys, "doctor", made)
    assert (code, out.splitlines()[-1]) == (0, "healthy")
    assert "v1: 3 documents, 6 chunks" in out
    assert "skipped  device  the model is not loaded; look deep" in out
    code, out = run(capsys, "doctor", made, "--deep", "--device", "cpu")
    assert (code, "the model runs on cpu" in out) == (0, True)


def test_a_fault_exits_with_3_and_comes_first_with_its_remedy(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    erase_one_vector(made)
    code, out = run(capsys, "doctor", made)
    lines = out.splitlines()
    assert code == 3
    assert lines[1].startswith("fault    broken vectors  of 6 vectors 1 are zero")
    assert lines[2].strip().startswith("→ Index.verify(deep=True, repair=True)")
    assert lines[-1].startswith("1 of ")


def test_a_warning_too_and_json_has_every_figure(capsys: pytest.CaptureFixture[str], made: Path) -> None:
    code, found = run_json(capsys, "doctor", made)
    assert (code, found["severity"], found["is_healthy"], found["chunks"]) == (0, "ok", True, 6)
    code, found = run_json(capsys, "doctor", made, "-k", 500)
    assert (code, found["severity"], found["is_healthy"]) == (3, "warning", False)
    depth = next(finding for finding in found["findings"] if finding["name"] == "depth")
    assert (depth["severity"], depth["data"]["k"], depth["data"]["depth"]) == ("warning", 500, 100)
    assert set(depth) == {"name", "severity", "sentence", "remedy", "data"}
    assert "canaries" in found["skipped"]


def test_no_index_and_a_wrong_number_are_errors(capsys: pytest.CaptureFixture[str], made: Path, tmp_path: Path) -> None:
    code, found = run_json(capsys, "doctor", tmp_path / "none")
    assert (code, found["error"]["type"]) == (1, "IndexNotFound")
    code, out = run(capsys, "doctor", made, "-k", 0)
    assert (code, "k=0 must be at least 1" in out) == (1, True)
