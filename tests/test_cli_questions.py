"""The commands around a question: ``search`` with its settings, ``why-not``, ``tune``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from handbook import write

from tarragon import Document, Index, IndexRecipe
from tarragon.cli import main
from tarragon.cli.questions import read_queries
from tarragon.errors import InvalidInput
from tarragon.protocols import Embeddings
from tarragon.testing import WordEncoder
from tarragon.tuning import Judged, Measured, Tuning


class Meanings(WordEncoder):
    """Knows that ``ask7`` means ``topic7``: words alone lead to another document."""

    def _encode(self, texts: Sequence[str]) -> Embeddings:
        return super()._encode([text.split("ask")[-1].split("topic")[-1].split()[0] for text in texts])


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: WordEncoder())


@pytest.fixture
def index(handbook: Path, tmp_path: Path) -> Path:
    path = tmp_path / "i"
    assert main(["sync", str(path), str(handbook), "--json"]) == 0
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out + err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([str(argument) for argument in (*arguments, "--json")])
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return code, json.loads(out)


# --- search -----------------------------------------------------------------------------------------------------------
def test_explained_hits_have_places_and_a_receipt(capsys: pytest.CaptureFixture[str], index: Path) -> None:
    code, found = run_json(capsys, "search", index, "rotate the signing key", "-k", 2, "--explain")
    assert code == 0
    assert [one["chunk_id"] for one in found["explanations"]] == [hit["chunk_id"] for hit in found["hits"]]
    assert found["explanations"][0]["places"]["fused"]["rank"] == 1
    assert set(found["explanations"][0]["places"]) >= {"dense", "lexical", "fused"}
    assert [stage["name"] for stage in found["receipt"]["stages"]][:3] == ["embed", "legs", "fuse"]
    assert "explanations" not in run_json(capsys, "search", index, "key")[1]
    code, out = run(capsys, "search", index, "rotate the signing key", "-k", 1, "--explain")
    assert "ranks (scores): " in out
    assert "fused 1 (" in out
    assert out.splitlines()[-1].split()[0:2] == ["in", "all"]
    assert "ms" in out


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        (["--fusion", "rrf"], "score"),
        (["--min-score", 1000], "count"),
        (["--per-document", 1], "count"),
        (["--diversity", 0.9], "order"),
        (["--filter", '{"nothing": 1}'], "count"),
        (["--mode", "lexical"], "score"),
    ],
)
def test_every_setting_changes_the_answer(
    capsys: pytest.CaptureFixture[str], index: Path, settings: list[Any], differs: str
) -> None:
    query = "rotate the signing key restore backup"
    plain = run_json(capsys, "search", index, query, "-k", 6)[1]["hits"]
    other = run_json(capsys, "search", index, query, "-k", 6, *settings)[1]["hits"]
    if differs == "count":
        assert len(other) < len(plain)
    elif differs == "order":
        assert [hit["chunk_id"] for hit in other] != [hit["chunk_id"] for hit in plain]
    else:
        assert [hit["score"] for hit in other] != [hit["score"] for hit in plain]


def test_depth_is_how_many_candidates_a_leg_gives(capsys: pytest.CaptureFixture[str], index: Path) -> None:
    deep, shallow = (
        run_json(capsys, "search", index, "rotate", "-k", 1, "--mode", "dense", *settings)[1]["receipt"]["legs"]
        for settings in ([], ["--depth", 2])
    )
    assert (deep, shallow) == ({"dense": 6}, {"dense": 2})


def test_settings_out_of_range_and_what_the_index_has_not(capsys: pytest.CaptureFixture[str], index: Path) -> None:
    for settings, message in (
        (["--depth", 0], "depth=0 must be"),
        (["--diversity", 2], "diversity=2.0 must be"),
        (["--words", "sparse"], "sparse model"),
        (["--mode", "sparse"], "sparse model"),
        (["--min-score", 4, "--fusion", "rrf"], "needs fusion='calibrated'"),
        (["--filter", "{"], "--filter is not JSON"),
        (["--filter", "[1]"], "filter"),
        (["-k", -1], "k=-1 must"),
        (["--rerank-depth", 5], "--rerank-depth is given 1 times and --rerank 0 times"),
        (["--rerank", "nonsense:x"], "names no reranker"),
        (["--bridge", "rescore", "--model", "x", "--depth", 5], "with --bridge only -k and --filter"),
        (["--bridge", "rescore", "--model", "x", "--explain"], "with --bridge only -k and --filter"),
        (["--bridge", "rescore"], "--bridge and --model go together"),
    ):
        code, out = run(capsys, "search", index, "rotate", *settings)
        assert (code, message in out) == (1, True), (settings, out)
    with pytest.raises(SystemExit):
        run(capsys, "search", index, "rotate", "--fusion", "magic")


def test_a_cascade_of_rerankers_reads_the_best_again(
    capsys: pytest.CaptureFixture[str], index: Path, tmp_path: Path
) -> None:
    from tests.rerankers.tiny_rerankers import make_bert

    model = make_bert(tmp_path / "model")
    plain = run_json(capsys, "search", index, "rotate the key", "-k", 6)[1]
    settings = ["--rerank", model, "--rerank-depth", 4, "--rerank", model, "--rerank-depth", 2]
    found = run_json(capsys, "search", index, "rotate the key", "-k", 6, "--explain", *settings)[1]
    stages = [stage for stage in found["receipt"]["stages"] if stage["name"].startswith("rerank")]
    assert [stage["candidates"] for stage in stages] == [4, 2]
    before, after = ([hit["chunk_id"] for hit in one["hits"]] for one in (plain, found))
    assert set(after[:4]) == set(before[:4])
    assert after[4:] == before[4:]
    code, out = run(capsys, "search", index, "rotate the key", "--rerank", model, "--explain")
    assert (code, "rerank" in out) == (0, True)
    late = run_json(capsys, "search", index, "rotate", "--rerank", model, "--rerank-budget-ms", 0)[1]
    assert [hit["chunk_id"] for hit in late["hits"]] == [
        hit["chunk_id"] for hit in run_json(capsys, "search", index, "rotate")[1]["hits"]
    ]


# --- why-not ----------------------------------------------------------------------------------------------------------
def test_why_not_names_the_stage(capsys: pytest.CaptureFixture[str], index: Path) -> None:
    code, found = run_json(capsys, "why-not", index, "rotate the signing key", "keys.md")
    assert (code, found["stage"]) == (0, "found")
    assert run_json(capsys, "why-not", index, "rotate", "nowhere.md")[1]["stage"] == "index"
    found = run_json(capsys, "why-not", index, "rotate the signing key", "backup.md", "-k", 1)[1]
    assert (found["stage"], found["document_id"]) == ("fused", "backup.md")
    assert found["score"] < found["needed"]
    assert run_json(capsys, "why-not", index, "rotate", "backup.md", "--mode", "lexical")[1]["stage"] == "legs"
    assert run_json(capsys, "why-not", index, "x", "keys.md", "--filter", '{"a": 1}')[1]["stage"] == "filter"
    assert run_json(capsys, "why-not", index, "rotate", "keys.md", "--min-score", 1000)[1]["stage"] == "min_score"
    code, out = run(capsys, "why-not", index, "rotate", "nowhere.md")
    assert (code, out.count("\n"), "nowhere.md" in out) == (0, 1, True)
    assert run(capsys, "why-not", index, "rotate", "keys.md", "--depth", 0)[0] == 1


# --- tune -------------------------------------------------------------------------------------------------------------
def names(kind: type) -> set[str]:
    return set(kind.__dataclass_fields__)  # type: ignore[attr-defined]


@pytest.fixture
def misleading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An index, and labelled questions whose words lead elsewhere."""
    monkeypatch.setattr("tarragon.session.load_encoder", lambda recipe, device: Meanings())
    path, questions = tmp_path / "m", tmp_path / "questions.jsonl"
    recipe = IndexRecipe(chunking="whole", language="neutral")
    with Index.open(path, recipe=recipe) as index:
        index.sync([Document(f"d{n}", f"topic{n} common answer") for n in range(40)])
    lines = [{"query": f"topic{(n + 1) % 40} common ask{n}", "relevant": [f"d{n}"]} for n in range(40)]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, questions


