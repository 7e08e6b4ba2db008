"""LlamaIndex's and LangChain's ways to keep an index up to date, and ours, behind one small interface.

Each is set up as its documentation shows it for one machine, with what it needs to notice edits and deletions, and is
opened anew for each run, as a nightly job would. All get the same texts under the same ids, the same weights, chunks of
at most the same number of the model's own tokens without overlap, and a store on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings as LangChainEmbeddings
from langchain_core.indexing import index as langchain_index
from langchain_qdrant import QdrantVectorStore as LangChainQdrant
from langchain_text_splitters import RecursiveCharacterTextSplitter
from llama_index.core import Document as LlamaDocument
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores.utils import metadata_dict_to_node
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaQdrant
from pydantic import PrivateAttr
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, VectorParams

from benchmarks.memo import CountingEncoder
from benchmarks.peers import DEFAULT_BATCH, Peer, default_peer, load_peers
from benchmarks.stored import stored_passages
from tarragon import Document, Index, IndexRecipe
from tarragon.canaries import probes
from tarragon.encoders.sentence_transformers import SentenceTransformerEncoder
from tarragon.types import FloatArray

COLLECTION = "documents"
_PAGE = 1_000


# --- what all of them are given ---------------------------------------------------------------------------------------
class Model:
    """One set of weights, loaded for us and for the peers.

    Args:
        path: A sentence-transformers folder, or None for the bundled model.
        device: Where both run.
    """

    def __init__(self, path: str | None, device: str | None) -> None:
        self.encoder = CountingEncoder(SentenceTransformerEncoder(path, device=device))
        self.path = path
        self.name = self.encoder.name
        self._peer: Peer = default_peer(load_peers(path, self.encoder.device, [DEFAULT_BATCH]))
        self._asked = 0

    @property
    def asked(self) -> int:
        """Texts of documents that were embedded since `forget`, by anyone; our canaries apart."""
        return self._asked + len(self.encoder.asked) - self.canaries

    @property
    def canaries(self) -> int:
        """Texts with which ours made sure, since `forget`, that the model makes the vectors that it made before."""
        return sum(text in probes() for text in self.encoder.asked)

    def forget(self) -> None:
        """Begin to count anew."""
        self._asked = 0
        self.encoder.forget()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """For the peers; counted."""
        self._asked += len(texts)
        return self._peer.encode(texts)

    def embed_uncounted(self, texts: Sequence[str]) -> FloatArray:
        """For queries, and to judge what is stored."""
        return self._peer.encode(texts)

    def tokens(self, text: str) -> list[int]:
        """The model's own, without special ones."""
        (ids,) = self.encoder.tokenizer.tokenize([text])
        return [int(id_) for id_ in ids]


