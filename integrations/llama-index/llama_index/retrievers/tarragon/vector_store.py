"""`TarragonVectorStore`: for those who keep `VectorStoreIndex` and `IngestionPipeline`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.retrievers.tarragon.embedding import KnownVectors, encoder_of, unit
from llama_index.retrievers.tarragon.filters import compile_filters
from llama_index.retrievers.tarragon.nodes import KEPT, document_of, has_text, node_of

from tarragon import Index, Retriever, SearchRecipe
from tarragon.chunking import whole_text
from tarragon.errors import EncodingFailed, InvalidDocument, InvalidInput
from tarragon.protocols import EncoderInput
from tarragon.receipts import Hits
from tarragon.recipe import Mode
from tarragon.types import DenseQuery

SAME = 0.999
"""Least cosine of a node's embedding with what the store's model makes of the node: see `tarragon.canaries`."""

MMR_THRESHOLD = 0.5
"""Of LlamaIndex's own stores, where a query names none."""

_MODES: dict[VectorStoreQueryMode, Mode] = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.MMR: "dense",
    VectorStoreQueryMode.SPARSE: "lexical",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.SEMANTIC_HYBRID: "hybrid",
}


class TarragonVectorStore(BasePydanticVectorStore):
    """Nodes with their embeddings in an index of Tarragon: a folder, or a name on a Qdrant server.

    The store knows whose vectors it holds. It is given the embedding model that the index and the pipeline use, and
    compares a node of each `add` with it; a model that changes under its name is noticed. An embedding belongs to its
    text: of a text that is stored already, it is not looked at again. Safe to use from several threads.

    Modes: ``default`` and ``mmr`` by vector; ``sparse`` and ``text_search`` by words (BM25); ``hybrid`` and
    ``semantic_hybrid`` by both, ``alpha`` being the share of the vectors. Any other mode is an error, and so is a mode
    without what it searches by: never another one in its place.

    Args:
        persist_dir: A folder, by convention ``<name>.tarragon``, or ``http://host:6333/name``.
        embed_model: Of the index or pipeline. By default that of LlamaIndex's `Settings`.
        recipe: How to search, apart from what a query says.
        open_options: Of `tarragon.Index.open`, such as ``api_key``.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    persist_dir: str

    _index: Index = PrivateAttr()
    _retriever: Retriever = PrivateAttr()
    _encoder: KnownVectors = PrivateAttr()
    _recipe: SearchRecipe = PrivateAttr()
    _adding: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def __init__(
        self,
        persist_dir: str | Path,
        *,
        embed_model: BaseEmbedding | None = None,
        recipe: SearchRecipe | None = None,
        open_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(persist_dir=str(persist_dir), stores_text=True)  # type: ignore[call-arg]  # pydantic's fields
        self._encoder = KnownVectors(encoder_of(embed_model or Settings.embed_model))
        self._index = Index.open(persist_dir, encoder=self._encoder, **(open_options or {}))
        self._retriever = Retriever(self._index)
        self._recipe = recipe or SearchRecipe()

    @classmethod
    def class_name(cls) -> str:
        """For LlamaIndex's files."""
        return "TarragonVectorStore"

    @property
    def client(self) -> Index:
        """The index."""
        return self._index

    def close(self) -> None:
        """Release the files, so that another process can open them."""
        self._retriever.close()
        self._index.close()

    # --- writing ------------------------------------------------------------------------------------------------------
    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes, or replace those of the same ids; the ids. A node whose text is blank is not kept.

        Raises:
            InvalidInput: A node was embedded by another model than the store's.
            InvalidDocument: A node cannot be stored; the others are.
        """
        last = {node.node_id: node for node in nodes}
        documents = {id_: document_of(node) for id_, node in last.items() if has_text(node)}
        embedded = {
            whole_text(document): last[id_] for id_, document in documents.items() if last[id_].embedding is not None
        }
        self._check_model(embedded)
        known = {text: unit(np.array(node.embedding, dtype=np.float32)) for text, node in embedded.items()}
        with self._adding:
            self._encoder.known = known
            try:
                report = self._index.sync(documents.values(), prune=False, progress=False)
            finally:
                self._encoder.known = {}
            if blank := last.keys() - documents.keys():
                self._index.delete(blank)
        if report.failures:
            first = report.failures[0]
            raise InvalidDocument(
                f"{report.documents_failed} of {len(documents)} nodes cannot be stored: {first.document_id}: "
                f"{first.reason}"
            )
        return [node.node_id for node in nodes]

    def _check_model(self, embedded: Mapping[str, BaseNode]) -> None:
        """Whether the embeddings that come are of the store's model, by the first of them."""
        if not embedded:
            return
        node = next(iter(embedded.values()))
        text = node.get_content(metadata_mode=MetadataMode.EMBED)
        own = unit(self._encoder.encode_documents([EncoderInput(text)]).vectors[0])
        given = unit(np.array(node.embedding, dtype=np.float32))
        if own.shape != given.shape:
            raise EncodingFailed(
                f"{self._encoder.name} has {len(own)} dimensions, and the embedding of node {node.node_id!r} "
                f"{len(given)}; give the store the embed_model of the index or pipeline"
            )
        if (cosine := float(own @ given)) < SAME:
            raise InvalidInput(
                f"node {node.node_id!r} was embedded by another model than the store's {self._encoder.name} (cosine "
                f"{cosine:.3f}); give the store the embed_model of the index or pipeline"
            )

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a document."""
        self._index.delete([hit.document_id for hit in self._index.passages(filter={f"{KEPT}.ref": ref_doc_id})])

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete the nodes with these ids that pass the filters.

        Raises:
            InvalidInput: Neither is given: `clear` deletes everything.
        """
        if node_ids is None and (filters is None or not filters.filters):
            raise InvalidInput("neither node_ids nor filters are given; to delete all nodes, call clear()")
        self._index.delete([node.node_id for node in self.get_nodes(node_ids, filters)])

    def clear(self) -> None:
        """Delete all nodes."""
        self._index.delete(self._index.documents())

    # --- reading ------------------------------------------------------------------------------------------------------
    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these ids that pass the filters, without their embeddings; all, if neither is given."""
        return [node_of(hit) for hit in self._index.passages(node_ids, filter=compile_filters(filters))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Search: see the class. Similarities are cosines, BM25 scores, or calibrated scores of both.

        Raises:
            InvalidInput: The mode is not one of this store, or lacks its ``query_embedding`` or ``query_str``.
            InvalidFilter: A filter cannot be compiled; it is never ignored.
        """
        query = _with(query, kwargs)
        return _result(self._retriever.retrieve(**self._call(query)))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`, while the event loop goes on."""
        query = _with(query, kwargs)
        return _result(await self._retriever.aretrieve(**self._call(query)))

    def _call(self, query: VectorStoreQuery) -> dict[str, Any]:
        """What the retriever is asked, by the names of its arguments."""
        mode, text = _mode(query), query.query_str if (query.query_str or "").strip() else ""
        if mode != "lexical" and query.query_embedding is None:
            raise InvalidInput(f"mode {query.mode.value!r} searches by vector, and the query has no query_embedding")
        if mode != "dense" and not text:
            raise InvalidInput(f"mode {query.mode.value!r} searches by words, and the query has no query_str")
        if not text and self._recipe.rerankers:
            raise InvalidInput("the store's recipe has rerankers, and the query has no query_str that they could read")
        changes: dict[str, Any] = {"mode": mode, "late": self._recipe.late and bool(text)}
        if mode == "hybrid":
            wanted = [self._recipe.depth, query.similarity_top_k, query.sparse_top_k or 0]
            changes |= {"depth": max(wanted), "dense_weight": query.alpha}
        if query.mode is VectorStoreQueryMode.MMR:
            threshold = MMR_THRESHOLD if query.mmr_threshold is None else query.mmr_threshold
            changes["diversity"] = 1 - threshold
        vector = None
        if mode != "lexical":
            vector = DenseQuery(vector=unit(np.array(query.query_embedding, dtype=np.float32)))
        return {
            "query": text or "vector",  # which nothing reads
            "k": query.hybrid_top_k if mode == "hybrid" and query.hybrid_top_k is not None else query.similarity_top_k,
            "filter": _filter(query),
            "recipe": replace(self._recipe, **changes),
            "vector": vector,
        }

    # --- async twins --------------------------------------------------------------------------------------------------
    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, in a thread."""
        return await asyncio.to_thread(self.add, nodes)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """As `delete`, in a thread."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """As `delete_nodes`, in a thread."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    async def aclear(self) -> None:
        """As `clear`, in a thread."""
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As `get_nodes`, in a thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)


def _with(query: VectorStoreQuery, settings: Mapping[str, Any]) -> VectorStoreQuery:
    """The query with what an index gives beside it, as ``vector_store_kwargs``. Raises `InvalidInput` on the rest."""
    if unknown := settings.keys() - {"mmr_threshold"}:
        raise InvalidInput(f"{', '.join(sorted(unknown))}: this store takes no such settings, only mmr_threshold")
    return replace(query, **settings)


def _mode(query: VectorStoreQuery) -> Mode:
    if query.mode not in _MODES:
        known = ", ".join(mode.value for mode in _MODES)
        raise InvalidInput(f"mode {query.mode.value!r} is not one of this store: {known}")
    return _MODES[query.mode]


def _filter(query: VectorStoreQuery) -> Mapping[str, Any] | None:
    parts = [compile_filters(query.filters)]
    for name, ids in (("ref", query.doc_ids), ("id", query.node_ids)):
        if ids:  # VectorStoreIndex gives an empty list for all
            parts.append({f"{KEPT}.{name}": {"$in": list(ids)}})
    given = [part for part in parts if part is not None]
    return {"$and": given} if given else None


def _result(hits: Hits) -> VectorStoreQueryResult:
    nodes = [node_of(hit) for hit in hits]
    return VectorStoreQueryResult(
        nodes=nodes, similarities=[float(hit.score) for hit in hits], ids=[node.node_id for node in nodes]
    )
