"""Tarragon: the retrieval half of RAG, kept fresh.

    index = Index.open("handbook.tarragon")
    index.sync("docs/")
    hits = index.search("How do I rotate the signing key?", k=5)

Everything else is there by its module: `tarragon.errors`, `tarragon.filters`, `tarragon.protocols`, ...
"""

from tarragon.index import Index
from tarragon.recipe import IndexRecipe, RerankStep, SearchRecipe
from tarragon.reports import IndexStatus, Progress, SyncReport
from tarragon.retriever import Retriever
from tarragon.types import Document, Hit

__all__ = [
    "Document",
    "Hit",
    "Index",
    "IndexRecipe",
    "IndexStatus",
    "Progress",
    "RerankStep",
    "Retriever",
    "SearchRecipe",
    "SyncReport",
]

__version__ = "0.1.0"