@dataclass(frozen=True, slots=True)
class Found:
    """A hit, or a stored passage."""

    document_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A passage with its vector as it lies in the store."""

    found: Found
    vector: FloatArray = field(repr=False)


class System(Protocol):
    """Something that keeps an index up to date."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """Open, bring up to date with these texts by id, close. May raise what the system raises."""
        ...

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """Open, find, close."""
        ...

    def stored(self) -> list[Stored]:
        """All that is in the store."""
        ...


# --- ours -------------------------------------------------------------------------------------------------------------
class Tarragon:
    """`Index.sync`.

    Args:
        folder: Where everything is kept.
        recipe: Settings.
    """

    name = "Tarragon"

    def __init__(self, folder: Path, recipe: IndexRecipe) -> None:
        self._path = folder / "index.tarragon"
        self._recipe = recipe
        self._model: Model | None = None

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """See `System`."""
        with self._opened(model) as index:
            index.sync([Document(id_, text) for id_, text in documents.items()], progress=False)
        self._model = model

    def upgrade(self, documents: Mapping[str, str], model: Model) -> None:
        """Replace the model: build a version for the new one while the former serves, then let it serve."""
        assert self._model is not None
        sources = {"": [Document(id_, text) for id_, text in documents.items()]}
        with self._opened(self._model) as index:
            index.sync(sources[""], progress=False)
            built = index.upgrade(encoder=model.encoder, sources=sources, progress=False)
            index.promote(built.version, sources=sources)
        self._model = model

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """See `System`."""
        with self._opened(model) as index:
            return [[Found(hit.document_id, hit.text) for hit in index.search(query, k)] for query in queries]

    def stored(self) -> list[Stored]:
        """See `System`."""
        assert self._model is not None
        with self._opened(self._model) as index:
            passages = stored_passages(index).values()
        return [Stored(Found(passage.payload["document_id"], passage.text), passage.vector) for passage in passages]

    def _opened(self, model: Model) -> Index:
        return Index.open(self._path, recipe=self._recipe, encoder=model.encoder)


# --- LlamaIndex -------------------------------------------------------------------------------------------------------
class _LlamaEmbedding(BaseEmbedding):
    _model: Any = PrivateAttr()

    def __init__(self, model: Model) -> None:
        super().__init__(model_name=model.name, embed_batch_size=DEFAULT_BATCH)
        self._model = model

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.embed(texts).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        row: list[float] = self._model.embed_uncounted([query])[0].tolist()
        return row

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


class LlamaIndexPipeline:
    """``IngestionPipeline`` with upserts and deletion, its docstore and cache kept beside the vectors.

    Args:
        folder: Where everything is kept.
        chunk_tokens: Most tokens in a chunk.
    """

    name = "LlamaIndex IngestionPipeline"

    def __init__(self, folder: Path, chunk_tokens: int) -> None:
        self._folder = folder
        self._chunk_tokens = chunk_tokens

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """See `System`."""
        kept = self._folder / "pipeline"
        splitter = SentenceSplitter(chunk_size=self._chunk_tokens, chunk_overlap=0, tokenizer=model.tokens)
        with self._store() as store:
            pipeline = IngestionPipeline(
                transformations=[splitter, _LlamaEmbedding(model)],
                docstore=SimpleDocumentStore(),
                vector_store=store,
                docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
            )
            if kept.exists():
                pipeline.load(str(kept))
            pipeline.run(documents=[LlamaDocument(text=text, id_=id_) for id_, text in documents.items()])
            pipeline.persist(str(kept))

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """See `System`."""
        with self._store() as store:
            index = VectorStoreIndex.from_vector_store(store, embed_model=_LlamaEmbedding(model))
            retriever = index.as_retriever(similarity_top_k=k)
            answers = [retriever.retrieve(query) for query in queries]
        return [[Found(str(hit.node.ref_doc_id), hit.node.get_content()) for hit in hits] for hits in answers]

    def stored(self) -> list[Stored]:
        """See `System`."""
        with self._client() as client:
            records = _all_records(client)
        passages = []
        for payload, vector in records:
            node = metadata_dict_to_node(payload, text=json.loads(payload["_node_content"]).get("text"))
            found = Found(str(node.ref_doc_id), node.get_content(metadata_mode=MetadataMode.EMBED))
            passages.append(Stored(found, vector))
        return passages

    @contextmanager
    def _store(self) -> Iterator[Any]:
        with self._client() as client:
            yield LlamaQdrant(COLLECTION, client=client)

    def _client(self) -> Any:
        return closing(QdrantClient(path=str(self._folder / "qdrant")))


# --- LangChain --------------------------------------------------------------------------------------------------------
class _LangChainEmbedding(LangChainEmbeddings):
    def __init__(self, model: Model) -> None:
        self._model = model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.embed(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        row: list[float] = self._model.embed_uncounted([text])[0].tolist()
        return row


class LangChainIndexing:
    """``index(cleanup="full")`` with its record manager in SQLite.

    Args:
        folder: Where everything is kept.
        chunk_tokens: Most tokens in a chunk.
    """

    name = "LangChain index()"

    def __init__(self, folder: Path, chunk_tokens: int) -> None:
        self._folder = folder
        self._chunk_tokens = chunk_tokens

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """See `System`."""
        splitter = RecursiveCharacterTextSplitter(
            chunk_size=self._chunk_tokens, chunk_overlap=0, length_function=lambda text: len(model.tokens(text))
        )
        pages = [LangChainDocument(page_content=text, metadata={"source": id_}) for id_, text in documents.items()]
        manager = SQLRecordManager(f"qdrant/{COLLECTION}", db_url=f"sqlite:///{self._folder / 'records.sqlite'}")
        manager.create_schema()
        with self._store(model) as store:
            langchain_index(splitter.split_documents(pages), manager, store, cleanup="full", source_id_key="source")

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """See `System`."""
        with self._store(model) as store:
            answers = [store.similarity_search(query, k) for query in queries]
        return [[Found(hit.metadata["source"], hit.page_content) for hit in hits] for hits in answers]

    def stored(self) -> list[Stored]:
        """See `System`."""
        with self._client() as client:
            records = _all_records(client)
        return [
            Stored(Found(payload["metadata"]["source"], payload["page_content"]), vector) for payload, vector in records
        ]

    @contextmanager
    def _store(self, model: Model) -> Iterator[Any]:
        with self._client() as client:
            if not client.collection_exists(COLLECTION):
                size = model.encoder.dimensions
                client.create_collection(COLLECTION, vectors_config=VectorParams(size=size, distance=Distance.COSINE))
            # its check of the dimensions embeds a dummy text each time, which would blur the counts
            yield LangChainQdrant(
                client=client,
                collection_name=COLLECTION,
                embedding=_LangChainEmbedding(model),
                validate_collection_config=False,
            )

    def _client(self) -> Any:
        return closing(QdrantClient(path=str(self._folder / "qdrant")))


def _all_records(client: Any) -> list[tuple[dict[str, Any], FloatArray]]:
    """Payload and vector of every point."""
    records: list[tuple[dict[str, Any], FloatArray]] = []
    offset = None
    while True:
        points, offset = client.scroll(COLLECTION, limit=_PAGE, offset=offset, with_payload=True, with_vectors=True)
        for point in points:
            vector = next(iter(point.vector.values())) if isinstance(point.vector, dict) else point.vector
            records.append((dict(point.payload), np.asarray(vector, dtype=np.float32)))
        if offset is None:
            return records
