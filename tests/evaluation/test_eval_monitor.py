"""Monitoring: the first look is the baseline, later ones tell what became worse, stale or other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from handbook import write

from tarragon import Document, Index, SearchRecipe
from tarragon.errors import IndexNotFound, InvalidInput
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.monitor import Limits, monitor, read_history
from tarragon.evaluation.reference import Reference
from tarragon.evaluation.types import GoldenSet, Question
from tarragon.testing import WordEncoder


def page(number: int, word: str = "w") -> str:
    words = np.random.default_rng(number).integers(0, 60, 8)
    return f"# Page {number}\n\n" + " ".join(f"{word}{n}" for n in words)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    for number in range(40):
        write(tmp_path / "docs" / f"{number}.md", page(number))
    return tmp_path / "docs"


@pytest.fixture
def filled(tmp_path: Path, docs: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "i.tarragon", encoder=WordEncoder()) as index:
        index.sync(docs)
        yield index


def golden(count: int = 25) -> GoldenSet:
    return golden_set(
        "pages",
        [Question(f"q{n}", " ".join(page(n).split()[3:7]), {f"{n}.md": 1}) for n in range(count)],
    )


def test_the_first_look_is_the_baseline(filled: Index) -> None:
    found = monitor(filled, golden())
    assert found.verdict is None
    assert found.is_well
    assert list(found.metrics) == ["R@10", "RR@10"]
    assert found.metrics["R@10"].mean > 0.9
    assert found.sources == {"fresh": 40, "stale": 0, "missing": 0, "unknown": 0}
    folder = Path(filled.status().path) / "monitor"
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.json", "history.jsonl", "reference.npz"]


def test_nothing_changed_is_well(filled: Index) -> None:
    first = monitor(filled, golden())
    again = monitor(filled, golden())
    assert again.is_well
    assert again.verdict is not None
    assert again.verdict.passed
    assert again.metrics == first.metrics
    assert "0 chunks are new and 0 gone" in again.skipped["documents"]


def test_worse_answers_alert(filled: Index) -> None:
    monitor(filled, golden())
    lost = monitor(filled, golden(), recipe=SearchRecipe(min_score=1e6))
    assert not lost.is_well
    assert lost.alerts[0].startswith("R@10 fell by")
    assert "Fell most: q" in lost.alerts[0]
    assert monitor(filled, golden(), recipe=SearchRecipe(min_score=1e6), limits=Limits(max_drop=1)).is_well


def test_documents_that_changed_or_went_are_counted(filled: Index, docs: Path) -> None:
    monitor(filled, golden())
    write(docs / "1.md", "another text altogether")
    (docs / "2.md").unlink()
    found = monitor(filled, golden())
    assert found.sources == {"fresh": 38, "stale": 1, "missing": 1, "unknown": 0}
    assert found.is_well, "2 of 40 are 5 %"
    assert "1 have changed and 1 are gone" in " ".join(found.notes)
    write(docs / "3.md", "another text altogether")
    assert "2 have changed" in " ".join(monitor(filled, golden()).alerts)
    assert monitor(filled, golden(), limits=Limits(max_stale=0.1)).is_well


def test_documents_about_something_else_are_a_drift(filled: Index, docs: Path) -> None:
    monitor(filled, golden())
    for number in range(100, 130):
        write(docs / f"{number}.md", page(number, "other") + " all of one kind and alike in every way")
    filled.sync(docs)
    found = monitor(filled, golden(), limits=Limits(max_drop=1))
    drift = found.drift["documents"]
    assert (drift.first.count, drift.second.count) == (40, 30)
    assert drift.p <= 0.01
    assert drift.second.cosine > drift.across
    assert found.is_well
    assert found.notes[-1].startswith("documents have drifted")
    assert not monitor(filled, golden(), limits=Limits(max_drop=1, drift=True)).is_well


def test_more_of_the_same_is_none(filled: Index, docs: Path) -> None:
    monitor(filled, golden())
    for number in range(100, 130):
        write(docs / f"{number}.md", page(number))
    filled.sync(docs)
    assert monitor(filled, golden(), limits=Limits(max_drop=1)).drift["documents"].p > 0.01


def test_questions_of_users_are_compared_with_the_golden_ones(filled: Index) -> None:
    alike = [" ".join(page(n).split()[3:7]) for n in range(200, 230)]
    assert monitor(filled, golden(), questions=alike).drift["questions"].p > 0.01
    other = [f"please tell me about number {n}" for n in range(30)]
    found = monitor(filled, golden(), questions=other)
    assert found.drift["questions"].p <= 0.01
    assert any(note.startswith("questions have drifted") for note in found.notes)
    with pytest.raises(InvalidInput, match="20 of each"):
        monitor(filled, golden(), questions=["one", "one", " "])


def test_a_new_baseline_on_request(filled: Index, docs: Path) -> None:
    monitor(filled, golden())
    with pytest.raises(InvalidInput, match="--rebase"):
        monitor(filled, golden(20))
    assert monitor(filled, golden(20), rebase=True).verdict is None
    assert monitor(filled, golden(20)).verdict is not None


def test_another_model_is_no_drift(filled: Index, docs: Path, tmp_path: Path) -> None:
    monitor(filled, golden(), folder=tmp_path / "kept")
    with Index.open(tmp_path / "other.tarragon", encoder=WordEncoder(salt="other")) as other:
        other.sync(docs)
        found = monitor(other, golden(), folder=tmp_path / "kept", limits=Limits(max_drop=1))
    assert "another model" in found.skipped["documents"]
    assert found.verdict is not None
    assert "fingerprint" in found.verdict.changed


def test_history_is_kept_a_line_a_look_also_after_a_crash(filled: Index, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    first = monitor(filled, golden(), folder=folder)
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"time": "cut of')
    again = monitor(filled, golden(), folder=folder)
    assert read_history(folder) == json.loads(json.dumps([first.to_dict(), again.to_dict()]))
    assert read_history(tmp_path / "nowhere") == []


def test_it_moves_with_the_index(filled: Index, tmp_path: Path) -> None:
    monitor(filled, golden())
    filled.close()
    shutil.move(tmp_path / "i.tarragon", tmp_path / "moved.tarragon")
    with Index.open(tmp_path / "moved.tarragon", encoder=WordEncoder()) as moved:
        assert monitor(moved, golden()).verdict is not None


def test_a_reference_has_one_chunk_of_a_document(tmp_path: Path, index: Index) -> None:
    long = "\n\n".join(f"# Part {n}\n\n" + f"word{n} " * 200 for n in range(6))
    index.sync([Document("long.md", long), Document("short.md", "short")])
    made = Reference.of(index)
    assert len(made.ids) == index.status().chunks > 6
    assert made.vectors.shape == (2, 64)
    made.write(tmp_path / "r.npz")
    again = Reference.read(tmp_path / "r.npz")
    assert again.fingerprint == made.fingerprint
    assert (again.ids == made.ids).all()
    assert (again.vectors == made.vectors).all()
    (tmp_path / "r.npz").write_bytes(b"PK")
    with pytest.raises(InvalidInput, match="--rebase"):
        Reference.read(tmp_path / "r.npz")


def test_an_empty_index_is_an_error(index: Index) -> None:
    with pytest.raises(IndexNotFound):
        monitor(index, golden())