def test_tune_shows_what_it_measured_and_searches_follow(
    capsys: pytest.CaptureFixture[str], misleading: tuple[Path, Path]
) -> None:
    path, questions = misleading
    code, found = run_json(capsys, "tune", path, "--queries", questions, "--target-recall", 0.9, "--no-first-pass")
    assert code == 0
    assert set(found) == names(Tuning)
    assert [set(way) for way in found["ways"]] == [names(Measured)]
    assert {name for one in found["recipes"] for name in one} == names(Judged)
    assert (found["target_recall"], found["queries"], found["held_back"]) == (0.9, 40, False)
    assert found["search"]
    code, out = run(capsys, "tune", path, "--queries", questions)
    assert "40 chunks, 40 queries, target recall 0.99" in out
    assert "→ recall@10 1.0000" in out
    assert out.count("→") == 2
    assert out.splitlines()[-1] == found["sentence"].replace("none is wanted", "there are fewer than 1,000 chunks")
    assert first(capsys, path) == "d3"
    code, out = run(capsys, "tune", path)
    assert "passages held back" in out


def first(capsys: pytest.CaptureFixture[str], path: Path, *settings: object, command: str = "search") -> str:
    found = run_json(capsys, command, path, "topic4 common ask3", "-k", 1, *settings)[1]
    return str(found["hits"][0]["document_id"])


