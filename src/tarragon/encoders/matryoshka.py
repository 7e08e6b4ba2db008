"""Models that were trained so that the first numbers of a vector are a shorter vector: at which lengths.

As their cards say; none of them is reachable where this was written, so that no figure here was measured by us.
"""

from __future__ import annotations

import re

_LENGTHS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"nomic-embed-text-v1\.5|nomic-embed-text-v2", (64, 128, 256, 512)),
    (r"modernbert-embed-(base|large)", (256,)),
    (r"snowflake-arctic-embed-(m-v1\.5|m-v2\.0|l-v2\.0)", (256,)),
    (r"mxbai-embed-large-v1", (64, 128, 256, 512)),
    (r"embeddinggemma", (128, 256, 512)),
    (r"qwen3-embedding", (64, 128, 256, 512)),
    (r"jina-embeddings-v[34]", (64, 128, 256, 512)),
    (r"text-embedding-3-(small|large)", (256, 512)),
    (r"static-(retrieval|similarity)-mrl", (64, 128, 256, 512)),
)


def trained_lengths(name: str) -> tuple[int, ...]:
    """Lengths that a model of this name, or in a folder of this name, was trained to be cut to; empty: not known."""
    for pattern, lengths in _LENGTHS:
        if re.search(pattern, name, re.IGNORECASE):
            return lengths
    return ()
