"""The report: one HTML file that needs nothing but itself, the figures as PDF and PNG, the tables as CSV.

    DIRECTORY/report.html     figures inlined as SVG; no script, no request
    DIRECTORY/figures/        every figure as .pdf and .png
    DIRECTORY/tables/         curves.csv, emergence.csv, events.csv: all the figures are drawn from
"""

import base64
from io import BytesIO
from pathlib import Path

import matplotlib
import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from grokscope.files import whole, write_text
from grokscope.report import figures, style
from grokscope.report.context import Picture, counts, own_saturation, page_context, paper_note, regime_context
from grokscope.report.paper import pretraining_curve
from grokscope.report.tables import StudyView, latents, write_tables


def render(view: StudyView, directory: Path) -> Path:
    """Draw and write the report of a measured study; returns the path of the HTML file."""
    write_tables(view, directory / "tables")
    folder = directory / "figures"
    with style.styled():
        overview = None
        if len(view.curves):
            caption = f"All regimes. {_lines(view)} {counts(view.curves, 'test_ood')}."
            overview = keep(figures.overview(view), "overview", "Course of every regime", caption, folder)
        regimes = [regime_context(view, regime, _pictures(view, regime, folder)) for regime in view.regimes]
    environment = Environment(
        loader=PackageLoader("grokscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(page_context(view, overview, regimes))
    write_text(directory / "report.html", page)
    return directory / "report.html"


def keep(figure: Figure, name: str, alt: str, caption: str, folder: Path) -> Picture:
    """Save a figure as PDF and PNG and return it as an SVG data URI. The same figure always gives the same bytes."""
    for suffix, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 200})):
        with whole(folder / f"{name}.{suffix}") as draft:
            figure.savefig(draft, format=suffix, **options)
    svg = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    uri = "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode()
    return Picture(name, uri, alt, caption)


def _lines(view: StudyView) -> str:
    """How lines and bands are to be read."""
    level = f"{view.confidence:.0%}"
    several = len({run.seed for run in view.runs}) > 1
    lines = "Thick: median over seeds; thin: each seed. " if several else "One seed: no spread over seeds is known. "
    return f"{lines}Bands: {level} intervals, clustered by fact."


def _pictures(view: StudyView, regime: str, folder: Path) -> list[Picture]:
    curves = view.curves.filter(pl.col("regime") == regime)
    emergence = view.emergence.filter(pl.col("regime") == regime)
    n = counts(curves, "test_ood")
    paper = pretraining_curve(regime)
    course = figures.course_panel(curves, "Course of training, OOD queries")
    beside = figures.paper_panel(curves, own_saturation(view, regime), paper, "Beside the paper, time scaled")
    split = figures.split_panel(curves, "Which hop is the bottleneck")
    hops = "; ".join(f"{p}: {counts(curves, p)}" for p in ("first_hop_ood", "second_hop_ood"))
    pictures = [
        keep(course, f"{regime}_course", f"Course of {regime}", f"{_lines(view)} {n}.", folder),
        keep(beside, f"{regime}_paper", f"{regime} beside the paper", paper_note(view, regime, paper), folder),
        keep(split, f"{regime}_split", f"OOD accuracy of {regime} by hop", f"Exact accuracy. test_ood: {n}; {hops}.", folder),
    ]
    for variable in [*latents(view.curves), "answer"]:
        title = f"Where the {variable} is decoded"
        rows = emergence.filter(pl.col("variable") == variable)
        sizes = sorted(set(rows["n"].to_list()))
        caption = f"Share of test_ood queries whose top token is the {variable}, per stage (rows, input at the bottom) and position."
        caption += f" n = {sizes[0]:,}{'' if len(sizes) == 1 else f'–{sizes[-1]:,}'} queries" if sizes else ""
        caption += f" per seed, mean over {rows['run'].n_unique()} seeds." if rows["run"].n_unique() > 1 else "."
        missing = [m for m in ("early", "saturation", "end") if m not in set(rows["moment"].to_list())]
        caption += f" Not reached: {', '.join(missing)}." if missing and sizes else ""
        figure = figures.emergence_maps(emergence, variable, title)
        pictures.append(keep(figure, f"{regime}_{variable}_map", f"{title}, {regime}", caption, folder))
    return pictures
