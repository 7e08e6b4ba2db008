"""Who stands around the models of a search sees each run once, while it happens, and changes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tarragon import Document, Index, RerankStep, Retriever, SearchRecipe
from tarragon.errors import RerankingFailed
from tarragon.observing import RankedPassage, observed_by
from tarragon.protocols import RerankScores
from tarragon.testing import LateWordEncoder, SparseWordEncoder, WordEncoder
from tarragon.types import DenseQuery

QUESTION = "rotate the signing key"


class Lengths:
    """A reranker: the shorter, the better."""

    name, identity = "lengths", {"kind": "lengths"}

    def score(self, query: str, passages: Sequence[str], **_: Any) -> RerankScores:
        return RerankScores([-float(len(passage)) for passage in passages])


class Broken(Lengths):
    name = "broken"

    def score(self, query: str, passages: Sequence[str], **_: Any) -> RerankScores:
        raise RerankingFailed("out of order")


class Notes:
    """An observer that writes down what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def embedding(self, space: str, model: str, texts: Sequence[str], run: Callable[[], Any]) -> Any:
        made = run()
        self.seen.append((space, model, tuple(texts), len(made)))
        self.threads.add(threading.current_thread().name)
        return made

    def reranking(
        self, model: str, query: str, passages: Sequence[RankedPassage], run: Callable[[], RerankScores]
    ) -> RerankScores:
        try:
            scores = run()
        except RerankingFailed:
            self.seen.append((model, query, len(passages), None))
            raise
        self.seen.append((model, query, len(passages), len(scores.scores)))
        assert [one.score for one in passages] == sorted((one.score for one in passages), reverse=True)
        return scores


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    path = tmp_path / "a.tarragon"
    with Index.open(
        path, encoder=WordEncoder(), sparse_encoder=SparseWordEncoder(), late_encoder=LateWordEncoder()
    ) as opened:
        opened.sync([Document(str(n), f"{QUESTION} {'more ' * n}") for n in range(6)], progress=False)
        yield opened


def test_each_model_once(index: Index) -> None:
    notes = Notes()
    recipe = SearchRecipe(rerankers=(RerankStep(Lengths(), 5), RerankStep(Broken(), 3)))
    plain = index.search(QUESTION, 3, recipe=recipe)
    with observed_by(notes):
        seen = index.search(QUESTION, 3, recipe=recipe)
    assert seen == plain
    assert notes.seen == [
        ("dense", "words", (QUESTION,), 1),
        ("sparse", "sparse words", (QUESTION,), 1),
        ("late", "late words", (QUESTION,), 1),
        ("lengths", QUESTION, 5, 5),
        ("broken", QUESTION, 3, None),
    ]
    index.search(QUESTION)
    assert len(notes.seen) == 5, "only in the block"


def test_what_is_embedded_instead_is_told(index: Index) -> None:
    notes = Notes()
    with observed_by(notes):
        index.search(QUESTION, mode="dense", vector=DenseQuery(("one", "two")))
        index.search(QUESTION, mode="lexical")
    assert [entry for entry in notes.seen if entry[0] == "dense"] == [("dense", "words", ("one", "two"), 2)]


def test_from_an_event_loop_too(index: Index) -> None:
    async def ask(retriever: Retriever, notes: Notes) -> Any:
        with observed_by(notes):
            return await retriever.aretrieve(QUESTION)

    async def all_at_once(retriever: Retriever, several: list[Notes]) -> list[Any]:
        return list(await asyncio.gather(*(ask(retriever, notes) for notes in several)))

    several = [Notes() for _ in range(8)]
    with Retriever(index, k=3) as retriever:
        expected = retriever.retrieve(QUESTION)
        assert asyncio.run(all_at_once(retriever, several)) == [expected] * 8
    for notes in several:
        assert [entry[0] for entry in notes.seen] == ["dense", "sparse", "late"]
        assert not any("MainThread" in name for name in notes.threads)
