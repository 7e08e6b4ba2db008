"""The report: one file that asks for nothing, says the same in both forms, and lets nothing of the data be markup."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_report import NASTY, sample

from tarragon.errors import InvalidInput
from tarragon.evaluation.contrast import compare
from tarragon.evaluation.report import to_html, to_markdown
from tarragon.evaluation.report_charts import COLOURS, draw
from tarragon.evaluation.report_figures import DEPTHS, recall_curve
from tarragon.evaluation.report_machine import machine
from tarragon.evaluation.report_page import Axis, Chart, Point, Series
from tarragon.evaluation.report_scales import scale, spread

VOID = {"meta", "link"}
CSS = files("tarragon.evaluation").joinpath("report.css").read_text(encoding="utf-8")


class Reading(HTMLParser):
    """Tags, attributes, the texts of cells, and whether all that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open[-1:] in (["td"], ["th"], ["small"]):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page() -> str:
    return to_html(sample())


def test_the_page_asks_for_nothing(page: str) -> None:
    read = Reading(page)
    assert not {"script", "img", "iframe", "object", "embed", "audio", "video", "base", "form", "a"} & set(read.tags)
    asking = [(name, value) for name, value in read.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert asking == [("href", "data:,")], "the empty icon"
    assert not any("http:" in value or "https:" in value or "//" in value for _, value in read.attributes)
    assert not re.search(r"url\(|@import|@font-face|expression", CSS)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in read.attributes
    assert not [name for name, _ in read.attributes if name.startswith("on") or name == "style"]


def test_the_same_values_give_the_same_page_to_the_byte(page: str) -> None:
    assert to_html(sample()) == page


def test_nothing_of_the_data_becomes_markup() -> None:
    report = sample(20, nasty=True, names=NASTY + "{}")
    read = Reading(to_html(report))
    assert not {"script", "img", "a"} & set(read.tags)
    assert "<script>alert('x')</script> & \"quoted\" | *bold* `code`" in read.text
    to_html(report).encode("utf-8")
    markdown = to_markdown(report)
    markdown.encode("utf-8")
    assert "<script>" not in markdown.replace(r"\<", "")
    assert r"\[link\](http:" in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(len(_split(line)) >= 2 for line in tables)


def test_markdown_says_what_the_page_says(page: str) -> None:
    cells = [" ".join(cell.split()) for cell in Reading(page).cells]
    lines = [line for line in to_markdown(sample()).splitlines() if line.startswith("|")]
    told = [cell for line in lines if not re.fullmatch(r"[|: -]+", line) or "---" not in line for cell in _split(line)]
    assert told == cells


def _split(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line)[1:-1]
    return [re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)\*\*", "", cell)).strip() for cell in cells]


def test_the_page_has_what_it_should(page: str) -> None:
    read = Reading(page)
    for title in ("Quality", "Differences", "Stages", "Scores", "Settings", "Made with"):
        assert f"<h2>{title}</h2>" in page
    report = sample()
    for scores in report.scores:
        for mean in scores.means.values():
            text = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
            assert text in [" ".join(cell.split()) for cell in read.cells]
    assert read.tags.count("svg") == 2 + 4 + 4
    assert f"({report.comparisons[0].changes[0].question.id})" in read.text


def test_size_hardly_grows_with_the_questions() -> None:
    small, large = (len(to_html(sample(count, depth=12)).encode()) for count in (300, 3000))
    assert large < 1.6 * small
    assert large < 2_000_000 / 4


def test_many_runs_are_told_and_the_best_are_drawn() -> None:
    report = sample(50)
    extra = [(run, scores) for run, scores in zip(report.runs, report.scores, strict=True)] * 5
    runs = tuple(replace(run, name=f"{run.name} {i}") for i, (run, _) in enumerate(extra))
    scores = tuple(replace(one, run=run.name) for run, (_, one) in zip(runs, extra, strict=True))
    compared = compare(scores, report.golden, runs)
    page = to_html(replace(report, runs=runs, scores=scores, comparisons=(compared,), stages=()))
    assert f"The {COLOURS} best of 20 runs" in page
    assert len(page.encode()) < 2_000_000


def test_a_report_of_one_run_without_times_or_differences() -> None:
    report = sample(30)
    run = replace(report.runs[0], seconds={})
    alone = replace(report, runs=(run,), scores=report.scores[:1], comparisons=(), stages=())
    read = Reading(to_html(alone))
    assert "p50" not in read.text
    assert "Differences" not in read.text
    assert "All settings and fingerprints" in read.text
    assert 'class="best"' not in to_html(alone)


def test_runs_without_any_hit_can_be_told() -> None:
    report = sample(10)
    empty = replace(report.runs[0], rankings={}, seconds={})
    nothing = {name: dict.fromkeys(by, 0.0) for name, by in report.scores[0].per_question.items()}
    zero = replace(report.scores[0], per_question=nothing)
    read = Reading(to_html(replace(report, runs=(empty,), scores=(zero,), comparisons=(), stages=())))
    assert "svg" not in read.tags


def test_what_does_not_belong_together_is_refused() -> None:
    report = sample(10)
    with pytest.raises(InvalidInput, match="same order"):
        replace(report, scores=report.scores[::-1])
    with pytest.raises(InvalidInput, match="same name"):
        replace(report, runs=report.runs[:1] * 2, scores=report.scores[:1] * 2)
    with pytest.raises(InvalidInput, match="other questions"):
        replace(report, scores=tuple(replace(one, golden="x") for one in report.scores))


def test_recall_by_depth_is_recall() -> None:
    report = sample(60)
    for run, scores in zip(report.runs, report.scores, strict=True):
        curve = recall_curve(report.golden, run)
        assert [depth for depth, _ in curve] == [depth for depth in DEPTHS if depth <= 100]
        assert dict(curve)[10] == pytest.approx(scores.means["R@10"].mean, abs=1e-12)
        values = [value for _, value in curve]
        assert values == sorted(values)


def test_the_machine_is_told_without_names_of_people() -> None:
    told = machine()
    assert {"processor", "cores", "system", "Python", "numpy"} <= set(told)


# --- charts -----------------------------------------------------------------------------------------------------------
FINITE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: 0.0 if abs(value) < 1e-3 else value)


