"""Which figures a report has: functions of the measured study, in lists that a further one is added to.

`STUDY_FIGURES` stand above all others, `REGIME_FIGURES` are drawn for every regime of a study that is no
sweep, `FINDING_FIGURES` stand with a finding, by its number. Each function yields figures with their name and
what is said of them, or none; it is called inside `style.styled()`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import polars as pl
from matplotlib.figure import Figure

from grokscope.findings.claims import FAKE, GENERALISATION, SUPERVISED, WAITED
from grokscope.findings.measured import of
from grokscope.findings.paper import pretraining_curve
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.report import figures
from grokscope.report.causal_context import causal_note
from grokscope.report.causal_figures import SHOWN_SETS, causal_panel, run_sketches
from grokscope.report.context import counts, map_note, own_saturation, paper_note
from grokscope.report.finding_figures import courses, plane, seen, waiting
from grokscope.report.grid import path_grid
from grokscope.report.map_figures import SURE, Plane, factors, fate_map
from grokscope.report.tables import RunView, StudyView, latents
from grokscope.report.tuning_figures import tunings
from grokscope.statistics.clustered import FEWEST_PROBES


class Drawn(NamedTuple):
    """A figure, and what stands with it."""

    name: str
    """Of its files."""
    alt: str
    """What it shows, for who cannot see it."""
    caption: str
    figure: Figure


OfRegime: TypeAlias = Callable[[StudyView, str], Iterator[Drawn]]
OfStudy: TypeAlias = Callable[[StudyView], Iterator[Drawn]]


def _overview(view: StudyView) -> Iterator[Drawn]:
    """The course of every regime."""
    if not len(view.curves) or view.law is not None:
        return
    caption = f"All regimes. {_lines(view, view.runs)} {counts(view.curves, 'test_ood')}."
    yield Drawn("overview", "Course of every regime", caption, figures.overview(view))


def _map(view: StudyView) -> Iterator[Drawn]:
    """What becomes of the runs of a sweep."""
    law = view.law
    if law is not None:
        caption = (
            "A row of dots is a cell, a dot a seed; full: the causal verdict is a circuit, half: it is open, "
            "empty: it is another. Pale: the likeliest end by the law of the sweep, its other predictors on "
            f"average; hatched: where less than {SURE:.0%} of {len(law.again)} bootstrap samples of the "
            "points agree on it."
        )
        yield Drawn("map", "What becomes of runs, by data", caption, fate_map(Plane(view.ran, law)))
        caption = f"Accelerated failure time, 95 % intervals by {len(law.again)} bootstrap samples of points."
        yield Drawn("factors", "What moves the time of learning", caption, factors(law))


def _curves(view: StudyView, regime: str) -> pl.DataFrame:
    return view.curves.filter(pl.col("regime") == regime)


def _course(view: StudyView, regime: str) -> Iterator[Drawn]:
    curves = _curves(view, regime)
    caption = f"{_lines(view, view.of(regime))} {counts(curves, 'test_ood')}."
    figure = figures.course_panel(curves, "Course of training, OOD queries")
    yield Drawn(f"{regime}_course", f"Course of {regime}", caption, figure)


def _paper(view: StudyView, regime: str) -> Iterator[Drawn]:
    paper, known = pretraining_curve(regime), own_saturation(view, regime)
    figure = figures.paper_panel(_curves(view, regime), known, paper, "Beside the paper, time scaled")
    yield Drawn(f"{regime}_paper", f"{regime} beside the paper", paper_note(view, regime, paper), figure)


def _maps(view: StudyView, regime: str) -> Iterator[Drawn]:
    emergence = view.emergence.filter(pl.col("regime") == regime)
    for variable in [*latents(_curves(view, regime)), "answer"]:
        title = f"Where the {variable} is decoded"
        caption = map_note(emergence.filter(pl.col("variable") == variable), variable)
        figure = figures.emergence_maps(emergence, variable, title)
        yield Drawn(f"{regime}_{variable}_map", f"{title}, {regime}", caption, figure)


def _causal(view: StudyView, regime: str) -> Iterator[Drawn]:
    """The causal maps at the end, and the path of the first run that has a verdict."""
    tested = [run for run in view.of(regime) if run.verdict is not None]
    if not tested:
        return
    ends = {run.name: run.verdict.step for run in tested if run.verdict}
    causal = view.causal.filter(pl.col("run").is_in(list(ends)))
    causal = causal.filter(pl.col("step") == pl.col("run").replace_strict(ends, return_dtype=pl.Int64))
    shown = causal.filter(pl.col("probe_set").is_in(SHOWN_SETS))
    parts = shown.partition_by("latent", as_dict=True) if "latent" in shown.columns else {("bridge",): shown}
    for (latent,), rows in parts.items():
        title = f"Where the {latent} is, and where it is used"
        name = f"{regime}_causal_map" + ("" if latent == "bridge" else f"_{latent}")
        yield Drawn(name, f"{title}, {regime}", causal_note(rows), causal_panel(rows, title))
    first = tested[0]
    cells = causal.filter(pl.col("run") == first.name).to_dicts()
    sketches = run_sketches(first.name, cells, first.verdict, first.answer_position) if first.verdict else []
    if sketches:
        caption = f"Inference path of {first.name}; computation runs upward. Colour: decoded; arrows: used."
        yield Drawn(f"{regime}_path", f"Inference path, {regime}", caption, path_grid(sketches))


def _split(view: StudyView, regime: str) -> Iterator[Drawn]:
    curves = _curves(view, regime)
    caption = "; ".join(f"{name}: {counts(curves, name)}" for name in figures.ood_sets(curves))
    figure = figures.split_panel(curves, "Which hop is the bottleneck")
    yield Drawn(f"{regime}_split", f"OOD accuracy of {regime} by hop", f"{caption}.", figure)


def _learning(view: StudyView, regime: str) -> Iterator[Drawn]:
    curves, sets = _curves(view, regime), ("train_inferred", "id_atomic", "ood_atomic")
    learned = "; ".join(f"{name}: {counts(curves, name)}" for name in sets)
    caption = f"Grey line: {view.saturation:g}. {learned}."
    figure = figures.learning_panel(curves, "What is trained", view.saturation)
    yield Drawn(f"{regime}_learning", f"Accuracy of {regime} on its training set", caption, figure)


def _lines(view: StudyView, runs: tuple[RunView, ...] | list[RunView]) -> str:
    """How lines and bands are to be read."""
    several = len({run.seed for run in runs}) > 1
    lines = (
        "Thick: median over seeds; thin: each seed. "
        if several
        else "One seed: no spread over seeds is known. "
    )
    return f"{lines}Bands: {view.confidence:.0%} intervals, clustered by fact."


def _courses(view: StudyView) -> Iterator[Drawn]:
    caption = "Median over seeds; bands reach from the lowest to the highest seed. Below: the published runs."
    yield Drawn("courses", "Course of every regime", caption, courses(view.curves))


def _waiting(view: StudyView) -> Iterator[Drawn]:
    regimes, runs = (WAITED, SUPERVISED, FAKE), view.evidence.runs
    known = {regime: [run for run in of(runs, regime) if run.has(GENERALISATION)] for regime in regimes}
    times = {regime: [run.time(GENERALISATION) for run in group] for regime, group in known.items()}
    caption = "Kaplan-Meier curves with pointwise 95 % intervals; ticks: runs that ended before it."
    figure = waiting(times, "Waiting for OOD accuracy 0.9")
    yield Drawn("waiting", "Share of runs that do not answer OOD queries yet", caption, figure)


def _plane(view: StudyView) -> Iterator[Drawn]:
    caption = "Every line is a run, from left below; dots are the last checkpoints."
    figure = plane(view.curves, (SUPERVISED, FAKE, WAITED))
    yield Drawn("plane", "OOD accuracy against bridge found", caption, figure)


def _seen(view: StudyView) -> Iterator[Drawn]:
    """Where the bridge is read beside whether it is used, of runs with registers that answer OOD queries."""
    runs = [run for regime in (FAKE, SUPERVISED, WAITED) for run in of(view.evidence.runs, regime)]
    looks = [(run.name, run.verdict.of(VERDICT_SET)) for run in runs if run.verdict is not None]
    found = [
        (name, one)
        for name, one in looks
        if one is not None and one.lens_tokens is not None and one.share is not None
        if one.share.n >= FEWEST_PROBES
    ]
    if any(one.lens_tokens != one.lens_all for _, one in found):
        caption = (
            "OOD queries at the last checkpoint, intervals clustered by fact; runs with fewer than "
            f"{FEWEST_PROBES} right answers are left out."
        )
        yield Drawn("seen", "What is read of the bridge and what is used, run by run", caption, seen(found))


def _tuning(view: StudyView) -> Iterator[Drawn]:
    if view.tuned is not None and len(view.tuned):
        caption = (
            "Median over seeds, bands from the lowest to the highest; dashed: the published run. Both on the "
            "share of their own steps."
        )
        yield Drawn("tuning", "Fine-tuning on new facts", caption, tunings(view.tuned))


STUDY_FIGURES: list[OfStudy] = [_map, _overview]
REGIME_FIGURES: list[OfRegime] = [_course, _paper, _maps, _causal, _split, _learning]
FINDING_FIGURES: list[tuple[int, OfStudy]] = [
    (1, _courses),
    (1, _waiting),
    (2, _seen),
    (2, _plane),
    (3, _tuning),
]


def of_findings(view: StudyView) -> Iterator[tuple[int, Drawn]]:
    """The figures of the findings, each with the number of its finding; none before there is a checkpoint."""
    for number, draw in FINDING_FIGURES if len(view.curves) else ():
        for one in draw(view):
            yield number, one
