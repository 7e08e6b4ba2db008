"""The blocks of Markdown: ATX and setext headings, fences, tables, lists, indented code and paragraphs.

A line scanner rather than a full parser: it needs exact spans and only the outline, and must cost little beside the
tokenizer (benchmarks/README.md). What it does not know (footnotes, HTML, admonitions) is a paragraph.
"""

from __future__ import annotations

import re

from tarragon.chunking.blocks import Block, Kind, Line, lines_of, plain_title

_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_ATX = re.compile(r"(#{1,6})(?:[ \t]+|$)")
_SETEXT = re.compile(r"(=+|-{2,})$")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?:[ \t]+|$)")
_RULE = re.compile(r"(?:[-*_][ \t]*){3,}$")


def parse_markdown(text: str) -> list[Block]:
    """The blocks of a Markdown text, in order; an empty list for a blank one."""
    scanner = _Scanner()
    for line in lines_of(text):
        scanner.feed(line)
    scanner.close_block()
    return scanner.blocks


class _Scanner:
    """Holds the block that is being read: ``start`` is None between blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.start: int | None = None
        self.end = 0
        self.kind: Kind = "paragraph"
        self.fence = ""
        self.blank_before = True
        self.lines = 0

    def feed(self, line: Line) -> None:
        if self.fence:
            self._extend(line)
            if line.text.startswith(self.fence) and not line.text.strip(self.fence[0]):
                self.close_block()
        elif not line.text:
            if self.kind not in ("list", "code"):
                self.close_block()
        else:
            self._feed_text(line)
        self.blank_before = not line.text

    def _feed_text(self, line: Line) -> None:
        first = line.text[0]
        if self._continues(line):
            self._extend(line)
        elif first in "`~" and (match := _FENCE.match(line.text)):
            self._open(line, "code")
            self.fence = match[1] or match[2]
        elif first == "#" and line.indent < 4 and (match := _ATX.match(line.text)):
            self.close_block()
            title = _without_closing_hashes(line.text[match.end() :])
            self.blocks.append(Block(line.start, line.end, "heading", len(match[1]), plain_title(title)))
        elif self._is_setext_underline(line):
            self._heading_from_paragraph(line)
        elif first == "|":
            self._continue_or_open(line, "table")
        elif _ITEM.match(line.text) and not _RULE.match(line.text) and not self._inside_paragraph():
            self._continue_or_open(line, "list")
        elif line.indent >= 4 and (self.start is None or self.kind == "code"):
            self._continue_or_open(line, "code")
        else:
            self._continue_or_open(line, "paragraph")

    def _continues(self, line: Line) -> bool:
        """Whether the line belongs to the open list: it is indented, or directly follows without a blank line."""
        if self.start is None or self.kind != "list":
            return False
        is_item = _ITEM.match(line.text) is not None and not _RULE.match(line.text)
        structural = line.text[0] in "#|`~" and line.indent == 0 and not is_item
        return line.indent >= 2 or is_item or (not self.blank_before and not structural)

    def _inside_paragraph(self) -> bool:
        return self.start is not None and self.kind == "paragraph" and not self.blank_before and self.lines > 12

    def _is_setext_underline(self, line: Line) -> bool:
        open_line = self.start is not None and self.kind == "paragraph" and self.lines == 1 and not self.blank_before
        return open_line and line.indent < 4 and _SETEXT.match(line.text) is not None and not _RULE.match(self.title)

    def _heading_from_paragraph(self, line: Line) -> None:
        assert self.start is not None
        level = 1 if line.text[0] == "=" else 2
        self.blocks.append(Block(self.start, line.end, "heading", level, plain_title(self.title)))
        self.start = None

    def _continue_or_open(self, line: Line, kind: Kind) -> None:
        if self.start is not None and self.kind == kind:
            self._extend(line)
        else:
            self._open(line, kind)

    def _open(self, line: Line, kind: Kind) -> None:
        self.close_block()
        self.start, self.kind, self.lines, self.title = line.start, kind, 0, line.text
        self._extend(line)

    def _extend(self, line: Line) -> None:
        self.end = line.end
        self.lines += 1

    def close_block(self) -> None:
        if self.start is not None:
            self.blocks.append(Block(self.start, self.end, self.kind))
        self.start, self.fence, self.kind = None, "", "paragraph"


def _without_closing_hashes(title: str) -> str:
    bare = title.rstrip("#")
    return title if bare and not bare[-1].isspace() else bare
