"""A document's structure as a flat list of blocks: what each format's parser returns and the packer consumes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["heading", "paragraph", "list", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """A run of characters that belong together.

    The blocks of a document are in text order, do not overlap, and between them hold every non-blank character.

    Attributes:
        start: First character.
        end: One past the last.
        kind: Decides where the block may be cut if it does not fit into a chunk.
        level: Of a heading: 1 is outermost. 0 for other kinds.
        title: Of a heading: its words without markup.
    """

    start: int
    end: int
    kind: Kind
    level: int = 0
    title: str = ""


class Line(NamedTuple):
    """One line: its characters' place, and its text without indentation and line break.

    Attributes:
        start: First character of the line, indentation included.
        end: One past its last character, the line break included.
        text: Without indentation, trailing blanks and line break.
        indent: Columns of indentation; a tab counts as four. 0 for a blank line.
    """

    start: int
    end: int
    text: str
    indent: int


def lines_of(text: str) -> Iterator[Line]:
    """Every line of the text, in order.

    A line ends at a line feed, a carriage return or both, not at the other characters that `str.splitlines` takes:
    BERT's tokenizers drop form feeds and the like, so that what stands on both sides is one word to them.
    """
    position = 0
    for raw in io.StringIO(text, newline=""):
        bare = raw.strip()
        indent = 0
        if bare and raw[0].isspace():
            lead = raw[: raw.index(bare[0])]
            indent = len(lead) + 3 * lead.count("\t")
        end = position + len(raw)
        yield Line(position, end, bare, indent)
        position = end


_LONGEST_TITLE = 300
"""In characters. A longer line that looks like a heading is a text; every chunk below it would repeat it."""
_TAG = re.compile(r"<[^<>]+>")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKUP = re.compile(r"[`*]+|\{\s*#[^}]*\}|:[a-z]+:`")


def plain_title(raw: str) -> str:
    """A heading's words without tags, link targets, anchors and emphasis; of a very long one the first."""
    without_links = _LINK.sub(r"\1", _TAG.sub("", raw[:_LONGEST_TITLE]))
    return " ".join(_MARKUP.sub("", without_links).split())
