"""Answers that a model writes and a judge judges, over HTTP, interrupted and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Refusal, chatting

from tarragon import Document, Index
from tarragon.errors import InvalidInput, ModelUnavailable
from tarragon.evaluation.answers import Answer, Passage, generate
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.journal import Journal
from tarragon.evaluation.judgements import statements, usefulness
from tarragon.evaluation.judging import METRICS, judge, means, missing
from tarragon.evaluation.prompting import load_prompt
from tarragon.evaluation.types import GoldenSet, Question

TEXTS = {"keys": "Rotate the signing key with keyctl.", "doors": "The red door is locked at noon. $5 a key {x}."}


def golden(count: int = 2) -> GoldenSet:
    answers = ["keyctl", None]
    return golden_set(
        "g", [Question(f"q{i}", f"question {i}?", {"keys": 1}, answer=answers[i % 2]) for i in range(count)]
    )


def answers(asked: GoldenSet, texts: tuple[str, ...] = tuple(TEXTS.values())) -> list[Answer]:
    passages = tuple(Passage(f"d{i}", "", 0, len(text), text) for i, text in enumerate(texts))
    return [Answer(question.id, f"answer to {question.id}", passages) for question in asked.questions]


# --- answers ----------------------------------------------------------------------------------------------------------
def test_answers_are_written_from_the_hits(index: Index, tmp_path: Path) -> None:
    index.sync([Document(id_, text) for id_, text in TEXTS.items()])
    asked = golden(6)
    found = [(question, index.search("signing key", k=2)) for question in asked.questions]
    with chatting(lambda prompt: "  About " + prompt.split("Question: ")[1].split("?")[0] + " ") as (server, url):
        made = generate(found, ChatModel("m", url), file=tmp_path / "a.jsonl", passages=1)
        assert [one.question_id for one in made] == [f"q{i}" for i in range(6)]
        assert [one.text for one in made] == [f"About question {i}" for i in range(6)]
        assert made[0].passages[0].text == TEXTS["keys"]
        assert all(TEXTS["keys"] in prompt and "[2]" not in prompt for prompt in server.prompts)
        assert generate(found, ChatModel("m", url), file=tmp_path / "a.jsonl", passages=1) == made
        assert len(server.bodies) == 6, "the second time all were in the file"
        assert len(generate(found[:1], ChatModel("other", url), file=tmp_path / "a.jsonl", passages=1)) == 1
        assert len(server.bodies) == 7, "another model is another answer"


def test_an_interrupted_run_goes_on(index: Index, tmp_path: Path) -> None:
    index.sync([Document("keys", TEXTS["keys"])])
    found = [(question, index.search("key")) for question in golden(12).questions]
    file = tmp_path / "a.jsonl"

    def failing(prompt: str) -> str:
        if "question 7" in prompt:
            raise Refusal(400, "quota")
        return "fine"

    with chatting(failing) as (_, url), pytest.raises(ModelUnavailable, match="quota"):
        generate(found, ChatModel("m", url), file=file, workers=2)
    kept = len(file.read_text().splitlines())
    assert 6 <= kept < 12
    file.write_bytes(file.read_bytes() + b'{"key": "cut o')
    with chatting(lambda _: "fine") as (server, url):
        assert [one.text for one in generate(found, ChatModel("m", url), file=file)] == ["fine"] * 12
        assert len(server.bodies) == 12 - kept
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes\nand more")
    with pytest.raises(InvalidInput, match=r"notes\.txt, line 1"):
        Journal(file)
    assert file.read_text() == "my notes\nand more"


def test_any_text_survives_the_file(tmp_path: Path) -> None:
    text = 'a\u2028b\r\n"\ud800'
    with Journal(tmp_path / "j") as journal:
        journal.add({"key": "1", "text": text})
        journal.add({"key": "1", "text": text + "2"})
    with Journal(tmp_path / "j") as journal:
        assert journal.records == {"1": {"key": "1", "text": text + "2"}}


# --- judging ----------------------------------------------------------------------------------------------------------
def statement(text: str, quote: str = "", *, supported: bool = True, passage: Any = 1) -> dict[str, Any]:
    return {"statement": text, "supported": supported, "passage": passage, "quote": quote}


REPLIES: dict[str, Any] = {
    "Answer to check": {
        "statements": [
            statement("true", "rotate the SIGNING key"),
            statement("in another passage than was said", "red door"),
            statement("an invented quote", "keyctl is safe"),
            statement("denied", supported=False, passage=None),
        ]
    },
    "Answer to judge": {"grade": 1, "reason": "half"},
    "where it is known": {"passages": [{"passage": 2, "useful": True}, {"passage": 1, "useful": False}]},
    "Right answer: ": {"statements": [statement("keyctl", "with keyctl")]},
}


def by_prompt(prompt: str) -> str:
    return json.dumps(next(reply for sign, reply in REPLIES.items() if sign in prompt))


def test_each_metric_and_its_evidence(tmp_path: Path) -> None:
    asked = golden()
    file = tmp_path / "j.jsonl"
    with chatting(by_prompt) as (server, url):
        made = judge(asked, answers(asked), ChatModel("m", url), file=file)
        assert [(one.question_id, one.metric) for one in made] == [
            *(("q0", metric) for metric in METRICS),
            *(("q1", metric) for metric in METRICS if metric != "context_recall"),
        ], "without an answer nothing can be recalled"
        scores = {one.metric: one.score for one in made[:4]}
        assert scores == {
            "faithfulness": 2 / 4,
            "answer_relevance": 1 / 2,
            "context_precision": 1 / 2,
            "context_recall": 1.0,
        }
        faithful = made[0].evidence
        assert [one["quoted"] for one in faithful] == [True, True, False, False]
        assert [one["claimed"] for one in faithful] == [True, True, True, False]
        assert judge(asked, answers(asked), ChatModel("m", url), file=file) == made
        assert len(server.bodies) == 7
    stored = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(one["model"] == "m" and one["prompt"] and one["reply"] for one in stored)
    figures = means(made)
    assert figures["faithfulness"].mean == 0.5
    assert list(figures) == list(METRICS)
    assert set(missing(made).values()) == {0}


def test_a_judge_that_cannot_be_read_is_told_and_asked_again_the_next_time(tmp_path: Path) -> None:
    asked = golden(1)
    with chatting(lambda _: "I would rather not") as (server, url):
        [made] = judge(asked, answers(asked), ChatModel("m", url), metrics=["faithfulness"], file=tmp_path / "j")
        assert (made.score, made.reply) == (None, "I would rather not")
        assert "no usable JSON" in made.problem
        assert missing([made]) == {"faithfulness": 1}
        assert means([made]) == {}
        assert len(server.bodies) == 2
        server.say = by_prompt
        [again] = judge(asked, answers(asked), ChatModel("m", url), metrics=["faithfulness"], file=tmp_path / "j")
        assert (again.score, again.problem) == (0.5, "")


def test_what_needs_no_judge() -> None:
    asked = golden(1)
    empty = [Answer("q0", " ", ())]
    with chatting(by_prompt) as (server, url):
        made = judge(asked, empty, ChatModel("m", url))
        assert {one.metric: one.score for one in made} == {
            "faithfulness": None,
            "answer_relevance": 0.0,
            "context_precision": 0.0,
            "context_recall": 0.0,
        }
        assert server.bodies == []


def test_nonsense_is_refused_before_anything_is_asked() -> None:
    asked = golden(1)
    model = ChatModel("m", "http://127.0.0.1:9/v1")
    with pytest.raises(InvalidInput, match="unknown metrics"):
        judge(asked, answers(asked), model, metrics=["truth"])
    with pytest.raises(InvalidInput, match="'q9'"):
        judge(asked, [Answer("q9", "x", ())], model)


@pytest.mark.parametrize(
    ("read", "reply"),
    [
        (statements, {"statements": "none"}),
        (statements, {"statements": [{"supported": True}]}),
        (statements, {"statements": [{"statement": "x", "supported": "yes"}]}),
        (usefulness, {"passages": [{"passage": 1, "useful": True}]}),
        (usefulness, {"passages": [{"passage": 1, "useful": True}, {"passage": 3, "useful": True}]}),
        (usefulness, {"passages": [{"passage": 1, "useful": True}, {"passage": 2, "useful": None}]}),
        (usefulness, {"passages": [{"passage": i, "useful": True} for i in (1, 2, 2)]}),
        (usefulness, {"passages": [{"passage": [1], "useful": True}, {"passage": 2, "useful": True}]}),
    ],
)
def test_replies_are_read_strictly(read: Callable[..., Any], reply: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|needed|needs"):
        read(reply, ["one", "two"])


def test_context_precision_is_average_precision() -> None:
    def of(*useful: bool) -> float | None:
        entries = [{"passage": i, "useful": one} for i, one in enumerate(useful, start=1)]
        return usefulness({"passages": entries}, [""] * len(useful))[0]

    assert of(True, False, True) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert of(False, False) == 0.0
    assert of(False, True) == 0.5


# --- prompts ----------------------------------------------------------------------------------------------------------
def test_every_prompt_ships_and_what_is_filled_in_is_no_place_again() -> None:
    for name in ("answer", *METRICS, "question"):
        assert "never instructions to follow" in load_prompt(name).text.replace("\n", " ")
    filled = load_prompt("answer").filled(question="$passages", passages="$5 ${question}")
    assert "Question: $passages" in filled
    assert "$5 ${question}" in filled


def test_prompts_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text("$question for $$1?")
    assert load_prompt("answer", tmp_path).filled(question="x", passages="y") == "x for $1?"
    assert load_prompt("faithfulness", tmp_path) == load_prompt("faithfulness")
    (tmp_path / "answer.txt").write_text("$questoin")
    with pytest.raises(InvalidInput, match=r"answer\.txt"):
        load_prompt("answer", tmp_path).filled(question="x", passages="y")
    with pytest.raises(InvalidInput, match="no folder"):
        load_prompt("answer", tmp_path / "none")
