"""Documents → chunks, with limits in the encoder's own tokens and each document tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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
CHUNKER_REVISION = 2
"""Raised when the packer cuts in other places than before, or something else is kept beside a chunk: the ids of its
neighbours, from 2 on."""

CONTEXT_SHARE = 4
"""At most one part in this many of a chunk's tokens goes to its headings."""

SEPARATOR = ">"

_NO_IDS = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Context:
    """What stands before a chunk's own text: that of its document, and headings.

    Attributes:
        text: All of it.
        ids: Of the document's part.
        headings: Ids of the headings and what separates them.
    """

    text: str
    ids: IntArray
    headings: Sequence[IntArray] = ()


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
        stay = [self._chunking == "whole" or format_ == "whole" for _, format_ in documents]
        whole = iter(self._whole([document for (document, _), one in zip(documents, stay, strict=True) if one]))
        cut = iter(self._cut([pair for pair, one in zip(documents, stay, strict=True) if not one]))
        return [next(whole if one else cut) for one in stay]

    def _whole(self, documents: Sequence[Document]) -> list[list[Chunk]]:
        spans = [trim(document.text, 0, len(document.text)) for document in documents]
        passages = [document.text[slice(*span)] for document, span in zip(documents, spans, strict=True)]
        parts = zip(spans, passages, self._contexts(documents), self._tokenizer.tokenize(passages), strict=True)
        return [[self._made(passage, span, context, [ids])] if passage else [] for span, passage, context, ids in parts]

    def _cut(self, documents: Sequence[tuple[Document, Format]]) -> list[list[Chunk]]:
        texts = [document.text for document, _ in documents]
        outlines = [_PARSERS[format_](document.text) for document, format_ in documents]
        contexts = self._contexts([document for document, _ in documents])
        rooms = [max(self._limit - len(context.ids), self._limit // 2) for context in contexts]
        floors = [room - room // CONTEXT_SHARE for room in rooms]
        units = units_of(texts, outlines, floors, self._tokenizer.tokenize)
        titles = [*sorted({block.title for blocks in outlines for block in blocks if block.title}), SEPARATOR]
        title_ids = dict(zip(titles, self._tokenizer.tokenize(titles), strict=True))
        sizes = {title: len(ids) for title, ids in title_ids.items()}
        parts = zip(texts, outlines, units, contexts, rooms, strict=True)
        return [self._structured(*part, title_ids, sizes) for part in parts]

    def _structured(
        self,
        text: str,
        blocks: list[Block],
        units: list[Unit],
        context: _Context,
        room: int,
        title_ids: Mapping[str, IntArray],
        sizes: Mapping[str, int],
    ) -> list[Chunk]:
        headings = ContextLimits(sizes, sizes[SEPARATOR], room // CONTEXT_SHARE)
        slices = slices_of(Ruler(text, units), blocks, room, headings)
        return [
            replace(self._sliced(text, units[slice(*slice_.units)], slice_, context, title_ids), ordinal=place)
            for place, slice_ in enumerate(slices)
        ]

    def _sliced(
        self, text: str, units: list[Unit], slice_: Slice, context: _Context, title_ids: Mapping[str, IntArray]
    ) -> Chunk:
        start, end = units[0].start, units[-1].end
        headings = [part for title in slice_.context for part in (title_ids[SEPARATOR], title_ids[title])][1:]
        path = f" {SEPARATOR} ".join(slice_.context)
        above = _Context("\n".join(filter(None, (context.text, path))), context.ids, headings)
        made = self._made(text[start:end], (start, end), above, [unit.ids for unit in units])
        return replace(made, heading=slice_.heading)

    def _made(self, passage: str, span: tuple[int, int], context: _Context, parts: Sequence[IntArray]) -> Chunk:
        above = [context.ids, *context.headings] if len(context.ids) else [*context.headings]
        ids = np.concatenate([*above, *parts]) if above or len(parts) > 1 else parts[0]
        is_whole = not context.text and len(parts) == 1
        return Chunk(
            start=span[0],
            end=span[1],
            ordinal=0,
            heading=(),
            text=passage,
            embed_text=f"{context.text}\n{passage}" if context.text else passage,
            token_ids=ids if is_whole or self._tokenizer.sliceable else None,
            tokens=len(ids),
        )

    def _contexts(self, documents: Sequence[Document]) -> list[_Context]:
        """What stands before every chunk of each document; nothing, for most."""
        texts = sorted({context for document in documents if (context := document.context.strip())})
        ids = dict(zip(texts, self._tokenizer.tokenize(texts), strict=True)) if texts else {}
        contexts = [document.context.strip() for document in documents]
        return [_Context(text, ids.get(text, _NO_IDS)) for text in contexts]
