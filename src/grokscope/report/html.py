"""The report: one HTML file that needs nothing but itself, the figures as PDF and PNG, the tables as CSV.

DIRECTORY/report.html     figures inlined as SVG; no script, no request
DIRECTORY/figures/        every figure as .pdf and .png
DIRECTORY/findings.json   what it says of the reference's findings
DIRECTORY/tables/         curves.csv, emergence.csv, events.csv, causal.csv: all the figures are drawn from
"""

import base64
from io import BytesIO
from pathlib import Path

import matplotlib
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from grokscope.files import write_json, write_text
from grokscope.findings.page import summary_rows
from grokscope.report import style
from grokscope.report.context import Picture, page_context, regime_context
from grokscope.report.drawn import REGIME_FIGURES, STUDY_FIGURES, Drawn, of_findings
from grokscope.report.gather import STUDY_FILE, gather
from grokscope.report.tables import StudyView, write_tables
from grokscope.runs.study import Study

PIXELS_PER_INCH = 120
"""A figure's text of 8.5 points then stands about 14 pixels high."""


def write_report(study: Study, directory: Path) -> Path:
    """Measure a study and write its report into `directory`; returns the path of the HTML file.

    Unfinished runs are reported as far as they went, and the report says so.

    Raises:
        InputError: a run cannot be read.
    """
    view = gather(study)
    if view.found is not None:
        write_json(directory / "findings.json", view.found.tree())
    settings = yaml.safe_dump(dict(view.spec), sort_keys=False, allow_unicode=True, width=110)
    write_text(directory / STUDY_FILE, settings)
    return render(view, directory)


def render(view: StudyView, directory: Path) -> Path:
    """Draw and write the report of a measured study; returns the path of the HTML file."""
    write_tables(view, directory / "tables")
    folder = directory / "figures"
    with style.styled():
        above = [keep(one, folder) for draw in STUDY_FIGURES for one in draw(view)]
        # Of a sweep, with its dozens of regimes, `grokscope report RUN` draws the runs that are asked for.
        regimes = [
            regime_context(
                view, regime, [keep(one, folder) for draw in REGIME_FIGURES for one in draw(view, regime)]
            )
            for regime in (view.regimes if view.law is None else ())
        ]
        judged = None
        if view.found is not None:
            drawn = [one._replace(name=f"findings_{one.name}") for _, one in of_findings(view)]
            pictures = [keep(one, folder) for one in drawn]
            judged = {"found": view.found, "rows": summary_rows(view.found), "pictures": pictures}
    environment = Environment(
        loader=PackageLoader("grokscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {**page_context(view, above, regimes), "judged": judged}
    page = environment.get_template("report.html.j2").render(context)
    write_text(directory / "report.html", page)
    return directory / "report.html"


def keep(drawn: Drawn, folder: Path) -> Picture:
    """Save a figure as PDF and PNG, return it as an SVG data URI; the same figure gives the same bytes."""
    name, alt, caption, figure = drawn
    style.save(figure, folder / name)
    svg = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode()
    return Picture(name, uri, alt, caption, round(figure.get_figwidth() * PIXELS_PER_INCH))
