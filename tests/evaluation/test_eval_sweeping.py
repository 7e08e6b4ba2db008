"""Sweeps: each result is measured once, is what a search gives, and is measured again when something changed."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest

from tarragon import Index, SearchRecipe
from tarragon.errors import InvalidInput
from tarragon.evaluation import sweeping
from tarragon.evaluation.golden import read_golden
from tarragon.evaluation.grid import Dataset, Grid, grid_of
from tarragon.evaluation.metrics import score
from tarragon.evaluation.running import run
from tarragon.evaluation.runs import read_run
from tarragon.evaluation.sweeping import Cell, sweep
from tarragon.testing import WordEncoder


def write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A BEIR folder, and documents with a golden set of our own."""
    texts = {f"d{i}": " ".join(f"w{(i * k) % 17}" for k in range(1, 6)) for i in range(30)}
    beir = tmp_path / "beir"
    write_lines(beir / "corpus.jsonl", [{"_id": id_, "title": "", "text": text} for id_, text in texts.items()])
    write_lines(beir / "queries.jsonl", [{"_id": f"q{i}", "text": f"w{i} w{(i * 3) % 17}"} for i in range(8)])
    (beir / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(8))]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    write_lines(tmp_path / "mine.jsonl", [{"query": "w1 w2", "relevant": ["1.md"]}])
    for i in range(4):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{i}.md").write_text(f"# Page {i}\n\nw{i} w{i + 1} and so on\n")
    return tmp_path


def grid(data: Path, **search: object) -> Grid:
    values = {
        "datasets": [{"path": "beir"}, {"golden": "mine.jsonl", "source": "docs", "name": "mine"}],
        "search": {"fusion": ["calibrated", "rrf"], **search},
        "metrics": ["nDCG@10", "R@5"],
    }
    return grid_of(values, data)


class Counting(WordEncoder):
    """Counts the questions that it embeds."""

    asked = 0

    def encode_queries(self, texts, prompt=None):  # type: ignore[no-untyped-def]
        self.asked += len(texts)
        return super().encode_queries(texts, prompt)


def test_every_configuration_on_every_data_set(data: Path) -> None:
    cells = sweep(grid(data), data / "out", encoder=WordEncoder())
    assert [(cell.dataset, cell.configuration) for cell in cells] == [
        ("beir", "fusion=calibrated"), ("beir", "fusion=rrf"), ("mine", "fusion=calibrated"), ("mine", "fusion=rrf"),
    ]  # fmt: skip
    assert len(list((data / "out" / "indexes").iterdir())) == 2, "one a data set: fusion is not baked in"


def test_a_cell_is_what_a_run_is_worth(data: Path) -> None:
    cells = sweep(grid(data), data / "out", encoder=WordEncoder())
    golden = read_golden(data / "beir")
    (folder,) = (data / "out" / "indexes").glob("beir-*")
    with Index.open(folder, encoder=WordEncoder()) as index:
        found = run(index, golden, recipe=SearchRecipe(fusion="rrf"), name="fusion=rrf")
    assert cells[1].scores == score(found, golden, ["nDCG@10", "R@5"])
    assert cells[1].settings == found.configuration
    kept = read_run(data / "out" / "runs" / f"beir-{cells[1].digest[:16]}.json")
    assert kept.rankings == {id_: places[:10] for id_, places in found.rankings.items()}


def test_what_is_there_is_not_measured_again(data: Path) -> None:
    encoder = Counting()
    first = sweep(grid(data), data / "out", encoder=encoder)
    asked = encoder.asked
    again = sweep(grid(data), data / "out", encoder=encoder)
    assert encoder.asked == asked
    assert not any(cell.was_there for cell in first)
    assert all(cell.was_there for cell in again)
    assert [cell.scores for cell in again] == [cell.scores for cell in first]


def test_an_interrupted_sweep_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = sweeping.run, [2]

    def stopping(*args: object, **options: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid(data), data / "out", encoder=WordEncoder())
    left[0] = 2
    cells = sweep(grid(data), data / "out", encoder=WordEncoder())
    assert [cell.was_there for cell in cells] == [True, True, False, False]


def test_a_half_written_result_is_measured_again(data: Path) -> None:
    first = sweep(grid(data), data / "out", encoder=WordEncoder())
    path = data / "out" / "results" / f"beir-{first[0].digest[:16]}.json"
    path.write_text(path.read_text()[:100])
    again = sweep(grid(data), data / "out", encoder=WordEncoder())
    assert [cell.was_there for cell in again] == [False, True, True, True]
    assert again[0].scores == first[0].scores


def test_vectors_of_questions_are_embedded_once_for_all_configurations(data: Path) -> None:
    encoder = Counting()
    sweep(grid(data, depth=[100, 50]), data / "out", encoder=encoder)
    canaries = encoder.asked - 9
    assert 0 <= canaries < 9, "8 questions of one data set and 1 of the other"
    sweep(grid(data, diversity=0.5), data / "out", encoder=encoder)
    assert encoder.asked == 9 + canaries
    sweep(grid(data, mode="lexical"), data / "out", encoder=encoder)
    assert encoder.asked == 9 + canaries


@pytest.mark.parametrize("changed", ["documents", "questions", "model", "metrics"])
def test_what_changes_the_result_changes_its_name(data: Path, changed: str) -> None:
    first = sweep(grid(data), data / "out", encoder=WordEncoder())
    encoder, asked = WordEncoder(), grid(data)
    if changed == "documents":
        (data / "docs" / "1.md").write_text("# Page 1\n\nsomething else altogether\n")
    elif changed == "questions":
        write_lines(data / "mine.jsonl", [{"query": "w1 w3", "relevant": ["1.md"]}])
    elif changed == "metrics":
        asked = Grid("other", asked.datasets, asked.configurations, ("RR",))
    else:
        encoder = WordEncoder(salt="other")
    again = sweep(asked, data / ("other" if changed == "model" else "out"), encoder=encoder)
    assert again[2].digest != first[2].digest
    assert (again[0].digest == first[0].digest) == (changed in ("documents", "questions"))


def test_documents_that_fail_stop_it(data: Path) -> None:
    (data / "docs" / "broken.md").write_bytes(b"\xff\xfe\x00\xd8" * 20)
    (data / "docs" / "bad.md").write_bytes(b"a\x80b" * 20)
    only = Grid("mine", grid(data).datasets[1:], grid(data).configurations)
    with pytest.raises(InvalidInput, match="cannot be indexed"):
        sweep(only, data / "out", encoder=WordEncoder())


def test_cells_survive_json(data: Path) -> None:
    only = Grid("mine", (Dataset("mine", data / "mine.jsonl", data / "docs"),), grid(data).configurations[:1])
    (cell,) = sweep(only, data / "out", encoder=WordEncoder())
    again = Cell.from_dict(json.loads(json.dumps(cell.to_dict())))
    assert again.to_dict() == cell.to_dict()
    assert again.was_there


def test_an_encoder_of_your_own_stays_in_one_process(data: Path) -> None:
    with pytest.raises(InvalidInput, match="workers=2"):
        sweep(grid(data), data / "out", encoder=WordEncoder(), workers=2)


def test_the_collector_rests_only_while_it_is_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sweeping.run
    seen: list[bool] = []

    def looking(*args: object, **options: object) -> object:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeping, "run", looking)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid(data), data / "out", encoder=WordEncoder())
    assert seen == [False] * 3
    assert gc.isenabled()
