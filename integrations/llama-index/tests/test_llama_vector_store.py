"""`TarragonVectorStore` under the contract of LlamaIndex's vector stores, alone and below its indexes and pipelines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.simple import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode
from llama_index.retrievers.tarragon import EncoderOfEmbedding, SpaceEmbedding, TarragonEmbedding, TarragonVectorStore

from tarragon import RerankStep, SearchRecipe
from tarragon.canaries import probes
from tarragon.errors import EncoderDrift, EncodingFailed, InvalidDocument, InvalidFilter, InvalidInput, RecipeMismatch
from tarragon.protocols import Embeddings, EncoderInput, RerankScores
from tarragon.testing import WordEncoder, check_encoder

Mode = VectorStoreQueryMode
TEXTS = {
    "keys-1": ("rotate the signing key every April", "keys", {"team": "security", "year": 2024}),
    "keys-2": ("revoke a leaked key at once", "keys", {"team": "security", "year": 2025}),
    "backup": ("the backup is copied every night", "backup", {"team": "storage", "year": 2025}),
    "walls": ("paint the walls white", "walls", {}),
}


class ForeignEmbedding(BaseEmbedding):
    """An embedding model that is not of Tarragon: vectors from words, of no particular length."""

    salt: str = "foreign"
    scale: float = 3.0

    def _get_text_embedding(self, text: str) -> list[float]:
        row: list[float] = (self.scale * WordEncoder(32, salt=self.salt).encode_queries([text]).vectors[0]).tolist()
        return row

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


EMBEDDINGS: dict[str, Any] = {"own": lambda: TarragonEmbedding(encoder=WordEncoder()), "foreign": ForeignEmbedding}


@pytest.fixture(params=EMBEDDINGS)
def embed_model(request: pytest.FixtureRequest) -> BaseEmbedding:
    return EMBEDDINGS[request.param]()


def nodes_of(embed_model: BaseEmbedding) -> list[TextNode]:
    nodes = []
    for id_, (text, source, metadata) in TEXTS.items():
        node = TextNode(text=text, id_=id_, metadata=metadata)
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=source)
        node.embedding = embed_model.get_text_embedding(node.get_content("embed"))
        nodes.append(node)
    return nodes


@pytest.fixture
def store(tmp_path: Path, embed_model: BaseEmbedding) -> Iterator[TarragonVectorStore]:
    opened = TarragonVectorStore(tmp_path / "a.tarragon", embed_model=embed_model)
    yield opened
    opened.close()


@pytest.fixture
def filled(store: TarragonVectorStore, embed_model: BaseEmbedding) -> TarragonVectorStore:
    assert store.add(nodes_of(embed_model)) == list(TEXTS)
    return store


def asked(embed_model: BaseEmbedding, text: str, **settings: Any) -> VectorStoreQuery:
    return VectorStoreQuery(
        query_embedding=embed_model.get_query_embedding(text), query_str=text, **{"similarity_top_k": 2, **settings}
    )


def only(*filters: MetadataFilter, condition: FilterCondition = FilterCondition.AND) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=condition)


# --- the contract -----------------------------------------------------------------------------------------------------
def test_class(filled: TarragonVectorStore) -> None:
    assert isinstance(filled, BasePydanticVectorStore)
    assert filled.stores_text
    assert filled.client.status().documents == len(TEXTS)


def test_nodes_come_back_with_their_ids_and_cosines(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    nodes = {node.node_id: node for node in nodes_of(embed_model)}
    simple = SimpleVectorStore()
    simple.add(list(nodes.values()))
    query = asked(embed_model, "rotate the signing key", similarity_top_k=4)
    result, expected = filled.query(query), simple.query(query)
    assert result.ids == expected.ids
    assert result.similarities == pytest.approx(expected.similarities, abs=1e-5)
    for node in result.nodes or []:
        was = nodes[node.node_id]
        assert (node.get_content(), node.metadata, node.ref_doc_id) == (was.get_content(), was.metadata, was.ref_doc_id)


@pytest.mark.parametrize(
    ("mode", "best"),
    [
        (Mode.DEFAULT, "keys-2"),
        (Mode.SPARSE, "keys-2"),
        (Mode.TEXT_SEARCH, "keys-2"),
        (Mode.HYBRID, "keys-2"),
        (Mode.SEMANTIC_HYBRID, "keys-2"),
        (Mode.MMR, "keys-2"),
    ],
)
def test_every_supported_mode(
    filled: TarragonVectorStore, embed_model: BaseEmbedding, mode: VectorStoreQueryMode, best: str
) -> None:
    query = asked(embed_model, "revoke a leaked key", mode=mode)
    result = filled.query(query)
    assert (result.ids or [""])[0] == best
    assert result.similarities == sorted(result.similarities or [], reverse=True) or mode is Mode.MMR
    later = asyncio.run(filled.aquery(query))
    assert (later.ids, later.similarities) == (result.ids, result.similarities)


@pytest.mark.parametrize("mode", [Mode.SVM, Mode.LOGISTIC_REGRESSION, Mode.LINEAR_REGRESSION])
def test_other_modes_are_errors(
    filled: TarragonVectorStore, embed_model: BaseEmbedding, mode: VectorStoreQueryMode
) -> None:
    with pytest.raises(InvalidInput, match="is not one of this store"):
        filled.query(asked(embed_model, "key", mode=mode))


@pytest.mark.parametrize(
    ("mode", "lacks"),
    [(Mode.DEFAULT, "query_embedding"), (Mode.HYBRID, "query_embedding"), (Mode.HYBRID, "query_str"),
     (Mode.SPARSE, "query_str"), (Mode.TEXT_SEARCH, "query_str"), (Mode.MMR, "query_embedding")],
)  # fmt: skip
def test_a_mode_without_what_it_searches_by_is_an_error(
    filled: TarragonVectorStore, embed_model: BaseEmbedding, mode: VectorStoreQueryMode, lacks: str
) -> None:
    query = asked(embed_model, "key", mode=mode)
    setattr(query, lacks, None)
    with pytest.raises(InvalidInput, match=f"no {lacks}"):
        filled.query(query)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_is_the_share_of_the_vectors_in_both_ways_of_asking(
    filled: TarragonVectorStore, embed_model: BaseEmbedding, alpha: float
) -> None:
    query = asked(embed_model, "revoke a leaked key", mode=Mode.HYBRID, alpha=alpha, similarity_top_k=4)
    query.query_embedding = embed_model.get_query_embedding("paint the walls white")
    result = filled.query(query)
    assert (result.ids or [""])[0] == ("walls" if alpha else "keys-2")
    assert asyncio.run(filled.aquery(query)).ids == result.ids


def test_mmr_threshold(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    question = "rotate or revoke the leaked signing key"
    plain, near, far = (
        filled.query(asked(embed_model, question, **settings)).ids
        for settings in ({}, {"mode": Mode.MMR, "mmr_threshold": 1.0}, {"mode": Mode.MMR, "mmr_threshold": 0.0})
    )
    assert plain == near
    assert set(near or []) == {"keys-1", "keys-2"}
    assert set(far or []) != {"keys-1", "keys-2"}


@pytest.mark.parametrize(("settings", "expected"), [
    ({"filters": only(MetadataFilter(key="team", value="security"))}, {"keys-1", "keys-2"}),
    ({"filters": only(MetadataFilter(key="year", value=2024, operator=FilterOperator.GT))}, {"keys-2", "backup"}),
    ({"filters": only(MetadataFilter(key="team", value="security", operator=FilterOperator.NE))}, {"backup", "walls"}),
    ({"filters": only(MetadataFilter(key="team", value=None, operator=FilterOperator.IS_EMPTY))}, {"walls"}),
    ({"filters": only(MetadataFilter(key="team", value="storage"), MetadataFilter(key="year", value=2024),
                      condition=FilterCondition.OR)}, {"keys-1", "backup"}),
    ({"doc_ids": ["keys"]}, {"keys-1", "keys-2"}),
    ({"node_ids": ["walls", "keys-1"]}, {"walls", "keys-1"}),
    ({"node_ids": []}, set(TEXTS)),
    ({"doc_ids": ["keys"], "filters": only(MetadataFilter(key="year", value=2025))}, {"keys-2"}),
])  # fmt: skip
@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.HYBRID])
def test_filters_documents_and_nodes(
    filled: TarragonVectorStore,
    embed_model: BaseEmbedding,
    settings: dict[str, Any],
    expected: set[str],
    mode: VectorStoreQueryMode,
) -> None:
    result = filled.query(asked(embed_model, "the key", similarity_top_k=10, mode=mode, **settings))
    assert set(result.ids or []) == expected
    if filters := settings.get("filters"):
        nodes = filled.get_nodes(filters=filters)
        assert {node.node_id for node in nodes} == (expected if "doc_ids" not in settings else expected | {"backup"})


def test_an_unsupported_filter_is_an_error(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    wrong = only(MetadataFilter(key="team", value="security", operator=FilterOperator.IN))
    for ask in (
        lambda: filled.query(asked(embed_model, "key", filters=wrong)),
        lambda: filled.get_nodes(filters=wrong),
        lambda: filled.delete_nodes(filters=wrong),
    ):
        with pytest.raises(InvalidFilter):
            ask()
    assert len(filled.get_nodes()) == len(TEXTS)


def test_get_and_delete(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    assert [node.node_id for node in filled.get_nodes(["walls", "unknown", "keys-1"])] == ["walls", "keys-1"]
    filled.delete("keys")
    assert {node.node_id for node in filled.get_nodes()} == {"backup", "walls"}
    filled.delete("unknown")
    filled.delete_nodes(["walls", "unknown"])
    assert [node.node_id for node in filled.get_nodes()] == ["backup"]
    filled.add(nodes_of(embed_model))
    filled.delete_nodes(filters=only(MetadataFilter(key="team", value="security")))
    filled.delete_nodes(["backup"], only(MetadataFilter(key="team", value="security")))
    assert {node.node_id for node in filled.get_nodes()} == {"backup", "walls"}
    for nothing in (None, MetadataFilters(filters=[])):
        with pytest.raises(InvalidInput, match="clear"):
            filled.delete_nodes(filters=nothing)
    filled.clear()
    assert filled.get_nodes() == []
    assert filled.query(asked(embed_model, "key")).ids == []


def test_async_twins(store: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    async def run() -> None:
        assert await store.async_add(nodes_of(embed_model)) == list(TEXTS)
        await store.adelete("keys")
        assert {node.node_id for node in await store.aget_nodes()} == {"backup", "walls"}
        await store.adelete_nodes(["walls"])
        assert [node.node_id for node in await store.aget_nodes(["backup", "walls"])] == ["backup"]
        await store.aclear()
        assert await store.aget_nodes() == []

    asyncio.run(run())


def test_adding_again_replaces(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    node = nodes_of(embed_model)[0]
    node.set_content("rotate the signing key every October")
    node.embedding = embed_model.get_text_embedding(node.get_content("embed"))
    filled.add([node])
    assert len(filled.get_nodes()) == len(TEXTS)
    assert filled.query(asked(embed_model, "October")).ids[0] == "keys-1"  # type: ignore[index]
    assert filled.add([]) == []


def test_it_lasts(tmp_path: Path, embed_model: BaseEmbedding) -> None:
    path = tmp_path / "a.tarragon"
    store = TarragonVectorStore(path, embed_model=embed_model)
    store.add(nodes_of(embed_model))
    before = store.query(asked(embed_model, "revoke a key"))
    store.close()
    again = TarragonVectorStore(path, embed_model=embed_model)
    assert again.query(asked(embed_model, "revoke a key")).similarities == before.similarities
    again.close()


def test_a_node_that_cannot_be_stored_is_told_and_the_others_are_stored(
    store: TarragonVectorStore, embed_model: BaseEmbedding
) -> None:
    nodes = nodes_of(embed_model)
    nodes[1].metadata = {"bad": {1, 2}}
    with pytest.raises(InvalidDocument, match=r"1 of 4 nodes.*keys-2"):
        store.add(nodes)
    assert len(store.get_nodes()) == 3


def test_several_can_add_at_the_same_time(store: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    async def run() -> None:
        nodes = nodes_of(embed_model)
        await asyncio.gather(*(store.async_add([node]) for node in nodes))
        await asyncio.gather(*(store.async_add(nodes) for _ in range(3)))

    asyncio.run(run())
    assert {node.node_id for node in store.get_nodes()} == set(TEXTS)
    assert store.client.verify(deep=True).is_sound, "each text has its own vector"


def test_of_one_id_the_last_counts_and_blank_nodes_are_not_kept(
    filled: TarragonVectorStore, embed_model: BaseEmbedding
) -> None:
    twice = [TextNode(text="one", id_="x"), TextNode(text="two", id_="x"), TextNode(text=" ", id_="walls")]
    assert filled.add(twice) == ["x", "x", "walls"]
    assert [node.get_content() for node in filled.get_nodes(["x", "walls"])] == ["two"]
    assert "walls" not in filled.client.documents()


def test_settings_beside_the_query(filled: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    """`VectorIndexRetriever` gives them so."""
    index = VectorStoreIndex.from_vector_store(filled, embed_model=embed_model)

    def found(**settings: Any) -> set[str]:
        retriever = index.as_retriever(vector_store_query_mode="mmr", similarity_top_k=2, vector_store_kwargs=settings)
        return {one.node.node_id for one in retriever.retrieve("rotate or revoke the leaked signing key")}

    assert found(mmr_threshold=1.0) == {"keys-1", "keys-2"}
    assert found(mmr_threshold=0.0) != {"keys-1", "keys-2"}
    with pytest.raises(InvalidInput, match="nonsense"):
        found(nonsense=1)


def test_rerankers_need_a_question(tmp_path: Path, embed_model: BaseEmbedding) -> None:
    class Reads:
        name = "reads"
        identity = {"kind": "reads"}  # noqa: RUF012

        def score(self, query: str, passages: Sequence[str], **_: Any) -> RerankScores:
            return RerankScores([float(query in passage) for passage in passages])

    recipe = SearchRecipe(rerankers=(RerankStep(Reads()),))
    store = TarragonVectorStore(tmp_path / "b.tarragon", embed_model=embed_model, recipe=recipe)
    store.add(nodes_of(embed_model))
    query = asked(embed_model, "paint the walls")
    assert store.query(query).ids[0] == "walls"  # type: ignore[index]
    query.query_str = None
    with pytest.raises(InvalidInput, match="no query_str"):
        store.query(query)
    store.close()


# --- whose vectors they are -------------------------------------------------------------------------------------------
def test_nodes_of_another_model_are_refused(store: TarragonVectorStore, embed_model: BaseEmbedding) -> None:
    dimensions = len(embed_model.get_text_embedding("x"))
    other = TarragonEmbedding(encoder=WordEncoder(dimensions, salt="another"))
    with pytest.raises(InvalidInput, match="another model"):
        store.add(nodes_of(other))
    with pytest.raises(EncodingFailed, match="dimensions"):
        store.add(nodes_of(TarragonEmbedding(encoder=WordEncoder(8))))
    assert store.get_nodes() == []
    store.add(nodes_of(embed_model))
    with pytest.raises(InvalidInput, match="another model"):
        store.add(nodes_of(other))


def test_a_swapped_model_of_the_same_dimensions_is_noticed(tmp_path: Path) -> None:
    """Nobody else notices."""
    path = tmp_path / "a.tarragon"
    store = TarragonVectorStore(path, embed_model=ForeignEmbedding(model_name="one"))
    store.add(nodes_of(ForeignEmbedding()))
    store.close()
    with pytest.raises(RecipeMismatch):
        TarragonVectorStore(path, embed_model=ForeignEmbedding(model_name="two", salt="swapped"))
    drifted = ForeignEmbedding(model_name="one", salt="drifted")
    store = TarragonVectorStore(path, embed_model=drifted)
    late = TextNode(text="a new text", id_="new", embedding=drifted.get_text_embedding("a new text"))
    with pytest.raises(EncoderDrift):
        store.add([late])
    store.close()


def test_given_embeddings_are_used_and_others_are_made(tmp_path: Path) -> None:
    class Noting(WordEncoder):
        texts: ClassVar[list[str]] = []

        def encode_documents(self, inputs: Sequence[EncoderInput]) -> Embeddings:
            self.texts.extend(one.text for one in inputs)
            return super().encode_documents(inputs)

    model = TarragonEmbedding(encoder=Noting())
    nodes = nodes_of(model)
    nodes[3].embedding = None
    store = TarragonVectorStore(tmp_path / "a.tarragon", embed_model=model)
    Noting.texts.clear()
    store.add(nodes)
    embedded = [text for text in Noting.texts if text not in probes()]
    assert embedded == [nodes[0].get_content("embed"), nodes[3].get_content()], "one is compared with the model's"
    assert store.client.verify(deep=True).is_sound, "and all are what the model makes"
    store.close()


# --- below LlamaIndex's own -------------------------------------------------------------------------------------------
def test_vector_store_index(tmp_path: Path, embed_model: BaseEmbedding, documents: list[Document]) -> None:
    store = TarragonVectorStore(tmp_path / "a.tarragon", embed_model=embed_model)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embed_model)
    for mode in ("default", "hybrid", "text_search"):
        retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=1)
        assert retriever.retrieve("database backup cold storage")[0].node.ref_doc_id == "backup"
    index.insert(Document(text="The canteen serves lunch at noon.", id_="lunch"))
    assert index.as_retriever(similarity_top_k=1).retrieve("canteen lunch")[0].node.ref_doc_id == "lunch"
    index.delete_ref_doc("backup")
    assert {node.ref_doc_id for node in store.get_nodes()} == {"keys.md", "walls", "lunch"}
    again = VectorStoreIndex.from_vector_store(store, embed_model=embed_model)
    assert again.as_retriever(similarity_top_k=1).retrieve("canteen lunch")[0].node.ref_doc_id == "lunch"
    store.close()


def test_ingestion_pipeline(tmp_path: Path, embed_model: BaseEmbedding, documents: list[Document]) -> None:
    store = TarragonVectorStore(tmp_path / "a.tarragon", embed_model=embed_model)
    splitter = SentenceSplitter(chunk_size=80, chunk_overlap=0)
    pipeline = IngestionPipeline(transformations=[splitter, embed_model], vector_store=store)
    nodes = pipeline.run(documents=documents)
    assert {node.node_id for node in store.get_nodes()} == {node.node_id for node in nodes}
    result = store.query(asked(embed_model, "rotate the signing key", mode=Mode.HYBRID))
    assert "rotate" in result.nodes[0].get_content()  # type: ignore[index]
    store.close()


# --- embedding models across the border -------------------------------------------------------------------------------
def test_an_embedding_model_of_llama_index_is_an_encoder() -> None:
    encoder = EncoderOfEmbedding(ForeignEmbedding())
    check_encoder(encoder)
    vectors = encoder.encode_queries(["some words", "others"]).vectors
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert encoder.identity["model"] == "unknown"
    assert encoder.encode_queries(["words"], prompt="some ").vectors[0] == pytest.approx(vectors[0])


def test_an_encoder_is_an_embedding_model_of_llama_index() -> None:
    model = TarragonEmbedding(encoder=WordEncoder())
    row = WordEncoder().encode_queries(["some words"]).vectors[0]
    for embedding in (
        model.get_query_embedding("some words"),
        model.get_agg_embedding_from_queries(["some words", "some words"]),
        asyncio.run(model.aget_query_embedding("some words")),
        asyncio.run(model.aget_agg_embedding_from_queries(["some words"])),
    ):
        assert isinstance(embedding, SpaceEmbedding)
        assert embedding == pytest.approx(row.tolist())
    assert model.get_text_embedding_batch(["some words", "x"])[0] == pytest.approx(row.tolist())
    assert asyncio.run(model.aget_text_embedding_batch(["some words"]))[0] == pytest.approx(row.tolist())
    assert model.to_dict()["class_name"] == "TarragonEmbedding"


def test_a_space_embedding_survives_copies() -> None:
    import copy
    import pickle

    one = SpaceEmbedding([1.0, 2.0], "abc")
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert (other, other.fingerprint) == (one, "abc")
