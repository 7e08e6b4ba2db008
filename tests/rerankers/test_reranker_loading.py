from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_rerankers import make_bert

from tarragon.errors import InvalidRecipe, MissingDependency
from tarragon.rerankers import load_reranker, loading


@pytest.mark.parametrize("name", ["", "  ", "tei:", "late: ", "cohere:", "voyage:rerank-2", "http://localhost:8080"])
def test_a_name_that_is_none_says_what_is(name: str) -> None:
    with pytest.raises(InvalidRecipe, match="tei:http://host:port"):
        load_reranker(name)


def test_a_plain_name_or_folder_is_a_cross_encoder(tmp_path: Path) -> None:
    for name in ("model", "with:colon"):
        folder = make_bert(tmp_path / name)
        reranker = load_reranker(str(folder), "cpu")
        assert reranker.name == str(folder)
        assert len(reranker.score("question", ["one", "two"]).scores) == 2


@pytest.mark.parametrize(
    ("name", "extra"),
    [("some/model", "sentence-transformers"), ("fastembed:some/model", "fastembed"), ("tei:http://host", "http")],
)
def test_a_missing_library_carries_its_command(monkeypatch: pytest.MonkeyPatch, name: str, extra: str) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda library: None)
    with pytest.raises(MissingDependency, match=f"pip install 'tarragon\\[{extra}\\]'"):
        load_reranker(name)


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = """
import sys
import tarragon.rerankers, tarragon.reranking
heavy = {"torch", "sentence_transformers", "transformers", "onnxruntime", "fastembed", "httpx"}
print(sorted(heavy & set(sys.modules)))
tarragon.rerankers.load_reranker("tei:http://localhost:8080")
print(sorted(heavy & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["[]", "['httpx']"]
