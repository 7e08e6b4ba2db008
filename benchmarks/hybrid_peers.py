"""Hybrid search of frameworks, each with its two legs as they are called alone.

Each is set up as its documentation shows it, in memory, over the same chunks; its model of queries hands out a vector
that is known, at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tarragon.types import FloatArray

Ask = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class HybridSide:
    """A hybrid query, and its legs alone.

    Attributes:
        name: For tables.
        whole: Asks everything; gives the texts of the hits, best first.
        legs: By name, each alone, as its users call it.
        searches: By name, what lies below: the bare search of its store or library, without texts made of it.
    """

    name: str
    whole: Callable[[str], list[str]]
    legs: Mapping[str, Ask]
    searches: Mapping[str, Ask]


@dataclass(frozen=True, slots=True)
class Corpus:
    """What all search.

    Attributes:
        texts: Distinct.
        vectors: One a text.
        queries: By text, the vector.
        k: Hits wanted.
    """

    texts: Sequence[str]
    vectors: FloatArray
    queries: Mapping[str, FloatArray]
    k: int


def _lists(corpus: Corpus) -> dict[str, list[float]]:
    """Vectors of the queries, as frameworks want them."""
    return {text: vector.tolist() for text, vector in corpus.queries.items()}


def llama_index(corpus: Corpus) -> HybridSide:
    """``QueryFusionRetriever`` over a Qdrant store and its BM25 retriever."""
    import bm25s
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import QueryFusionRetriever
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.bm25 import BM25Retriever
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    known = _lists(corpus)

    class Known(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return known[query]

        def _get_text_embedding(self, text: str) -> list[float]:
            raise NotImplementedError

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return known[query]

    rows = zip(corpus.texts, corpus.vectors, strict=True)
    nodes = [TextNode(text=text, embedding=vector.tolist()) for text, vector in rows]
    client = QdrantClient(":memory:")
    store = QdrantVectorStore("hybrid", client=client)
    storage = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex(nodes, storage_context=storage, embed_model=Known())
    dense = index.as_retriever(similarity_top_k=corpus.k)
    words = BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=corpus.k)
    fused = QueryFusionRetriever(
        [dense, words],
        llm=MockLLM(),
        mode="reciprocal_rerank",
        num_queries=1,
        similarity_top_k=corpus.k,
        use_async=False,
    )
    return HybridSide(
        "LlamaIndex QueryFusionRetriever",
        lambda query: [one.node.get_content("none") for one in fused.retrieve(query)],
        {"dense": dense.retrieve, "words": words.retrieve},
        {
            "dense": lambda query: client.query_points("hybrid", query=known[query], limit=corpus.k),
            "words": lambda query: words.bm25.retrieve(
                bm25s.tokenize(query, stemmer=words.stemmer, show_progress=False), k=corpus.k, show_progress=False
            ),
        },
    )


def langchain(corpus: Corpus) -> HybridSide:
    """``EnsembleRetriever`` over a Qdrant store and the community's BM25 retriever (rank_bm25)."""
    from langchain_classic.retrievers import EnsembleRetriever
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, VectorParams

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.retrievers import BM25Retriever

    known = _lists(corpus)
    rows = dict(zip(corpus.texts, corpus.vectors, strict=True))

    class Known(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [rows[text].tolist() for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return known[text]

    client = QdrantClient(":memory:")
    parameters = VectorParams(size=corpus.vectors.shape[1], distance=Distance.COSINE)
    client.create_collection("hybrid", vectors_config=parameters)
    store = QdrantVectorStore(client, "hybrid", Known(), validate_embeddings=False, validate_collection_config=False)
    store.add_texts(list(corpus.texts))
    dense = store.as_retriever(search_kwargs={"k": corpus.k})
    words = BM25Retriever.from_texts(list(corpus.texts), k=corpus.k)
    fused = EnsembleRetriever(retrievers=[dense, words], weights=[0.5, 0.5])
    return HybridSide(
        "LangChain EnsembleRetriever",
        lambda query: [document.page_content for document in fused.invoke(query)],
        {"dense": dense.invoke, "words": words.invoke},
        {
            "dense": lambda query: client.query_points("hybrid", query=known[query], limit=corpus.k),
            "words": lambda query: words.vectorizer.get_top_n(query.split(), words.docs, n=corpus.k),
        },
    )


def haystack(corpus: Corpus) -> HybridSide:
    """A ``Pipeline`` of two retrievers over its in-memory store and a ``DocumentJoiner``."""
    from haystack import Document, Pipeline
    from haystack.components.joiners import DocumentJoiner
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    known = _lists(corpus)
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    rows = zip(corpus.texts, corpus.vectors, strict=True)
    store.write_documents([Document(content=text, embedding=vector.tolist()) for text, vector in rows])
    dense = InMemoryEmbeddingRetriever(store, top_k=corpus.k)
    words = InMemoryBM25Retriever(store, top_k=corpus.k)
    pipeline = Pipeline()
    pipeline.add_component("dense", InMemoryEmbeddingRetriever(store, top_k=corpus.k))
    pipeline.add_component("words", InMemoryBM25Retriever(store, top_k=corpus.k))
    pipeline.add_component("join", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=corpus.k))
    pipeline.connect("dense", "join")
    pipeline.connect("words", "join")

    def whole(query: str) -> list[str]:
        found = pipeline.run({"dense": {"query_embedding": known[query]}, "words": {"query": query}})
        return [str(document.content) for document in found["join"]["documents"]]

    return HybridSide(
        "Haystack Pipeline with DocumentJoiner",
        whole,
        {
            "dense": lambda query: dense.run(query_embedding=known[query]),
            "words": lambda query: words.run(query=query),
        },
        {
            "dense": lambda query: store.embedding_retrieval(known[query], top_k=corpus.k),
            "words": lambda query: store.bm25_retrieval(query, top_k=corpus.k),
        },
    )


def txtai(corpus: Corpus) -> HybridSide:
    """``Embeddings`` with ``hybrid`` and ``content``; its legs are its ANN and its scoring index."""
    from txtai import Embeddings

    known = {**dict(zip(corpus.texts, corpus.vectors, strict=True)), **corpus.queries}
    import numpy as np

    embeddings = Embeddings(
        method="external",
        transform=lambda texts: np.stack([known[text] for text in texts]),
        hybrid=True,
        content=True,
    )
    embeddings.index([(row, text, None) for row, text in enumerate(corpus.texts)])
    candidates = 10 * corpus.k  # as its own search asks of each leg
    legs: dict[str, Ask] = {
        "dense": lambda query: embeddings.ann.search(known[query][None, :], candidates),
        "words": lambda query: embeddings.scoring.search(query, candidates),
    }
    return HybridSide(
        "txtai Embeddings(hybrid=True)",
        lambda query: [one["text"] for one in embeddings.search(query, corpus.k)],
        legs,
        legs,
    )


PEERS: Mapping[str, Callable[[Corpus], HybridSide]] = {
    "llama_index": llama_index,
    "langchain": langchain,
    "haystack": haystack,
    "txtai": txtai,
}
