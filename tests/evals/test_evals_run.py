from __future__ import annotations

import json
from math import log2
from pathlib import Path
from typing import Any

import pytest

from evals.beir import DatasetError, read_corpus, read_questions
from evals.run import Plan, evaluate, main, table
from tarragon import Document, Index, IndexRecipe, SearchRecipe
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder

CORPUS = {
    "glaciers": ("Glaciers", "A moraine is debris that a glacier leaves behind."),
    "ice": ("Ice", "A glacier is slow."),
    "violins": ("Violins", "The violin: a violin has four strings, and violin bows are made of horsehair."),
    "orchestra": ("Orchestra", "Cellos, horns, flutes, drums and, for a century now, sometimes one violin too."),
    "bread": ("Bread", "Sourdough rises overnight."),
    "pastry": ("Pastry", "Butter is folded into the dough again and again."),
    "bees": ("Bees", "A queen lays eggs in summer."),
    "chess": ("Chess", "The queen may move in any direction. Endgames are often drawn."),
    "tides": ("", "Spring tides follow the new moon."),
    "knots": ("Knots", "A bowline does not slip."),
}
QUERIES = {
    "unjudged": "spring tides",
    "first": "glacier moraine",
    "second": "violin",
    "half": "bowline",
    "blank": " ",
}
JUDGEMENTS = [
    ("first", "glaciers", 1),
    ("first", "knots", 0),
    ("second", "orchestra", 1),
    ("half", "knots", 1),
    ("half", "bees", 1),
    ("blank", "bees", 1),
    ("unjudged", "tides", 0),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": id_, "title": title, "text": text} for id_, (title, text) in CORPUS.items()]
    queries = [{"_id": id_, "text": text, "metadata": {}} for id_, text in QUERIES.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in JUDGEMENTS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_bm25_scores_are_those_computed_by_hand(dataset: Path, encoder: SentenceTransformerEncoder) -> None:
    result = evaluate(Plan(dataset, legs=("bm25",)), encoder)
    # at 1; at 2 behind the three violins; at 1 with another that is never found; nothing found
    gains = [1, 1 / log2(3), 1 / (1 + 1 / log2(3)), 0]
    assert result["legs"]["bm25"] == pytest.approx(
        {"nDCG@10": sum(gains) / 4, "R@10": 2.5 / 4, "R@100": 2.5 / 4, "RR@10": 2.5 / 4}, abs=1e-5
    )


@pytest.mark.parametrize("chunking", ["whole", "structure"])
def test_result(dataset: Path, encoder: SentenceTransformerEncoder, chunking: str) -> None:
    recipe = IndexRecipe(chunking=chunking)  # type: ignore[arg-type]
    result = json.loads(json.dumps(evaluate(Plan(dataset, recipe=recipe), encoder)))
    assert {name: result[name] for name in ("dataset", "documents", "queries", "chunks", "chunked")} == {
        "dataset": "tiny",
        "documents": 10,
        "queries": 4,
        "chunks": 10,
        "chunked": chunking == "structure",
    }
    assert list(result["legs"]) == ["dense", "bm25", "hybrid"]
    for values in result["legs"].values():
        assert list(values) == ["nDCG@10", "R@10", "R@100", "RR@10"]
        assert all(0 < value <= 0.75 for value in values.values())  # of four queries one is blank
    assert result["legs"]["dense"]["R@100"] == 0.75  # the dense leg ranks every document
    assert set(result["seconds"]) == {"sync", "embed queries", "dense", "bm25", "hybrid"}
    assert len(table(result).splitlines()) == 2 + 3
    for leg, interval in ((leg, told["nDCG@10"]) for leg, told in result["intervals"].items()):
        assert interval["low"] <= result["legs"][leg]["nDCG@10"] <= interval["high"]


def test_whole_is_title_and_text_in_one(dataset: Path) -> None:
    assert list(read_corpus(dataset))[1] == Document("ice", "Ice A glacier is slow.", format="text")
    assert list(read_corpus(dataset))[8].text == "Spring tides follow the new moon."


def test_kept_index_is_used_again(dataset: Path, tmp_path: Path, encoder: SentenceTransformerEncoder) -> None:
    plan = Plan(dataset, legs=("dense",), index=tmp_path / "kept.tarragon")
    first = evaluate(plan, encoder)
    with Index.open(tmp_path / "kept.tarragon", encoder=encoder, create=False) as index:
        assert index.sync(list(read_corpus(dataset))).documents_unchanged == 10
    assert evaluate(plan, encoder)["legs"] == first["legs"]


def test_search_settings_reach_the_search(
    dataset: Path, encoder: SentenceTransformerEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SearchRecipe | None] = []
    search = Index.search_batch

    def spy(self: Index, queries: list[str], k: int = 5, *, recipe: SearchRecipe | None = None, **other: object) -> Any:
        seen.append(recipe)
        return search(self, queries, k, recipe=recipe, **other)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "search_batch", spy)
    evaluate(Plan(dataset, legs=("bm25", "hybrid"), search=SearchRecipe(depth=7, fusion="rrf")), encoder)
    assert set(seen) == {SearchRecipe("lexical", depth=7, fusion="rrf"), SearchRecipe("hybrid", depth=7, fusion="rrf")}


def test_many_chunks_of_one_document_do_not_crowd_out_others(
    tmp_path: Path, encoder: SentenceTransformerEncoder
) -> None:
    folder = tmp_path / "crowd"
    (folder / "qrels").mkdir(parents=True)
    long = "\n\n".join(f"# Part {i}\n\nThe heron waits, and the heron strikes: heron number {i}." for i in range(30))
    rows = [{"_id": "long", "text": long}, {"_id": "short", "text": "Once, on the far bank of the river, a heron."}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "heron"}')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tshort\t2\n")
    recipe = IndexRecipe(chunk_tokens=32)
    result = evaluate(Plan(folder, legs=("bm25",), recipe=recipe), encoder)
    assert result["chunks"] > 20
    assert result["legs"]["bm25"]["RR@10"] == 0.5


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", "{", "corpus.jsonl, line 3: not JSON"),
        ("corpus.jsonl", "[]", "corpus.jsonl, line 3: a JSON object is needed, this is a list"),
        ("corpus.jsonl", '{"text": "x"}', "corpus.jsonl, line 3: '_id' must be a string that is not empty"),
        ("corpus.jsonl", '{"_id": "ice", "text": "x"}', "corpus.jsonl, line 3: a second document with the _id 'ice'"),
        ("corpus.jsonl", '{"_id": "x"}', "corpus.jsonl, line 3: 'text' is missing"),
        ("corpus.jsonl", '{"_id": "x", "title": 1, "text": ""}', "corpus.jsonl, line 3: 'title' must be a string"),
        ("corpus.jsonl", "\udcff", "corpus.jsonl, line 3: not valid UTF-8 at byte 0"),
        ("queries.jsonl", '{"_id": true, "text": ""}', "queries.jsonl, line 3: '_id' must be a string"),
        ("queries.jsonl", '{"_id": "first", "text": ""}', "queries.jsonl, line 3: a second query with the _id 'first'"),
        ("qrels/test.tsv", "first\tknots", "test.tsv, line 3: query id, document id and grade are needed"),
        ("qrels/test.tsv", "first\tknots\thigh", "test.tsv, line 3: the grade must be a whole number"),
        ("qrels/test.tsv", "first\tglaciers\t2", "test.tsv, line 3: judged before, with another grade"),
    ],
)
def test_malformed_line_is_an_error_with_its_place(dataset: Path, file: str, line: str, message: str) -> None:
    path = dataset / file
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]), errors="surrogateescape")
    with pytest.raises(DatasetError) as caught:
        list(read_corpus(dataset)) if file == "corpus.jsonl" else read_questions(dataset, "test")
    assert message in str(caught.value)


