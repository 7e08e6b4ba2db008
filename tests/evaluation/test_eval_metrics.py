from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from obvious_metrics import OBVIOUS

from tarragon.errors import InvalidInput, InvalidRun
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import METRICS, ids, measure, parse, score
from tarragon.evaluation.runs import read_trec_run, write_trec_run
from tarragon.evaluation.types import GoldenSet, Question, Ranked, Run


def judged(chance: Random, questions: int) -> GoldenSet:
    """Graded judgements, some 0, some negative."""
    return golden_set(
        "random",
        [
            Question(
                f"q{i}",
                f"question {i}",
                {f"d{n}": chance.choice([-1, 0, 1, 2, 3]) for n in chance.sample(range(40), chance.randint(0, 15))}
                | {f"d{40 + i % 7}": chance.randint(1, 3)},
            )
            for i in range(questions)
        ],
    )


def answered(chance: Random, golden: GoldenSet) -> Run:
    """Rankings with ties; one in five questions is missing, one in ten is empty; some documents were not judged."""
    rankings: dict[str, tuple[Ranked, ...]] = {}
    for question in golden.questions:
        fate = chance.random()
        if fate < 0.2:
            continue
        documents = chance.sample([f"d{n}" for n in range(60)], 0 if fate < 0.3 else chance.randint(1, 50))
        scores = sorted((chance.choice([0.0, 0.25, 0.5, -1.0, 1e-9]) for _ in documents), reverse=True)
        rankings[question.id] = tuple(map(Ranked, documents, scores))
    rankings["unasked"] = (Ranked("d1", 1.0),)
    return Run("random", rankings)


@pytest.mark.parametrize("seed", range(30))
def test_metrics_are_those_of_a_second_implementation(seed: int) -> None:
    chance = Random(seed)
    golden = judged(chance, 30)
    run = answered(chance, golden)
    scores = score(run, golden, list(OBVIOUS))
    assert list(scores.per_question) == list(OBVIOUS)
    for metric, (obvious, k) in OBVIOUS.items():
        expected = {
            question.id: obvious(
                [place.document_id for place in run.rankings.get(question.id, ())], question.relevant, k
            )
            for question in golden.questions
        }
        assert scores.per_question[metric] == pytest.approx(expected, abs=1e-9)
        assert scores.means[metric].mean == pytest.approx(sum(expected.values()) / 30, abs=1e-9)
        assert scores.means[metric].low <= scores.means[metric].mean <= scores.means[metric].high


@pytest.mark.parametrize("seed", range(5))
def test_other_tools_score_the_written_run_as_we_do(seed: int, tmp_path: Path) -> None:
    import ir_measures

    chance = Random(seed)
    golden = judged(chance, 20)
    run = answered(chance, golden)
    ours = score(run, golden, list(OBVIOUS))
    write_trec_run(run, tmp_path / "run.txt")
    qrels = {question.id: {id_: max(0, g) for id_, g in question.relevant.items()} for question in golden.questions}
    theirs = ir_measures.calc_aggregate(
        [parse(name) for name in OBVIOUS], qrels, list(ir_measures.read_trec_run(str(tmp_path / "run.txt")))
    )
    assert {str(name): value for name, value in theirs.items()} == pytest.approx(
        {name: ours.means[name].mean for name in OBVIOUS}, abs=1e-9
    )
    again = score(read_trec_run(tmp_path / "run.txt"), golden, list(OBVIOUS))
    assert again.per_question == ours.per_question


def test_a_foreign_run_with_ties_is_scored_as_other_tools_do(tmp_path: Path) -> None:
    import ir_measures

    chance = Random(0)
    golden = judged(chance, 20)
    path = tmp_path / "foreign.run"
    rows = [
        f"{question.id} Q0 d{n} {chance.randint(0, 9)} {chance.choice([1, 2, 2.00000001, 3])} theirs"
        for question in golden.questions
        for n in chance.sample(range(60), 30)
    ]
    path.write_text("\n".join(rows))
    qrels = {question.id: {id_: max(0, g) for id_, g in question.relevant.items()} for question in golden.questions}
    names = [name for name in OBVIOUS if name != "RR@10"]  # MS MARCO's script, which breaks ties by rising id
    theirs = ir_measures.calc_aggregate(
        [parse(name) for name in names], qrels, list(ir_measures.read_trec_run(str(path)))
    )
    run = read_trec_run(path)
    assert run.name == "theirs"
    ours = score(run, golden, names)
    assert {name: ours.means[name].mean for name in names} == pytest.approx(
        {str(name): value for name, value in theirs.items()}, abs=1e-9
    )


def test_scores_do_not_decide_the_order() -> None:
    golden = golden_set("tiny", [Question("q", "?", {"b": 1})])
    ranking = (Ranked("a", 0.1), Ranked("b", 0.9))
    assert score(Run("r", {"q": ranking}), golden, ["RR"]).per_question["RR"] == {"q": 0.5}


def test_a_question_without_hits_counts_as_0() -> None:
    golden = golden_set("tiny", [Question("found", "?", {"a": 1}), Question("lost", "?", {"a": 1})])
    scores = score(Run("r", {"found": (Ranked("a", 1.0),)}), golden)
    assert tuple(scores.means) == METRICS
    assert {scores.per_question[metric]["lost"] for metric in METRICS} == {0.0}
    assert {scores.means[metric].mean for metric in METRICS} == {0.5}
    assert score(Run("empty", {}), golden, ["AP"]).per_question == {"AP": {"found": 0.0, "lost": 0.0}}


def test_a_document_stands_where_its_best_chunk_stands() -> None:
    ranking = [Ranked("a", 3.0, "a1"), Ranked("b", 2.0, "b1"), Ranked("a", 1.0, "a2"), Ranked("c", 0.5, "c1")]
    assert ids(ranking) == ["a", "b", "c"]
    assert ids(ranking, "chunk") == ["a1", "b1", "a2", "c1"]
    golden = golden_set("tiny", [Question("q", "?", {"c": 1})])
    assert score(Run("r", {"q": tuple(ranking)}), golden, ["RR"]).means["RR"].mean == pytest.approx(1 / 3)
    chunks = golden_set("tiny", [Question("q", "?", {"a2": 1})])
    assert score(Run("r", {"q": tuple(ranking)}), chunks, ["RR"], level="chunk").means["RR"].mean == pytest.approx(
        1 / 3
    )
    with pytest.raises(InvalidRun, match="'d' has no chunk"):
        ids([Ranked("d", 1.0)], "chunk")


def test_names_of_metrics() -> None:
    spelled = ["Recall@10", "MRR", "map", "ndcg@5", "success@3", "precision@010", "RR@10", "P@1"]
    assert [str(parse(name)) for name in spelled] == ["R@10", "RR", "AP", "nDCG@5", "Success@3", "P@10", "RR@10", "P@1"]
    for name in ["R", "P", "Success", "nDCG@0", "nDCG@-1", "nDCG@", "nDCG@x", "F1", "", "nDCG(dcg='exp-log2')@10"]:
        with pytest.raises(InvalidInput, match="is no metric"):
            parse(name)


def test_the_same_metric_twice_is_one() -> None:
    assert measure({"q": ["a"]}, {"q": {"a": 1}}, ["RR", "MRR"]) == {"RR": {"q": 1.0}}


def test_the_library_is_loaded_when_it_is_used() -> None:
    code = "import sys, tarragon.evaluation.metrics as m; print('ir_measures' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
