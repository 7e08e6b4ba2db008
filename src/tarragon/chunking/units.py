"""The smallest pieces that are measured: blocks, or the sentences, lines and words of blocks that may not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from tarragon.chunking.blocks import Block, Kind
from tarragon.types import IntArray

Cut: TypeAlias = "re.Pattern[str]"
Tokenize: TypeAlias = "Callable[[Sequence[str]], list[IntArray]]"
Span: TypeAlias = "tuple[int, int]"

_BLANK = r"[^\S\x0b\x0c\x1c-\x1f\x85]"
"""White space that separates words for every tokenizer: BERT's drop the control characters that Python takes for it."""

_SENTENCE = re.compile(rf"(?<=[.!?…])[\"'”’)\]*_]*{_BLANK}+|(?<=[。！？])[」』”’）]*|\n[ \t]*\n\s*")
_LINE = re.compile(r"\n(?=[^\n])")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n\s*?(?=[^\n])")
_ITEM = re.compile(r"\n(?=[ \t]{0,3}(?:[-*+]|\d{1,9}[.)])[ \t])")
_WORD = re.compile(rf"{_BLANK}+")

CUTS: dict[Kind, tuple[Cut, ...]] = {
    "heading": (_LINE, _WORD),
    "paragraph": (_SENTENCE, _WORD),
    "list": (_ITEM, _LINE, _SENTENCE, _WORD),
    "table": (_LINE, _WORD),
    "code": (_BLANK_LINE, _LINE, _WORD),
}
"""Where a block may be cut, best place first. The last is between words."""

CHARACTERS_PER_TOKEN = 16
"""A chunk of n tokens has at most this many times n characters.

English has 4 to 5, and nothing readable comes near 16. It bounds what one token may hide: WordPiece makes a single
unknown token of a word of any length.
"""

_MEASURED_WHOLE = 2
"""A block with fewer characters a token of the limit is measured whole; a longer one in finer units. English has 4 to
5, so that few blocks are measured twice, and those that fit are cut up for nothing at little cost."""


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
    texts: Sequence[str], blocks: Sequence[Sequence[Block]], limits: Sequence[int], tokenize: Tokenize
) -> list[list[Unit]]:
    """Tokenise each text once, in pieces none of which has more tokens than its limit.

    All texts go to the tokenizer together, so that it uses its threads; a piece that turns out too long goes again,
    word by word.
    """
    spans = [
        [span for block in outline for span in _spans(text, block, limit)]
        for text, outline, limit in zip(texts, blocks, limits, strict=True)
    ]
    pieces = [text[start:end] for text, places in zip(texts, spans, strict=True) for start, end in places]
    ids = iter(tokenize(pieces))
    return [
        [unit for start, end in places for unit in _refine(text, Unit(start, end, next(ids)), limit, tokenize)]
        for text, places, limit in zip(texts, spans, limits, strict=True)
    ]


def _spans(text: str, block: Block, limit: int) -> Iterator[Span]:
    if block.end - block.start <= limit * _MEASURED_WHOLE:
        bounds = [block.start, block.end]
    else:
        found = (match.end() for cut in CUTS[block.kind][:-1] for match in cut.finditer(text, block.start, block.end))
        bounds = sorted({block.start, block.end, *found})
    yield from _trimmed(text, bounds)


def _refine(text: str, unit: Unit, limit: int, tokenize: Tokenize) -> Iterator[Unit]:
    """The unit itself, or its words if it is too long, or parts of the words that are."""
    if _fits(unit, limit):
        yield unit
        return
    bounds = [unit.start, *(match.end() for match in _WORD.finditer(text, unit.start, unit.end)), unit.end]
    for word in _measured(text, bounds, tokenize):
        yield from _torn(text, word, limit, tokenize)


def _torn(text: str, part: Unit, limit: int, tokenize: Tokenize) -> Iterator[Unit]:
    """The part itself, or equal parts of it, a quarter more than should fit exactly, each torn again if it does not."""
    if _fits(part, limit) or part.end - part.start == 1:
        yield part
        return
    pieces = max(2, len(part.ids) * 5 // (limit * 4), -(-(part.end - part.start) // (limit * CHARACTERS_PER_TOKEN)))
    step = -(-(part.end - part.start) // pieces)
    for smaller in _measured(text, [*range(part.start, part.end, step), part.end], tokenize):
        yield from _torn(text, smaller._replace(torn=True), limit, tokenize)


def _fits(unit: Unit, limit: int) -> bool:
    return len(unit.ids) <= limit and unit.end - unit.start <= limit * CHARACTERS_PER_TOKEN


def _measured(text: str, bounds: Sequence[int], tokenize: Tokenize) -> Iterator[Unit]:
    spans = list(_trimmed(text, bounds))
    for (start, end), ids in zip(spans, tokenize([text[start:end] for start, end in spans]), strict=True):
        yield Unit(start, end, ids)


def _trimmed(text: str, bounds: Sequence[int]) -> Iterator[Span]:
    for start, end in pairwise(bounds):
        start, end = trim(text, start, end)
        if start < end:
            yield start, end


def trim(text: str, start: int, end: int) -> Span:
    """The span without blank characters at its ends."""
    part = text[start:end]
    stripped = part.lstrip()
    start += len(part) - len(stripped)
    return start, start + len(stripped.rstrip())