def test_what_is_wrong_with_a_whole_file(dataset: Path) -> None:
    qrels = dataset / "qrels" / "test.tsv"
    qrels.write_text("first\tglaciers\t1\n")
    with pytest.raises(DatasetError, match=r"test\.tsv, line 1: the header"):
        read_questions(dataset, "test")
    qrels.write_text("query-id\tcorpus-id\tscore\nnobody\tglaciers\t1\n")
    with pytest.raises(DatasetError, match=r"query 'nobody' is not in queries\.jsonl"):
        read_questions(dataset, "test")
    qrels.write_text("query-id\tcorpus-id\tscore\nfirst\tglaciers\t0\n")
    with pytest.raises(DatasetError, match="no query has a relevant document"):
        read_questions(dataset, "test")
    with pytest.raises(DatasetError, match=r"dev\.tsv: there is no such file"):
        read_questions(dataset, "dev")


def test_command(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    arguments = [str(dataset), "--legs", "bm25,dense", "--chunked", "--device", "cpu", "--json", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny: 10 documents, 10 chunks, 4 queries, all-MiniLM-L6-v2\n")
    result = json.loads(out.read_text())
    assert list(result["legs"]) == ["bm25", "dense"]
    assert f"bm25    {result['legs']['bm25']['nDCG@10']:9.4f}" in printed
    assert main([str(dataset), "--legs", "bm25", "--chunked", "--results", str(tmp_path / "results")]) == 0
    (kept,) = (tmp_path / "results").iterdir()
    assert kept.name.startswith("tiny.chunks256.all-MiniLM-L6-v2.calibrated.")
    assert json.loads(kept.read_text())["legs"]["bm25"] == result["legs"]["bm25"]


def test_command_reports_errors(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "queries.jsonl").write_text("{\n")
    assert main([str(dataset)]) == 1
    assert "queries.jsonl, line 1: not JSON" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(dataset), "--legs", "sparse"])
    assert "'sparse' is not one of dense, bm25, hybrid" in capsys.readouterr().err
