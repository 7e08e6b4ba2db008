"""Receipts and explanations: what they say is what was done."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from handbook import version_of, write

from tarragon import Document, Hit, Index, IndexRecipe, SearchRecipe
from tarragon.errors import InvalidRecipe, RerankingFailed
from tarragon.fusion import fuse
from tarragon.interaction import maxsim
from tarragon.protocols import LegScores, RerankScores
from tarragon.receipts import Explanation, Hits, Place, Receipt
from tarragon.recipe import RerankStep
from tarragon.searching import TruncatedQuery
from tarragon.testing import LateWordEncoder, SparseWordEncoder, WordEncoder

QUERY = "w3 w7 w1"
PLAIN = SearchRecipe(fusion="dbsf")
CHUNKS = 60


class Reversed:
    """A reranker whose scores are the lengths of the passages, negative; it can fail, or take its time."""

    identity = {"kind": "reversed"}  # noqa: RUF012

    def __init__(self, name: str = "short", *, fails: bool = False, most: int = 10**6, cut: int = 0) -> None:
        self.name, self._fails, self._most, self._cut = name, fails, most, cut
        self.read: list[str] = []

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        if self._fails:
            raise RuntimeError("out of paper")
        self.read = list(passages)
        scores = [-float(len(text)) if place < self._most else None for place, text in enumerate(passages)]
        return RerankScores(scores, truncated=self._cut)


def texts() -> list[str]:
    chance = np.random.default_rng(8)
    return [f"x{n} " + " ".join(f"w{word}" for word in chance.integers(0, 12, size=1 + n % 9)) for n in range(CHUNKS)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    sides: Any = {"sparse_encoder": SparseWordEncoder(query_tokens=8), "late_encoder": LateWordEncoder()}
    recipe = IndexRecipe(chunking="whole", language="neutral")
    encoder = WordEncoder(max_tokens=40)
    with Index.open(tmp_path_factory.mktemp("receipts") / "i", recipe=recipe, encoder=encoder, **sides) as opened:
        opened.sync([Document(f"{n:02}", text, {"n": n}) for n, text in enumerate(texts())])
        yield opened


def names(hits: Hits) -> list[str]:
    return [stage.name for stage in hits.receipt.stages]


# --- stages -----------------------------------------------------------------------------------------------------------
BEGIN, END = ["embed", "legs", "fuse", "serve"], ["freshness"]


@pytest.mark.parametrize(
    ("settings", "between"),
    [
        ({}, []),
        ({"mode": "lexical"}, []),
        ({"diversity": 0.4}, ["diversity"]),
        (
            {"rerankers": (RerankStep(Reversed("one"), 20), RerankStep(Reversed("two"), 5))},
            ["rerank: one", "rerank: two"],
        ),
        (
            {"rerankers": (RerankStep(Reversed(), 9),) * 2, "diversity": 0.1},
            ["rerank: short", "rerank: short (2)", "diversity"],
        ),
    ],
    ids=["hybrid", "lexical", "diverse", "reranked", "twice"],
)
def test_stages_are_told_in_the_order_in_which_they_ran(index: Index, settings: Any, between: list[str]) -> None:
    hits = index.search(QUERY, 5, recipe=SearchRecipe(**settings))
    assert names(hits) == [*BEGIN, *between, *END]
    assert all(stage.seconds >= 0 for stage in hits.receipt.stages)
    assert sum(stage.seconds for stage in hits.receipt.stages) <= hits.receipt.seconds + 1e-6
    assert hits.receipt.version == "v1" == hits[0].version
    assert hits.receipt.degraded == ()


def test_stages_count_what_came_out_of_them(index: Index) -> None:
    recipe = replace(PLAIN, depth=7, rerankers=(RerankStep(Reversed(), 12),))
    hits = index.search(QUERY, 5, recipe=recipe)
    counts = {stage.name: stage.candidates for stage in hits.receipt.stages}
    explained = index.search(QUERY, 60, recipe=replace(PLAIN, depth=7)).receipt
    candidates = counts["legs"]
    assert 7 <= candidates <= 3 * 7 + 30
    assert counts["embed"] == 1
    assert counts["fuse"] <= candidates
    assert counts["serve"] == counts["rerank: short"] == min(12, counts["fuse"])
    assert counts["freshness"] == len(hits) == 5
    assert explained.legs["dense"] == CHUNKS, "k=60 goes deeper than the depth"


@pytest.mark.parametrize("depth", [3, 10, 200])
@pytest.mark.parametrize("filter", [None, {"n": {"$lt": 30}}], ids=["all", "filtered"])
def test_legs_count_the_candidates_that_each_gave(index: Index, depth: int, filter: Any) -> None:
    truth = Truth(index, QUERY, filter)
    hits = index.search(QUERY, 3, recipe=replace(PLAIN, depth=depth), filter=filter)
    assert dict(hits.receipt.legs) == {leg: len(scores) for leg, scores in truth.legs(depth).items()}


def test_a_leg_that_tells_more_than_its_candidates_counts_its_candidates(index: Index) -> None:
    """Calibrated fusion looks at 400 lexical scores, to know the level of the query."""
    plain, calibrated = (
        index.search(QUERY, 3, recipe=SearchRecipe(depth=3, fusion=fusion)).receipt.legs  # type: ignore[arg-type]
        for fusion in ("dbsf", "calibrated")
    )
    assert calibrated["dense"] == plain["dense"], "no more candidates"
    assert plain["lexical"] <= calibrated["lexical"] <= calibrated["dense"], "and more of them with a score by words"


def test_spaces_are_the_fingerprints_of_the_models_that_were_asked(index: Index) -> None:
    contract = version_of(index).record.contract
    prints = dict(zip(("dense", "sparse", "late"), contract.fingerprints, strict=True))
    assert dict(index.search(QUERY).receipt.spaces) == prints
    assert dict(index.search(QUERY, mode="lexical").receipt.spaces) == {"late": prints["late"]}
    plain = SearchRecipe(mode="sparse", late=False)
    assert dict(index.search(QUERY, recipe=plain).receipt.spaces) == {"sparse": prints["sparse"]}


def test_every_question_of_a_batch_has_a_receipt_of_its_own(index: Index) -> None:
    many = index.search_batch([QUERY, "", "w1"], 3)
    alone = [index.search(question, 3) for question in (QUERY, "", "w1")]
    assert [dict(hits.receipt.legs) for hits in many] == [dict(hits.receipt.legs) for hits in alone]
    assert many[1].receipt == Receipt(), "nothing was done"


def test_a_search_that_is_repeated_says_so(tmp_path: Path, handbook: Path, words: WordEncoder) -> None:
    """What is stale is synced, and searched again: the receipt is of what was returned."""
    with Index.open(tmp_path / "i", encoder=words) as index:
        index.sync(handbook)
        write(handbook / "keys.md", "# Signing keys\n\nA new text of signing keys.\n")
        hits = index.search("signing keys", 3, on_stale="refresh")
        assert hits.receipt.stages
        assert {explained.document_id for explained in hits.explain()} == {hit.document_id for hit in hits}
        found = [explained.places["fused"].score for explained in hits.explain()]
        assert found == [hit.score for hit in hits]


class Patient(WordEncoder):
    """Takes its time with documents."""

    def encode_documents(self, inputs: Any) -> Any:
        time.sleep(0.1)
        return super().encode_documents(inputs)


def test_the_seconds_of_a_search_are_those_of_all_of_it(tmp_path: Path, handbook: Path) -> None:
    """Also where stale documents are synced in between."""
    with Index.open(tmp_path / "i", encoder=Patient()) as index:
        index.sync(handbook)
        write(handbook / "keys.md", "# Signing keys\n\nA new text of signing keys.\n")
        assert index.search("signing keys", 3, on_stale="refresh").receipt.seconds >= 0.1


def test_a_search_that_has_to_look_deeper_tells_a_failure_once(tmp_path: Path, handbook: Path) -> None:
    """What is stale is dropped, and the next best are looked for: the steps run again, the receipt is of the last."""
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync(handbook)
        write(handbook / "keys.md", "# Signing keys\n\nA new text of signing keys.\n")
        recipe = SearchRecipe(rerankers=(RerankStep(Reversed("broken", fails=True), 10),))
        hits = index.search("signing keys", 2, on_stale="drop", recipe=recipe)
        assert len(hits) == 2
        assert len(set(hits.receipt.degraded)) == len(hits.receipt.degraded) == 1
        cut = SearchRecipe(rerankers=(RerankStep(Reversed(cut=5), 10),))
        assert index.search("signing keys", 2, on_stale="drop", recipe=cut).receipt.truncated == 5


# --- what was cut, and what went wrong --------------------------------------------------------------------------------
def test_truncated_is_what_each_model_did_not_see(index: Index) -> None:
    long = " ".join(f"w{n}" for n in range(50))
    with pytest.warns(TruncatedQuery):
        assert index.search(long).receipt.truncated == (50 - 40) + (50 - 8)
    assert index.search(long, mode="lexical").receipt.truncated == 0
    assert index.search(long, recipe=SearchRecipe(mode="sparse", late=False)).receipt.truncated == 42
    assert index.search(long).receipt.truncated == 52, "from the cache too"
    assert index.search("w1 w2").receipt.truncated == 0
    step = RerankStep(Reversed(cut=5), 10)
    assert index.search("w1 w2", recipe=SearchRecipe(rerankers=(step,))).receipt.truncated == 5


def test_truncated_is_told_of_each_question_of_a_batch(index: Index) -> None:
    long = " ".join(f"w{n + 1}" for n in range(50))
    with pytest.warns(TruncatedQuery):
        hits = index.search_batch([long, "w1 w2 w4"])
    assert [one.receipt.truncated for one in hits] == [52, 0]


def test_a_reranker_that_fails_is_done_without(index: Index) -> None:
    plain = index.search(QUERY, 10)
    step = RerankStep(Reversed("broken", fails=True), 10)
    hits = index.search(QUERY, 10, recipe=SearchRecipe(rerankers=(step,)))
    assert [hit.chunk_id for hit in hits] == [hit.chunk_id for hit in plain]
    assert [hit.score for hit in hits] == [hit.score for hit in plain]
    (said,) = hits.receipt.degraded
    assert said == "rerank: broken: RuntimeError: out of paper"
    assert names(hits) == [*BEGIN, "rerank: broken", *END]
    with pytest.raises(RerankingFailed, match="out of paper"):
        index.search(QUERY, recipe=SearchRecipe(rerankers=(step,), on_rerank_failure="raise"))


def test_a_budget_that_leaves_passages_out_is_told(index: Index) -> None:
    hits = index.search(QUERY, 10, recipe=SearchRecipe(rerankers=(RerankStep(Reversed(most=3), 8),)))
    (stage,) = [stage for stage in hits.receipt.stages if stage.name.startswith("rerank")]
    assert (stage.candidates, stage.detail) == (3, "3 of 8 in the time given")
    none = index.search(QUERY, 10, recipe=SearchRecipe(rerankers=(RerankStep(Reversed(), 8),), rerank_budget_ms=0.0))
    assert "no time left" in none.receipt.degraded[0]


@pytest.mark.parametrize(
    "settings", [{}, {"rerankers": (RerankStep(Reversed(), 8),), "diversity": 0.3}], ids=["plain", "all"]
)
def test_everything_can_be_written_as_json(index: Index, settings: Any) -> None:
    hits = index.search(QUERY, 4, recipe=SearchRecipe(**settings))
    receipt = hits.receipt.to_dict()
    assert json.loads(json.dumps(receipt)) == json.loads(json.dumps({**receipt, "stages": list(receipt["stages"])}))
    again = json.loads(json.dumps(receipt))
    assert again["legs"] == dict(hits.receipt.legs)
    assert [stage["name"] for stage in again["stages"]] == names(hits)
    for hit, explained in zip(hits, hits.explain(), strict=True):
        values = json.loads(json.dumps(explained.to_dict()))
        assert values["chunk_id"] == hit.chunk_id
        assert values["places"]["fused"]["rank"] == explained.places["fused"].rank
    assert json.loads(json.dumps([hit.to_dict() for hit in hits]))[0]["chunk_id"] == hits[0].chunk_id
    assert json.dumps(Receipt().to_dict())


def test_hits_are_a_list_and_explain_nothing_without_a_search(index: Index) -> None:
    hits = index.search(QUERY, 3)
    assert isinstance(hits, list)
    assert list(hits) == hits
    bare = Hits(hits)
    assert bare.explain() == [Explanation(hit.chunk_id, hit.document_id, {}) for hit in hits]
    assert index.search("", 3).explain() == []


# --- explanations -----------------------------------------------------------------------------------------------------
class Truth:
    """A search by brute force: the scores of each leg's candidates, of fusion, and of MaxSim."""

    def __init__(self, index: Index, query: str, filter: Any = None) -> None:
        store = version_of(index).store
        found = store.payloads(list(store.ids()))
        self.texts = {id_: payload["content"] for id_, payload in found.items()}
        allowed = {id_ for id_, payload in found.items() if filter is None or payload["metadata"]["n"] < 30}
        dense, words = WordEncoder(max_tokens=40), query.split()
        asked = dense.encode_queries([query]).vectors[0]
        rows = dense.encode_queries(list(self.texts.values())).vectors
        self.dense = {id_: float(row @ asked) for id_, row in zip(self.texts, rows, strict=True) if id_ in allowed}
        self.sparse = {id_: float(sum(self.texts[id_].split().count(word) for word in words)) for id_ in allowed}
        tokens = LateWordEncoder().encode_documents([query, *self.texts.values()]).vectors
        late = zip(self.texts, tokens[1:], strict=True)
        self.late = {id_: maxsim(tokens[0], rows) for id_, rows in late if id_ in allowed}
        self.lexical = {id_: round(score, 4) for id_, score in self.bm25(words).items() if id_ in allowed}

    def bm25(self, words: Sequence[str]) -> dict[UUID, float]:
        split = {id_: text.split() for id_, text in self.texts.items()}
        average = sum(map(len, split.values())) / len(split)
        scores = {}
        for id_, own in split.items():
            total = 0.0
            for word in words:
                holding = sum(word in one for one in split.values())
                idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
                count = own.count(word)
                total += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(own) / average))
            if total > 0:
                scores[id_] = total
        return scores

    def legs(self, depth: int) -> dict[str, dict[UUID, float]]:
        """Of each leg its best and what ties with the last of them; each space scores the union."""
        sparse = {id_: score for id_, score in self.sparse.items() if score > 0}
        own = {"dense": self.dense, "lexical": self.lexical, "sparse": sparse}
        heads = {leg: best(scores, depth) for leg, scores in own.items()}
        union = set().union(*heads.values())
        return {
            "dense": {id_: self.dense[id_] for id_ in union},
            "lexical": heads["lexical"],
            "sparse": {id_: sparse[id_] for id_ in union if id_ in sparse},
            "late": {id_: self.late[id_] for id_ in union},
        }

    def stages(self, depth: int) -> dict[str, dict[UUID, float]]:
        legs = self.legs(depth)
        fused = fuse(LegScores(legs["dense"], legs["lexical"], legs["sparse"]), PLAIN)
        return {**legs, "fused": dict(fused)}


