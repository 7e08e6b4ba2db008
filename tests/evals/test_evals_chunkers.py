from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.beir import DatasetError
from evals.chunkers import evaluate, own_tokens, read, table, windows
from tarragon.testing import WordEncoder

TEXTS = {
    "ice": "A glacier is slow. A moraine is debris that a glacier leaves. Firn is old snow.",
    "music": "A violin has four strings. Bows are made of horsehair. An oboe is made of wood.",
}
ASKED = {"What is a moraine?": ("ice", "A moraine is debris"), "What are bows made of?": ("music", "Bows are made of")}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    documents = [{"_id": id_, "text": text} for id_, text in TEXTS.items()]
    spans = []
    for number, (question, (document, text)) in enumerate(ASKED.items()):
        start = TEXTS[document].index(text)
        reference = {"start": start, "end": start + len(text), "text": text}
        spans.append({"query_id": f"q{number}", "question": question, "doc": document, "references": [reference]})
    (tmp_path / "documents.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in documents))
    (tmp_path / "spans.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in spans))
    return tmp_path


def words(text: str) -> list[int]:
    return [*(place for place, character in enumerate(text) if character == " "), len(text)]


def test_windows_overlap_as_told_and_leave_nothing_out() -> None:
    ends = [2, 4, 6, 8, 10]
    assert windows(ends, 2, 0) == [(0, 4), (4, 8), (8, 10)]
    assert windows(ends, 3, 1) == [(0, 6), (4, 10)]
    assert windows(ends, 9, 0) == [(0, 10)]
    assert windows([], 2, 0) == []
    assert windows([1, 1, 1, 4], 2, 0) == [(0, 1), (1, 4)], "tokens within a character"


def test_chunkers_are_scored(dataset: Path) -> None:
    result = evaluate(dataset, [(4, 0), (200, 0)], [32], ends=words, encoder=WordEncoder())
    small, whole, dense, hybrid = result["rows"]
    assert (small["chunker"], small["chunks"], whole["chunks"]) == ("fixed 4/0", 8, 2)
    assert whole["means"]["SpanRecall@5"] == 1.0
    share = [len(span) / len(TEXTS[document]) for document, span in ASKED.values()]
    assert whole["means"]["SpanPrecisionOmega"] == pytest.approx(sum(share) / 2, abs=1e-4)
    lengths = sum(map(len, TEXTS.values()))
    read = sum(len(span) / lengths for _, span in ASKED.values()) / 2
    assert whole["means"]["SpanPrecision@5"] == pytest.approx(read, abs=1e-4), "both documents are read"
    assert small["means"]["SpanPrecision@5"] > read
    assert (dense["chunker"], hybrid["chunker"]) == ("ours 32, dense", "ours 32, hybrid")
    lines = table(result).splitlines()
    assert len(lines) == 4 + 4
    assert "(77.1)" not in lines[-1]
    assert lines[5].startswith("| fixed 200/0 | 2 | 100.0 (76.6) | ")


def test_tokens_of_the_model_end_where_the_text_ends() -> None:
    ends = own_tokens()("A moraine is debris.  ")
    assert (ends[0], ends[-1]) == (1, 22)
    assert ends == sorted(set(ends))
    assert own_tokens()("word " * 1_000)[-1] == 5_000, "however long it is"


def test_a_reference_that_is_not_there_is_an_error_with_its_place(dataset: Path) -> None:
    path = dataset / "spans.jsonl"
    path.write_text(path.read_text().replace("A moraine", "The moraine"))
    with pytest.raises(DatasetError, match=r"spans\.jsonl, line 1: a reference is not in 'ice'"):
        read(dataset)
