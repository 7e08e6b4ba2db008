"""Tarragon as a LlamaIndex retriever, vector store and embedding model."""

from llama_index.retrievers.tarragon.base import TarragonRetriever
from llama_index.retrievers.tarragon.embedding import EncoderOfEmbedding, SpaceEmbedding, TarragonEmbedding
from llama_index.retrievers.tarragon.events import TarragonReceiptEvent
from llama_index.retrievers.tarragon.nodes import document_of, node_of
from llama_index.retrievers.tarragon.vector_store import TarragonVectorStore

__all__ = [
    "EncoderOfEmbedding",
    "SpaceEmbedding",
    "TarragonEmbedding",
    "TarragonReceiptEvent",
    "TarragonRetriever",
    "TarragonVectorStore",
    "document_of",
    "node_of",
]
