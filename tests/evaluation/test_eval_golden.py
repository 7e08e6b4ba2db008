from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.errors import InvalidGolden
from tarragon.evaluation.beir import read_corpus, read_queries
from tarragon.evaluation.foreign import llama_index_corpus
from tarragon.evaluation.golden import (
    golden_set,
    read_beir,
    read_golden,
    read_jsonl,
    read_llama_index,
    read_trec,
    write_jsonl,
)
from tarragon.evaluation.types import Question, Span


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


def test_our_own_format(tmp_path: Path) -> None:
    golden = read_golden(
        jsonl(
            tmp_path / "handbook.jsonl",
            {"query": "How do I rotate the key?", "relevant": ["keys.md", 7], "answer": "keyctl rotate"},
            "",
            {"id": 2, "query": "Who signs?", "relevant": {"keys.md": 2, "walls.md": 0}, "answer": ["Ada", "Ada L."]},
            {"id": "s", "query": "How long?", "relevant": [{"document": "a", "start": 1, "end": 5}, "b"]},
            {"id": "t", "query": "Where?", "relevant": {"a": 3}, "spans": [{"document": "a", "start": 0, "end": 2}]},
        )
    )
    assert golden.name == "handbook"
    first, *others = golden.questions
    assert (first.relevant, first.answer, first.alternatives) == ({"keys.md": 1, "7": 1}, "keyctl rotate", ())
    assert others == [
        Question("2", "Who signs?", {"keys.md": 2, "walls.md": 0}, (), "Ada", ("Ada L.",)),
        Question("s", "How long?", {"b": 1, "a": 1}, (Span("a", 1, 5),)),
        Question("t", "Where?", {"a": 3}, (Span("a", 0, 2),)),
    ]


def test_an_id_is_derived_from_the_query(tmp_path: Path) -> None:
    one, two = {"query": "One?", "relevant": ["a"]}, {"query": "Two?", "relevant": ["a"]}
    first = read_jsonl(jsonl(tmp_path / "a.jsonl", one, two))
    second = read_jsonl(jsonl(tmp_path / "b.jsonl", two, one))
    assert {question.text: question.id for question in first.questions} == {
        question.text: question.id for question in second.questions
    }
    assert first.digest == second.digest, "the order does not matter"


GOOD = {"id": "q", "query": "Who?", "relevant": ["a"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "a JSON object is needed, this is a list"),
        ({"relevant": ["a"]}, "'query' is missing"),
        ({"query": 3, "relevant": ["a"]}, "'query' must be a string, not int"),
        ({"query": " ", "relevant": ["a"]}, "'query' is blank"),
        ({"query": "\ud83d", "relevant": ["a"]}, "half of a surrogate pair"),
        ({"query": "x"}, "'relevant' is missing"),
        ({"query": "x", "relevant": "a"}, "'relevant' must be a list or an object"),
        ({"query": "x", "relevant": []}, "nothing is relevant"),
        ({"query": "x", "relevant": {"a": 0}}, "nothing is relevant"),
        ({"query": "x", "relevant": {"a": 1.5}}, "a grade must be a whole number, not 1.5"),
        ({"query": "x", "relevant": {"a": True}}, "a grade must be a whole number, not True"),
        ({"query": "x", "relevant": [None]}, "'relevant' must be a string that is not empty or a whole number"),
        ({"query": "x", "relevant": [{"document": "a", "start": 5, "end": 5}]}, "0 ≤ start < end, not 5 and 5"),
        ({"query": "x", "relevant": [{"document": "a", "start": "0", "end": 5}]}, "0 ≤ start < end, not '0' and 5"),
        ({"query": "x", "relevant": [{"start": 0, "end": 5}]}, "'document' must be a string"),
        ({"query": "x", "relevant": {"a": 1}, "spans": ["a"]}, "a span is an object"),
        ({"query": "x", "relevant": {"a": 1}, "spans": {}}, "'spans' a list"),
        ({"query": "x", "relevant": ["a"], "answer": 1}, "'answer' must be a string or a list of strings"),
        ({"id": "", "query": "x", "relevant": ["a"]}, "'id' must be a string that is not empty"),
        ({"id": "q", "query": "x", "relevant": ["a"]}, "a second question with the id 'q'"),
    ],
)
def test_a_malformed_line_is_an_error_with_its_place(tmp_path: Path, line: Any, message: str) -> None:
    path = jsonl(tmp_path / "golden.jsonl", GOOD, "", line)
    with pytest.raises(InvalidGolden) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)
    assert caught.value.data == {"path": str(path), "line": 3}


