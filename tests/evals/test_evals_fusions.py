from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest

from evals.beir import Questions
from evals.fusions import evaluate, foreign, identifiers, methods, names, plain_dbsf, reciprocal, tables
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

A, B, C = (UUID(int=n) for n in (1, 2, 3))

TEXTS = [
    ("stacks", "Call CreateStack or createstack; see max_retry_count and plain words."),
    ("queues", "Call PurgeQueue; max_retry and MAX_RETRY; see other_setting."),
    ("both", "PurgeQueue and DeleteQueue_2, error E4041x and other_Setting"),
]


def test_identifiers_are_in_exactly_one_document_in_whatever_case() -> None:
    assert identifiers(TEXTS, "one word") == {"CreateStack": "stacks", "DeleteQueue": "both", "E4041x": "both"}
    assert identifiers(TEXTS, "joined") == {
        "max_retry_count": "stacks",
        "MAX_RETRY": "queues",
        "DeleteQueue_2": "both",
    }
    assert len(identifiers(TEXTS, "joined", most=2)) == 2


def test_foreign_queries_are_those_of_sets_that_share_none() -> None:
    sets = {
        "one": Questions({"1": "who?", "2": "where?"}, {}),
        "translated": Questions({"1": "where?", "2": "warum?"}, {}),
        "other": Questions({"1": "how?"}, {}),
    }
    assert foreign("one", sets) == ["how?"]
    assert sorted(foreign("other", sets)) == ["warum?", "where?", "where?", "who?"]


def test_names_are_what_the_folders_do_not_share() -> None:
    assert list(names([Path("data/scifact"), Path("data/xquad/en")])) == ["scifact", "xquad/en"]
    assert list(names([Path("data/scifact")])) == ["scifact"]


def test_fusing_own_hits_adds_nothing_for_what_a_leg_did_not_find() -> None:
    own = ({A: 0.9, B: 0.5}, {B: 8.0, C: 2.0})
    assert reciprocal(own, 2) == {A: 1 / 3, B: 1 / 4 + 1 / 3, C: 1 / 4}
    apart = 1 / (6 * 2**0.5)  # two scores are 1/√2 deviations from their mean
    assert plain_dbsf(own) == pytest.approx({A: 0.5 + apart, B: 1.0, C: 0.5 - apart})


def write(folder: Path, corpus: dict[str, str], queries: dict[str, tuple[str, str]]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": id_, "title": "", "text": text} for id_, text in corpus.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"_id": id_, "text": text} for id_, (text, _) in queries.items()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = [f"{id_}\t{relevant}\t1" for id_, (_, relevant) in queries.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def test_the_three_questions_are_answered(tmp_path: Path, encoder: SentenceTransformerEncoder) -> None:
    ice = write(
        tmp_path / "ice",
        {
            "moraine": "A moraine is debris of a glacier.",
            "berg": "An iceberg drifts.",
            "code": "SetIceLevel2 melts ice",
        },
        {"1": ("glacier debris", "moraine"), "2": ("drifting iceberg", "berg")},
    )
    music = write(
        tmp_path / "music",
        {"violin": "A violin has four strings.", "horn": "A horn is made of brass."},
        {"1": ("strings of a violin", "violin"), "2": ("brass horn", "horn")},
    )
    results = evaluate(names([ice, music]), ["music"], tmp_path / "indexes", 100, encoder)
    assert list(results) == ["ice", "music"]
    assert all(results["ice"]["ndcg@10"][name] == 1.0 for name in methods())
    assert results["ice"]["identifiers"]["one word"]["tokens"] == 1
    assert results["ice"]["identifiers"]["one word"]["bm25"] == 1.0
    assert results["music"]["identifiers"]["one word"] == {"tokens": 0}
    assert results["ice"]["queries"] == {"own": 2, "foreign": 2}
    kept, rejected = zip(*results["ice"]["threshold"].values(), strict=True)
    assert sorted(kept, reverse=True) == list(kept)
    assert sorted(rejected) == list(rejected)
    assert sorted(path.name for path in (tmp_path / "indexes").iterdir()) == ["ice", "music"]
    assert "| calibrated, deep words | 1.0000 | 1.0000 | 1.0000 |" in tables(results)
