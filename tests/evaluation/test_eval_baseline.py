"""The gate: what fell by more than it may fails, and the sentence says what, by how much and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tarragon.errors import InvalidInput
from tarragon.evaluation.baseline import Baseline, judge, read_baseline, settings_changed, write_baseline
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import score
from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run

COUNT = 20


def golden(last: str = "right") -> GoldenSet:
    questions = [Question(f"q{i:02}", f"what is the {i}th of all things?", {"right": 1}) for i in range(COUNT - 1)]
    return golden_set("things", [*questions, Question("q99", "the last?", {last: 1})])


def answered(ranks: list[int], depth: int = 100) -> Run:
    """A run that has the right document at these ranks, from 1."""
    ids = [question.id for question in golden().questions]
    rankings = {
        id_: tuple(Ranked("right" if place == rank else f"wrong{place}", -float(place)) for place in range(1, 11))
        for id_, rank in zip(ids, ranks, strict=True)
    }
    return Run("default", rankings, {"search": {"depth": depth, "fusion": "rrf"}, "model": "words"})


def made(run: Run) -> Baseline:
    return Baseline.of(run, score(run, golden(), ["RR@10", "R@10"]), golden())


def judged(before: list[int], now: list[int], max_drop: float = 0.0):  # type: ignore[no-untyped-def]
    run = answered(now, depth=50)
    return judge(made(answered(before)), run, score(run, golden(), ["RR@10", "R@10"]), golden(), max_drop=max_drop)


def test_the_same_answers_pass() -> None:
    verdict = judged([1] * COUNT, [1] * COUNT)
    assert verdict.passed
    assert verdict.sentences[0].startswith("RR@10 stayed, from 1.0000 to 1.0000")


def test_a_fall_beyond_what_may_be_lost_fails_and_says_where() -> None:
    verdict = judged([1] * COUNT, [2, 4] + [1] * (COUNT - 2), max_drop=0.01)
    assert not verdict.passed
    sentence = verdict.sentences
    assert len(sentence) == 1, "recall is as it was"
    assert sentence[0] == (
        "RR@10 fell by 0.0625, from 1.0000 to 0.9375 (difference -0.0625, 95 % interval -0.1500 to +0.0000, p 0.500; "
        "2 questions fell, 0 rose); at most 0.01 may be lost. Fell most: q01 'what is the 1th of all things?' "
        "1.000 → 0.250; q00 'what is the 0th of all things?' 1.000 → 0.500"
    )


def test_a_fall_within_what_may_be_lost_passes() -> None:
    assert judged([1] * COUNT, [2] + [1] * (COUNT - 1), max_drop=0.025).passed, "a half of a question in twenty"
    assert not judged([1] * COUNT, [2] + [1] * (COUNT - 1), max_drop=0.0249).passed


def test_a_rise_passes_and_falls_are_not_hidden_by_it() -> None:
    verdict = judged([2] * COUNT, [3] + [1] * (COUNT - 1))
    assert verdict.passed
    assert [change.question.id for change in verdict.judgements[0].fell] == ["q00"]
    assert "rose by" in verdict.sentences[0]


def test_many_falls_are_counted_and_the_largest_named() -> None:
    (sentence, *_) = judged([1] * COUNT, [3] * 9 + [2] * (COUNT - 9)).sentences
    assert sentence.count("→") == 5
    assert sentence.endswith("; and 15 more")
    assert "p < 0.001" in sentence


def test_what_changed_in_the_settings_is_told() -> None:
    assert judged([1] * COUNT, [1] * COUNT).changed == {"search.depth": (100, 50)}
    assert settings_changed({"a": {"b": 1}, "c": 1}, {"a": {"b": 1}, "d": 2}) == {"c": (1, None), "d": (None, 2)}


def test_a_baseline_survives_its_file(tmp_path: Path) -> None:
    baseline = made(answered([1, 2] * 10))
    write_baseline(baseline, tmp_path / "baseline.json")
    assert read_baseline(tmp_path / "baseline.json") == baseline
    assert list(tmp_path.iterdir()) == [tmp_path / "baseline.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "scores": {"means": []}}'])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"baseline\.json is no baseline .* --write-baseline"):
        read_baseline(tmp_path / "baseline.json")


def test_a_missing_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--write-baseline"):
        read_baseline(tmp_path / "none.json")


def test_other_questions_or_judgements_are_refused() -> None:
    run = answered([1] * COUNT)
    other = golden(last="another")
    with pytest.raises(InvalidInput, match="other questions or judgements"):
        judge(made(run), run, score(run, other, ["RR@10", "R@10"]), other)


def test_missing_metrics_and_negative_drops_are_refused() -> None:
    run = answered([1] * COUNT)
    with pytest.raises(InvalidInput, match="R@10 is not in the baseline and in the new scores"):
        judge(made(run), run, score(run, golden(), ["RR@10"]), golden())
    with pytest.raises(InvalidInput, match=r"P@5 is not in .* has R@10, RR@10"):
        judge(made(run), run, score(run, golden(), ["P@5"]), golden(), metrics=["P@5"])
    with pytest.raises(InvalidInput, match="max_drop"):
        judge(made(run), run, score(run, golden(), ["RR@10", "R@10"]), golden(), max_drop=-0.1)


def test_the_verdict_is_json() -> None:
    told = json.loads(json.dumps(judged([1] * COUNT, [2] + [1] * (COUNT - 1)).to_dict()))
    assert told["passed"] is False
    assert told["metrics"]["RR@10"]["fell"] == [
        {"id": "q00", "query": "what is the 0th of all things?", "before": 1.0, "now": 0.5}
    ]
    assert told["metrics"]["R@10"]["passed"] is True
