"""What a report says, apart from how it looks: sections of paragraphs, tables and figures.

`report_html` and `report_markdown` write the same page, so that neither can say something that the other does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        note: Beside it and smaller, such as an interval.
        strong: The best of its kind.
    """

    text: str
    note: str = ""
    strong: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.note}".strip()


@dataclass(frozen=True, slots=True)
class Table:
    """A table. The first column names the row.

    Attributes:
        columns: Heads.
        rows: As long as ``columns``, each.
        texts: Columns that hold text and not numbers, beside the first.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    texts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a chart.

    Attributes:
        x: Along the horizontal axis.
        y: Along the vertical one.
        low: Lower end of its interval.
        high: Upper end.
        weight: How many observations it stands for.
        label: Written beside it.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    weight: int = 1
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together, in order of ``x``."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis; without bounds it spans what there is to show."""

    title: str
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn.

    Attributes:
        kind: ``lines`` joins the points of a series; ``points`` does not; ``areas`` fills the space below them, each
            point being the left end of a bar as wide as the way to the next.
        x: Horizontal.
        y: Vertical.
        series: At most `report_charts.COLOURS` of them.
        diagonal: Draw where both are equal.
    """

    kind: Literal["lines", "points", "areas"]
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    diagonal: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with a title, a sentence on how to read it, and the numbers behind it."""

    title: str
    note: str
    chart: Chart
    table: Table


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures that stand side by side where there is room."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A text."""

    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks that are opened by a click on their summary."""

    summary: str
    blocks: tuple[Block, ...]


Block: TypeAlias = "Paragraph | Table | Figures | Fold"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