def test_what_is_wrong_with_a_whole_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidGolden, match=r"none\.jsonl: there is no such file"):
        read_golden(tmp_path / "none.jsonl")
    with pytest.raises(InvalidGolden, match="no question in it"):
        read_golden(jsonl(tmp_path / "empty.jsonl"))
    with pytest.raises(InvalidGolden, match="cannot be read: Is a directory"):
        read_jsonl(tmp_path)
    with pytest.raises(InvalidGolden, match="need the file of their queries"):
        read_golden(tmp_path / "qrels.txt")
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "x", "relevant": ["a"]}\n{"query": "caf\xe9"}\n')
    with pytest.raises(InvalidGolden, match="line 2: not valid UTF-8 at byte 14"):
        read_golden(tmp_path / "latin.jsonl")


def test_a_byte_order_mark_and_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "dos.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "q", "query": "x", "relevant": ["a"]}\r\n\r\n')
    assert read_golden(tmp_path / "dos.jsonl").questions == (Question("q", "x", {"a": 1}),)


names = st.text(min_size=1, max_size=5).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
spans = st.builds(lambda id_, start, size: Span(id_, start, start + size), names, st.integers(0, 99), st.integers(1, 9))
questions = st.builds(
    Question,
    names,
    names.filter(str.strip),
    st.dictionaries(names, st.integers(-2, 3), max_size=4).map(lambda grades: {**grades, "sure": 1}),
    st.lists(spans, max_size=3).map(tuple),
    st.just("yes"),
    st.lists(names, max_size=2).map(tuple),
) | st.builds(
    lambda id_, found: Question(id_, "text", {}, tuple(found)), names, st.lists(spans, min_size=1, max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(st.lists(questions, min_size=1, max_size=5, unique_by=lambda question: question.id))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, asked: list[Question]) -> None:
    path = tmp_path_factory.mktemp("golden") / "golden.jsonl"
    golden = golden_set("golden", asked)
    write_jsonl(golden, path)
    assert read_jsonl(path) == golden


def test_the_digest_is_of_what_is_judged() -> None:
    question = Question("q", "Who?", {"a": 1, "b": 2}, (Span("a", 0, 4),), "Ada")
    digest = golden_set("one", [question]).digest
    same = Question("q", "Who?", {"b": 2, "a": 1}, (Span("a", 0, 4),), "Grace")
    assert golden_set("other", [same]).digest == digest
    for other in (
        Question("p", "Who?", {"a": 1, "b": 2}, (Span("a", 0, 4),)),
        Question("q", "Whom?", {"a": 1, "b": 2}, (Span("a", 0, 4),)),
        Question("q", "Who?", {"a": 1, "b": 1}, (Span("a", 0, 4),)),
        Question("q", "Who?", {"a": 1, "b": 2}, (Span("a", 0, 5),)),
    ):
        assert golden_set("one", [other]).digest != digest


def test_a_set_must_be_able_to_be_scored() -> None:
    with pytest.raises(InvalidGolden, match="nothing can be scored"):
        golden_set("none", [])
    with pytest.raises(InvalidGolden, match="two questions have the id 'q'"):
        golden_set("twice", [Question("q", "?", {"a": 1})] * 2)
    with pytest.raises(InvalidGolden, match="nothing is relevant to question 'q'"):
        golden_set("lost", [Question("q", "?", {"a": 0})])


@pytest.fixture
def trec(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "robust.qrels").write_text("301 0 FBIS-1 1\n301 0 FBIS-2 -1\n302\t0\tFBIS-3\t0\n303 0 FBIS-3 2\n")
    (tmp_path / "topics.tsv").write_text("303\tships\n301\tcrime\n302\tpolio\n304\tnever judged\n")
    return tmp_path / "robust.qrels", tmp_path / "topics.tsv"


def test_trec_judgements_with_their_queries(trec: tuple[Path, Path]) -> None:
    qrels, topics = trec
    golden = read_golden(qrels, queries=topics)
    assert golden.name == "robust"
    assert golden.questions == (
        Question("303", "ships", {"FBIS-3": 2}),
        Question("301", "crime", {"FBIS-1": 1, "FBIS-2": -1}),
    )


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (0, "301 0 FBIS-9", "line 5: 'query iteration document grade' are needed, these are 3 fields"),
        (0, "301 0 FBIS-9 x", "line 5: the grade must be a whole number, not 'x'"),
        (0, "301 0 FBIS-1 2", "line 5: judged before, with another grade"),
        (0, "305 0 FBIS-1 2", "query '305' is judged in"),
        (1, "no tab", "line 5: an id, a tab and a text are needed"),
        (1, "301\tother", "line 5: a second query with the id '301'"),
    ],
)
def test_malformed_trec_files(trec: tuple[Path, Path], file: int, line: str, message: str) -> None:
    with trec[file].open("a") as out:
        out.write(line)
    with pytest.raises(InvalidGolden) as caught:
        read_trec(*trec)
    assert message in str(caught.value)


