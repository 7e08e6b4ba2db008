from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evals import prefix
from evals.beir import Questions
from evals.fusions import names
from evals.prefix import evaluate, nearest, recalls, shared, some, tables
from tarragon import requests, tuning
from tarragon.testing import WordEncoder


def test_nearest_and_shared_are_what_they_say() -> None:
    vectors = np.eye(4, dtype=np.float32)
    queries = np.array([[0.1, 3, 2, 0], [4, 0, 0, 5]], np.float32)
    assert [sorted(row) for row in nearest(queries, vectors, 2).tolist()] == [[1, 2], [0, 3]]
    assert nearest(queries, vectors, 9).shape == (2, 4)
    assert shared(np.array([[1, 2], [0, 3]]), np.array([[2, 7], [3, 0]])) == 0.75


def test_recall_of_every_form_is_that_of_a_slow_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "LENGTHS", (2, 5))
    monkeypatch.setattr(prefix, "CANDIDATES", 20)
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    vectors, queries = (
        ((rng.standard_normal((n, 12)) * np.arange(1, 13) ** -1.0) @ turn).astype("f4") for n in (300, 40)
    )
    found = recalls(vectors, queries)
    axes = np.linalg.eigh(np.cov(vectors.T.astype("f8")))[1][:, ::-1]
    for form, basis, unit in (("plain", np.eye(12), False), ("turned", axes, False), ("turned, unit", axes, True)):
        for length in (2, 5):
            short, asked = (part @ basis[:, :length] for part in (vectors, queries))
            if unit:
                short = short / np.linalg.norm(short, axis=1, keepdims=True)
            shares = []
            for query, cut in zip(queries, asked, strict=True):
                truth = sorted(range(300), key=lambda row: -float(vectors[row] @ query))[:10]
                candidates = sorted(range(300), key=lambda row: -float(short[row] @ cut))[:20]
                shares.append(len({*truth} & {*candidates}) / 10)
            assert found[form][length] == pytest.approx(np.mean(shares), abs=2e-3)
    assert found["turned"][5] > found["plain"][5]


def test_some_queries_are_drawn_by_a_fixed_seed_and_keep_their_order() -> None:
    questions = Questions({str(n): f"q{n}" for n in range(50)}, {str(n): {"d": 1} for n in range(50)})
    drawn = some(questions, 10)
    assert list(drawn.texts) == sorted(drawn.texts, key=int)
    assert (len(drawn.texts), drawn.judgements.keys()) == (10, drawn.texts.keys())
    assert drawn == some(questions, 10)
    assert some(questions, 1_000) == questions


def test_a_set_is_measured_through_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FEWEST", 100)
    monkeypatch.setattr(requests, "FIRST_DEPTH", 20)
    monkeypatch.setattr(
        tuning, "DEPTHS", (1.0,)
    )  # a deeper one finds all ten, and is now and then measured to be faster
    monkeypatch.setattr(prefix, "CHOSEN", 8)
    monkeypatch.setattr(prefix, "LENGTHS", (8, 16))
    monkeypatch.setattr(prefix, "CANDIDATES", 20)
    folder = tmp_path / "numbers"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": str(n), "title": "", "text": f"one{n} two{n % 9} three{n % 25}"} for n in range(150)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    queries = [{"_id": f"q{n}", "text": f"one{n} two{n % 9}"} for n in range(0, 150, 5)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    judged = [f"q{n}\t{n}\t1" for n in range(0, 150, 5)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    found = evaluate(names([folder]), [], tmp_path / "indexes", 25, WordEncoder())["numbers"]
    assert (found["chunks"], found["queries"]) == (150, 25)
    assert found["rivals"][0]["way"] == "full vectors"
    first = found["first pass"]
    assert 0.5 <= first["recall@10"] < 1, "8 numbers of 64 lose some of the ten, or nothing was searched through them"
    assert first["ndcg@10 dense"]["without"] == pytest.approx(1.0)
    assert first["ndcg@10 hybrid"]["with"] == pytest.approx(1.0)
    assert all(value > 0 for speed in found["milliseconds"].values() for value in speed.values())
    printed = tables({"numbers": found})
    assert "numbers, 150 chunks" in printed
    assert f"| numbers | {first['recall@10']:.4f} |" in printed
    assert json.loads(json.dumps(found))["rivals"][0]["recall"] == 1.0


def test_the_results_that_are_cited_are_those_of_this_code() -> None:
    results = json.loads((Path(prefix.__file__).parent / "results" / "prefix.json").read_text())
    assert list(results) == ["scifact", "squad11-dev", "awsdocs-3k"]
    assert "| 64 |" in tables({name: restored(result) for name, result in results.items()})
    for name, least in (("scifact", 0.98), ("squad11-dev", 0.995)):
        first = results[name]["first pass"]
        assert first["recall@10"] >= least
        for mode in ("dense", "hybrid"):
            scores = first[f"ndcg@10 {mode}"]
            assert abs(scores["with"] - scores["without"]) <= 0.003


def restored(result: dict[str, object]) -> dict[str, object]:
    """Lengths are keys, and keys of JSON are strings."""
    forms = result["forms"]
    assert isinstance(forms, dict)
    return {**result, "forms": {form: {int(n): v for n, v in each.items()} for form, each in forms.items()}}
