"""Grids: what is declared is what is made, and a mistake is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tarragon import IndexRecipe, RerankStep, SearchRecipe
from tarragon.errors import InvalidInput, InvalidRecipe
from tarragon.evaluation.grid import Configuration, grid_of, read_grid

DATA = {"datasets": ["data/one"]}


def names(**values: object) -> list[str]:
    return [one.name for one in grid_of({**DATA, **values}).configurations]


def test_lists_are_swept_in_every_combination() -> None:
    search = {"fusion": ["calibrated", "rrf"], "depth": [100, 50], "diversity": 0.1}
    grid = grid_of({**DATA, "search": search, "index": {"chunk_tokens": 128}, "k": 20})
    index = IndexRecipe(chunk_tokens=128)
    assert grid.configurations == tuple(
        Configuration(f"fusion={f}, depth={d}", index, SearchRecipe(fusion=f, depth=d, diversity=0.1), 20)  # type: ignore[arg-type]
        for f in ("calibrated", "rrf")
        for d in (100, 50)
    )


def test_an_ablation_changes_one_thing_at_a_time() -> None:
    found = names(search={"fusion": ["calibrated", "rrf"], "depth": [100, 50, 20]}, vary="one")
    assert found == [
        "fusion=calibrated, depth=100",
        "fusion=rrf, depth=100",
        "fusion=calibrated, depth=50",
        "fusion=calibrated, depth=20",
    ]


def test_nothing_swept_is_one_configuration() -> None:
    assert names() == ["default"]
    assert names(search={"mode": "dense"}) == ["default"]


def test_rerankers_are_a_list_and_lists_of_them_a_sweep() -> None:
    cascade = [{"model": "small", "depth": 100}, "large"]
    (one,) = grid_of({**DATA, "search": {"rerankers": cascade}}).configurations
    assert one.search.rerankers == (RerankStep("small", 100), RerankStep("large"))
    assert names(search={"rerankers": [[], cascade]}) == ["rerankers=none", "rerankers=small (100) + large"]


def test_index_settings_are_swept_too() -> None:
    grid = grid_of({**DATA, "index": {"chunk_tokens": [64, 128], "dimensions": [None, 32]}})
    assert [(one.index.chunk_tokens, one.index.dimensions) for one in grid.configurations] == [
        (64, None), (64, 32), (128, None), (128, 32),
    ]  # fmt: skip
    assert grid.configurations[0].name == "chunk_tokens=64, dimensions=none"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    written = {"datasets": [{"golden": "mine.jsonl", "source": "docs", "name": "mine"}], "metrics": ["nDCG@5"]}
    (tmp_path / "grid.json").write_text(json.dumps(written))
    grid = read_grid(tmp_path / "grid.json")
    (dataset,) = grid.datasets
    assert (dataset.golden, dataset.source, dataset.name) == (tmp_path / "mine.jsonl", tmp_path / "docs", "mine")
    assert grid.metrics == ("nDCG@5",)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in 3.11")
def test_toml_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text('datasets = ["one"]\n[search]\nfusion = ["rrf", "dbsf"]\n')
    assert [one.name for one in read_grid(tmp_path / "grid.toml").configurations] == ["fusion=rrf", "fusion=dbsf"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "needs datasets"),
        ({"datasets": ["a", "b/a"]}, "names of their own"),
        ({**DATA, "serach": {}}, "'serach'"),
        ({**DATA, "search": {"fuson": "rrf"}}, "'fuson'; there are dense_weight, depth, "),
        ({**DATA, "search": {"depth": []}}, "depth=[]"),
        ({**DATA, "search": ["depth"]}, "object of settings"),
        ({**DATA, "vary": "some"}, "vary='some'"),
        ({**DATA, "k": 0}, "k=0"),
        ({**DATA, "k": True}, "k=True"),
        ({"datasets": [{"golden": "a.jsonl"}]}, "'golden' and 'source'"),
        ({"datasets": [{"path": "a", "source": "b"}]}, "BEIR folder"),
        ({"datasets": "a"}, "a list is needed"),
        ({"datasets": [7]}, "a path or an object"),
        ([], "a grid is an object"),
    ],
)
def test_mistakes_are_named(values: object, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        grid_of(values)  # type: ignore[arg-type]
    assert said in str(raised.value)


def test_a_value_that_no_setting_takes_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match="fusion='best'"):
        grid_of({**DATA, "search": {"fusion": "best"}})
    with pytest.raises(InvalidRecipe, match="RerankStep"):
        grid_of({**DATA, "search": {"rerankers": [{"modell": "a"}]}})


def test_errors_of_a_file_name_it(tmp_path: Path) -> None:
    path = tmp_path / "grid.json"
    with pytest.raises(InvalidInput, match=r"grid\.json"):
        read_grid(path)
    path.write_text("{")
    with pytest.raises(InvalidInput, match=r"grid\.json: Expecting"):
        read_grid(path)
    path.write_text('{"datasets": []}')
    with pytest.raises(InvalidInput, match=r"grid\.json: a grid needs datasets"):
        read_grid(path)
