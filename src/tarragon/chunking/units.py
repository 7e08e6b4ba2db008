"""The smallest pieces that are measured: blocks, or the sentences, lines and words of blocks that may not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from tarragon.chunking.blocks import Block, Kind
from tarragon.types import IntArray

Cut: TypeAlias = "re.Pattern[str]"
Tokenize: TypeAlias = "Callable[[Sequence[str]], list[IntArray]]"
Span: TypeAlias = "tuple[int, int]"

_SENTENCE = re.compile(r"(?<=[.!?…])[\"'”’)\]*_]*\s+(?=\S)|(?<=[。！？])|\n[ \t]*\n\s*")
_LINE = re.compile(r"\n(?=[^\n])")
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*?(?=[^\n])")
_ITEM = re.compile(r"\n(?=[ \t]{0,3}(?:[-*+]|\d{1,9}[.)])[ \t])")
_WORD = re.compile(r"\s+(?=\S)")

CUTS: dict[Kind, tuple[Cut, ...]] = {
    "heading": (_LINE, _WORD),
    "paragraph": (_SENTENCE, _WORD),
    "list": (_ITEM, _LINE, _SENTENCE, _WORD),
    "table": (_LINE, _WORD),
    "code": (_BLANK_LINE, _LINE, _WORD),
}
"""Where a block may be cut, best place first. The last is between words."""

_CHARACTERS_PER_TOKEN = 2
"""A block with fewer characters a token of the limit is measured whole; a longer one in finer units. English has 4 to 5,
so that few blocks are measured twice, and those that fit are cut up for nothing at little cost."""


class Unit(NamedTuple):
    """A piece whose tokens are known.

    Attributes:
        start: First character, never blank.
        end: One past the last, never blank.
        ids: Its token ids.
        torn: Whether it is a part of a word; such a unit is a chunk of its own, or its ids would not be the word's.
    """

    start: int
    end: int
    ids: IntArray
    torn: bool = False


def units_of(
    texts: Sequence[str], blocks: Sequence[Sequence[Block]], limit: int, tokenize: Tokenize
) -> list[list[Unit]]:
    """Tokenise each text once, in pieces none of which has more tokens than ``limit``.

    All texts go to the tokenizer together, so that it uses its threads; a piece that turns out too long goes again,
    word by word.
    """
    spans = [
        [span for block in outline for span in _spans(text, block, limit)]
        for text, outline in zip(texts, blocks, strict=True)
    ]
    pieces = [text[start:end] for text, places in zip(texts, spans, strict=True) for start, end in places]
    ids = iter(tokenize(pieces))
    return [
        [unit for start, end in places for unit in _refine(text, Unit(start, end, next(ids)), limit, tokenize)]
        for text, places in zip(texts, spans, strict=True)
    ]


def _spans(text: str, block: Block, limit: int) -> Iterator[Span]:
    if block.end - block.start <= limit * _CHARACTERS_PER_TOKEN:
        bounds = [block.start, block.end]
    else:
        found = (match.end() for cut in CUTS[block.kind][:-1] for match in cut.finditer(text, block.start, block.end))
        bounds = sorted({block.start, block.end, *found})
    yield from _trimmed(text, bounds)


def _refine(text: str, unit: Unit, limit: int, tokenize: Tokenize) -> Iterator[Unit]:
    """The unit itself, or its words if it has too many tokens, or the characters of a word that has."""
    if len(unit.ids) <= limit:
        yield unit
        return
    words = [unit.start, *(match.end() for match in _WORD.finditer(text, unit.start, unit.end)), unit.end]
    spans = list(_trimmed(text, words))
    for (start, end), ids in zip(spans, tokenize([text[start:end] for start, end in spans]), strict=True):
        if len(ids) <= limit:
            yield Unit(start, end, ids)
        else:
            parts = [(at, min(at + limit, end)) for at in range(start, end, limit)]
            for (first, last), part in zip(parts, tokenize([text[a:b] for a, b in parts]), strict=True):
                yield Unit(first, last, part, torn=True)


def _trimmed(text: str, bounds: Sequence[int]) -> Iterator[Span]:
    for start, end in zip(bounds, bounds[1:], strict=False):
        start, end = trim(text, start, end)
        if start < end:
            yield start, end


def trim(text: str, start: int, end: int) -> Span:
    """The span without blank characters at its ends."""
    part = text[start:end]
    stripped = part.lstrip()
    start += len(part) - len(stripped)
    return start, start + len(stripped.rstrip())
