"""What the package promises as a whole: a light import, few names, clear layers, one error tree."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tarragon
from tarragon import errors

ROOT = Path(__file__).parent.parent
HEAVY = [
    *("torch", "transformers", "sentence_transformers", "onnxruntime", "fastembed"),
    *("ray", "pyarrow", "httpx", "qdrant_client", "llama_index", "markitdown", "ir_measures", "tarragon.evaluation"),
]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_loads_nothing_heavy_and_takes_a_moment() -> None:
    code = f"""
import json, sys, time
start = time.thread_time()  # the processor's, so that whatever else runs does not count
import tarragon
seconds = time.thread_time() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    runs = [json.loads(python(code)) for _ in range(3)]
    assert [loaded for _, loaded in runs] == [[]] * 3
    assert min(seconds for seconds, _ in runs) < 0.3


def test_opening_and_reading_the_status_loads_no_model_library(tmp_path: Path) -> None:
    code = f"""
import sys
from tarragon import Document, Index
from tarragon.testing import WordEncoder
with Index.open({str(tmp_path / "i")!r}, encoder=WordEncoder()) as index:
    index.sync([Document("a", "text")])
    assert index.search("text")
    assert index.status().documents == 1
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_the_public_names_are_few_sorted_and_documented() -> None:
    assert tarragon.__all__ == sorted(tarragon.__all__)
    assert len(tarragon.__all__) <= 12
    for name in tarragon.__all__:
        assert inspect.getdoc(getattr(tarragon, name)), name


def test_every_error_is_in_the_tree_that_the_module_draws() -> None:
    classes = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    drawn = set(re.findall(r"^(?:[│├└─ ]*)(\w+)", errors.__doc__ or "", re.MULTILINE)) & classes
    assert drawn == classes
    for name in classes:
        assert issubclass(getattr(errors, name), errors.TarragonError)


@pytest.mark.parametrize("path", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.name)
def test_files_are_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


def test_the_layers_hold() -> None:
    executable = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([executable], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_architecture_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {
        path.stem
        for path in (ROOT / "src" / "tarragon").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    missing = {room for room in rooms - {"__init__"} if not re.search(rf"\b{room}\b", page)}
    assert missing == set()
