"""A page as one HTML file: no script, no font, no picture and no request to anywhere.

A browser is told so too, by a content security policy that forbids all of them. Whatever comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files

from tarragon.evaluation.report_charts import draw, escaped
from tarragon.evaluation.report_page import Block, Cell, Figure, Figures, Page, Paragraph, Table

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""``data:`` is for the empty icon, without which browsers ask for one."""

LONG = 16
"""Characters from which on a text may be broken into lines."""

LONGEST_WORD = 32
"""Characters from which on a word may be."""


def to_html(page: Page) -> str:
    """The page, complete."""
    return "\n".join(_page(page)) + "\n"


def _page(page: Page) -> Iterator[str]:
    style = files("tarragon.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{escaped(POLICY)}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<link rel="icon" href="data:,">'
    yield f"<title>{escaped(page.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>"
    yield f"<h1>{escaped(page.title)}</h1>"
    if page.subtitle:
        yield f'<p class="subtitle">{escaped(page.subtitle)}</p>'
    for section in page.sections:
        yield f"<section>\n<h2>{escaped(section.title)}</h2>"
        yield from _blocks(section.blocks)
        yield "</section>"
    yield "</main>\n</body>\n</html>"


def _blocks(blocks: Iterable[Block]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Paragraph):
            yield f"<p>{escaped(block.text)}</p>"
        elif isinstance(block, Table):
            yield from _table(block)
        elif isinstance(block, Figures):
            yield '<div class="figures">'
            for figure in block.figures:
                yield from _figure(figure)
            yield "</div>"
        else:
            yield from _fold(block.summary, _blocks(block.blocks))


def _figure(figure: Figure) -> Iterator[str]:
    yield f"<figure>\n<figcaption>{escaped(figure.title)}</figcaption>"
    yield f'<p class="note">{escaped(figure.note)}</p>'
    yield draw(figure.chart, f"{figure.title}. {figure.note}")
    yield from _fold("The numbers", _table(figure.table))
    yield "</figure>"


def _fold(summary: str, inside: Iterable[str]) -> Iterator[str]:
    yield f"<details>\n<summary>{escaped(summary)}</summary>"
    yield from inside
    yield "</details>"


def _table(table: Table) -> Iterator[str]:
    """In a box of its own that scrolls sideways, so that a wide table never makes the page wide."""
    yield '<div class="scroll" tabindex="0">\n<table>\n<thead>\n<tr>'
    yield "".join(f'<th scope="col"{_kind(table, i)}>{escaped(name)}</th>' for i, name in enumerate(table.columns))
    yield "</tr>\n</thead>\n<tbody>"
    for row in table.rows:
        cells = (f"<td{_kind(table, i, cell)}>{_cell(cell)}</td>" for i, cell in enumerate(row[1:], start=1))
        yield f'<tr><th scope="row"{_kind(table, 0, row[0])}>{_cell(row[0])}</th>{"".join(cells)}</tr>'
    yield "</tbody>\n</table>\n</div>"


def _kind(table: Table, column: int, cell: Cell | None = None) -> str:
    kinds = ["text"] if column in table.texts else []
    if cell and (column == 0 or kinds) and (_is_long(cell.text) or _is_long(cell.note)):
        kinds.append("long")
    if cell and cell.strong:
        kinds.append("best")
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _is_long(text: str) -> bool:
    return len(text) > (LONG if " " in text else LONGEST_WORD)


def _cell(cell: Cell) -> str:
    return escaped(cell.text) + (f" <small>{escaped(cell.note)}</small>" if cell.note else "")
