"""Documents → chunks, with limits in the encoder's own tokens and each document tokenised once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tarragon.chunking.blocks import Block
from tarragon.chunking.markdown import parse_markdown
from tarragon.chunking.packing import ContextLimits, Ruler, slices_of
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


@dataclass(frozen=True, slots=True)
class _Context:
    """What stands before a chunk's own text: that of its document, and headings; its text and its ids, in parts."""

    text: str = ""
    ids: tuple[IntArray, ...] = ()

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))


_PARSERS: dict[Format, Callable[[str], list[Block]]] = {
    "markdown": parse_markdown,
    "rst": parse_rst,
    "code": parse_code,
    "text": parse_text,
}


def chunker_identity(chunking: Chunking, limit: int) -> str:
    """Changes whenever the same blocks could be cut in other places."""
    return f"{chunking} {limit} chunker {CHUNKER_REVISION}"


def whole_text(document: Document) -> str:
    """What is embedded of a document that is one chunk, where its context has room: half of the chunk's tokens."""
    return _joined(document.context.strip(), document.text[slice(*trim(document.text, 0, len(document.text)))])


def _joined(above: str, passage: str) -> str:
    return f"{above}\n{passage}" if above else passage


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
        texts = [document.text[slice(*span)] for document, span in zip(documents, spans, strict=True)]
        parts = zip(documents, spans, self._contexts(documents), self._tokenizer.tokenize(texts), strict=True)
        return [
            [self._made(document.text, span, context, [ids])] if span[0] < span[1] else []
            for document, span, context, ids in parts
        ]

    def _cut(self, documents: Sequence[tuple[Document, Format]]) -> list[list[Chunk]]:
        texts = [document.text for document, _ in documents]
        outlines = [_PARSERS[format_](document.text) for document, format_ in documents]
        contexts = self._contexts([document for document, _ in documents])
        floors = [room - room // CONTEXT_SHARE for room in map(self._room, contexts)]
        units = units_of(texts, outlines, floors, self._tokenizer.tokenize)
        titles = [*sorted({block.title for blocks in outlines for block in blocks if block.title}), SEPARATOR]
        title_ids = dict(zip(titles, self._tokenizer.tokenize(titles), strict=True))
        return [self._structured(*parts, title_ids) for parts in zip(texts, outlines, units, contexts, strict=True)]

    def _structured(
        self, text: str, blocks: list[Block], units: list[Unit], context: _Context, title_ids: Mapping[str, IntArray]
    ) -> list[Chunk]:
        room = self._room(context)
        sizes = {title: len(ids) for title, ids in title_ids.items()}
        headings = ContextLimits(sizes, sizes[SEPARATOR], room // CONTEXT_SHARE)
        chunks = []
        for place, slice_ in enumerate(slices_of(Ruler(text, units), blocks, room, headings)):
            own = units[slice(*slice_.units)]
            path = f" {SEPARATOR} ".join(slice_.context)
            path_ids = [ids for title in slice_.context for ids in (title_ids[SEPARATOR], title_ids[title])][1:]
            above = _Context("\n".join(filter(None, (context.text, path))), (*context.ids, *path_ids))
            span = own[0].start, own[-1].end
            chunks.append(self._made(text, span, above, [unit.ids for unit in own], place, slice_.heading))
        return chunks

    def _made(
        self,
        text: str,
        span: tuple[int, int],
        above: _Context,
        parts: Sequence[IntArray],
        place: int = 0,
        heading: tuple[str, ...] = (),
    ) -> Chunk:
        start, end = span
        passage = text[start:end]
        ids = np.concatenate([*above.ids, *parts]) if above.ids or len(parts) > 1 else parts[0]
        is_sure = self._tokenizer.sliceable or (not above.text and len(parts) == 1)
        return Chunk(
            start=start,
            end=end,
            ordinal=place,
            heading=heading,
            text=passage,
            embed_text=_joined(above.text, passage),
            token_ids=ids if is_sure else None,
            tokens=len(ids),
        )

    # --- contexts -----------------------------------------------------------------------------------------------------
    def _room(self, context: _Context) -> int:
        """Tokens that are left for headings and text."""
        return self._limit - context.tokens

    def _contexts(self, documents: Sequence[Document]) -> list[_Context]:
        """What stands before every chunk of each document; nothing, for most. The beginning of what is too long."""
        texts = sorted({context for document in documents if (context := document.context.strip())})
        ids = self._tokenizer.tokenize(texts) if texts else []
        fitting = {text: self._fitting(text, own) for text, own in zip(texts, ids, strict=True)}
        return [fitting.get(document.context.strip(), _Context()) for document in documents]

    def _fitting(self, text: str, ids: IntArray) -> _Context:
        """The first words of a context that have at most half of a chunk's tokens."""
        most = self._limit // 2
        words = text.split()
        kept = len(words)
        while len(ids) > most and kept:
            kept = min(kept - 1, kept * most // len(ids))
            text = " ".join(words[:kept])
            ids = self._tokenizer.tokenize([text])[0] if kept else ids
        return _Context(text, (ids,)) if kept else _Context()
