"""Tables: those of the pages are what the kept results say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evals.tables import RESULTS, commit, latest, long_table, pages, result_path, short_table, with_table


def result(**values: object) -> dict[str, object]:
    figures = {"nDCG@10": 0.5, "R@10": 0.6, "R@100": 1.0, "RR@10": 0.45}
    made = {
        "dataset": "scifact", "documents": 5183, "queries": 300, "chunks": 5183, "chunked": False,
        "legs": dict.fromkeys(("dense", "bm25", "hybrid"), figures), "recipe": {"chunk_tokens": 256},
        "search": {"fusion": "calibrated"}, "model": "all-MiniLM-L6-v2", "commit": "1a2b3c4d", "made": "2026-01-01",
    }  # fmt: skip
    return made | values


def test_the_pages_say_what_the_results_say() -> None:
    for path, text in pages():
        assert path.read_text(encoding="utf-8") == text, f"python -m evals.tables writes {path.name}"


def test_results_are_named_by_configuration_and_commit() -> None:
    kept = [path for path in RESULTS.glob("*.json") if "legs" in json.loads(path.read_text())]
    assert len(kept) >= 3
    for path in kept:
        assert result_path(RESULTS, json.loads(path.read_text())) == path


def test_the_name_of_a_result(tmp_path: Path) -> None:
    name = result_path(tmp_path / "kept", result(model="some/model.v2")).name
    assert name == "scifact.whole.model-v2.calibrated.1a2b3c4d.json"
    assert result_path(tmp_path, result(chunked=True)).name.startswith("scifact.chunks256.")
    assert re.fullmatch(r"[0-9a-f]{8}\+?|unknown", commit())


def test_the_latest_result_counts(tmp_path: Path) -> None:
    for number, made in enumerate(["2026-01-02", "2026-01-03", "2026-01-01"]):
        (tmp_path / f"scifact.{number}.json").write_text(json.dumps(result(made=made)))
    (tmp_path / "scifact.cut.json").write_text(json.dumps(result(made="2027", chunked=True)))
    (tmp_path / "scifact.rrf.json").write_text(json.dumps(result(made="2027", search={"fusion": "rrf"})))
    (tmp_path / "scifact.part.json").write_text(json.dumps(result(made="2027", legs={"bm25": {}})))
    assert latest(tmp_path, "scifact", chunked=False)["made"] == "2026-01-03"
    with pytest.raises(FileNotFoundError, match=r"evals\.run"):
        latest(tmp_path, "squad11-dev", chunked=False)


def test_tables(tmp_path: Path) -> None:
    legs = {
        leg: {"nDCG@10": value, "R@10": 0.6, "R@100": 1.0, "RR@10": 0.45}
        for leg, value in (("dense", 0.64508), ("bm25", 0.6886), ("hybrid", 0.73756))
    }
    for dataset, chunked in (("scifact", False), ("squad11-dev", False), ("awsdocs-3k", True)):
        made = result(dataset=dataset, chunked=chunked, legs=legs)
        (tmp_path / f"{dataset}.x.json").write_text(json.dumps(made))
    assert short_table(tmp_path).splitlines()[2] == "| SciFact (5,183 abstracts, 300 claims) | .645 | .689 | **.738** |"
    assert long_table(tmp_path).splitlines()[2:4] == [
        "| SciFact | dense | .6451 | .6000 | 1.0000 | .4500 |",
        "| | BM25 | .6886 | .6000 | 1.0000 | .4500 |",
    ]


def test_only_the_table_is_replaced() -> None:
    page = "# Title\n\n| a |\n|---|\n| old |\n\nand more\n"
    assert with_table(page, "| a |\n|---|\n| new |\n| row |") == page.replace("| old |", "| new |\n| row |")
    with pytest.raises(ValueError, match="no table"):
        with_table("nothing", "| a |")
