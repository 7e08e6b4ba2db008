"""Stages: what each is worth is what a search that ends there is worth, and costs are told where they arise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tarragon import Document, Index, IndexRecipe, RerankStep, Retriever, SearchRecipe, tuning
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import score
from tarragon.evaluation.running import run
from tarragon.evaluation.stages import EXACT, Stages, stages
from tarragon.evaluation.types import GoldenSet, Question, Scores
from tarragon.protocols import RerankScores
from tarragon.testing import LateWordEncoder, SparseWordEncoder, WordEncoder

COUNT = 120
METRICS = ("nDCG@10", "R@10")


class Short:
    """A reranker that prefers short passages; many of its scores are equal."""

    name, device = "short", "cpu"

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        return RerankScores([-float(len(text) // 8) for text in passages])


def text(number: int) -> str:
    return " ".join(f"w{word}" for word in np.random.default_rng(number).integers(0, 40, 3 + number % 9))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    sides: Any = {"sparse_encoder": SparseWordEncoder(), "late_encoder": LateWordEncoder()}
    with Index.open(
        tmp_path_factory.mktemp("stages") / "i", recipe=IndexRecipe(chunking="whole"), encoder=WordEncoder(), **sides
    ) as opened:
        opened.sync([Document(f"d{n}", text(n), {"even": n % 2 == 0}) for n in range(COUNT)])
        yield opened


def golden() -> GoldenSet:
    asked = [
        Question(f"q{n}", " ".join(text(n).split()[:2]), {f"d{n}": 2, f"d{(n + 1) % COUNT}": 1}) for n in range(15)
    ]
    return golden_set("words", asked)


RECIPE = SearchRecipe(depth=12, rerankers=(RerankStep(Short(), 8), RerankStep(Short(), 4)))


def scored(told: Stages) -> dict[str, Scores]:
    return {one.run: one for one in told.scores}


def alone(index: Index, k: int = 12, **settings: Any) -> dict[str, dict[str, float]]:
    found = run(index, golden(), k=k, recipe=replace(RECIPE, **settings))
    return dict(score(found, golden(), METRICS).per_question)


def test_rows_stand_as_the_search_does_them(index: Index) -> None:
    told = stages(index, golden(), k=5, recipe=RECIPE, metrics=METRICS)
    assert [row.name for row in told.rows] == [
        "embed", "dense", "lexical", "sparse", "legs", "fused", "late", "serve", "rerank: short", "rerank: short (2)",
        "freshness", "hits",
    ]  # fmt: skip
    assert [row.name for row in told.rows if row.means] == [one.run for one in told.scores]
    assert [one.run for one in told.scores] == [
        "dense", "lexical", "sparse", "fused", "late", "rerank: short", "rerank: short (2)", "hits",
    ]  # fmt: skip


@pytest.mark.parametrize("leg", ["dense", "lexical", "sparse"])
def test_a_leg_is_worth_what_a_search_by_it_alone_is(index: Index, leg: Any) -> None:
    told = scored(stages(index, golden(), k=12, recipe=RECIPE, metrics=METRICS))
    assert told[leg].per_question == alone(index, mode=leg, rerankers=(), late=False)


def test_a_stage_is_worth_what_a_search_that_ends_there_is(index: Index) -> None:
    told = scored(stages(index, golden(), k=12, recipe=RECIPE, metrics=METRICS))
    assert told["fused"].per_question == alone(index, rerankers=(), late=False)
    assert told["late"].per_question == alone(index, rerankers=())
    assert told["rerank: short"].per_question == alone(index, rerankers=RECIPE.rerankers[:1])
    assert told["rerank: short (2)"].per_question == told["hits"].per_question == alone(index)
    assert len({str(one.per_question) for one in told.values()}) >= 6, "the stages differ"


def test_the_run_is_the_run(index: Index) -> None:
    told = stages(index, golden(), k=7, recipe=RECIPE, name="mine")
    assert told.run.rankings == run(index, golden(), k=7, recipe=RECIPE).rankings
    assert told.run.name == "mine"
    assert all(seconds > 0 for seconds in told.run.seconds.values())


def test_the_ceiling_is_the_recall_of_what_a_stage_was_given(index: Index) -> None:
    told = stages(index, golden(), k=5, recipe=RECIPE, metrics=METRICS)
    assert list(told.ceilings) == ["fused", "late", "rerank: short", "rerank: short (2)"]
    shares = []
    for question in golden().questions:
        seen = index.search(question.text, 8, recipe=replace(RECIPE, rerankers=()))
        shares.append(len({hit.document_id for hit in seen} & set(question.relevant)) / 2)
    assert told.ceilings["rerank: short"].mean == pytest.approx(np.mean(shares))
    means = [ceiling.mean for ceiling in told.ceilings.values()]
    assert means == sorted(means, reverse=True)


def test_costs_stand_where_they_arise(index: Index) -> None:
    rows = {row.name: row for row in stages(index, golden(), k=5, recipe=RECIPE).rows}
    for name, row in rows.items():
        timed = name not in ("late",)
        assert (row.p50 is not None) == timed, name
        assert not timed or 0 <= row.p50 <= row.p95 <= row.p99, name  # type: ignore[operator]
    assert rows["legs"].calls == rows["hits"].calls == rows["dense"].calls == 1
    assert rows["fused"].calls == 0
    assert rows["embed"].tokens == 2
    assert (rows["rerank: short"].candidates, rows["rerank: short (2)"].candidates, rows["hits"].candidates) == (
        8,
        4,
        5,
    )
    seen = [index.search(one.text, 8, recipe=replace(RECIPE, rerankers=())) for one in golden().questions]
    words = np.mean([sum(len(hit.text.split()) + 2 for hit in hits) for hits in seen])
    assert rows["rerank: short"].tokens == pytest.approx(words)
    handed = [index.search(one.text, 5, recipe=RECIPE) for one in golden().questions]
    assert rows["hits"].tokens == pytest.approx(np.mean([sum(len(h.text.split()) for h in hits) for hits in handed]))


def test_a_single_leg_has_few_stages(index: Index) -> None:
    told = stages(index, golden(), recipe=SearchRecipe(mode="lexical", late=False))
    assert [row.name for row in told.rows] == ["embed", "lexical", "legs", "fused", "serve", "freshness", "hits"]
    assert told.run.name == "lexical, late=False"


def test_a_retriever_keeps_its_scope(index: Index) -> None:
    with Retriever(index, filter={"even": True}, recipe=SearchRecipe(late=False)) as retriever:
        told = stages(retriever, golden(), metrics=METRICS)
    assert all(int(place.document_id[1:]) % 2 == 0 for ranking in told.run.rankings.values() for place in ranking)
    relevant = [[int(id_[1:]) % 2 == 0 for id_ in question.relevant] for question in golden().questions]
    assert told.ceilings["fused"].mean <= np.mean(relevant)


def test_a_question_that_finds_nothing_counts_with_0(index: Index) -> None:
    asked = golden_set("two", [golden().questions[0], Question("blank", " ", {"d0": 1})])
    told = stages(index, asked, recipe=SearchRecipe(late=False), metrics=METRICS)
    for one in told.scores:
        assert one.per_question["R@10"]["blank"] == 0
    assert told.rows[-1].calls == 0.5


def test_the_first_pass_is_judged_against_searching_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FEWEST", 100)
    with Index.open(tmp_path / "i", recipe=IndexRecipe(chunking="whole"), encoder=WordEncoder()) as index:
        index.sync([Document(f"d{n}", text(n)) for n in range(COUNT)])
        index.tune(target_recall=0.01, first_pass=True, lengths=(2,))
        recipe = SearchRecipe(mode="dense", depth=12)
        told = stages(index, golden(), k=12, recipe=recipe, metrics=METRICS)
        rows = [row.name for row in told.rows]
        assert rows[:3] == ["embed", "dense", EXACT]
        by_name = scored(told)
        without = run(index, golden(), k=12, recipe=replace(recipe, first_pass=False))
        assert by_name[EXACT].per_question == score(without, golden(), METRICS).per_question
        assert by_name["dense"].per_question == score(told.run, golden(), METRICS).per_question
