from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any, get_args

import pytest

from tarragon.errors import InvalidRecipe
from tarragon.recipe import Chunking, Fusion, IndexRecipe, Language, Mode, SearchRecipe


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"chunking": "fixed"}, ["chunking='fixed'", "structure", "whole"]),
        ({"language": "klingon"}, ["language='klingon'", "neutral", "english"]),
        ({"language": "English"}, ["language='English'"]),
        ({"chunk_tokens": 15}, ["chunk_tokens=15", "16"]),
        ({"chunk_tokens": -1}, ["chunk_tokens=-1"]),
        ({"dimensions": 0}, ["dimensions=0"]),
        ({"dimensions": -3}, ["dimensions=-3"]),
    ],
)
def test_index_settings_outside_their_range(values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        IndexRecipe(**values)
    assert all(words in str(caught.value) for words in said)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"mode": "fuzzy"}, ["mode='fuzzy'", "hybrid, dense, lexical"]),
        ({"fusion": "max"}, ["fusion='max'", "dbsf, rrf"]),
        ({"depth": 0}, ["depth=0"]),
        ({"depth": -5}, ["depth=-5"]),
    ],
)
def test_search_settings_outside_their_range(values: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        SearchRecipe(**values)
    assert all(words in str(caught.value) for words in said)


def test_a_wrong_choice_is_in_the_data() -> None:
    with pytest.raises(InvalidRecipe) as caught:
        SearchRecipe(mode="fuzzy")  # type: ignore[arg-type]
    assert caught.value.data == {"name": "mode", "value": "fuzzy"}


def test_every_documented_choice_is_accepted() -> None:
    for chunking in get_args(Chunking):
        assert IndexRecipe(chunking=chunking).chunking == chunking
    for language in get_args(Language):
        assert IndexRecipe(language=language).language == language
    for mode in get_args(Mode):
        for fusion in get_args(Fusion):
            assert SearchRecipe(mode=mode, fusion=fusion, depth=1).fusion == fusion
    assert IndexRecipe(chunk_tokens=16, dimensions=1).chunk_tokens == 16


@pytest.mark.parametrize(
    "recipe",
    [
        IndexRecipe(),
        IndexRecipe("org/model", "passage: ", 64, "whole", 512, "german"),
        IndexRecipe(document_prompt=""),
    ],
)
def test_round_trip_through_json(recipe: IndexRecipe) -> None:
    values = json.loads(json.dumps(recipe.to_dict()))
    assert IndexRecipe.from_dict(values) == recipe
    assert set(values) == {field.name for field in fields(IndexRecipe)}


def test_a_recipe_of_an_older_version_gets_the_defaults() -> None:
    assert IndexRecipe.from_dict({"chunk_tokens": 99}) == IndexRecipe(chunk_tokens=99)


def test_a_recipe_of_a_newer_version_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match=r"\['quantisation', 'zone'\].*newer"):
        IndexRecipe.from_dict({**IndexRecipe().to_dict(), "zone": 1, "quantisation": True})
    with pytest.raises(InvalidRecipe, match="chunk_tokens=2"):
        IndexRecipe.from_dict({"chunk_tokens": 2})


def test_defaults_are_a_promise() -> None:
    """An index that was made with the defaults is opened with them by later releases."""
    assert asdict(IndexRecipe()) == {
        "model": None,
        "document_prompt": None,
        "dimensions": None,
        "chunking": "structure",
        "chunk_tokens": 256,
        "language": "english",
        "sparse_model": None,
        "late_model": None,
        "late_datatype": "float32",
    }
    assert asdict(SearchRecipe()) == {
        "mode": "hybrid",
        "words": None,
        "depth": 100,
        "fusion": "calibrated",
        "rrf_k": 60,
        "dense_weight": None,
        "min_score": None,
        "first_pass": True,
        "late": True,
        "rerankers": (),
        "rerank_budget_ms": None,
        "on_rerank_failure": "degrade",
        "query_prompt": None,
        "diversity": 0.0,
        "per_document": None,
    }


def test_recipes_are_values() -> None:
    assert len({IndexRecipe(), IndexRecipe(), IndexRecipe(dimensions=3), SearchRecipe(), SearchRecipe()}) == 3
    with pytest.raises(FrozenInstanceError):
        IndexRecipe().chunk_tokens = 3  # type: ignore[misc]
