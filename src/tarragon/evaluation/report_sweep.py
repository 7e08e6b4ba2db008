"""What a report of a sweep says: what each configuration is worth and takes, and what it gains over the first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tarragon.evaluation.contrast import differences
from tarragon.evaluation.report_figures import numbered, quality_chart
from tarragon.evaluation.report_page import Block, Figures, Fold, Page, Paragraph, Section, Table
from tarragon.evaluation.report_page import Cell as TableCell
from tarragon.evaluation.report_sections import count, difference_table, made_with, mean_cell, settings
from tarragon.evaluation.report_values import SweepReport

if TYPE_CHECKING:
    from tarragon.evaluation.sweeping import Cell


def page(report: SweepReport) -> Page:
    """The report as a page."""
    names = list(dict.fromkeys(cell.dataset for cell in report.cells))
    of = {name: [cell for cell in report.cells if cell.dataset == name] for name in names}
    sections = [Section(name, tuple(_dataset(cells))) for name, cells in of.items()]
    sections.append(Section("Made with", (made_with(report.machine),)))
    counted = [count(len(names), "data set"), count(max(map(len, of.values()), default=0), "configuration")]
    return Page(report.title, " · ".join(filter(None, [*counted, report.made])), tuple(sections))


def _dataset(cells: Sequence[Cell]) -> Iterator[Block]:
    metrics = [name for name in cells[0].scores.means if all(name in cell.scores.means for cell in cells)]
    best = {name: max(cell.scores.means[name].mean for cell in cells) for name in metrics}
    names = numbered([cell.configuration for cell in cells])
    times = list(dict.fromkeys(name for cell in cells for name in cell.milliseconds))
    rows = tuple(
        (
            TableCell(name),
            *(mean_cell(cell.scores.means[one], len(cells) > 1, best[one]) for one in metrics),
            *(TableCell(f"{cell.milliseconds[one]:.1f}" if one in cell.milliseconds else "–") for one in times),
        )
        for name, cell in zip(names, cells, strict=True)
    )
    yield Table(("configuration", *metrics, *(f"{name} ms" for name in times)), rows)
    if metrics and all(cell.milliseconds.get("p50") for cell in cells):
        found = [
            (name, cell.milliseconds["p50"], cell.scores.means[metrics[0]])
            for name, cell in zip(names, cells, strict=True)
        ]
        yield Figures((quality_chart("Quality against time", metrics[0], found),))
    if metrics and len(cells) > 1:
        yield Paragraph(
            f"{metrics[0]} against {cells[0].configuration}, over the same questions; p of a paired randomisation "
            "test, adjusted for all configurations."
        )
        first, *others = (cell.scores for cell in cells)
        yield difference_table(differences(first, others, metrics[0]))
        for name in metrics[1:]:
            yield Fold(f"By {name}", (difference_table(differences(first, others, name)),))
    yield from settings({cell.configuration: cell.settings for cell in cells})
