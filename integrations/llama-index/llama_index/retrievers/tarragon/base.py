"""`TarragonRetriever`: an index of Tarragon wherever LlamaIndex takes a retriever."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any

import llama_index.core.instrumentation as instrument
import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from llama_index.retrievers.tarragon.events import Stages, TarragonReceiptEvent, is_watched
from llama_index.retrievers.tarragon.filters import compile_filters
from llama_index.retrievers.tarragon.nodes import KEPT, document_of, has_text, scored_node_of

from tarragon import Index, IndexRecipe, Retriever, SearchRecipe, SyncReport
from tarragon.errors import InvalidInput
from tarragon.observing import observed_by
from tarragon.protocols import DenseEncoder
from tarragon.receipts import Hits
from tarragon.types import DenseQuery, OnStale

dispatcher = instrument.get_dispatcher(__name__)


_last: ContextVar[tuple[weakref.ref[TarragonRetriever], Hits] | None] = ContextVar("last hits", default=None)
"""One for all retrievers: a context never lets go of a variable."""


class TarragonRetriever(BaseRetriever):
    """Answers questions from an index of Tarragon. Safe to use from several threads and event loops.

    The same bundle can go to other retrievers: it is not changed, and an embedding that came with it is used only if it
    is said to be in this index's space (by itself, `SpaceEmbedding`, or by ``embedding_fingerprint``); of other
    dimensions it is then an error.
    ``custom_embedding_strs`` (HyDE) are what the dense leg searches; words and rerankers keep to ``query_str``.

    Args:
        source: A `tarragon.Retriever`, in whose scope questions are then asked; an `Index`; or the path or URL of one.
        similarity_top_k: Nodes wanted. By default the retriever's ``k``, else LlamaIndex's own default.
        filters: On the metadata, for every question: LlamaIndex's, or a filter of Tarragon's own language.
        recipe: How to search. None: the retriever's, else as the index was tuned.
        on_stale: What to do with nodes whose source has changed: see `tarragon.Index.search`. Not with a `Retriever`,
            which has its own.
        embedding_fingerprint: Of the space of embeddings that come with bundles and do not say it themselves.
        callback_manager: As in every retriever.
        object_map: As in every retriever: what index nodes stand for.
        objects: As in every retriever.
        verbose: As in every retriever.
        open_options: For a path or URL: of `tarragon.Index.open`, such as ``encoder`` or ``device``.
    """

    def __init__(
        self,
        source: Retriever | Index | str | os.PathLike[str],
        *,
        similarity_top_k: int | None = None,
        filters: MetadataFilters | Mapping[str, Any] | None = None,
        recipe: SearchRecipe | None = None,
        on_stale: OnStale = "flag",
        embedding_fingerprint: str | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
        open_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(callback_manager, object_map, objects, verbose)
        self._recipe, self._on_stale, self._options = recipe, on_stale, dict(open_options or {})
        self._embedding_fingerprint = embedding_fingerprint
        self._retriever: Retriever | None = source if isinstance(source, Retriever) else None
        self._index: Index | None = source if isinstance(source, Index) else None
        self._owned: list[Retriever | Index] = []
        if isinstance(source, Retriever):
            self._location = source.index.location
        else:
            self._location = source.location if isinstance(source, Index) else os.fspath(source)
        default = source.k if isinstance(source, Retriever) else DEFAULT_SIMILARITY_TOP_K
        self._similarity_top_k = default if similarity_top_k is None else similarity_top_k
        self._is_scoped = isinstance(source, Retriever)
        self.filters = filters
        self._prepare()

    def _prepare(self) -> None:
        """What a copy in another process needs anew."""
        self._opening = threading.Lock()

    # --- making -------------------------------------------------------------------------------------------------------
    @classmethod
    def from_documents(
        cls,
        documents: Iterable[BaseNode],
        persist_dir: str | os.PathLike[str],
        *,
        index_recipe: IndexRecipe | None = None,
        encoder: DenseEncoder | None = None,
        device: str | None = None,
        show_progress: bool = False,
        **settings: Any,
    ) -> TarragonRetriever:
        """Open or make the index at ``persist_dir``, let it hold just these documents or nodes, and search it.

        Args:
            documents: Their ids should be stable (``SimpleDirectoryReader(..., filename_as_id=True)``): what was there
                under other ids is deleted, though its text is not embedded again.
            persist_dir: A folder, by convention ``<name>.tarragon``.
            index_recipe: Settings of a new index.
            encoder: Your own embedding model, instead of the recipe's; `EncoderOfEmbedding` makes one of LlamaIndex's.
            device: Where the model runs.
            show_progress: A bar on stderr.
            settings: Of the retriever, such as ``similarity_top_k``, ``filters``, and ``recipe`` for how to search.
        """
        options = {"recipe": index_recipe, "encoder": encoder, "device": device}
        given = {name: value for name, value in options.items() if value is not None}
        retriever = cls(persist_dir, open_options=given, **settings)
        try:
            report = retriever.sync(documents, progress=show_progress)
        except BaseException:
            retriever.close()
            raise
        if report.failures:
            first = report.failures[0]
            warnings.warn(
                f"{report.documents_failed} documents could not be indexed: {first.document_id}: {first.reason}",
                stacklevel=2,
            )
        return retriever

    def sync(self, documents: Iterable[BaseNode], **options: Any) -> SyncReport:
        """Make the index hold just these documents or nodes: add, change and delete, embedding only what is new.

        Args:
            documents: LlamaIndex's documents, which are chunked, or nodes, which are kept whole. What index nodes stand
                for goes into ``object_map``; blank nodes are left out.
            options: Of `tarragon.Index.sync`: ``prune=False`` only adds and changes; ``namespace`` where several
                sources share an index; ``max_delete``, ``progress``.
        """
        given = [one for one in documents if has_text(one)]
        self.object_map |= {
            one.index_id: one.obj for one in given if isinstance(one, IndexNode) and one.obj is not None
        }
        return self.index.sync([document_of(one) for one in given], **{"progress": False, **options})

    def delete_ref_doc(self, ref_doc_id: str) -> int:
        """Delete a document, or all nodes of one; how many were deleted."""
        nodes = self.index.passages(filter={f"{KEPT}.ref": ref_doc_id})
        return self.index.delete([ref_doc_id, *(hit.document_id for hit in nodes)])

    # --- settings -----------------------------------------------------------------------------------------------------
    @property
    def similarity_top_k(self) -> int:
        """Nodes wanted."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, similarity_top_k: int) -> None:
        self._similarity_top_k = similarity_top_k

    @property
    def filters(self) -> MetadataFilters | Mapping[str, Any] | None:
        """On the metadata, for every question. Raises `tarragon.errors.InvalidFilter` on what cannot be compiled."""
        return self._filters

    @filters.setter
    def filters(self, filters: MetadataFilters | Mapping[str, Any] | None) -> None:
        self._compiled = compile_filters(filters) if isinstance(filters, MetadataFilters) else filters
        self._filters = filters

    # --- parts --------------------------------------------------------------------------------------------------------
    @property
    def index(self) -> Index:
        """The index."""
        return self.retriever.index

    @property
    def retriever(self) -> Retriever:
        """Tarragon's own retriever, which does the work; opened when it is first needed."""
        with self._opening:
            if self._retriever is None:
                if self._index is None:
                    self._index = Index.open(self._location, **self._options)
                    self._owned.append(self._index)
                self._retriever = Retriever(self._index, on_stale=self._on_stale)
                self._owned.append(self._retriever)
            return self._retriever

    @property
    def last_hits(self) -> Hits | None:
        """Tarragon's hits of the last retrieval in this thread or task, with ``receipt`` and ``explain()``.

        None if that was another retriever's.
        """
        of, hits = _last.get() or (None, None)
        return hits if of is not None and of() is self else None

    # --- retrieving ---------------------------------------------------------------------------------------------------
    @dispatcher.span
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        with self._observed(query_bundle):
            query, options = self._asked(query_bundle)
            return self._nodes(query_bundle, self.retriever.retrieve(query, self._similarity_top_k, **options))

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._retriever is None:  # opening reads files
            await asyncio.to_thread(lambda: self.retriever)
        with self._observed(query_bundle):
            query, options = self._asked(query_bundle)
            return self._nodes(query_bundle, await self.retriever.aretrieve(query, self._similarity_top_k, **options))

    def retrieve_batch(self, queries: Sequence[str]) -> list[list[NodeWithScore]]:
        """Nodes for many questions, in their order; models run once for all of them. Events are those of one search."""
        found = self.retriever.retrieve_batch(
            queries, self._similarity_top_k, filter=self._compiled, recipe=self._recipe
        )
        return [[scored_node_of(hit) for hit in hits] for hits in found]

    def _asked(self, bundle: QueryBundle) -> tuple[str, dict[str, Any]]:
        """The text that words and rerankers see, and the rest of the question."""
        texts = tuple(bundle.custom_embedding_strs or ())
        query = bundle.query_str if bundle.query_str.strip() else next(filter(str.strip, texts), "")
        space = getattr(bundle.embedding, "fingerprint", None) or self._embedding_fingerprint
        dense = None
        if bundle.embedding is not None and space is not None:
            dense = DenseQuery(texts, np.asarray(bundle.embedding, dtype=np.float32), space)
        elif texts:
            dense = DenseQuery(texts)
        return query, {"filter": self._compiled, "recipe": self._recipe, "vector": dense}

    def _observed(self, bundle: QueryBundle) -> AbstractContextManager[None]:
        if not is_watched(self.callback_manager):
            return nullcontext()
        return observed_by(Stages(self.callback_manager, bundle, self._similarity_top_k))

    def _nodes(self, bundle: QueryBundle, hits: Hits) -> list[NodeWithScore]:
        _last.set((weakref.ref(self), hits))
        if is_watched(self.callback_manager):
            dispatcher.event(TarragonReceiptEvent(query=bundle.query_str, receipt=hits.receipt.to_dict()))
        return [scored_node_of(hit) for hit in hits]

    def _handle_recursive_retrieval(self, query_bundle: QueryBundle, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        """As in every retriever, but for core 0.13's taking two documents with the same text for one."""
        if not any(isinstance(one.node, IndexNode) for one in nodes):
            return nodes
        return super()._handle_recursive_retrieval(query_bundle, nodes)

    async def _ahandle_recursive_retrieval(
        self, query_bundle: QueryBundle, nodes: list[NodeWithScore]
    ) -> list[NodeWithScore]:
        if not any(isinstance(one.node, IndexNode) for one in nodes):
            return nodes
        return await super()._ahandle_recursive_retrieval(query_bundle, nodes)

    # --- closing and copying ------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Release what this retriever has opened itself; an `Index` or `Retriever` that it was given stays open.

        One that was given a path opens it again when it is asked again.
        """
        for one in reversed(self._owned):
            one.close()
            if one is self._index:
                self._index = None
            self._retriever = None
        self._owned.clear()

    def __enter__(self) -> TarragonRetriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Settings, and where the index is: a copy opens it when it is first asked, as one process at a time can.

        Raises:
            InvalidInput: This retriever asks through a `tarragon.Retriever`, whose scope a copy would not have.
        """
        if self._is_scoped:
            raise InvalidInput(
                "a retriever over a tarragon.Retriever cannot be copied to another process, since its scope would be "
                "lost; make it from the index's path and give it filters"
            )
        left_out = ("_retriever", "_index", "_owned", "_opening", "callback_manager", "_compiled")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._retriever, self._index, self._owned = None, None, []
        self.callback_manager = CallbackManager()
        self.filters = self._filters
        self._prepare()
