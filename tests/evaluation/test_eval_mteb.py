"""mteb's retrieval tasks through Tarragon: on rows as mteb gives them, and by mteb itself where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tarragon import Index, IndexRecipe, SearchRecipe
from tarragon.errors import InvalidInput
from tarragon.evaluation.golden import golden_set
from tarragon.evaluation.metrics import score
from tarragon.evaluation.mteb_adapter import TarragonSearch
from tarragon.evaluation.running import run
from tarragon.evaluation.types import Question
from tarragon.testing import WordEncoder

TOPICS = ["signing keys", "billing plans", "cache warming", "queue workers", "router tables", "backup tapes"]
CORPUS = [
    {"id": f"d{i}-{j}", "title": topic.title() if j else "", "text": f"About {topic}, part {j}: {word} {word}."}
    for i, topic in enumerate(TOPICS)
    for j, word in enumerate(["rotate", "inspect", "delete", "list"])
]
QUERIES = [{"id": f"q{i}", "text": f"rotate the {topic}"} for i, topic in enumerate(TOPICS)]
QRELS = {f"q{i}": {f"d{i}-0": 2, f"d{i}-1": 1, f"d{i}-3": 0} for i in range(len(TOPICS))}
OF: dict[str, Any] = {
    "task_metadata": SimpleNamespace(name="Local"),
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {},
    "num_proc": None,
}


@pytest.fixture
def model(words: WordEncoder) -> Iterator[TarragonSearch]:
    with TarragonSearch(encoder=words) as opened:
        yield opened


def test_it_finds_what_the_index_finds_in_the_same_order(model: TarragonSearch, words: WordEncoder) -> None:
    model.index(CORPUS, **OF)
    found = model.search(QUERIES, top_k=10, **OF)
    assert list(found) == [row["id"] for row in QUERIES]
    assert model._index is not None
    for row in QUERIES:
        hits = model._index.search(row["text"], 10)
        assert sorted(found[row["id"]], key=lambda id_: -found[row["id"]][id_]) == [hit.document_id for hit in hits]
        assert len(set(found[row["id"]].values())) == 10, "no ties, which mteb would break in its own way"


def test_titles_and_instructions_are_read(model: TarragonSearch) -> None:
    model.index([{"id": "a", "title": "Zebra", "text": "text"}, {"id": "b", "title": None, "text": "text"}], **OF)
    found = model.search([{"id": "q", "text": "what", "instruction": "zebra"}], top_k=1, **OF)
    assert list(found["q"]) == ["a"]


def test_reranking_tasks_rank_their_candidates_and_no_others(words: WordEncoder) -> None:
    with TarragonSearch(search=SearchRecipe(mode="lexical"), encoder=words) as model:
        model.index(CORPUS, **OF)
        found = model.search(QUERIES[:2], top_k=3, top_ranked={"q0": ["d2-2", "d0-1", "d0-0", "d3-3"], "q1": []}, **OF)
    assert next(iter(found["q0"])) == "d0-0"
    assert set(found["q0"]) == {"d0-0", "d0-1", "d2-2"}, "what no leg finds comes last, in its order"
    assert found["q1"] == {}


def test_a_kept_index_is_not_embedded_again(tmp_path: Path) -> None:
    for expected in (len(CORPUS), 0):
        words = WordEncoder()
        with TarragonSearch(encoder=words, folder=tmp_path / "kept") as model:
            model.index(CORPUS, **OF)
            assert words.documents_encoded >= expected
            if not expected:
                assert words.documents_encoded < len(CORPUS)
    assert list((tmp_path / "kept").glob("Local-default-test-*.tarragon"))


def test_other_settings_are_another_revision(words: WordEncoder) -> None:
    made = [
        TarragonSearch(encoder=words),
        TarragonSearch(encoder=WordEncoder(salt="x")),
        TarragonSearch(IndexRecipe(), encoder=words),
        TarragonSearch(search=SearchRecipe(depth=50), encoder=words),
    ]
    assert len({one.revision for one in made}) == 4
    for one in made:
        one.close()
    with pytest.raises(InvalidInput, match=r"call index\(\)"):
        made[0].search(QUERIES, top_k=3)


def test_what_is_no_text_is_refused(model: TarragonSearch) -> None:
    with pytest.raises(InvalidInput, match="only tasks of texts"):
        model.index([{"id": "a", "text": ["a", "conversation"]}], **OF)


@pytest.mark.filterwarnings("ignore")  # mteb's own, and those of what it brings
def test_mteb_scores_a_local_task_as_we_do(words: WordEncoder, tmp_path: Path) -> None:
    mteb = pytest.importorskip("mteb", reason="pip install 'tarragon[mteb]'")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            type="Retrieval",
            name="Local",
            main_score="ndcg_at_10",
            description="A local task.",
            reference=None,
            dataset={"path": "NA", "revision": "NA"},
            category="t2t",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            date=("2025-01-01", "2025-01-01"),
            dialect=[],
            domains=[],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            modalities=["text"],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            data = RetrievalSplitData(
                queries=Dataset.from_list(QUERIES),
                corpus=Dataset.from_list(CORPUS),
                relevant_docs=QRELS,
                top_ranked=None,
            )
            self.dataset = {"default": {"test": data}}
            self.data_loaded = True

    recipe = SearchRecipe(mode="dense")
    with TarragonSearch(search=recipe, encoder=words, folder=tmp_path) as model:
        result = mteb.evaluate(model, Local(), cache=None, co2_tracker=False, show_progress_bar=False)
        [scores] = result.task_results[0].scores["test"]
        assert result.model_name == "tarragon/words"
        assert result.model_revision == model.revision
        asked = golden_set("local", [Question(row["id"], row["text"], QRELS[row["id"]]) for row in QUERIES])
        assert isinstance(model._index, Index)
        ours = score(run(model._index, asked, k=24, recipe=recipe), asked, ["nDCG@10", "R@10", "R@3", "AP"])
    assert 0 < scores["recall_at_3"] <= 1
    same = {"ndcg_at_10": "nDCG@10", "recall_at_10": "R@10", "recall_at_3": "R@3", "map_at_1000": "AP"}
    for theirs, name in same.items():
        assert scores[theirs] == pytest.approx(ours.means[name].mean, abs=1e-5), name
