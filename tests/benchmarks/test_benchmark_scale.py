from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import scale, scale_steps
from benchmarks.scale_corpus import Pool, document_id, edit_pages, page, read_pool, write_pages
from benchmarks.scale_encoder import SpectrumEncoder
from benchmarks.scale_plot import PANELS, draw, lines_of
from benchmarks.scale_steps import STEPS, Place
from tarragon.chunking import Chunker
from tarragon.testing import check_encoder

CHUNKS, EDITS = 200, 5


@pytest.fixture(scope="module")
def encoder() -> SpectrumEncoder:
    return SpectrumEncoder()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(6):
        paragraphs = [f"Paragraph {n} of page {number} says {'something about keys ' * (n + 3)}." for n in range(8)]
        (folder / f"{number}.md").write_text(f"# Page {number}\n\n" + "\n\n".join(paragraphs))
    return read_pool([folder])


def test_a_text_always_has_the_same_vector(encoder: SpectrumEncoder) -> None:
    check_encoder(encoder)
    first = SpectrumEncoder().near(["a passage", "another"])
    assert np.array_equal(first, encoder.near(["a passage", "another"]))


def test_vectors_are_spread_as_real_ones_are(encoder: SpectrumEncoder) -> None:
    texts = [f"passage {number}" for number in range(1_000)]
    rows = encoder.encode_queries(texts).vectors
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.linalg.norm(rows.mean(axis=0)) == pytest.approx(0.445, abs=0.05)
    variances = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    shares = variances / variances.sum()
    assert 0.03 < shares[0] < 0.08, "isotropic ones have .0026"
    assert 0.004 < shares[31] < 0.011
    cosines = encoder.near(texts) @ rows.T
    assert np.diag(cosines).mean() == pytest.approx(0.67, abs=0.05)
    assert (cosines.argmax(axis=1) == np.arange(1_000)).mean() > 0.9


def test_documents_are_the_same_each_time_and_no_two_alike(pool: Pool) -> None:
    texts = [page(pool, number) for number in range(100)]
    assert texts == [page(pool, number) for number in range(100)]
    assert len(set(texts)) == 100
    assert set(texts[:6]) == set(pool.texts)
    assert any(paragraph in texts[50] for paragraph in pool.paragraphs)
    assert len(pool.paragraphs) == 48


def test_edits_change_other_documents_in_each_turn(pool: Pool, encoder: SpectrumEncoder, tmp_path: Path) -> None:
    count = write_pages(tmp_path, pool, CHUNKS, Chunker(encoder.tokenizer, encoder.max_tokens))
    before = {path.name: path.read_text() for path in tmp_path.rglob("*.md")}
    assert len(before) == count
    first, second = (edit_pages(tmp_path, count, EDITS, turn) for turn in (1, 2))
    assert len(set(first) | set(second)) == 2 * EDITS
    changed = {path.name for path in tmp_path.rglob("*.md") if path.read_text() != before[path.name]}
    assert changed == {Path(id_).name for id_ in first + second}
    assert document_id(0) in {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")}


def test_each_step_does_what_it_measures(
    pool: Pool, encoder: SpectrumEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"QUERIES": 20, "WARM_UP": 2, "RECALL_QUERIES": 10, "EDITS": EDITS}.items():
        monkeypatch.setattr(scale_steps, name, value)
    count = write_pages(tmp_path / "docs", pool, CHUNKS, Chunker(encoder.tokenizer, encoder.max_tokens))
    place = Place(tmp_path / "i.tarragon", tmp_path / "docs", count)
    done: dict[str, Any] = {name: STEPS[step](place) for step, name in scale.STEPS}
    assert done["build"]["documents"] == count
    assert CHUNKS * 0.8 < done["build"]["chunks"] < CHUNKS * 1.2
    assert done["build"]["peak"]["all"] >= done["build"]["before"]["own"] > 0
    assert done["search"]["found"] == done["search, as written"]["found"] == 1.0
    assert done["recall"]["recall"] == 1.0
    assert (done["unchanged"]["changed"], done["unchanged"]["unchanged"]) == (0, count)
    assert (done["edited"]["changed"], done["edited"]["unchanged"]) == (EDITS, count - EDITS)
    for name in ("only", "handed"):
        assert (done[name]["changed"], done[name]["unchanged"]) == (EDITS, 0)
    json.dumps(done)


def test_a_step_runs_in_a_process_without_torch(tmp_path: Path) -> None:
    (tmp_path / "docs" / "00000").mkdir(parents=True)
    (tmp_path / "docs" / document_id(0)).write_text("# Keys\n\nRotate them.\n")
    result = scale_steps.run("build", Place(tmp_path / "i.tarragon", tmp_path / "docs", 1))
    assert (result["chunks"], result["documents"], result["torch"]) == (1, 1, False)


def sizes() -> dict[str, Any]:
    made = {
        "build": {"seconds": 2.0, "process_cpu": 1.0, "peak": {"own": 1 << 20}},
        "search": {"milliseconds": {"hybrid": {"p50": 2.0, "p95": 3.0}}, "memory": {"all queries": {"own": 1 << 21}}},
        "optimize": {"bytes": {"vectors": 1_536_000, "all": 4_000_000}},
    }
    return {"sizes": [{"chunks": 1_000, **made}, {"chunks": 10_000, "build": {"process_cpu": 9.0}}]}


def test_the_table_leaves_blank_what_was_not_measured() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in scale.render(sizes()).splitlines()]
    table = {name: cells for name, *cells in rows}
    assert table["chunks"] == ["1,000", "10,000"]
    assert table["build, processor seconds"] == ["1", "9"]
    assert table["search: hybrid p95, ms"] == ["3", ""]
    assert table["bytes a chunk: vectors"] == ["1,536", ""]


def test_the_plot_shows_each_figure_that_there_is() -> None:
    measured = [(size["chunks"], scale.measures(size)) for size in sizes()["sizes"]]
    known = set(measured[0][1])
    assert {figure for lines in PANELS.values() for figure in lines.values()} <= known
    assert lines_of(measured, {"sync": "build, processor seconds", "none": "optimize, seconds"}) == {
        "sync": [(1_000.0, 1.0), (10_000.0, 9.0)]
    }
    svg = draw(measured)
    root = ElementTree.fromstring(svg)
    titles = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert set(PANELS) <= titles
    assert "sync: 9 at 10,000 chunks" in svg
