"""The report: one HTML file that needs nothing but itself, the figures as PDF and PNG, the tables as CSV.

DIRECTORY/report.html     figures inlined as SVG; no script, no request
DIRECTORY/figures/        every figure as .pdf and .png
DIRECTORY/findings.json   what it says of the reference's findings
DIRECTORY/tables/         curves.csv, emergence.csv, events.csv, causal.csv: all the figures are drawn from
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from grokscope.files import write_json, write_text
from grokscope.findings import evaluate
from grokscope.findings.measured import Measured, measured
from grokscope.findings.page import summary_rows
from grokscope.findings.paper import pretraining_curve
from grokscope.findings.values import Findings
from grokscope.report import figures, style
from grokscope.report.causal_context import causal_note
from grokscope.report.causal_figures import SHOWN_SETS, causal_panel, run_sketches
from grokscope.report.context import (
    Picture,
    counts,
    map_note,
    own_saturation,
    page_context,
    paper_note,
    regime_context,
)
from grokscope.report.finding_page import Drawn, finding_figures
from grokscope.report.gather import STUDY_FILE, gather
from grokscope.report.grid import path_grid
from grokscope.report.tables import RunView, StudyView, latents, write_tables
from grokscope.report.tuning_figures import tuning_curves
from grokscope.runs.study import Study

PIXELS_PER_INCH = 120
"""A figure's text of 8.5 points then stands about 14 pixels high."""


def write_report(study: Study, directory: Path) -> Path:
    """Measure a study and write its report into `directory`; returns the path of the HTML file.

    Unfinished runs are reported as far as they went, and the report says so.

    Raises:
        InputError: a run cannot be read.
    """
    view, found, runs = gather(study), None, measured(study)[0]
    if runs:
        found = evaluate(study)
        write_json(directory / "findings.json", found.tree())
    settings = yaml.safe_dump(dict(view.spec), sort_keys=False, allow_unicode=True, width=110)
    write_text(directory / STUDY_FILE, settings)
    return render(view, directory, found, runs, tuning_curves(study))


