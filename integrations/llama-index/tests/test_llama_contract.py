"""What LlamaIndex asks of a retriever, point by point."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llama_documents import BACKUP, KEYS
from llama_index.core import Document, QueryBundle
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeRelationship, NodeWithScore, ObjectType, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.retrievers.tarragon import SpaceEmbedding, TarragonEmbedding, TarragonRetriever

from tarragon import Index, RerankStep, Retriever, SearchRecipe
from tarragon.errors import IndexNotFound, InvalidInput
from tarragon.identity import fingerprint
from tarragon.protocols import Embeddings, RerankScores
from tarragon.receipts import Hits
from tarragon.testing import WordEncoder

QUESTION = "when to rotate the signing key?"


def shown(nodes: Sequence[NodeWithScore]) -> list[tuple[str, float | None, str]]:
    return [(one.node.node_id, one.score, one.node.get_content()) for one in nodes]


# --- asking -----------------------------------------------------------------------------------------------------------
def test_is_a_retriever_and_a_string_is_as_good_as_a_bundle(retriever: TarragonRetriever) -> None:
    assert isinstance(retriever, BaseRetriever)
    found = retriever.retrieve(QUESTION)
    assert found[0].text.endswith("every April.")
    assert shown(found) == shown(retriever.retrieve(QueryBundle(QUESTION)))


def test_async_result_is_the_sync_result(retriever: TarragonRetriever) -> None:
    questions = [QUESTION, "cold storage", "white walls", "", "nothing of this"]

    async def ask() -> list[list[NodeWithScore]]:
        return list(await asyncio.gather(*(retriever.aretrieve(question) for question in questions)))

    assert [shown(nodes) for nodes in asyncio.run(ask())] == [shown(retriever.retrieve(one)) for one in questions]
    assert [shown(nodes) for nodes in retriever.retrieve_batch(questions)] == [
        shown(retriever.retrieve(one)) for one in questions
    ]


def test_aretrieve_does_not_block_the_loop(tmp_path: Path) -> None:
    class Slow(WordEncoder):
        def encode_queries(self, texts: Sequence[str], prompt: str | None = None) -> Embeddings:
            time.sleep(0.5)  # as a model does, without the interpreter's lock
            return super().encode_queries(texts, prompt)

    async def longest_gap(retriever: TarragonRetriever) -> float:
        gaps = []
        asked = asyncio.ensure_future(retriever.aretrieve("a question of its own"))
        while not asked.done():
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - before)
        assert (await asked)[0].node.ref_doc_id == "a"
        return sorted(gaps)[-2]

    documents = [Document(text="a question of its own", id_="a")]
    with TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=Slow()) as retriever:
        assert asyncio.run(longest_gap(retriever)) < 0.25, "the model alone takes 0.5 s"


def test_several_event_loops_and_threads(retriever: TarragonRetriever) -> None:
    expected = shown(retriever.retrieve(QUESTION))

    def in_a_loop_of_its_own(_: int) -> object:
        async def ask() -> list[object]:
            return [shown(one) for one in await asyncio.gather(*(retriever.aretrieve(QUESTION) for _ in range(3)))]

        return asyncio.run(ask())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(in_a_loop_of_its_own, range(8))) == [[expected] * 3] * 8
        assert list(pool.map(lambda _: shown(retriever.retrieve(QUESTION)), range(16))) == [expected] * 16


# --- bundles ----------------------------------------------------------------------------------------------------------
def test_the_bundle_is_never_mutated(retriever: TarragonRetriever) -> None:
    for bundle in (QueryBundle(QUESTION), QueryBundle(QUESTION, custom_embedding_strs=["x"], embedding=[0.5] * 64)):
        before = (bundle.query_str, bundle.embedding, bundle.custom_embedding_strs, bundle.image_path)
        retriever.retrieve(bundle)
        asyncio.run(retriever.aretrieve(bundle))
        assert (bundle.query_str, bundle.embedding, bundle.custom_embedding_strs, bundle.image_path) == before


def test_an_embedding_of_a_foreign_space_is_not_used(retriever: TarragonRetriever) -> None:
    foreign = WordEncoder(salt="another model").encode_queries([BACKUP]).vectors[0].tolist()
    own = WordEncoder().encode_queries([BACKUP]).vectors[0].tolist()
    expected = shown(retriever.retrieve(QUESTION))
    other = fingerprint(WordEncoder(salt="another model").identity)
    for embedding in (foreign, own, [1.0, 2.0], SpaceEmbedding(foreign, other)):
        assert shown(retriever.retrieve(QueryBundle(QUESTION, embedding=embedding))) == expected


def test_an_embedding_of_this_space_is_used_and_its_dimensions_are_checked(retriever: TarragonRetriever) -> None:
    encoder = WordEncoder()
    recipe = SearchRecipe(mode="dense")
    dense = TarragonRetriever(retriever.index, similarity_top_k=1, recipe=recipe)
    embedding = TarragonEmbedding(encoder=encoder).get_query_embedding(BACKUP)
    assert dense.retrieve(QueryBundle(QUESTION, embedding=embedding))[0].node.ref_doc_id == "backup"
    assert asyncio.run(dense.aretrieve(QueryBundle(QUESTION, embedding=embedding)))[0].node.ref_doc_id == "backup"
    named = TarragonRetriever(
        retriever.index, similarity_top_k=1, recipe=recipe, embedding_fingerprint=fingerprint(encoder.identity)
    )
    assert named.retrieve(QueryBundle(QUESTION, embedding=list(embedding)))[0].node.ref_doc_id == "backup"
    with pytest.raises(InvalidInput, match="64 finite numbers"):
        named.retrieve(QueryBundle(QUESTION, embedding=[1.0, 2.0]))


def test_hyde_strings_feed_the_dense_leg_and_the_query_feeds_words_and_rerankers(retriever: TarragonRetriever) -> None:
    class Reads:
        name = "reads"
        identity = {"kind": "reads"}  # noqa: RUF012

        def __init__(self) -> None:
            self.queries: list[str] = []

        def score(self, query: str, passages: Sequence[str], **_: object) -> RerankScores:
            self.queries.append(query)
            return RerankScores([1.0 / (place + 1) for place in range(len(passages))])

    reader = Reads()
    bundle = QueryBundle("white walls", custom_embedding_strs=["database backup in cold storage", "every night"])
    hybrid = TarragonRetriever(
        retriever.index, recipe=SearchRecipe(rerankers=(RerankStep(reader),)), similarity_top_k=5
    )
    hybrid.retrieve(bundle)
    assert reader.queries == ["white walls"]
    assert hybrid.last_hits is not None
    places = {one.document_id: one.places for one in hybrid.last_hits.explain()}
    assert places["backup"]["dense"].rank == 1
    assert places["walls"]["lexical"].rank == 1
    dense = TarragonRetriever(retriever.index, recipe=SearchRecipe(mode="dense"), similarity_top_k=1)
    assert dense.retrieve(bundle)[0].node.ref_doc_id == "backup"
    lexical = TarragonRetriever(retriever.index, recipe=SearchRecipe(mode="lexical"), similarity_top_k=1)
    assert lexical.retrieve(bundle)[0].node.ref_doc_id == "walls"
    assert dense.retrieve(QueryBundle("", custom_embedding_strs=["cold storage"]))[0].node.ref_doc_id == "backup"


# --- nodes ------------------------------------------------------------------------------------------------------------
def test_text_nodes_with_stable_ids(tmp_path: Path, documents: list[Document]) -> None:
    ids = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.tarragon"
        with TarragonRetriever.from_documents(documents, path, encoder=WordEncoder()) as retriever:
            found = retriever.retrieve(QUESTION)
            assert {type(one.node) for one in found} == {TextNode}
            ids.append([one.node.node_id for one in found])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])


def test_ref_doc_id_offsets_and_metadata_are_exactly_those_given(
    retriever: TarragonRetriever, documents: list[Document]
) -> None:
    retriever.similarity_top_k = 10
    by_id = {document.doc_id: document for document in documents}
    for one in retriever.retrieve(QUESTION):
        node, document = one.node, by_id[str(one.node.ref_doc_id)]
        assert isinstance(node, TextNode)
        assert document.text[node.start_char_idx : node.end_char_idx] == node.text
        assert node.metadata == document.metadata
        for name in (
            "excluded_embed_metadata_keys",
            "excluded_llm_metadata_keys",
            "metadata_template",
            "text_template",
        ):
            assert getattr(node, name) == getattr(document, name), name
    keys = next(one.node for one in retriever.retrieve(QUESTION) if one.node.ref_doc_id == "keys.md")
    assert keys.get_content(MetadataMode.LLM).startswith("[team = security\nyear = 2024]\n")


def test_previous_next_and_source_relationships(retriever: TarragonRetriever) -> None:
    retriever.similarity_top_k = 10
    found = {one.node.node_id: one.node for one in retriever.retrieve("key") if one.node.ref_doc_id == "keys.md"}
    chain = sorted(found.values(), key=lambda node: node.start_char_idx)
    assert len(chain) == 3
    assert [node.prev_node.node_id if node.prev_node else None for node in chain] == [
        None,
        chain[0].node_id,
        chain[1].node_id,
    ]
    assert [node.next_node.node_id if node.next_node else None for node in chain] == [
        chain[1].node_id,
        chain[2].node_id,
        None,
    ]
    source = chain[0].relationships[NodeRelationship.SOURCE]
    assert (source.node_id, source.node_type) == ("keys.md", ObjectType.DOCUMENT)


def test_scores_are_floats_and_sorted(retriever: TarragonRetriever) -> None:
    retriever.similarity_top_k = 10
    for question in (QUESTION, "cold storage", "white"):
        scores = [one.score for one in retriever.retrieve(question)]
        assert all(type(score) is float for score in scores)
        assert scores == sorted(scores, reverse=True)


def test_no_per_query_data_in_the_metadata(retriever: TarragonRetriever) -> None:
    retriever.similarity_top_k = 10
    first, second = (
        {one.node.node_id: (one.node.metadata, one.node.hash) for one in retriever.retrieve(question)}
        for question in ("key storage walls", "the white office")
    )
    assert first
    assert all(first[id_] == second[id_] for id_ in first.keys() & second.keys())
    assert "_node" not in str(first)


def test_receipts_travel_beside_the_nodes(retriever: TarragonRetriever) -> None:
    assert retriever.last_hits is None
    nodes = retriever.retrieve(QUESTION)
    hits = retriever.last_hits
    assert hits is not None
    assert [hit.chunk_id for hit in hits] == [one.node.node_id for one in nodes]
    assert [stage.name for stage in hits.receipt.stages] == ["embed", "legs", "fuse", "serve", "freshness"]

    async def ask() -> list[str]:
        await retriever.aretrieve("cold storage")
        assert retriever.last_hits is not None
        return [hit.document_id for hit in retriever.last_hits]

    assert asyncio.run(ask())[0] == "backup"
    assert retriever.last_hits is hits, "each thread and task has its own"
    thread_sees = []
    thread = threading.Thread(target=lambda: thread_sees.append(retriever.last_hits))
    thread.start()
    thread.join()
    assert thread_sees == [None]


def test_texts_that_are_the_same_in_two_documents_both_come(tmp_path: Path) -> None:
    """Core 0.13 takes them for one."""
    documents = [Document(text="The same words.", id_=id_) for id_ in "ab"]
    with TarragonRetriever.from_documents(documents, tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        for nodes in (retriever.retrieve("same words"), asyncio.run(retriever.aretrieve("same words"))):
            assert sorted(str(one.node.ref_doc_id) for one in nodes) == ["a", "b"]


def test_no_hits_outlive_their_retriever(retriever: TarragonRetriever) -> None:
    def kept() -> int:
        gc.collect()
        return sum(type(one) is Hits for one in gc.get_objects())

    before = kept()
    for _ in range(20):
        TarragonRetriever(retriever.index).retrieve(QUESTION)
    assert kept() <= before + 1
    assert retriever.last_hits is None, "the last one was another's"


# --- edges ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_query_finds_nothing(retriever: TarragonRetriever, question: str) -> None:
    assert retriever.retrieve(question) == []
    assert asyncio.run(retriever.aretrieve(question)) == []


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    with TarragonRetriever.from_documents([], tmp_path / "a.tarragon", encoder=WordEncoder()) as retriever:
        assert retriever.retrieve(QUESTION) == []
    with TarragonRetriever(tmp_path / "b.tarragon", open_options={"encoder": WordEncoder()}) as never_synced:
        assert never_synced.retrieve(QUESTION) == []
    missing = TarragonRetriever(tmp_path / "c.tarragon", open_options={"create": False})
    with pytest.raises(IndexNotFound):
        missing.retrieve(QUESTION)


@pytest.mark.parametrize(("top_k", "expected"), [(0, 0), (1, 1), (2, 2), (1000, 5)])
def test_top_k_zero_and_larger_than_the_index(retriever: TarragonRetriever, top_k: int, expected: int) -> None:
    retriever.similarity_top_k = top_k
    assert retriever.similarity_top_k == top_k
    assert len(retriever.retrieve(QUESTION)) == expected
    assert len(asyncio.run(retriever.aretrieve(QUESTION))) == expected


def test_a_negative_top_k_is_an_error(retriever: TarragonRetriever) -> None:
    retriever.similarity_top_k = -1
    with pytest.raises(InvalidInput, match="k=-1"):
        retriever.retrieve(QUESTION)


def test_defaults_are_llama_index_s_or_the_retriever_s(retriever: TarragonRetriever) -> None:
    assert TarragonRetriever(retriever.index).similarity_top_k == 2
    assert TarragonRetriever(retriever.index, similarity_top_k=0).similarity_top_k == 0
    assert TarragonRetriever(Retriever(retriever.index, k=7)).similarity_top_k == 7


# --- configuration ----------------------------------------------------------------------------------------------------
def test_configuration_is_picklable(tmp_path: Path, documents: list[Document]) -> None:
    path = tmp_path / "a.tarragon"
    filters = MetadataFilters(filters=[MetadataFilter(key="team", value="security")])
    settings = {"similarity_top_k": 4, "filters": filters, "recipe": SearchRecipe(depth=50)}
    with TarragonRetriever.from_documents(documents, path, encoder=WordEncoder(), **settings) as retriever:
        packed, expected = pickle.dumps(retriever), shown(retriever.retrieve(QUESTION))
    assert len(expected) == 3
    with pickle.loads(packed) as copy:
        assert (copy.similarity_top_k, copy.filters) == (4, filters)
        assert shown(copy.retrieve(QUESTION)) == expected
        assert copy.retrieve("cold storage")[0].node.ref_doc_id == "keys.md", "its filter holds"


def test_a_scope_is_never_lost_by_copying(retriever: TarragonRetriever) -> None:
    with (
        Retriever(retriever.index, filter={"team": "security"}) as scoped,
        pytest.raises(InvalidInput, match="scope would be lost"),
    ):
        pickle.dumps(TarragonRetriever(scoped))


def test_a_retriever_s_scope_confines_it(retriever: TarragonRetriever) -> None:
    with Retriever(retriever.index, k=9, tenant_key="team", required=["team"]) as core:
        with pytest.raises(InvalidInput, match="needs a scope"):
            TarragonRetriever(core).retrieve(QUESTION)
        with core.scope(tenant="storage") as scoped:
            inside = TarragonRetriever(scoped)
    assert [one.node.ref_doc_id for one in inside.retrieve(QUESTION)] == ["backup"]
    open_filter = MetadataFilters(filters=[MetadataFilter(key="team", value="security")])
    assert TarragonRetriever(scoped, filters=open_filter).retrieve(QUESTION) == []


def test_what_it_was_given_stays_open_and_what_it_opened_is_closed(tmp_path: Path, documents: list[Document]) -> None:
    path = tmp_path / "a.tarragon"
    with TarragonRetriever.from_documents(documents, path, encoder=WordEncoder()) as retriever:
        retriever.retrieve(QUESTION)
    with Index.open(path, encoder=WordEncoder()) as index:
        with TarragonRetriever(index) as given:
            given.retrieve(QUESTION)
        assert index.search(QUESTION)
        given.close()


def test_the_core_package_never_imports_llama_index() -> None:
    code = """
import contextlib, importlib, pkgutil, sys, tarragon

for module in pkgutil.walk_packages(tarragon.__path__, "tarragon."):
    if not module.name.endswith("__main__"):
        with contextlib.suppress(ImportError):  # of an extra that is not installed
            importlib.import_module(module.name)
assert len([name for name in sys.modules if name.startswith("tarragon.")]) > 100
assert not [name for name in sys.modules if name.startswith("llama_index")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_text_of_a_document_is_chunked_by_tarragon(retriever: TarragonRetriever) -> None:
    assert sum(hit.document_id == "keys.md" for hit in retriever.index.passages()) == 3
    assert KEYS.count("##") == 2
