"""Filters that are functions of the metadata, in searches: against looking at every document."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tarragon import Document, Index, Retriever, SearchRecipe
from tarragon.filters import matches, parse
from tarragon.recipe import Mode
from tarragon.testing import WordEncoder

MANY = 400
QUESTION = "rotate the signing key"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """More documents than a leg has candidates, the farther from the question the higher their number."""
    folder = tmp_path_factory.mktemp("where")
    documents = [
        Document(f"{n:03}", f"rotate the signing key {'other words ' * (n // 20)} number {n}", {"n": n, "tag": n % 3})
        for n in range(MANY)
    ]
    with Index.open(folder / "many.tarragon", encoder=WordEncoder()) as opened:
        opened.sync(documents, progress=False)
        yield opened


def is_last(metadata: Any) -> bool:
    return bool(metadata["n"] >= MANY - 7)


def is_even(metadata: Any) -> bool:
    return bool(metadata["n"] % 2 == 0)


def never(metadata: Any) -> bool:
    return False


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize(
    "spec",
    [
        {"$where": is_even},
        {"$where": is_last},
        {"$where": never},
        {"$not": {"$where": is_even}},
        {"tag": 1, "$where": is_even},
        {"$or": [{"n": 3}, {"$where": is_last}]},
        {"$not": {"$or": [{"tag": 1}, {"$where": is_even}]}},
    ],
    ids=["even", "last", "never", "not", "beside another", "or", "not or"],
)
def test_it_fills_up_from_as_deep_as_it_takes(index: Index, mode: Mode, spec: dict[str, Any]) -> None:
    everything = index.search(QUESTION, MANY, recipe=SearchRecipe(mode=mode, depth=MANY))
    expected = [hit.document_id for hit in everything if matches(parse(spec), hit.metadata)]
    assert len(everything) == MANY
    for k in (1, 10, MANY):
        hits = index.search(QUESTION, k, filter=spec, mode=mode)
        assert len(hits) == min(k, len(expected))
        assert {hit.document_id for hit in hits} <= set(expected)
    if mode != "hybrid":  # whose fusion depends on the candidates
        scores = {hit.document_id: hit.score for hit in everything}
        top = index.search(QUESTION, 10, filter=spec, mode=mode)
        best = sorted((scores[id_] for id_ in expected), reverse=True)[:10]
        assert [hit.score for hit in top] == pytest.approx(best, abs=1e-4)


def test_questions_at_the_same_time_keep_their_own_functions(index: Index) -> None:
    class Below:
        """Looks the same, whatever it is."""

        def __init__(self, limit: int) -> None:
            self.limit = limit

        def __call__(self, metadata: Any) -> bool:
            return bool(metadata["n"] < self.limit)

        def __repr__(self) -> str:
            return "Below"

        def __iter__(self) -> Iterator[int]:
            return iter(())

    async def ask(retriever: Retriever) -> list[int]:
        asked = [retriever.aretrieve(QUESTION, MANY, filter={"$where": Below(limit)}) for limit in range(1, 30)]
        return [len(hits) for hits in await asyncio.gather(*asked)]

    with Retriever(index) as retriever:
        assert asyncio.run(ask(retriever)) == list(range(1, 30))


def test_a_scope_and_its_explanations_know_it(index: Index) -> None:
    with Retriever(index, k=5) as retriever, retriever.scope(filters={"$where": is_even}) as scoped:
        assert all(is_even(hit.metadata) for hit in scoped.retrieve(QUESTION))
        assert scoped.why_not(QUESTION, "001").stage == "index"
        assert scoped.why_not(QUESTION, "399").stage == "index"
    assert index.why_not(QUESTION, "001", filter={"$where": is_even}).stage == "filter"


def test_what_the_function_raises_is_raised(index: Index) -> None:
    with pytest.raises(KeyError, match="missing"):
        index.search(QUESTION, filter={"$where": lambda metadata: metadata["missing"]})


def test_a_change_of_the_metadata_counts_at_once(tmp_path: Path) -> None:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as index:
        for team in ("red", "blue"):
            index.sync([Document("a", QUESTION, {"team": team})], progress=False)
            hits = index.search(QUESTION, filter={"$where": lambda metadata: metadata["team"] == "blue"})
            assert len(hits) == (team == "blue")
