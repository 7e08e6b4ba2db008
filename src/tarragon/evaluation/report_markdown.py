"""A page as Markdown, as GitHub and others read it. A figure becomes the table of its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tarragon.evaluation.report_page import Block, Cell, Figures, Page, Paragraph, Table

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&])")


def to_markdown(page: Page) -> str:
    """The page, complete. Whatever comes from data is escaped."""
    return "\n\n".join(_page(page)) + "\n"


def _page(page: Page) -> Iterator[str]:
    yield f"# {_text(page.title)}"
    if page.subtitle:
        yield _text(page.subtitle)
    for section in page.sections:
        yield f"## {_text(section.title)}"
        yield from _blocks(section.blocks)


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Paragraph):
            yield _text(block.text)
        elif isinstance(block, Table):
            yield _table(block)
        elif isinstance(block, Figures):
            for figure in block.figures:
                yield f"**{_text(figure.title)}.** {_text(figure.note)}"
                yield _table(figure.table)
        else:
            yield f"<details><summary>{_text(block.summary)}</summary>"
            yield from _blocks(block.blocks)
            yield "</details>"


def _table(table: Table) -> str:
    head = _row(map(_text, table.columns))
    rule = _row("---" if i == 0 or i in table.texts else "---:" for i in range(len(table.columns)))
    return "\n".join([head, rule, *(_row(map(_cell, row)) for row in table.rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    said = f"**{_text(cell.text)}**" if cell.strong and cell.text else _text(cell.text)
    return f"{said} {_text(cell.note)}".strip()


def _text(text: str) -> str:
    """On one line, and such that nothing in it is markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.encode("utf-8", "replace").decode("utf-8").split()))
