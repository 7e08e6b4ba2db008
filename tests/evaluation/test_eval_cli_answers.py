"""``tarragon questions`` and ``tarragon answers``, with and without a language model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_server import chatting
from handbook import HANDBOOK

from tarragon.cli import main
from tarragon.evaluation.golden import read_golden
from tarragon.testing import WordEncoder


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())


@pytest.fixture
def index(tmp_path: Path, handbook: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["sync", str(tmp_path / "i.tarragon"), str(handbook)]) == 0
    capsys.readouterr()
    return str(tmp_path / "i.tarragon")


@pytest.fixture
def golden(tmp_path: Path) -> str:
    lines = [
        {"query": "rotate the signing key", "relevant": ["keys.md"], "answer": "keyctl rotate"},
        {"query": "restore from cold storage", "relevant": ["backup.md"], "answer": "nobody knows"},
    ]
    path = tmp_path / "golden.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


def test_questions_without_a_model(index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made.jsonl"
    assert main(["questions", index, "--out", str(out), "-n", "3"]) == 0
    made = read_golden(out)
    assert f"{len(made.questions)} questions in {out}" in capsys.readouterr().out.replace("\n", "")
    for question in made.questions:
        [span] = question.spans
        assert HANDBOOK[span.document_id][span.start : span.end] == question.answer
    assert main(["eval", index, "--golden", str(out)]) == 0
    capsys.readouterr()
    assert main(["questions", index, "--out", str(out), "-n", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == made.digest


def test_questions_of_a_model(index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made.jsonl"
    said = {"question": "When is it copied?", "answer": "every night", "quote": "copied every\nnight"}
    other = said | {"quote": "zebra"}
    with chatting(lambda prompt: json.dumps(said if "database" in prompt else other)) as (server, url):
        asked = ["questions", index, "--out", str(out), "-n", "9", "--llm", f"small@{url}", "--json"]
        assert main(asked) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["questions"] == 1
        assert set(told["dropped"]) == {"its source is not quoted"}
        calls = len(server.bodies)
        assert main(asked) == 0
        assert len(server.bodies) == calls, "the log beside it was read"


def test_answers_by_words_alone(index: str, golden: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["answers", index, "--golden", golden, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["scores"]) == {"found"}
    assert told["scores"]["found"]["mean"] == 0.5
    assert main(["answers", index, "--golden", golden]) == 0
    assert "found" in capsys.readouterr().out


def test_answers_of_a_model_and_its_judge(
    index: str, golden: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(prompt: str) -> str:
        if "Answer to judge" in prompt:
            return '{"grade": 2, "reason": "yes"}'
        return "keyctl rotate" if "from the numbered passages alone" in prompt else "unreadable"

    with chatting(say) as (_, url):
        asked = ["answers", index, "--golden", golden, "--into", str(tmp_path / "judged")]
        assert main([*asked, "--llm", f"writer@{url}", "--judge", f"judge@{url}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["scores"]["exact"]["mean"] == 0.5
    assert told["scores"]["answer_relevance"]["mean"] == 1.0
    assert told["not judged"] == {"faithfulness": 2, "context_precision": 2, "context_recall": 2}
    lines = (tmp_path / "judged" / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["text"] for line in lines} == {"keyctl rotate"}
    assert len((tmp_path / "judged" / "judgements.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize("typed", ["gpt", "@http://x/v1", "gpt@localhost"])
def test_what_names_no_model(index: str, golden: str, typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["answers", index, "--golden", golden, "--llm", typed]) == 1
    assert "names no model" in capsys.readouterr().err
