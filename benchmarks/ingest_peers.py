"""Haystack's and txtai's ways to make texts queryable, beside those of `benchmarks.freshness_peers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from langchain_text_splitters import RecursiveCharacterTextSplitter

from benchmarks.freshness_peers import Found, LangChainIndexing, LlamaIndexPipeline, Model
from benchmarks.peers import DEFAULT_BATCH


class System(Protocol):
    """Something that makes texts queryable."""

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """Everything, from texts by id."""
        ...

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """The best hits of each query."""
        ...


def _cut(text: str, tokens: int, model: Model) -> list[str]:
    """Neither of the two can cut by a model's own tokens, so both have LangChain's cutter."""
    splitter = RecursiveCharacterTextSplitter(
        chunk_size=tokens, chunk_overlap=0, length_function=lambda part: len(model.tokens(part))
    )
    parts: list[str] = splitter.split_text(text)
    return parts


class HaystackPipeline:
    """A ``Pipeline`` of splitter, embedder and writer into the in-memory store.

    Args:
        folder: Not needed.
        chunk_tokens: Most tokens in a chunk.
    """

    def __init__(self, folder: Path, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._store: Any = None

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """See `System`."""
        from haystack import Document, Pipeline, component
        from haystack.components.preprocessors import DocumentSplitter
        from haystack.components.writers import DocumentWriter
        from haystack.document_stores.in_memory import InMemoryDocumentStore

        @component
        class Embedder:
            def __init__(self) -> None:
                component.set_input_types(self, documents=list[Document])
                component.set_output_types(self, documents=list[Document])

            def run(self, **given: Any) -> dict[str, Any]:
                """As the framework's own: in batches, the vectors as lists."""
                documents, embedded = given["documents"], []
                for start in range(0, len(documents), DEFAULT_BATCH):
                    part = documents[start : start + DEFAULT_BATCH]
                    rows = model.embed([str(one.content) for one in part]).tolist()
                    embedded += [replace(one, embedding=row) for one, row in zip(part, rows, strict=True)]
                return {"documents": embedded}

        self._store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
        tokens = self._chunk_tokens
        splitter = DocumentSplitter(split_by="function", splitting_function=lambda text: _cut(text, tokens, model))
        pipeline = Pipeline()
        pipeline.add_component("splitter", splitter)
        pipeline.add_component("embedder", Embedder())
        pipeline.add_component("writer", DocumentWriter(self._store))
        pipeline.connect("splitter", "embedder")
        pipeline.connect("embedder", "writer")
        pages = [Document(content=text, meta={"page": id_}) for id_, text in documents.items()]
        pipeline.run({"splitter": {"documents": pages}})

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """See `System`."""
        answers = [
            self._store.embedding_retrieval(model.embed_uncounted([one])[0].tolist(), top_k=k) for one in queries
        ]
        return [[Found(hit.meta["page"], str(hit.content)) for hit in hits] for hits in answers]


class TxtaiIndex:
    """``Embeddings`` with ``hybrid`` and ``content``.

    Args:
        folder: Not needed.
        chunk_tokens: Most tokens in a chunk.
    """

    def __init__(self, folder: Path, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._embeddings: Any = None

    def run(self, documents: Mapping[str, str], model: Model) -> None:
        """See `System`."""
        from txtai import Embeddings

        self._embeddings = Embeddings(
            method="external", transform=lambda texts: model.embed(texts), hybrid=True, content=True
        )
        self._embeddings.index(
            (f"{id_}#{number}", part, None)
            for id_, text in documents.items()
            for number, part in enumerate(_cut(text, self._chunk_tokens, model))
        )

    def search(self, queries: Sequence[str], k: int, model: Model) -> list[list[Found]]:
        """See `System`."""
        answers = [self._embeddings.search(query, k) for query in queries]
        return [[Found(str(hit["id"]).partition("#")[0], hit["text"]) for hit in hits] for hits in answers]


PEERS: Mapping[str, Callable[[Path, int], System]] = {
    "llama_index": LlamaIndexPipeline,
    "langchain": LangChainIndexing,
    "haystack": HaystackPipeline,
    "txtai": TxtaiIndex,
}
