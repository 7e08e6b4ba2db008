from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.errors import InvalidRun
from tarragon.evaluation.runs import falling, read_json, read_run, read_trec_run, write_json, write_trec_run
from tarragon.evaluation.types import Ranked, Run

RUN = Run(
    "hybrid, depth 100",
    {
        "q1": (Ranked("b.md", 0.5, "c1", 0, 10), Ranked("a.md", 0.5, "c2", 5, 9), Ranked("b.md", 0.25, "c3", 10, 20)),
        "q2": (),
    },
    {"mode": "hybrid"},
    {"q1": 0.01},
)


def test_columns(tmp_path: Path) -> None:
    write_trec_run(RUN, tmp_path / "run.txt")
    lines = [line.split() for line in (tmp_path / "run.txt").read_text().splitlines()]
    assert [line[:4] for line in lines] == [["q1", "Q0", "b.md", "1"], ["q1", "Q0", "a.md", "2"]]
    assert {line[5] for line in lines} == {"hybrid,_depth_100"}
    assert float(lines[0][4]) == 0.5
    assert 0.4999999 < float(lines[1][4]) < 0.5
    write_trec_run(RUN, tmp_path / "chunks.txt", level="chunk")
    assert [line.split()[2] for line in (tmp_path / "chunks.txt").read_text().splitlines()] == ["c1", "c2", "c3"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e30, max_value=1e30), max_size=60)
)
def test_written_scores_fall_strictly_in_single_precision(scores: list[float]) -> None:
    written = [np.float32(f"{score:.9g}") for score in falling(scores)]
    assert all(one > two for one, two in pairwise(written))
    if sorted({np.float32(score) for score in scores}, reverse=True) == [np.float32(score) for score in scores]:
        assert written == [np.float32(score) for score in scores], "those that fall already stay as they are"


@given(
    st.permutations([f"d{i}" for i in range(8)]), st.lists(st.sampled_from([0.0, 1.0, -2.5]), min_size=8, max_size=8)
)
@settings(max_examples=50, deadline=None)
def test_our_order_survives(tmp_path_factory: pytest.TempPathFactory, ids: list[str], scores: list[float]) -> None:
    path = tmp_path_factory.mktemp("run") / "run.txt"
    write_trec_run(Run("r", {"q": tuple(map(Ranked, ids, scores))}), path)
    assert [place.document_id for place in read_trec_run(path).rankings["q"]] == ids


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_scores_must_be_finite(score: float, tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="scores must be finite"):
        list(falling([score]))
    with pytest.raises(InvalidRun, match="scores must be finite"):
        write_json(Run("r", {"q": (Ranked("a", score),)}), tmp_path / "run.json")
    assert not (tmp_path / "run.json").exists()


def test_ids_that_six_columns_cannot_hold(tmp_path: Path) -> None:
    for id_ in ("my notes.md", "", "a\tb"):
        with pytest.raises(InvalidRun, match="write JSON instead"):
            write_trec_run(Run("r", {"q": (Ranked(id_, 1.0),)}), tmp_path / "run.txt")


def test_ties_of_other_tools_are_in_the_order_of_trec_eval(tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("q Q0 a 1 2.0 x\nq Q0 c 9 2.0 x\n\nq Q0 b 3 2.00000001 x\nq Q0 z 0 3 x\n")
    run = read_run(tmp_path / "run.txt")
    assert [place.document_id for place in run.rankings["q"]] == ["z", "c", "b", "a"]
    assert run.name == "x"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 a 1 2.0", "'query Q0 document rank score name' are needed, these are 5 fields"),
        ("q Q0 a first 2.0 x", "the rank must be a whole number, not 'first'"),
        ("q Q0 a 1 high x", "the score must be a finite number, not 'high'"),
        ("q Q0 a 1 nan x", "the score must be a finite number, not 'nan'"),
        ("q Q0 b 1 1 x", "document 'b' stands twice for query 'q'"),
    ],
)
def test_malformed_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"q Q0 b 1 3 x\n{line}\n")
    with pytest.raises(InvalidRun) as caught:
        read_trec_run(path)
    assert str(caught.value).startswith(f"{path}, line 2: {message}")


def test_json_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for run in (RUN, replace(RUN, rankings={"q": (Ranked("a b", 1 / 3),)}), Run("empty", {})):
        write_json(run, path)
        assert read_run(path) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"name": }', "line 2: not JSON: "),
        ("[]", "a run has 'name', of type str"),
        ('{"name": "r", "rankings": []}', "a run has 'rankings', of type dict"),
        (
            '{"name": "r", "rankings": {"q": 1}, "configuration": {}, "seconds": {}}',
            "ranking of question 'q' must be a",
        ),
        (
            '{"name": "r", "rankings": {"q": [["a"]]}, "configuration": {}, "seconds": {}}',
            "a place is [document, score]",
        ),
    ],
)
def test_malformed_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InvalidRun) as caught:
        read_json(tmp_path / "run.json")
    assert message in str(caught.value)
    assert str(tmp_path / "run.json") in str(caught.value)