def best(scores: Mapping[UUID, float], count: int) -> dict[UUID, float]:
    least = sorted(scores.values(), reverse=True)[:count][-1]
    return {id_: score for id_, score in scores.items() if score >= least}


def rank(scores: Mapping[UUID, float], id_: UUID) -> int | None:
    """Among scores that are told apart by more than their last digits."""
    if id_ not in scores:
        return None
    return 1 + sum(
        score > scores[id_] + 1e-6 or (abs(score - scores[id_]) <= 1e-6 and other.int < id_.int)
        for other, score in scores.items()
    )


def assert_explained(hit: Hit, explained: Explanation, stages: Mapping[str, Mapping[UUID, float]]) -> None:
    id_ = UUID(hit.chunk_id)
    assert (explained.chunk_id, explained.document_id) == (hit.chunk_id, hit.document_id)
    assert set(explained.places) == set(stages)
    for stage, scores in stages.items():
        place = explained.places[stage]
        if id_ not in scores:
            assert place == Place(None, None)
        else:
            assert place.score == pytest.approx(scores[id_], abs=1e-4), stage


@pytest.mark.parametrize("depth", [5, 100])
def test_an_explanation_is_where_each_hit_stood(index: Index, depth: int) -> None:
    hits = index.search(QUERY, 5, recipe=replace(PLAIN, depth=depth))
    stages = Truth(index, QUERY).stages(depth)
    for hit, explained in zip(hits, hits.explain(), strict=True):
        assert_explained(hit, explained, stages)
        for stage in ("lexical", "sparse"):
            assert explained.places[stage].rank == rank(stages[stage], UUID(hit.chunk_id)), stage
    assert [explained.places["late"].score for explained in hits.explain()] == [hit.score for hit in hits]