def render(
    view: StudyView,
    directory: Path,
    found: Findings | None = None,
    runs: Sequence[Measured] = (),
    tuned: pl.DataFrame | None = None,
) -> Path:
    """Draw and write the report of a measured study; returns the path of the HTML file.

    Args:
        view: the study, measured.
        directory: where it goes.
        found, runs, tuned: its findings, the finished runs they are about, and its transfers' curves.
    """
    write_tables(view, directory / "tables")
    folder = directory / "figures"
    with style.styled():
        overview = None
        if len(view.curves):
            caption = f"All regimes. {_lines(view, view.runs)} {counts(view.curves, 'test_ood')}."
            overview = keep(figures.overview(view), "overview", "Course of every regime", caption, folder)
        regimes = [regime_context(view, regime, _pictures(view, regime, folder)) for regime in view.regimes]
        judged = None
        if found is not None:
            judged = _judged(found, finding_figures(view.curves, runs, tuned), folder)
    environment = Environment(
        loader=PackageLoader("grokscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = {**page_context(view, overview, regimes), "judged": judged}
    page = environment.get_template("report.html.j2").render(context)
    write_text(directory / "report.html", page)
    return directory / "report.html"


def keep(figure: Figure, name: str, alt: str, caption: str, folder: Path) -> Picture:
    """Save a figure as PDF and PNG, return it as an SVG data URI; the same figure gives the same bytes."""
    style.save(figure, folder / name)
    svg = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode()
    return Picture(name, uri, alt, caption, round(figure.get_figwidth() * PIXELS_PER_INCH))


def _judged(found: Findings, drawn: Sequence[Drawn], folder: Path) -> dict[str, Any]:
    """The findings' part of the page."""
    pictures = [
        keep(figure, f"findings_{name}", alt, caption, folder) for _, name, alt, caption, figure in drawn
    ]
    return {"found": found, "rows": summary_rows(found), "pictures": pictures}


def _causal(view: StudyView, regime: str, folder: Path) -> list[Picture]:
    """The causal maps at the end, and the path of the first run that has a verdict."""
    tested = [run for run in view.of(regime) if run.verdict is not None]
    if not tested:
        return []
    ends = {run.name: run.verdict.step for run in tested if run.verdict}
    causal = view.causal.filter(pl.col("run").is_in(list(ends)))
    causal = causal.filter(pl.col("step") == pl.col("run").replace_strict(ends, return_dtype=pl.Int64))
    shown = causal.filter(pl.col("probe_set").is_in(SHOWN_SETS))
    pictures = []
    parts = shown.partition_by("latent", as_dict=True) if "latent" in shown.columns else {("bridge",): shown}
    for (latent,), rows in parts.items():
        title, name = f"Where the {latent} is, and where it is used", f"{regime}_causal_map"
        name += "" if latent == "bridge" else f"_{latent}"
        pictures.append(
            keep(causal_panel(rows, title), name, f"{title}, {regime}", causal_note(rows), folder)
        )
    first = tested[0]
    cells = causal.filter(pl.col("run") == first.name).to_dicts()
    sketches = run_sketches(first.name, cells, first.verdict, first.answer_position) if first.verdict else []
    if sketches:
        caption = f"Inference path of {first.name}; computation runs upward. Colour: decoded; arrows: used."
        pictures.append(
            keep(path_grid(sketches), f"{regime}_path", f"Inference path, {regime}", caption, folder)
        )
    return pictures


def _lines(view: StudyView, runs: Sequence[RunView]) -> str:
    """How lines and bands are to be read."""
    level = f"{view.confidence:.0%}"
    several = len({run.seed for run in runs}) > 1
    lines = (
        "Thick: median over seeds; thin: each seed. "
        if several
        else "One seed: no spread over seeds is known. "
    )
    return f"{lines}Bands: {level} intervals, clustered by fact."


def _pictures(view: StudyView, regime: str, folder: Path) -> list[Picture]:
    curves = view.curves.filter(pl.col("regime") == regime)
    emergence = view.emergence.filter(pl.col("regime") == regime)
    n = counts(curves, "test_ood")
    paper = pretraining_curve(regime)
    known = own_saturation(view, regime)
    pictures = [
        keep(figures.course_panel(curves, "Course of training, OOD queries"), f"{regime}_course",
             f"Course of {regime}", f"{_lines(view, view.of(regime))} {n}.", folder),
        keep(figures.paper_panel(curves, known, paper, "Beside the paper, time scaled"), f"{regime}_paper",
             f"{regime} beside the paper", paper_note(view, regime, paper), folder),
    ]  # fmt: skip
    for variable in [*latents(view.curves), "answer"]:
        title = f"Where the {variable} is decoded"
        figure = figures.emergence_maps(emergence, variable, title)
        caption = map_note(emergence.filter(pl.col("variable") == variable), variable)
        pictures.append(keep(figure, f"{regime}_{variable}_map", f"{title}, {regime}", caption, folder))
    hops = "; ".join(f"{name}: {counts(curves, name)}" for name in figures.ood_sets(curves))
    learned = "; ".join(
        f"{name}: {counts(curves, name)}" for name in ("train_inferred", "id_atomic", "ood_atomic")
    )
    level = f"Grey line: {view.saturation:g}. {learned}."
    pictures += _causal(view, regime, folder)
    pictures += [
        keep(figures.split_panel(curves, "Which hop is the bottleneck"), f"{regime}_split",
             f"OOD accuracy of {regime} by hop", f"{hops}.", folder),
        keep(figures.learning_panel(curves, "What is trained", view.saturation), f"{regime}_learning",
             f"Accuracy of {regime} on its training set", level, folder),
    ]  # fmt: skip
    return pictures
