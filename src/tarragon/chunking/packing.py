"""From measured units to slices: sections are packed greedily, and what does not fit is cut at the best place below."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tarragon.chunking.blocks import Block
from tarragon.chunking.units import CHARACTERS_PER_TOKEN, CUTS, Cut, Unit


@dataclass(frozen=True, slots=True)
class Slice:
    """A future chunk.

    Attributes:
        units: The first of its units, and one past the last.
        context: Headings above the slice that its own text does not repeat.
        heading: All headings that it stands under.
    """

    units: tuple[int, int]
    context: tuple[str, ...]
    heading: tuple[str, ...]


class Ruler:
    """Measures a text in tokens, between the places where its units begin."""

    def __init__(self, text: str, units: Sequence[Unit]) -> None:
        self.text = text
        self.units = units
        self._starts = [unit.start for unit in units]
        self._before = [0]
        for unit in units:
            self._before.append(self._before[-1] + len(unit.ids))

    def units_of(self, start: int, end: int) -> tuple[int, int]:
        """The units that begin in ``text[start:end]``: the first, and one past the last."""
        return bisect_left(self._starts, start), bisect_left(self._starts, end)

    def size(self, first: int, last: int) -> int:
        """Tokens of the units from ``first`` to before ``last``, or more if they have very many characters a token."""
        characters = self.units[last - 1].end - self.units[first].start
        return max(self._before[last] - self._before[first], -(-characters // CHARACTERS_PER_TOKEN))


class ContextLimits:
    """What a heading path costs, and how much of it is kept: the innermost headings that fit."""

    def __init__(self, tokens_of_title: Mapping[str, int], separator: int, limit: int) -> None:
        self._tokens = tokens_of_title
        self._separator = separator
        self._limit = limit

    def fit(self, path: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """The innermost part of the path within the limit, and its tokens."""
        kept: tuple[str, ...] = ()
        total = 0
        for title in reversed(path):
            cost = self._tokens[title] + (self._separator if kept else 0)
            if total + cost > self._limit:
                break
            kept, total = (title, *kept), total + cost
        return kept, total


def slices_of(ruler: Ruler, blocks: Sequence[Block], limit: int, contexts: ContextLimits) -> Iterator[Slice]:
    """Cut a document: no slice crosses a heading, except headings without text of their own, which join the next.

    Args:
        ruler: Measures the text; a unit begins wherever a block does.
        blocks: Of the text.
        limit: Most tokens of a slice and its context together.
        contexts: Shortens the headings to what may be spent on them.
    """
    for section in _sections(blocks):
        context, context_size = contexts.fit(section.context)
        heading, heading_size = contexts.fit(section.heading)
        room = limit - max(context_size, heading_size)
        for number, units in enumerate(_pack(ruler, section.blocks, room)):
            yield Slice(units, heading if number else context, section.heading)


@dataclass(frozen=True, slots=True)
class _Section:
    """What stands between two headings.

    Attributes:
        context: Headings above the section.
        heading: These and its own.
        blocks: Its heading, if it has one, and what follows.
    """

    context: tuple[str, ...]
    heading: tuple[str, ...]
    blocks: tuple[Block, ...]


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    stack: list[Block] = []
    gathered: list[Block] = []
    context: tuple[str, ...] = ()

    def path() -> tuple[str, ...]:
        return tuple(block.title for block in stack if block.title)

    for block in blocks:
        if block.kind != "heading":
            gathered.append(block)
            continue
        only_headings = bool(gathered) and gathered[-1].kind == "heading"
        if gathered and not (only_headings and block.level > gathered[-1].level):
            yield _Section(context, path(), tuple(gathered))
            gathered = []
        while stack and stack[-1].level >= block.level:
            stack.pop()
        if not gathered:
            context = path()
        stack.append(block)
        gathered.append(block)
    if gathered:
        yield _Section(context, path(), tuple(gathered))


def _pack(ruler: Ruler, blocks: Sequence[Block], room: int) -> Iterator[tuple[int, int]]:
    """Join neighbouring pieces while they fit; yields runs of units."""
    run: tuple[int, int] | None = None
    for block in blocks:
        for first, last in _cut(ruler, *ruler.units_of(block.start, block.end), CUTS[block.kind], room):
            torn = ruler.units[first].torn or (run is not None and ruler.units[run[0]].torn)
            if run is not None and not torn and ruler.size(run[0], last) <= room:
                run = run[0], last
                continue
            if run is not None:
                yield run
            run = first, last
    if run is not None:
        yield run


def _cut(ruler: Ruler, first: int, last: int, cuts: Sequence[Cut], room: int) -> Iterator[tuple[int, int]]:
    """The units as one run if they fit, else the parts at the first kind of cut, each treated alike with the next."""
    if first == last:
        return
    torn = any(unit.torn for unit in ruler.units[first:last]) and last - first > 1
    if not torn and ruler.size(first, last) <= room:
        yield first, last
    elif not cuts or last - first == 1:
        yield from ((unit, unit + 1) for unit in range(first, last))
    else:
        start, end = ruler.units[first].start, ruler.units[last - 1].end
        bounds = [
            first,
            *(ruler.units_of(match.end(), end)[0] for match in cuts[0].finditer(ruler.text, start, end)),
            last,
        ]
        for begin, stop in pairwise(bounds):
            yield from _cut(ruler, begin, stop, cuts[1:], room)