def test_what_is_typed_changes_only_that_of_what_was_tuned(
    capsys: pytest.CaptureFixture[str], misleading: tuple[Path, Path]
) -> None:
    path, questions = misleading
    assert first(capsys, path) == "d4", "words mislead before it is tuned"
    tuned = run_json(capsys, "tune", path, "--queries", questions)[1]["search"]
    assert tuned
    assert first(capsys, path) == "d3"
    assert first(capsys, path, "--depth", 50) == "d3"
    assert first(capsys, path, "--per-document", 1) == "d3"
    assert first(capsys, path, "--mode", "lexical") == "d4"
    stage = run_json(capsys, "why-not", path, "topic4 common ask3", "d3", "-k", 1, "--depth", 50)[1]["stage"]
    assert stage == "found"
    assert run_json(capsys, "why-not", path, "topic4 common ask3", "d3", "-k", 1, "--mode", "lexical")[1]["stage"] in (
        "legs",
        "fused",
    )


def test_queries_are_read_line_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", '{"query": "a"}\n{"query": "b", "relevant": ["d1", "d2"]}\n')
    assert read_queries(str(path)) == ["a", ("b", ["d1", "d2"])]
    assert read_queries(None) == ()


@pytest.mark.parametrize(
    "line",
    [
        "what",
        "[1]",
        '"text"',
        "3",
        "{}",
        '{"query": 3}',
        '{"query": "a", "relevant": "d1"}',
        '{"query": "a", "relevant": [1]}',
        '{"relevant": []}',
    ],
)
def test_a_line_that_is_no_query_is_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "q.jsonl", '{"query": "a"}\n' + line + "\n")
    with pytest.raises(InvalidInput, match=r"q\.jsonl, line 2: .*a line is"):
        read_queries(str(path))


def test_tune_says_what_is_wrong(capsys: pytest.CaptureFixture[str], index: Path, tmp_path: Path) -> None:
    assert "6 chunks are too few" in run(capsys, "tune", index)[1]
    assert "must be above 0" in run(capsys, "tune", index, "--target-recall", 0)[1]
    code, out = run(capsys, "tune", index, "--queries", tmp_path / "nowhere.jsonl")
    assert (code, "nowhere.jsonl" in out) == (1, True)
    assert run(capsys, "tune", tmp_path / "none")[0] == 1
