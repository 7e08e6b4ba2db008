"""Documents → chunks, with limits in the encoder's own tokens and each document tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tarragon.chunking.blocks import Block
from tarragon.chunking.markdown import parse_markdown
from tarragon.chunking.packing import ContextLimits, Ruler, Slice, slices_of
from tarragon.chunking.plain import parse_code, parse_rst, parse_text
from tarragon.chunking.units import Unit, trim, units_of
from tarragon.protocols import Tokenizer
from tarragon.recipe import Chunking
from tarragon.types import Chunk, Document, Format, IntArray

PARSER_REVISION = 1
"""Raised when a parser finds other blocks than before: documents are then chunked again, and equal text is reused."""
CHUNKER_REVISION = 1
"""Raised when the packer cuts in other places than before."""

CONTEXT_SHARE = 4
"""At most one part in this many of a chunk's tokens goes to its headings."""

SEPARATOR = ">"

_PARSERS: dict[Format, Callable[[str], list[Block]]] = {
    "markdown": parse_markdown,
    "rst": parse_rst,
    "code": parse_code,
    "text": parse_text,
}


def chunker_identity(chunking: Chunking, limit: int) -> str:
    """Changes whenever the same blocks could be cut in other places."""
    return f"{chunking} {limit} chunker {CHUNKER_REVISION}"


class Chunker:
    """Cuts documents into chunks.

    Args:
        tokenizer: Of the encoder that the chunks are for.
        limit: Most tokens in a chunk, its headings included.
        chunking: ``structure`` or ``whole``.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int, *, chunking: Chunking = "structure") -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self._chunking = chunking

    def chunk(self, documents: Sequence[tuple[Document, Format]]) -> list[list[Chunk]]:
        """The chunks of each document, in text order; none for a blank one.

        Every non-blank character is in exactly one chunk, and ``document.text[c.start:c.end] == c.text``.
        """
        if self._chunking == "whole":
            return self._whole([document.text for document, _ in documents])
        texts = [document.text for document, _ in documents]
        outlines = [_PARSERS[format_](document.text) for document, format_ in documents]
        floor = self._limit - self._limit // CONTEXT_SHARE
        units = units_of(texts, outlines, floor, self._tokenizer.tokenize)
        titles = [*sorted({block.title for blocks in outlines for block in blocks if block.title}), SEPARATOR]
        title_ids = dict(zip(titles, self._tokenizer.tokenize(titles), strict=True))
        return [self._structured(*parts, title_ids) for parts in zip(texts, outlines, units, strict=True)]

    def _whole(self, texts: list[str]) -> list[list[Chunk]]:
        spans = [trim(text, 0, len(text)) for text in texts]
        passages = [text[start:end] for text, (start, end) in zip(texts, spans, strict=True)]
        chunks = zip(spans, passages, self._tokenizer.tokenize(passages), strict=True)
        return [
            [Chunk(start, end, 0, (), passage, passage, ids, len(ids))] if start < end else []
            for (start, end), passage, ids in chunks
        ]

    def _structured(
        self, text: str, blocks: list[Block], units: list[Unit], title_ids: Mapping[str, IntArray]
    ) -> list[Chunk]:
        sizes = {title: len(ids) for title, ids in title_ids.items()}
        contexts = ContextLimits(sizes, sizes[SEPARATOR], self._limit // CONTEXT_SHARE)
        slices = slices_of(Ruler(text, units), blocks, self._limit, contexts)
        return [
            self._assemble(text, units[slice(*slice_.units)], title_ids, place, slice_)
            for place, slice_ in enumerate(slices)
        ]

    def _assemble(
        self, text: str, units: list[Unit], title_ids: Mapping[str, IntArray], place: int, slice_: Slice
    ) -> Chunk:
        start, end = units[0].start, units[-1].end
        passage = text[start:end]
        parts = [unit.ids for unit in units]
        for depth, title in enumerate(reversed(slice_.context)):
            parts = [title_ids[title], *([title_ids[SEPARATOR]] if depth else []), *parts]
        ids = parts[0] if len(parts) == 1 else np.concatenate(parts)
        context = f" {SEPARATOR} ".join(slice_.context)
        return Chunk(
            start=start,
            end=end,
            ordinal=place,
            heading=slice_.heading,
            text=passage,
            embed_text=f"{context}\n{passage}" if context else passage,
            token_ids=ids if self._tokenizer.sliceable else None,
            tokens=len(ids),
        )
