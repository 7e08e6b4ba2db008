"""What a user or a back-end plugs in: the contracts between the rooms.

Encoders, stores and sources are written against these; nothing here imports a library beyond numpy.
"""

from tarragon.protocols.catalogs import Catalog, OpenVersion
from tarragon.protocols.encoders import (
    DenseEncoder,
    Embeddings,
    EncoderInput,
    LateEmbeddings,
    LateEncoder,
    SparseEmbeddings,
    SparseEncoder,
    Tokenizer,
)
from tarragon.protocols.ledgers import (
    ChunkRecord,
    DocumentRecord,
    DocumentStatus,
    DocumentWrite,
    Ledger,
    LedgerCounts,
    ServedChunk,
)
from tarragon.protocols.rerankers import Reranker, RerankScores
from tarragon.protocols.sources import FindableAtOnce, FindableSource, Source, SourceItem
from tarragon.protocols.stores import (
    LEXICAL_DECIMALS,
    SEARCH_WIDTH,
    DenseLeg,
    FirstPass,
    LateStage,
    LegScores,
    LexicalLeg,
    Scores,
    SearchRequest,
    SideKind,
    SideSpace,
    SideVector,
    SparseLeg,
    Store,
    StoredChunk,
)

__all__ = [
    "LEXICAL_DECIMALS",
    "SEARCH_WIDTH",
    "Catalog",
    "ChunkRecord",
    "DenseEncoder",
    "DenseLeg",
    "DocumentRecord",
    "DocumentStatus",
    "DocumentWrite",
    "Embeddings",
    "EncoderInput",
    "FindableAtOnce",
    "FindableSource",
    "FirstPass",
    "LateEmbeddings",
    "LateEncoder",
    "LateStage",
    "Ledger",
    "LedgerCounts",
    "LegScores",
    "LexicalLeg",
    "OpenVersion",
    "RerankScores",
    "Reranker",
    "Scores",
    "SearchRequest",
    "ServedChunk",
    "SideKind",
    "SideSpace",
    "SideVector",
    "Source",
    "SourceItem",
    "SparseEmbeddings",
    "SparseEncoder",
    "SparseLeg",
    "Store",
    "StoredChunk",
    "Tokenizer",
]
