"""A report of an evaluation or of a sweep: one self-contained HTML page, and the same as Markdown.

The page holds everything that it shows, runs no script, and asks for nothing from anywhere. Its size does not grow with
the number of questions: charts group what coincides, and the questions that are shown are the few that changed most.
"""

from __future__ import annotations

from tarragon.evaluation import report_html, report_markdown, report_sections, report_sweep
from tarragon.evaluation.report_page import Page
from tarragon.evaluation.report_values import Report, SweepReport

__all__ = ["Report", "SweepReport", "to_html", "to_markdown"]


def to_html(report: Report | SweepReport) -> str:
    """The report as one HTML file, to be written as UTF-8."""
    return report_html.to_html(_page(report))


def to_markdown(report: Report | SweepReport) -> str:
    """The report as Markdown."""
    return report_markdown.to_markdown(_page(report))


def _page(report: Report | SweepReport) -> Page:
    return report_sections.page(report) if isinstance(report, Report) else report_sweep.page(report)
