"""Putting a golden set to an index: the same hits as a search, whole or in parts, chunks or documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import log2
from pathlib import Path

import numpy as np
import pytest

from tarragon import Document, Index, RerankStep, Retriever, SearchRecipe
from tarragon.errors import IndexNotFound
from tarragon.evaluation import running
from tarragon.evaluation.metrics import measure
from tarragon.evaluation.running import collapse, documents, run, words_of
from tarragon.evaluation.types import GoldenSet, Question, Ranked
from tarragon.protocols import RerankScores
from tarragon.testing import WordEncoder

TEXTS = {f"d{i}": " ".join(f"w{(i * k) % 23}" for k in range(1, 8)) for i in range(40)}


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Index]:
    with Index.open(tmp_path / "filled.tarragon", encoder=WordEncoder()) as index:
        index.sync([Document(id_, text, {"even": int(id_[1:]) % 2 == 0}) for id_, text in TEXTS.items()])
        yield index


def golden(count: int) -> GoldenSet:
    questions = [Question(f"q{i}", f"w{i % 23} w{(i * 5) % 23}", {f"d{i % 40}": 1}) for i in range(count)]
    return GoldenSet("words", tuple(questions), "digest")


class Backwards:
    """A reranker that turns the ranking round."""

    name, device = "backwards", "cpu"

    def score(self, query: str, passages: list[str], **_: object) -> RerankScores:
        return RerankScores([float(place) for place in range(len(passages))])


def test_a_run_holds_the_hits_of_each_question(filled: Index) -> None:
    found = run(filled, golden(5), k=7)
    for question in golden(5).questions:
        hits = filled.search(question.text, 7)
        expected = [(hit.document_id, hit.score, hit.chunk_id, hit.start, hit.end) for hit in hits]
        places = found.rankings[question.id]
        assert [(at.document_id, at.score, at.chunk_id, at.start, at.end) for at in places] == expected
        assert found.seconds[question.id] > 0


def test_parts_make_no_difference(filled: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(filled, golden(30))
    monkeypatch.setattr(running, "PART", 7)
    assert run(filled, golden(30)).rankings == whole.rankings


def test_the_seconds_of_a_batch_are_shared_out(filled: Index) -> None:
    found = run(filled, golden(30))
    assert sum(found.seconds.values()) < 5, "each counted as if it had embedded all"
    assert set(found.seconds) == {question.id for question in golden(30).questions}


def test_a_retriever_keeps_its_scope_and_settings(filled: Index) -> None:
    with Retriever(filled, recipe=SearchRecipe(mode="lexical"), filter={"even": True}) as retriever:
        found = run(retriever, golden(10))
    assert found.name == "lexical"
    places = [place for ranking in found.rankings.values() for place in ranking]
    assert places
    assert all(int(place.document_id[1:]) % 2 == 0 for place in places)
    assert found.configuration["search"]["mode"] == "lexical"


def test_known_vectors_are_used(filled: Index) -> None:
    asked = golden(3)
    other = WordEncoder().encode_queries(["w1"]).vectors[0]
    found = run(filled, asked, recipe=SearchRecipe(mode="dense"), vectors={"q0": other})
    alone = run(filled, asked, recipe=SearchRecipe(mode="dense"))
    first = filled.search("w1", 100, mode="dense")
    assert [place.chunk_id for place in found.rankings["q0"]] == [hit.chunk_id for hit in first]
    assert found.rankings["q1"] == alone.rankings["q1"], "what is not given is embedded"
    assert np.isfinite([place.score for place in found.rankings["q2"]]).all()


def test_a_question_without_hits_has_an_empty_ranking(filled: Index) -> None:
    asked = GoldenSet("blank", (Question("blank", "  ", {"d1": 1}), Question("none", "nowhere", {"d1": 1})), "x")
    found = run(filled, asked, recipe=SearchRecipe(mode="lexical"))
    assert found.rankings == {"blank": (), "none": ()}


def test_the_configuration_is_json_and_says_what_made_it(filled: Index) -> None:
    recipe = SearchRecipe(depth=20, rerankers=(RerankStep(Backwards(), 3),))
    found = run(filled, golden(1), k=5, recipe=recipe, name="mine")
    configuration = json.loads(json.dumps(found.configuration))
    assert found.name == "mine"
    assert configuration["search"]["rerankers"] == [{"model": "backwards", "depth": 3}]
    assert configuration["fingerprint"] == filled.status().fingerprint
    assert (configuration["documents"], configuration["k"]) == (40, 5)
    assert words_of(recipe) == "depth=20, rerank backwards (3)"
    assert words_of(SearchRecipe()) == "default"


def test_an_empty_index_is_an_error(index: Index) -> None:
    with pytest.raises(IndexNotFound):
        run(index, golden(1))


def test_a_document_stands_where_its_best_chunk_stands() -> None:
    chunks = (Ranked("b", 3.0, "b2", 5, 9), Ranked("a", 2.0, "a1", 0, 4), Ranked("b", 1.0, "b1", 0, 5))
    assert collapse(chunks) == (Ranked("b", 3.0), Ranked("a", 2.0))


def test_documents_of_a_run(filled: Index) -> None:
    found = run(filled, golden(2), k=5)
    told = documents(found)
    assert told.configuration == found.configuration
    assert [place.document_id for place in told.rankings["q0"]] == list(
        dict.fromkeys(place.document_id for place in found.rankings["q0"])
    )
    assert all(not place.chunk_id for place in told.rankings["q0"])


def test_every_stage_tells_its_whole_ranking(filled: Index) -> None:
    recipe = SearchRecipe(depth=10, rerankers=(RerankStep(Backwards(), 5),))
    hits = filled.search("w1 w2", 2, recipe=recipe)
    rankings = hits.rankings()
    assert list(rankings) == ["dense", "lexical", "fused", "rerank: backwards"]
    dense = [hit.chunk_id for hit in filled.search("w1 w2", 10, recipe=SearchRecipe(mode="dense", depth=10))]
    assert [id_ for id_, _ in rankings["dense"]][:10] == dense
    lexical = [hit.chunk_id for hit in filled.search("w1 w2", 10, recipe=SearchRecipe(mode="lexical", depth=10))]
    assert [id_ for id_, _ in rankings["lexical"]][: len(lexical)] == lexical
    assert len(rankings["fused"]) >= 10
    assert {id_ for id_, _ in rankings["rerank: backwards"]} == {id_ for id_, _ in rankings["fused"][:5]}
    assert [id_ for id_, _ in rankings["rerank: backwards"]][:2] == [hit.chunk_id for hit in hits]
    assert filled.search(" ").rankings() == {}


def test_a_collapsed_ranking_keeps_the_order_of_first_places() -> None:
    def chunks(*document_ids: str) -> list[Ranked]:
        return [Ranked(id_, 1.0, f"c{place}") for place, id_ in enumerate(document_ids)]

    assert [place.document_id for place in collapse(chunks("b", "a", "b", "b", "c", "a"))] == ["b", "a", "c"]
    assert collapse([]) == ()


def test_scores_follow_the_given_order_and_count_missing_questions() -> None:
    names = [f"d{i:03}" for i in range(100)]
    values = measure({"q": names}, {"q": {names[9]: 1, names[99]: 1}, "absent": {"x": 1}})
    ideal = 1 + 1 / log2(3)
    means = {metric: sum(by_question.values()) / 2 for metric, by_question in values.items()}
    assert means == pytest.approx({"nDCG@10": 1 / log2(11) / ideal / 2, "R@10": 0.25, "R@100": 0.5, "RR@10": 0.05})
