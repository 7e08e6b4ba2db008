"""A report of an evaluation: one self-contained HTML page, and the same as Markdown.

The page holds everything that it shows, runs no script, and asks for nothing from anywhere. Its size does not grow with
the number of questions: charts group what coincides, and the questions that are shown are the few that changed most.
"""

from __future__ import annotations

from tarragon.evaluation import report_html, report_markdown
from tarragon.evaluation.report_sections import page
from tarragon.evaluation.report_values import Report

__all__ = ["Report", "to_html", "to_markdown"]


def to_html(report: Report) -> str:
    """The report as one HTML file, to be written as UTF-8."""
    return report_html.to_html(page(report))


def to_markdown(report: Report) -> str:
    """The report as Markdown."""
    return report_markdown.to_markdown(page(report))
