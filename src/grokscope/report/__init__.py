"""Figures and the HTML report of a study."""

from grokscope.report.html import write_report

__all__ = ["write_report"]
