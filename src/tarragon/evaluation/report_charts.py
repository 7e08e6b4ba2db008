"""A chart as SVG that stands in a page: few series, named where they end, no legend where it can be done without.

Colours are Okabe and Ito's, which people with any colour vision can tell apart ("Color Universal Design", 2008); the
style sheet has them for light and for dark. Series differ in dash and mark too. Widths are in units of a drawing that
is 420 wide, which a telephone shows at about 0.85 of its size, so that its words can be read there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import TypeAlias

from tarragon.evaluation.report_page import Chart, Series
from tarragon.evaluation.report_scales import Scale, number, scale, spread

WIDTH, HEIGHT = 420.0, 280.0
LEFT, TOP, BOTTOM = 40.0, 26.0, 42.0
LABEL = 126.0
"""Room for the names of series behind their ends."""

COLOURS = 6
"""Series that can be told apart."""

LONGEST = 16
"""Characters of a name in a chart; the whole name is shown on pointing at it, and in the table."""

LINE = 13.0
"""Between two labels, one above the other."""

Drawing: TypeAlias = Iterator[str]
Bounds: TypeAlias = tuple[float, float, float, float]


def draw(chart: Chart, title: str) -> str:
    """The chart as an ``svg`` element; ``title`` is what a screen reader says of it."""
    named = chart.kind == "lines"
    right = WIDTH - (LABEL if named else 12.0)
    x = scale(chart.x, _xs(chart), LEFT, right)
    y = scale(chart.y, _ys(chart), HEIGHT - BOTTOM, TOP, 4)
    parts = [*_axes(chart, x, y), *_KINDS[chart.kind](chart.series, x, y)]
    head = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escaped(title)}">'
    return head + "".join(parts) + "</svg>"


def _xs(chart: Chart) -> list[float]:
    return [point.x for series in chart.series for point in series.points]


def _ys(chart: Chart) -> list[float]:
    ends = [end for series in chart.series for p in series.points for end in (p.low, p.high) if end is not None]
    return [point.y for series in chart.series for point in series.points] + ends


def _axes(chart: Chart, x: Scale, y: Scale) -> Drawing:
    for tick in y.ticks:
        place = y.place(tick)
        yield f'<line class="grid" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{place:.1f}" y2="{place:.1f}"/>'
        yield _text(x.start - 6, place + 4, number(tick), "end", "tick")
    yield f'<line class="axis" x1="{x.start:.1f}" x2="{x.end:.1f}" y1="{y.start:.1f}" y2="{y.start:.1f}"/>'
    for tick in x.ticks:
        place = x.place(tick)
        yield f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{y.start:.1f}" y2="{y.start + 4:.1f}"/>'
        yield _text(place, y.start + 17, number(tick), "middle", "tick")
    yield _text((x.start + x.end) / 2, HEIGHT - 8, chart.x.title, "middle", "title")
    yield _text(2, 12, chart.y.title, "start", "title")
    if chart.diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        ends = x.place(low), y.place(low), x.place(high), y.place(high)
        yield '<line class="diagonal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends)


def _lines(series: Sequence[Series], x: Scale, y: Scale) -> Drawing:
    drawn = [one for one in series if one.points]
    higher = [y.place(one.points[-1].y) - 0.01 * sum(p.y for p in one.points) / len(one.points) for one in drawn]
    labels = _labels([one.name for one in drawn])
    names = spread(higher, LINE, y.end, y.start)  # where they end alike, the one that was higher is named first
    for place, (one, name) in enumerate(zip(drawn, names, strict=True)):
        path = " ".join(f"{x.place(p.x):.1f},{y.place(p.y):.1f}" for p in one.points)
        yield f'<polyline class="line s{place}" points="{path}"/>'
        for p in one.points:
            yield _mark(x.place(p.x), y.place(p.y), 2.6, place, f"{one.name}: {number(p.x)} → {number(p.y)}")
        end = x.place(one.points[-1].x)
        if abs(name - y.place(one.points[-1].y)) > 1:
            yield f'<line class="leader" x1="{end + 4:.1f}" y1="{y.place(one.points[-1].y):.1f}" '
            yield f'x2="{end + 9:.1f}" y2="{name:.1f}"/>'
        yield _text(end + 11, name + 4, labels[place], "start", f"name t{place}", one.name)


def _points(series: Sequence[Series], x: Scale, y: Scale) -> Drawing:
    taken: list[Bounds] = [(cx - 4, cy - 4, cx + 4, cy + 4) for cx, cy in _places(series, x, y)]
    names = [p.label for one in series for p in one.points]
    labels = dict(zip(names, _labels(names), strict=True))
    heaviest = max((p.weight for one in series for p in one.points), default=1)
    for place, one in enumerate(series):
        for p in one.points:
            cx, cy = x.place(p.x), y.place(p.y)
            if p.low is not None and p.high is not None:
                yield f'<line class="whisker s{place}" x1="{cx:.1f}" x2="{cx:.1f}" '
                yield f'y1="{y.place(p.low):.1f}" y2="{y.place(p.high):.1f}"/>'
            size = 3.5 if heaviest == 1 else 2.0 + 7.0 * math.sqrt(p.weight / heaviest)
            many = f" ({p.weight:,} questions)" if heaviest > 1 else ""
            said = f"{p.label or one.name}: {number(p.x)}, {number(p.y)}{many}"
            yield _mark(cx, cy, size, place, said, "dot" if heaviest > 1 else "mark")
            if p.label and (free := _free(cx, cy, labels[p.label], taken, x.end)):
                yield _text(*free[:2], labels[p.label], free[2], f"name t{place}", p.label)


def _areas(series: Sequence[Series], x: Scale, y: Scale) -> Drawing:
    base = y.start
    for place, one in enumerate(series):
        corners = [(x.place(one.points[0].x), base)] if one.points else []
        for p, following in zip(one.points, one.points[1:], strict=False):
            corners += [(x.place(p.x), y.place(p.y)), (x.place(following.x), y.place(p.y))]
        corners += [(corners[-1][0], base)] if corners else []
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        yield f'<polygon class="area f{place}" points="{path}"/><polyline class="line s{place}" points="{path}"/>'
    widest = sorted(
        (max(((p.y, -p.x) for p in one.points), default=(0.0, 0.0)), place, one) for place, one in enumerate(series)
    )
    above = spread([y.place(peak) - 5 for (peak, _), _, _ in widest], LINE, TOP - 4, base)
    for ((_, before), place, one), top in zip(widest, above, strict=True):
        at = x.place(-before)
        anchor = "end" if at > x.start + 0.6 * (x.end - x.start) else "start"
        yield _text(at + (-4 if anchor == "end" else 4), top, one.name, anchor, f"name t{place}")


_KINDS: dict[str, Callable[[Sequence[Series], Scale, Scale], Drawing]] = {
    "lines": _lines,
    "points": _points,
    "areas": _areas,
}


def _places(series: Sequence[Series], x: Scale, y: Scale) -> Iterator[tuple[float, float]]:
    return ((x.place(p.x), y.place(p.y)) for one in series for p in one.points)


def _free(cx: float, cy: float, text: str, taken: list[Bounds], end: float) -> tuple[float, float, str] | None:
    """A place for a label beside its point where nothing is yet, which is taken then; None if there is none."""
    width = 6.4 * len(text)
    tries = [(8.0, 4.0, "start"), (-8.0, 4.0, "end"), (6.0, -8.0, "start"), (6.0, 16.0, "start")]
    tries += [(-6.0, -8.0, "end"), (-6.0, 16.0, "end"), (8.0, -20.0, "start"), (-8.0, -20.0, "end")]
    for dx, dy, anchor in tries:
        left = cx + dx - (width if anchor == "end" else 0)
        box = (left, cy + dy - 10, left + width, cy + dy + 2)
        if left >= LEFT and box[2] <= end + 12 and box[1] >= TOP - 12 and not any(_overlap(box, b) for b in taken):
            taken.append(box)
            return cx + dx, cy + dy, anchor
    return None


def _overlap(one: Bounds, other: Bounds) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _mark(cx: float, cy: float, size: float, place: int, said: str, kind: str = "mark") -> str:
    """A circle, a square, a triangle or a diamond, by the place of the series."""
    title = f"<title>{escaped(said)}</title>"
    if kind == "dot" or place % 4 == 0:
        return f'<circle class="{kind} f{place}" cx="{cx:.1f}" cy="{cy:.1f}" r="{size:.1f}">{title}</circle>'
    if place % 4 == 1:
        box = f'x="{cx - size:.1f}" y="{cy - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}"'
        return f'<rect class="{kind} f{place}" {box}>{title}</rect>'
    top = (
        [(0.0, -1.3), (1.2, 0.9), (-1.2, 0.9)] if place % 4 == 2 else [(0.0, -1.4), (1.4, 0.0), (0.0, 1.4), (-1.4, 0.0)]
    )
    corners = " ".join(f"{cx + size * dx:.1f},{cy + size * dy:.1f}" for dx, dy in top)
    return f'<polygon class="{kind} f{place}" points="{corners}">{title}</polygon>'


def _text(left: float, top: float, text: str, anchor: str, kind: str, whole: str = "") -> str:
    more = f"<title>{escaped(whole)}</title>" if whole and whole != text else ""
    return f'<text class="{kind}" x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escaped(text)}{more}</text>'


def escaped(text: str) -> str:
    """For HTML. Control characters, which it may not hold, and lone surrogates, which UTF-8 cannot, are replaced."""
    clean = "".join(one if one >= " " or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)
    return escape(clean.encode("utf-8", "replace").decode("utf-8"))


def _labels(names: Sequence[str]) -> list[str]:
    """Names cut to `LONGEST`: at their end, or in the middle if some would be the same then."""
    short = [name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…" for name in names]
    if len(set(short)) == len(set(names)):
        return short
    half = (LONGEST - 1) // 2
    return [name if len(name) <= LONGEST else f"{name[:half].rstrip()}…{name[-half:].lstrip()}" for name in names]
