"""The engine's compiled filters against their definition, `tarragon.filters.matches`, on random metadata."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarragon.filters import matches, parse
from tarragon.protocols import DenseLeg, SearchRequest, StoredChunk
from tarragon.store.edge import EdgeStore

DOCUMENTS = 150
VECTOR = np.array([1.0, 0.0], dtype=np.float32)

STRINGS = ["", "x", "X", "1", "true", "two words", "é", "e\u0301", "日本", "metadata", "a.b", "0"]
INTEGERS = [0, 1, -1, 2, 2020, 2**53 - 1, 2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 10**16, 2**63 - 1, -(2**63)]
FLOATS = [0.0, -0.0, 1.0, 1.5, -1.5, 2020.0, float(2**53), 1e16, 1e300, 5e-324]
DATES = [
    "2024-01-31",
    "2024-01-31T10:00",
    "2024-01-31 10:00",
    "2024-01-31T10:00:00",
    "2024-01-31T10:00:00Z",
    "2024-01-31T10:00:00z",
    "2024-01-31T10:00:00+01:00",
    "2024-01-31 10:00:00-0530",
    "2024-01-31 10:00:00+01",
    "2024-01-31T10:00:00.25",
    "2024-01-31T10:00:00.250001Z",
    "2024-01-31 09:00:00.123456789+00:00",
    "2023-12-31",
    "0001-01-01",
    "9999-12-31",
    # valid ISO 8601 that is not read as a date, and no dates at all
    "2024-01-31T10:00Z",
    "2024-01-31T10",
    "20240131",
    "2024-02-30",
]
BOUNDS_OF_DATES = [text for text in DATES if text not in DATES[-4:]]
SCALARS: list[Any] = [*STRINGS, *INTEGERS, *FLOATS, *DATES, True, False]
KEYS = ["a", "b", "a.b", "two words", "ü", "日本", "[0]", "$in", "a'b", "metadata"]


def spelled(*path: str) -> str:
    return ".".join(f'"{part}"' for part in path)


PATHS = ["a", "b", "a.b", "b.a", "a.b.a", "two words", "a.ü", "missing", "a.missing.b", "metadata.a"]
PATHS += [spelled("a.b"), spelled("a", "a.b"), *(spelled(key) for key in KEYS)]


def random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if depth and kind < 0.25:
        return random_metadata(rng, depth - 1)
    if kind < 0.45:
        return [random_value(rng, 1 if rng.random() < 0.1 else 0) for _ in range(rng.randrange(4))]
    return None if kind < 0.5 else rng.choice(SCALARS)


def random_metadata(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    keys = (
        rng.sample(KEYS, rng.randrange(len(KEYS))) if depth < 3 else [*rng.sample(KEYS, 5), *rng.sample(["a", "b"], 1)]
    )
    return {key: random_value(rng, depth) for key in keys}


@pytest.fixture(scope="module")
def documents() -> dict[UUID, dict[str, Any]]:
    rng = random.Random(20_240_131)
    values = [*SCALARS, None, [], [None], [[]], {}, [[1]], [{"b": 1}], {"b": 1}]
    ones = [{"a": value} for value in values]
    return {
        UUID(int=n): metadata
        for n, metadata in enumerate([{}, *ones, *(random_metadata(rng) for _ in range(DOCUMENTS))])
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, documents: dict[UUID, dict[str, Any]]) -> Iterator[EdgeStore]:
    path = tmp_path_factory.mktemp("edge-filters") / "shard"
    store = EdgeStore(path, space="v", dimensions=2, language="neutral")
    store.upsert([StoredChunk(id_, VECTOR, {"metadata": metadata}) for id_, metadata in documents.items()])
    yield store
    store.close()


def passing(store: EdgeStore, spec: dict[str, Any], limit: int) -> set[UUID]:
    scores = store.search(SearchRequest(dense=DenseLeg(VECTOR, limit), filter=parse(spec)))
    assert scores.dense is not None
    return set(scores.dense)


def allowed(documents: dict[UUID, dict[str, Any]], spec: dict[str, Any]) -> set[UUID]:
    return {id_ for id_, metadata in documents.items() if matches(parse(spec), metadata)}


scalars = st.one_of(
    st.sampled_from(SCALARS),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
numbers = st.one_of(
    st.sampled_from([*INTEGERS, *FLOATS, 2**64, float("inf"), float("-inf")]),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
)
orders = st.sampled_from(["$gte", "$gt", "$lte", "$lt"])
operators = st.one_of(
    scalars,
    st.dictionaries(orders, numbers, min_size=1, max_size=3),
    st.dictionaries(orders, st.sampled_from(BOUNDS_OF_DATES), min_size=1, max_size=3),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$eq": scalars}),
    st.fixed_dictionaries({"$ne": scalars}),
    st.fixed_dictionaries({"$in": st.lists(scalars, max_size=4)}),
    st.fixed_dictionaries({"$nin": st.lists(scalars, max_size=4)}),
    st.fixed_dictionaries({"$ne": scalars, "$exists": st.booleans(), "$gte": numbers}),
)
filters = st.recursive(
    st.dictionaries(st.sampled_from(PATHS), operators, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(spec=filters)
def test_engine_agrees_with_definition(
    store: EdgeStore, documents: dict[UUID, dict[str, Any]], spec: dict[str, Any]
) -> None:
    assert passing(store, spec, 2 * len(documents)) == allowed(documents, spec)


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_every_value_is_found_by_itself(store: EdgeStore, documents: dict[UUID, dict[str, Any]], value: Any) -> None:
    found = passing(store, {"a": value}, 2 * len(documents))
    assert found == allowed(documents, {"a": value})
    assert {id_ for id_, metadata in documents.items() if repr(metadata) == repr({"a": value})} <= found


@pytest.mark.parametrize(
    "spec",
    [
        {"a": {"$exists": True}},
        {"a.b": {"$exists": True}},
        {'"a.b"': {"$exists": True}},
        {'"two words"': {"$exists": False}},
        {"a": {"$gte": 1}},
        {"a": {"$lt": 2**53}},
        {"a": {"$gte": "2024-01-31T09:00:00Z"}},
        {"a": {"$lt": "2024-01-31T10:00:00.250001"}},
        {"a": {"$ne": True}},
        {"b": {"$nin": STRINGS}},
    ],
    ids=repr,
)
def test_the_shard_tells_filters_apart(
    store: EdgeStore, documents: dict[UUID, dict[str, Any]], spec: dict[str, Any]
) -> None:
    found = passing(store, spec, 2 * len(documents))
    assert found == allowed(documents, spec)
    assert 0 < len(found) < len(documents)


def test_filter_applies_before_the_limit(store: EdgeStore, documents: dict[UUID, dict[str, Any]]) -> None:
    spec = {"a": {"$gte": "0001-01-01"}}
    wanted = allowed(documents, spec)
    assert len(wanted) > 5
    found = passing(store, spec, 5)
    assert len(found) == 5
    assert found < wanted
