"""Questions made for a corpus: each with the span that it is from, and none that nothing finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import Refusal, chatting

from tarragon import Document, Index
from tarragon.errors import InvalidInput, ModelUnavailable
from tarragon.evaluation.chat import ChatModel
from tarragon.evaluation.drafting import LEAST, Draft, extracted, sample_passages
from tarragon.evaluation.golden import read_jsonl, write_jsonl
from tarragon.evaluation.synthetic import _kept, answerable, synthesise
from tarragon.evaluation.types import Question, Span
from tarragon.testing import WordEncoder

PARTS = ["signing", "billing", "cache", "queue", "router", "backup", "gateway", "parser"]


def text(part: str) -> str:
    return (
        f"# The {part} service\n\nThe {part} service runs on port {1000 + PARTS.index(part)} and writes a journal.\n\n"
        f"Restart the {part} worker with {part}ctl restart after every change of its settings. "
        "The operator on duty must confirm it within ten minutes, and the dashboard shows the state.\n"
    )


@pytest.fixture
def index(tmp_path: Path, words: WordEncoder) -> Iterator[Index]:
    with Index.open(tmp_path / "parts.tarragon", encoder=words) as opened:
        opened.sync([Document(f"{part}.md", text(part)) for part in PARTS])
        yield opened


def test_passages_are_chunks_spread_over_documents_and_the_same_each_time(index: Index) -> None:
    index.sync([Document("long.md", "\n\n".join(f"# Part {i}\n\n" + "word " * 200 for i in range(30)))], prune=False)
    chosen = sample_passages(index, 9)
    assert chosen == sample_passages(index, 9)
    assert chosen != sample_passages(index, 9, seed=1)
    assert len({passage.document_id for passage in chosen}) == 9, "every document before any has a second turn"
    for passage in chosen:
        assert len(passage.text) >= LEAST
        if passage.document_id != "long.md":
            whole = text(passage.document_id.removesuffix(".md"))
            assert whole[passage.start : passage.end] == passage.text
    assert sample_passages(index, 1000)[:9] == chosen


def test_questions_without_a_model(index: Index, tmp_path: Path) -> None:
    made = synthesise(index, 8)
    assert made == synthesise(index, 8)
    assert len(made.golden.questions) + len(made.dropped) == 8
    assert len(made.golden.questions) >= 6
    for question in made.golden.questions:
        [span] = question.spans
        whole = text(span.document_id.removesuffix(".md"))
        assert whole[span.start : span.end] == question.answer
        assert set(question.text.split()) <= set(whole.lower().replace(".", " ").replace(",", " ").split())
        assert dict(question.relevant) == {span.document_id: 1}
    write_jsonl(made.golden, tmp_path / "g.jsonl")
    assert read_jsonl(tmp_path / "g.jsonl").digest == made.golden.digest


def test_questions_are_of_a_few_rare_words_not_all_of_them_unique(index: Index) -> None:
    drafts = extracted(sample_passages(index, 8))
    for draft in drafts:
        words = draft.text.split()
        assert 3 <= len(words) <= 6
        part = draft.passage.document_id.removesuffix(".md")
        assert 1 <= sum(part in word for word in words) <= 2
    assert extracted([]) == []


def by_prompt(prompt: str) -> str:
    part = prompt.split("Document: ")[1].split(".md")[0]
    if part == "cache":
        return json.dumps({"question": "", "answer": "", "quote": ""})
    quote = "something else" if part == "queue" else f"RESTART the {part}\nworker"
    said = "What is where?" if part in ("router", "backup") else f"How is {part} begun anew?"
    return "I cannot" if part == "parser" else json.dumps({"question": said, "answer": f"{part}ctl", "quote": quote})


def test_questions_of_a_model_keep_what_can_be_traced_and_found(index: Index, tmp_path: Path) -> None:
    with chatting(by_prompt) as (server, url):
        made = synthesise(index, 8, ChatModel("m", url), file=tmp_path / "q.jsonl")
        assert sorted(one.reason for one in made.dropped) == [
            "its source is not quoted",
            "no question",
            "no question",
            "the same as another",
        ]
        questions = {question.spans[0].document_id: question for question in made.golden.questions}
        assert questions["signing.md"].answer == "signingctl"
        span = questions["signing.md"].spans[0]
        assert text("signing")[span.start : span.end] == "Restart the signing worker"
        asked = len(server.bodies)
        assert synthesise(index, 8, ChatModel("m", url), file=tmp_path / "q.jsonl") == made
        assert len(server.bodies) == asked + 2, "only what could not be read is asked for again, twice as before"


def test_an_interrupted_run_keeps_what_was_said(index: Index, tmp_path: Path) -> None:
    def failing(prompt: str) -> str:
        if "gateway" in prompt:
            raise Refusal(400, "quota")
        return by_prompt(prompt)

    with chatting(failing) as (_, url), pytest.raises(ModelUnavailable, match="quota"):
        synthesise(index, 8, ChatModel("m", url), file=tmp_path / "q.jsonl", workers=1)
    assert (tmp_path / "q.jsonl").exists()


def test_a_question_that_no_leg_answers_is_removed(index: Index) -> None:
    passage = next(one for one in sample_passages(index, 8) if one.document_id == "signing.md")
    good, bad = Draft(passage, "restart signing", "x", (0, 9)), Draft(passage, "billing billing billing", "x", (0, 9))
    made = _kept(index, [good, bad], depth=1)
    assert [question.text for question in made.golden.questions] == ["restart signing"]
    assert [(one.text, one.reason) for one in made.dropped] == [("billing billing billing", "no leg finds it")]
    with pytest.raises(InvalidInput, match=r"no leg finds it \(1\)"):
        _kept(index, [bad], depth=1)


def test_another_chunk_of_the_right_document_is_no_answer(index: Index) -> None:
    beyond = Question("a", "restart signing", spans=(Span("signing.md", 5000, 5010),))
    inside = Question("b", "restart signing", spans=(Span("signing.md", 0, 500),))
    assert answerable(index, [beyond, inside]) == {"b"}


def test_nothing_to_ask_about_is_an_error(tmp_path: Path, words: WordEncoder) -> None:
    with Index.open(tmp_path / "empty.tarragon", encoder=words) as empty:
        empty.sync([Document("a", "short")])
        with pytest.raises(InvalidInput, match="no passage"):
            synthesise(empty, 5)
        with pytest.raises(InvalidInput, match="at least 1"):
            synthesise(empty, 0)
