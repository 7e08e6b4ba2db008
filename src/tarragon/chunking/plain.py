"""The blocks of reStructuredText, source code and plain text."""

from __future__ import annotations

from collections.abc import Callable

from tarragon.chunking.blocks import Block, Kind, Line, lines_of, plain_title

_ADORNMENTS = set("=-~^\"'#*+.:_`<>!$%&(),/;?@[]\\{|}")


def parse_text(text: str) -> list[Block]:
    """Paragraphs: runs of lines between blank ones."""
    return _runs(list(lines_of(text)), "paragraph", lambda line: True)


def parse_code(text: str) -> list[Block]:
    """Top-level pieces: a run begins at an unindented line that follows a blank one."""
    return _runs(list(lines_of(text)), "code", lambda line: line.indent == 0)


def parse_rst(text: str) -> list[Block]:
    """Sections by their adornment, in the order in which the kinds of adornment first occur; indented runs are code."""
    lines, levels, blocks, body, position = list(lines_of(text)), list[str](), list[Block](), list[Line](), 0
    while position < len(lines):
        found = _rst_heading(lines, position)
        if found is None:
            body.append(lines[position])
            position += 1
            continue
        blocks += _rst_body(body)
        body = []
        style, title, count = found
        if style not in levels:
            levels.append(style)
        span = lines[position].start, lines[position + count - 1].end
        blocks.append(Block(*span, "heading", levels.index(style) + 1, plain_title(title)))
        position += count
    return blocks + _rst_body(body)


def _rst_body(lines: list[Line]) -> list[Block]:
    return [
        Block(block.start, block.end, "code" if first.indent else "paragraph")
        for block, first in zip(_runs(lines, "paragraph", lambda line: True), _run_starts(lines), strict=True)
    ]


def _rst_heading(lines: list[Line], position: int) -> tuple[str, str, int] | None:
    """(style, title, lines used) of a heading that begins at this line: with an underline, or an overline too."""

    def adornment(index: int) -> str:
        text = lines[index].text if index < len(lines) and lines[index].indent == 0 else ""
        return text[0] if len(text) >= 2 and text[0] in _ADORNMENTS and text == text[0] * len(text) else ""

    title, under = lines[position].text, adornment(position + 1)
    if over := adornment(position):
        if adornment(position + 2) == over and not adornment(position + 1) and lines[position + 1].text:
            return over * 2, lines[position + 1].text, 3
        return None
    if title and under and lines[position].indent == 0 and len(lines[position + 1].text) >= len(title):
        return under, title, 2
    return None


def _run_starts(lines: list[Line]) -> list[Line]:
    return [line for i, line in enumerate(lines) if line.text and (i == 0 or not lines[i - 1].text)]


def _runs(lines: list[Line], kind: Kind, begins: Callable[[Line], bool]) -> list[Block]:
    """Blocks between blank lines; a run whose first line does not ``begin`` one continues the block before it."""
    blocks: list[Block] = []
    after_blank = True
    for line in lines:
        if line.text:
            if blocks and not (after_blank and begins(line)):
                blocks[-1] = Block(blocks[-1].start, line.end, kind)
            else:
                blocks.append(Block(line.start, line.end, kind))
        after_blank = not line.text
    return blocks
