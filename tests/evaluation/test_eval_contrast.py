from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tarragon.errors import InvalidInput
from tarragon.evaluation.contrast import compare
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import score
from tarragon.evaluation.significance import bootstrap_interval, holm, randomisation_test
from tarragon.evaluation.types import Question, Ranked, Run, Scores

GOLDEN = golden_set("g", [Question(f"q{i}", f"question {i}", {f"d{i}": 1}) for i in range(12)])


def run(name: str, *places: int) -> Run:
    """The relevant document of question i stands at ``places[i]``; 0: nowhere."""
    return Run(
        name,
        {
            f"q{i}": tuple(Ranked(f"d{i}" if n == place else f"x{n}", -n) for n in range(1, 12))
            for i, place in enumerate(places)
        },
    )


A = run("a", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0)
B = run("b", 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0)
C = run("c", 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 10, 0)
SCORED = [score(each, GOLDEN, ["RR", "R@5"]) for each in (A, B, C)]


def test_differences() -> None:
    found = compare(SCORED, GOLDEN)
    assert (found.golden, found.questions, found.reference) == (GOLDEN.digest, 12, "a")
    assert [(one.metric, one.first, one.second) for one in found.differences] == [
        ("RR", "a", "b"),
        ("RR", "a", "c"),
        ("R@5", "a", "b"),
        ("R@5", "a", "c"),
    ]
    better, other, *_ = found.differences
    gaps = [SCORED[1].per_question["RR"][q.id] - SCORED[0].per_question["RR"][q.id] for q in GOLDEN.questions]
    assert better.difference == bootstrap_interval(gaps)
    assert better.means == pytest.approx((SCORED[0].means["RR"].mean, SCORED[1].means["RR"].mean))
    assert better.means[1] - better.means[0] == pytest.approx(better.difference.mean)
    assert (better.wins, better.losses, better.ties) == (10, 0, 2)
    assert better.p == randomisation_test(gaps) < 0.05
    assert (other.wins, other.losses, other.ties) == (1, 1, 10)
    assert other.p == 1.0
    assert [better.adjusted, other.adjusted] == holm([better.p, other.p])


def test_the_questions_that_changed_most_stand_with_both_rankings() -> None:
    found = compare(SCORED, GOLDEN, [A, B], changes=3)
    assert [(one.runs, one.question.id, one.first, one.second) for one in found.changes] == [
        (("a", "b"), "q10", 0.0, 1.0),
        (("a", "b"), "q9", 0.1, 1.0),
        (("a", "b"), "q8", pytest.approx(1 / 9), 1.0),
        (("a", "c"), "q10", 0.0, 0.1),
        (("a", "c"), "q9", 0.1, 0.0),
    ]
    first = found.changes[0]
    assert first.rankings == (A.rankings["q10"][:10], B.rankings["q10"][:10])
    assert found.changes[-1].rankings[1] == (), "run c was not given"
    assert json.loads(json.dumps(found.to_dict()))["changes"][0]["question"]["id"] == "q10"


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InvalidInput, match="two or more runs"):
        compare(SCORED[:1], GOLDEN)
    with pytest.raises(InvalidInput, match="names of their own"):
        compare([SCORED[0], SCORED[0]], GOLDEN)
    with pytest.raises(InvalidInput, match="run 'a' was scored on other questions"):
        compare(SCORED, golden_set("other", GOLDEN.questions[1:]))
    with pytest.raises(InvalidInput, match="no metric in common"):
        compare([SCORED[0], Scores("d", GOLDEN.digest, {}, {})], GOLDEN)


def test_the_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile(block, page.name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 2)[:1] for line in lines] == [["nDCG@10"], ["R@100"], ["RR"]]
    assert lines[1].startswith("R@100 (1.0, 1.0) Interval(mean=0.0")