def test_ranks_are_those_of_the_scores(index: Index) -> None:
    """Of every stage: 1 for the best, and no two alike."""
    hits = index.search(QUERY, CHUNKS)
    assert len(hits) == CHUNKS
    for stage in ("dense", "fused", "late"):
        places = [explained.places[stage] for explained in hits.explain()]
        assert sorted(place.rank or 0 for place in places) == list(range(1, CHUNKS + 1))
        by_rank = sorted(places, key=lambda place: place.rank or 0)
        assert [place.score for place in by_rank] == sorted((place.score for place in places), reverse=True)  # type: ignore[type-var]


def test_reranked_hits_are_explained_with_the_rerankers_scores(index: Index) -> None:
    first, second = Reversed("first"), Reversed("second", most=2)
    recipe = replace(PLAIN, rerankers=(RerankStep(first, 12), RerankStep(second, 6)))
    hits = index.search(QUERY, 10, recipe=recipe)
    before = index.search(QUERY, 12, recipe=PLAIN)
    stages: dict[str, Mapping[UUID, float]] = dict(Truth(index, QUERY).stages(100))
    lengths = {UUID(hit.chunk_id): -float(len(hit.text)) for hit in before}
    order = sorted(lengths, key=lambda id_: (-lengths[id_], [UUID(hit.chunk_id) for hit in before].index(id_)))
    stages |= {"rerank: first": lengths, "rerank: second": {id_: lengths[id_] for id_ in order[:2]}}
    for hit, explained in zip(hits, hits.explain(), strict=True):
        assert_explained(hit, explained, stages)
    assert [UUID(hit.chunk_id) for hit in hits] == order[:10]
    assert [explained.places["rerank: second"].rank for explained in hits.explain()] == [1, 2, *[None] * 8]


