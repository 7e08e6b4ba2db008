"""How each figure of `benchmarks.scale` grows, as one SVG: a small panel each, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from tarragon.evaluation.report_page import Axis
from tarragon.evaluation.report_scales import Scale, number, scale

WIDTH, HEIGHT = 300.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 40.0, 34.0
ACROSS = 3
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's, which people with any colour vision can tell apart."""

DASHES = ("", "5 3", "2 3", "8 3 2 3")

PANELS: dict[str, dict[str, str]] = {
    "build, processor seconds": {"sync": "build, processor seconds", "optimize": "optimize, processor seconds"},
    "open and first query, seconds": {
        "as written": "search, as written: open and first query, seconds",
        "optimized": "search: open and first query, seconds",
    },
    "memory while searching, MiB": {
        "as written, own": "search, as written: memory of its own, MiB",
        "optimized, own": "search: memory of its own, MiB",
        "optimized, mapped": "search: mapped files, MiB",
    },
    "hybrid query, ms": {
        "as written, p50": "search, as written: hybrid p50, ms",
        "processor": "search, as written: hybrid, processor ms",
        "optimized, p50": "search: hybrid p50, ms",
        "processor ": "search: hybrid, processor ms",
    },
    "sync, processor seconds": {
        "1,000 changed": "sync, 1,000 documents changed, processor seconds",
        "just these": "sync of these 1,000 with only=, processor seconds",
        "nothing changed": "sync, nothing changed, processor seconds",
    },
    "disk, MiB": {"all": "disk, MiB"},
}
"""Title → name of a line → the figure that it shows."""

Sizes = Sequence[tuple[int, Mapping[str, float | None]]]
Line = Sequence[tuple[float, float]]


def draw(sizes: Sizes) -> str:
    """The whole picture; a dotted grey line in each panel grows as the number of chunks does."""
    down = -(-len(PANELS) // ACROSS)
    width, height = ACROSS * WIDTH, down * HEIGHT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        'font-family="sans-serif" font-size="11"><title>How an index grows with its chunks</title>'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#fff"/>'
    )
    panels = (
        f'<g transform="translate({place % ACROSS * WIDTH:.0f},{place // ACROSS * HEIGHT:.0f})">'
        f"{''.join(_panel(title, lines_of(sizes, names)))}</g>"
        for place, (title, names) in enumerate(PANELS.items())
    )
    return f"{head}{''.join(panels)}</svg>\n"


def lines_of(sizes: Sizes, names: Mapping[str, str]) -> dict[str, Line]:
    """The points of each line that has any: chunks, and a figure above 0."""
    lines = {name: [(float(n), value) for n, of in sizes if (value := of.get(key))] for name, key in names.items()}
    return {name: line for name, line in lines.items() if line}


def _panel(title: str, lines: Mapping[str, Line]) -> Iterator[str]:
    yield f'<text x="8" y="16" font-weight="bold">{escape(title)}</text>'
    if not lines:
        return
    points = [point for line in lines.values() for point in line]
    x = scale(Axis("chunks", log=True), [one for one, _ in points], LEFT, WIDTH - RIGHT)
    y = scale(Axis(title, log=True), [one for _, one in points], HEIGHT - BOTTOM, TOP, 4)
    yield from _axes(x, y)
    yield from _proportional(x, y, points)
    for place, (name, line) in enumerate(lines.items()):
        yield from _line(name, line, place, x, y)


def _axes(x: Scale, y: Scale) -> Iterator[str]:
    for tick in y.ticks:
        at = y.place(tick)
        yield f'<path d="M{x.start:.1f},{at:.1f}H{x.end:.1f}" stroke="#ddd"/>'
        yield f'<text x="{x.start - 5:.1f}" y="{at + 4:.1f}" text-anchor="end" fill="#555">{number(tick)}</text>'
    for tick in x.ticks:
        at = x.place(tick)
        yield f'<path d="M{at:.1f},{y.start:.1f}v4" stroke="#555"/>'
        yield f'<text x="{at:.1f}" y="{y.start + 16:.1f}" text-anchor="middle" fill="#555">{_short(tick)}</text>'
    yield f'<path d="M{x.start:.1f},{y.start:.1f}H{x.end:.1f}" stroke="#555"/>'


def _short(count: float) -> str:
    return f"{count / 1e6:g}M" if count >= 1e6 else f"{count / 1e3:g}k" if count >= 1e3 else f"{count:g}"


def _proportional(x: Scale, y: Scale, points: Line) -> Iterator[str]:
    """Through the highest of the leftmost points, as far as it stays in the panel."""
    first = min(one for one, _ in points)
    level = max(value for one, value in points if one == first)
    last = min(x.high, first * y.high / level)
    path = f"M{x.place(first):.1f},{y.place(level):.1f}L{x.place(last):.1f},{y.place(level * last / first):.1f}"
    yield f'<path d="{path}" stroke="#999" stroke-dasharray="1 3" fill="none"/>'


def _line(name: str, line: Line, place: int, x: Scale, y: Scale) -> Iterator[str]:
    colour, dash = COLOURS[place], DASHES[place]
    path = " ".join(f"{x.place(n):.1f},{y.place(value):.1f}" for n, value in line)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"/>'
    for n, value in line:
        said = escape(f"{name.strip()}: {number(value)} at {n:,.0f} chunks")
        yield f'<circle cx="{x.place(n):.1f}" cy="{y.place(value):.1f}" r="2.6" fill="{colour}"><title>{said}</title>'
        yield "</circle>"
    left = 8 + place * (WIDTH - 16) / len(COLOURS)
    yield f'<text x="{left:.1f}" y="30" font-size="9" fill="{colour}">{escape(name.strip())}</text>'