DATASET: dict[str, Any] = {
    "queries": {"q1": "What is a moraine?", "q2": "Who plays?"},
    "corpus": {"n1": "A moraine is debris.", "n2": "She plays."},
    "relevant_docs": {"q1": ["n1"], "q2": ["n2", "n1"]},
    "mode": "text",
}


def test_a_dataset_of_llama_index(tmp_path: Path) -> None:
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(DATASET, indent=4))
    assert read_golden(path).questions == (
        Question("q1", "What is a moraine?", {"n1": 1}),
        Question("q2", "Who plays?", {"n2": 1, "n1": 1}),
    )
    assert [(document.id, document.text) for document in llama_index_corpus(path)] == list(DATASET["corpus"].items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": {"q1": "x", "q2": ""}}, "line 4: query 'q2' has no text"),
        ({"relevant_docs": {"q1": ["n1"]}}, "line 4: query 'q2' has no list of nodes"),
        ({"relevant_docs": {"q1": ["n1"], "q2": ["n3"]}}, "line 4: query 'q2': the relevant node 'n3' is not under"),
        ({"corpus": None}, "line 1: an EmbeddingQAFinetuneDataset has an object under 'corpus'"),
    ],
)
def test_malformed_datasets_of_llama_index(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "qa.json"
    path.write_text(json.dumps({**DATASET, **change}, indent=4))
    with pytest.raises(InvalidGolden) as caught:
        read_llama_index(path)
    assert f"{path}, {message}" in str(caught.value)
    path.write_text(json.dumps(DATASET, indent=4)[:-20])
    with pytest.raises(InvalidGolden, match=r"line 1\d: not JSON: "):
        read_llama_index(path)
    path.write_text("[]")
    with pytest.raises(InvalidGolden, match="an object under 'queries'"):
        read_llama_index(path)


def test_a_beir_folder(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    jsonl(tmp_path / "corpus.jsonl", {"_id": "d1", "title": "Ice", "text": "It melts."}, {"_id": 2, "text": "Snow."})
    jsonl(
        tmp_path / "queries.jsonl",
        {"_id": "q1", "text": "What melts?", "metadata": {"answers": ["ice", "Ice."]}},
        {"_id": "q2", "text": "What falls?", "metadata": {"answer": "snow"}},
        {"_id": "q3", "text": "not of this split"},
    )
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\t2\t1\nq1\td1\t2\nq3\td1\t0\n")
    golden = read_golden(tmp_path, split="dev")
    assert golden == read_beir(tmp_path, "dev")
    assert golden.name == tmp_path.name
    assert golden.questions == (
        Question("q1", "What melts?", {"d1": 2}, (), "ice", ("Ice.",)),
        Question("q2", "What falls?", {"2": 1}, (), "snow"),
    )
    assert [document.text for document in read_corpus(tmp_path)] == ["Ice It melts.", "Snow."]
    asked = [("q1", "What melts?"), ("q2", "What falls?"), ("q3", "not of this split")]
    assert list(read_queries(tmp_path / "queries.jsonl")) == asked