def test_an_explanation_searches_nothing_again(index: Index) -> None:
    hits = index.search(QUERY, 3)
    before = index._answers.asker.vectors.counts()
    index.sync([Document("00", "something else altogether")], prune=False)
    assert [explained.chunk_id for explained in hits.explain()] == [hit.chunk_id for hit in hits]
    assert index._answers.asker.vectors.counts() == before
    index.sync([Document("00", texts()[0], {"n": 0})], prune=False)


def test_a_min_score_needs_scores_that_mean_something() -> None:
    with pytest.raises(InvalidRecipe, match="calibrated"):
        SearchRecipe(fusion="dbsf", min_score=1.0)


# --- what a review found ----------------------------------------------------------------------------------------------
def test_an_answer_without_hits_has_a_receipt_too(index: Index) -> None:
    hits = index.search(QUERY, 3, mode="dense", recipe=SearchRecipe(min_score=1e9))
    assert hits == []
    assert hits.receipt.version == "v1"
    assert [stage.name for stage in hits.receipt.stages][:3] == ["embed", "legs", "fuse"]
    assert any("min_score" in problem for problem in hits.receipt.degraded), "a small index has no statistics"


def test_without_statistics_a_threshold_can_drop_what_answers_and_pass_what_does_not(tmp_path: Path) -> None:
    query, same = "rotate the key", "swap your secret"

    class Meanings(WordEncoder):
        """For which two texts say the same."""

        def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Any:
            return super().encode_queries([same if text == query else text for text in texts], prompt)

    with Index.open(tmp_path / "i", encoder=Meanings()) as small:
        small.sync([Document("same", same), Document("other", "lunch"), Document("third", "walls")])
        answer, *_ = small.search(query, 3)
        assert (answer.document_id, answer.score) == ("same", pytest.approx(3.3))
        dropped = small.search(query, 3, recipe=SearchRecipe(min_score=4.5))
        assert dropped == []
        assert "drop what says it in other words" in dropped.receipt.degraded[0]
        passed = small.search("nothing of that", 3, mode="dense", recipe=SearchRecipe(min_score=4.5))
        assert len(passed) == 1
        assert "pass what is not relevant" in passed.receipt.degraded[0]


