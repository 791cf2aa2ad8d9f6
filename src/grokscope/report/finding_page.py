"""The page of the findings with its figures: FILE.md, and figures/ beside it."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure

from grokscope.files import write_text
from grokscope.findings.fake import FAKE
from grokscope.findings.measured import Measured, measured, of
from grokscope.findings.page import Drawing, page
from grokscope.findings.same_circuit import SUPERVISED, WAITED
from grokscope.findings.values import Findings
from grokscope.mechanics.diagnosis import VERDICT_SET
from grokscope.report import style
from grokscope.report.finding_figures import courses, plane, waiting
from grokscope.report.gather import gather
from grokscope.report.tuning_figures import tuning_curves, tunings
from grokscope.studies.run import Study

EVENT = f"generalisation.{VERDICT_SET}"
CONTRASTED = (WAITED, SUPERVISED, FAKE)
Drawn = tuple[int, str, str, str, Figure]
"""Number of the finding, name, alternative text, caption, figure."""


def write_page(study: Study, found: Findings, path: Path) -> None:
    """Write the page of a study's findings, and its figures as PNG and PDF into `figures` beside it.

    Raises:
        InputError: a run cannot be read.
    """
    view, (runs, _) = gather(study), measured(study)
    tuned = tuning_curves(study)
    drawings: dict[int, list[Drawing]] = {}
    with style.styled():
        for number, name, alt, caption, figure in finding_figures(view.curves, runs, tuned):
            stem = f"findings_{found.study}_{name}"
            style.save(figure, path.parent / "figures" / stem)
            drawings.setdefault(number, []).append(Drawing(f"figures/{stem}.png", alt, caption))
    command = f"grokscope findings {study.directory.name} --page {path.name}"
    write_text(path, page(found, command, drawings))


def finding_figures(
    curves: pl.DataFrame, runs: Sequence[Measured], tuned: pl.DataFrame | None
) -> list[Drawn]:
    """The figures of the findings; call it inside `style.styled()`.

    Args:
        curves: of the study (`gather`).
        runs: its finished runs.
        tuned: of its transfers (`tuning_curves`); empty: no figure of them.
    """
    if not len(curves):
        return []
    figures = [
        (3, "tuning", "Fine-tuning on new facts",
         "Median over seeds, bands from the lowest to the highest; dashed: the published run. Both on the "
         "share of their own steps.", tunings(tuned)),
    ] if tuned is not None and len(tuned) else []  # fmt: skip
    known = {regime: [run for run in of(runs, regime) if run.has(EVENT)] for regime in CONTRASTED}
    times = {regime: [run.time(EVENT) for run in group] for regime, group in known.items()}
    return [
        (1, "courses", "Course of every regime",
         "Median over seeds; bands reach from the lowest to the highest seed. Below: the published runs.",
         courses(curves)),
        (1, "waiting", "Share of runs that do not answer OOD queries yet",
         "Kaplan-Meier curves with pointwise 95 % intervals; ticks: runs that ended before it.",
         waiting(times, "Waiting for OOD accuracy 0.9")),
        (2, "plane", "OOD accuracy against bridge found",
         "Every line is a run, from left below; dots are the last checkpoints.",
         plane(curves, (SUPERVISED, FAKE, WAITED))),
        *figures,
    ]  # fmt: skip
