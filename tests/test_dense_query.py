"""What the dense leg is asked instead of the query: other texts, or a vector that says which space it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tarragon import Document, Index, RerankStep, Retriever, SearchRecipe
from tarragon.errors import InvalidInput
from tarragon.identity import fingerprint
from tarragon.protocols import RerankScores
from tarragon.testing import WordEncoder
from tarragon.types import DenseQuery

DOCUMENTS = [
    Document("keys", "Rotate the signing key with keyctl."),
    Document("backup", "The database is copied every night to cold storage."),
    Document("walls", "Paint the walls white."),
]
DENSE = SearchRecipe(mode="dense")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "a.tarragon", encoder=WordEncoder()) as opened:
        opened.sync(DOCUMENTS, progress=False)
        yield opened


def test_other_texts_are_what_the_dense_leg_searches(index: Index) -> None:
    query = "how do I keep my data?"
    instead = DenseQuery(("copied every night to cold storage",))
    assert index.search(query, 1, recipe=DENSE, vector=instead)[0].document_id == "backup"
    assert index.search(query, recipe=DENSE, vector=instead) == index.search(instead.texts[0], recipe=DENSE)
    assert index.search("paint", 1, mode="lexical", vector=instead)[0].document_id == "walls"


def test_of_several_texts_the_mean_is_searched(index: Index) -> None:
    texts = ("rotate the key", "cold storage", "paint")
    rows = WordEncoder().encode_queries(texts).vectors
    hits = index.search("anything", 3, recipe=DENSE, vector=DenseQuery(texts))
    vectors = {one.id: WordEncoder().encode_queries([one.text]).vectors[0] for one in DOCUMENTS}
    mean = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    expected = {id_: float(vector @ mean) for id_, vector in vectors.items()}
    assert {hit.document_id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-5)


def test_blank_texts_are_none(index: Index) -> None:
    assert index.search("cold storage", recipe=DENSE, vector=DenseQuery((" ", ""))) == index.search(
        "cold storage", recipe=DENSE
    )


def test_words_and_rerankers_keep_to_the_query(index: Index) -> None:
    class Reads:
        name, identity = "reads", {"kind": "reads"}

        def __init__(self) -> None:
            self.queries: list[str] = []

        def score(self, query: str, passages: Sequence[str], *, is_over: object = None) -> RerankScores:
            self.queries.append(query)
            return RerankScores([float("Paint" in passage) for passage in passages])

    reader = Reads()
    recipe = SearchRecipe(rerankers=(RerankStep(reader),))
    hits = index.search("paint", 1, recipe=recipe, vector=DenseQuery(("cold storage",)))
    assert reader.queries == ["paint"]
    assert hits[0].document_id == "walls"
    places = index.search("paint", 3, vector=DenseQuery(("cold storage",))).explain()
    assert next(one for one in places if one.document_id == "walls").places["lexical"].rank == 1
    assert next(one for one in places if one.document_id == "backup").places["dense"].rank == 1


def test_a_vector_is_used_in_its_own_space_only(index: Index) -> None:
    own = fingerprint(WordEncoder().identity)
    backup = WordEncoder().encode_queries([DOCUMENTS[1].text]).vectors[0]
    for space, expected in ((own, "backup"), (None, "backup"), ("0" * 32, "walls")):
        hits = index.search("paint the walls", 1, recipe=DENSE, vector=DenseQuery(vector=backup, fingerprint=space))
        assert hits[0].document_id == expected
    other = DenseQuery(("rotate the key",), backup, "0" * 32)
    assert index.search("paint", 1, recipe=DENSE, vector=other)[0].document_id == "keys"


@pytest.mark.parametrize("wrong", [np.ones(3), np.full(64, np.nan), np.ones((1, 64))])
def test_a_vector_that_is_none_of_the_space_is_an_error(index: Index, wrong: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="64 finite numbers"):
        index.search("paint", vector=DenseQuery(vector=wrong.astype(np.float32)))


def test_one_text_is_no_tuple_of_texts() -> None:
    with pytest.raises(InvalidInput, match="give a tuple"):
        DenseQuery("cold storage")  # type: ignore[arg-type]


def test_every_way_of_asking_gives_the_same(index: Index) -> None:
    dense = [None, DenseQuery(("cold storage", "night")), DenseQuery(("rotate",))]
    queries = ["paint the walls", "walls", "key"]

    async def ask(retriever: Retriever) -> list[object]:
        asked = (retriever.aretrieve(query, vector=vector) for query, vector in zip(queries, dense, strict=True))
        return list(await asyncio.gather(*asked))

    with Retriever(index, k=3) as retriever:
        one_by_one = [retriever.retrieve(query, vector=vector) for query, vector in zip(queries, dense, strict=True)]
        assert retriever.retrieve_batch(queries, vectors=dense) == one_by_one
        assert asyncio.run(ask(retriever)) == one_by_one