class Judge:
    """Likes passages that are marked as good."""

    name = "judge"
    identity = {"kind": "judge"}  # noqa: RUF012

    def score(
        self, query: str, passages: Sequence[str], *, is_over: Callable[[], bool] = lambda: False
    ) -> RerankScores:
        return RerankScores([0.95 if "good" in passage else 0.05 for passage in passages])


def test_diversity_chooses_among_what_the_reranker_scored(tmp_path: Path) -> None:
    texts = [f"zebra w{n} " + ("good " if n % 5 == 0 else "poor ") + f"x{n}" for n in range(40)]
    with Index.open(tmp_path / "i", encoder=WordEncoder()) as index:
        index.sync([Document(str(n), text) for n, text in enumerate(texts)])
        recipe = SearchRecipe(mode="lexical", rerankers=(RerankStep(Judge(), 35),))
        plain = index.search("zebra", 4, recipe=recipe)
        spread = index.search("zebra", 4, recipe=replace(recipe, diversity=0.05))
        assert [hit.score for hit in plain] == [0.95] * 4
        assert [hit.score for hit in spread] == [0.95] * 4, "a little diversity does not outweigh the judge"


def test_most_hits_of_a_document_are_made_up_for_from_deeper(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", recipe=IndexRecipe(chunk_tokens=16), encoder=WordEncoder()) as index:
        large = Document("large", "\n\n".join(f"zebra zebra zebra a{n} b{n} c{n} d{n} e{n} f{n}" for n in range(60)))
        index.sync([large, *(Document(f"small{n}", f"zebra p{n} q{n} r{n} s{n}") for n in range(5))])
        for mode in ("lexical", "hybrid"):
            recipe = SearchRecipe(mode=mode, depth=10, per_document=1)  # type: ignore[arg-type]
            found = [hit.document_id for hit in index.search("zebra", 5, recipe=recipe)]
            assert len(set(found)) == len(found) == 5
