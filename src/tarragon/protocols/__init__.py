"""What a user or a back-end plugs in: the contracts between the rooms.

Encoders, stores and sources are written against these; nothing here imports a library beyond numpy.
"""

from tarragon.protocols.catalogs import Catalog, OpenVersion
from tarragon.protocols.encoders import DenseEncoder, Embeddings, EncoderInput, Tokenizer
from tarragon.protocols.ledgers import (
    ChunkRecord,
    DocumentRecord,
    DocumentStatus,
    DocumentWrite,
    Ledger,
    LedgerCounts,
    ServedChunk,
)
from tarragon.protocols.sources import FindableSource, Source, SourceItem
from tarragon.protocols.stores import DenseLeg, LegScores, LexicalLeg, Scores, SearchRequest, Store, StoredChunk

__all__ = [
    "Catalog",
    "ChunkRecord",
    "DenseEncoder",
    "DenseLeg",
    "DocumentRecord",
    "DocumentStatus",
    "DocumentWrite",
    "Embeddings",
    "EncoderInput",
    "FindableSource",
    "Ledger",
    "LedgerCounts",
    "LegScores",
    "LexicalLeg",
    "OpenVersion",
    "Scores",
    "SearchRequest",
    "ServedChunk",
    "Source",
    "SourceItem",
    "Store",
    "StoredChunk",
    "Tokenizer",
]