@given(st.lists(FINITE, max_size=20), st.booleans())
def test_a_scale_holds_its_values_in_their_order(values: list[float], log: bool) -> None:
    values = [abs(value) + 1e-3 for value in values] if log else values
    made = scale(Axis("", log=log), values, 10.0, 200.0)
    assert made.low < made.high
    assert all(made.low <= tick * (1 + 1e-9) + 1e-9 and tick <= made.high * (1 + 1e-9) + 1e-9 for tick in made.ticks)
    assert 2 <= len(made.ticks) <= 24
    places = [made.place(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 - 1e-6 <= place <= 200 + 1e-6 for place in places)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_names_are_spread_and_keep_their_order(places: list[float]) -> None:
    moved = spread(places, 13, 0, 100)
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    gaps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert all(gap >= min(13, 100 / max(len(places) - 1, 1)) - 1e-6 for gap in gaps)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)
    alone = spread(places[:1], 13, 0, 100)
    assert alone == places[:1]


def test_charts_of_few_values_can_be_drawn() -> None:
    for kind in ("lines", "points", "areas"):
        for points in ((), (Point(1.0, 0.0),), (Point(1.0, 0.5), Point(1.0, 0.5))):
            svg = draw(Chart(kind, Axis("x"), Axis("y"), (Series("a <b>", points),)), 'a "title"')
            assert "nan" not in svg
            assert Reading(svg).tags[0] == "svg"


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_of_words_can_be_read_on_its_paper() -> None:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        paper = _luminance(colours["paper"])
        for name in ("ink", "soft", *(f"c{i}" for i in range(COLOURS))):
            light, dark = sorted((paper, _luminance(colours[name])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, name
    for i in range(COLOURS):
        assert f".s{i} " in CSS
