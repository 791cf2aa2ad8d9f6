"""The figures. Each is a pure function of the tidy tables (`tables.py`) and returns a matplotlib `Figure`.

With several seeds every seed is a thin line and the median over seeds is the thick one, drawn where all seeds
have a value; with one seed the line is that run and the band is its interval, clustered by fact.

Shape legend: L stages, S positions.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from grokscope.findings.paper import PaperCurve
from grokscope.report import style
from grokscope.report.style import Pen
from grokscope.report.tables import (
    ACCURACY,
    ANYWHERE,
    CELL_EARLY,
    CHANCE,
    GUESS,
    MOMENTS,
    StudyView,
    latents,
    select,
)
from grokscope.world.probes import ONE_OOD, patterns


def ood_sets(curves: pl.DataFrame) -> dict[str, Pen]:
    """The probe sets with OOD hops, and how their accuracies are drawn."""
    hops = max(2, curves.filter(pl.col("probes").is_in(ONE_OOD))["probes"].n_unique())
    colors = {"test_ood": (style.OOD.color, 2.3)} | {
        name: (color, 1.9) for name, color in zip(ONE_OOD[:hops], style.HOPS, strict=False)
    }
    said = {name: pattern.replace("O", " then OOD").replace("I", " then ID")[len(" then ") :]
            for name, pattern in patterns(hops).items()}  # fmt: skip
    return {name: Pen(said[name], color, width=width) for name, (color, width) in colors.items()}


def median_over_seeds(rows: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values): the median over runs at every step that all runs have."""
    runs = rows["run"].n_unique()
    median = (
        rows.group_by("step")
        .agg(pl.col("value").median(), pl.col("value").count().alias("runs"))
        .filter(pl.col("runs") == runs)
        .sort("step")
    )
    return median["step"].to_numpy().astype(float), median["value"].to_numpy()


def draw(
    ax: Axes, rows: pl.DataFrame, pen: Pen, band: bool = False, thin: bool = True
) -> tuple[Pen, float] | None:
    """One quantity: thin lines per seed, the median over seeds; `band` adds each run's interval.

    Returns the pen and the last value, for `style.end_labels`; None if there is nothing to draw.
    """
    rows = rows.filter(pl.col("value").is_not_null())
    if not len(rows):
        return None
    several = rows["run"].n_unique() > 1
    line = (0, pen.dashes or ())
    for _, one in rows.group_by("run", maintain_order=True):
        step, value = one["step"].to_numpy(), one["value"].to_numpy()
        if band and one["low"].null_count() < len(one):
            low, high = (one[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in ("low", "high"))
            ax.fill_between(step, low, high, color=pen.color, alpha=0.08 if several else 0.18, linewidth=0)
        if several and thin:
            ax.plot(step, value, color=pen.color, linewidth=0.7, alpha=0.5, linestyle=line)
    step, value = median_over_seeds(rows)
    if not len(step):
        return None
    ax.plot(step, value, color=pen.color, linewidth=pen.width, linestyle=line)
    return pen, float(value[-1])


def course(ax: Axes, curves: pl.DataFrame, labels: bool = True) -> None:
    """The figure-2 panel of one regime on given axes."""
    ends = []
    lines = [(select(curves, ACCURACY, probes="train_inferred"), style.TRAIN, False)]
    for latent, (found, cell, chance) in style.latent_pens(latents(curves)).items():
        lines += [
            (select(curves, CHANCE, latent, "test_ood"), chance, False),
            (select(curves, CELL_EARLY, latent, "test_ood"), cell, False),
            (select(curves, ANYWHERE, latent, "test_ood"), found, False),
        ]
    lines += [
        (select(curves, GUESS, probes="test_ood"), style.GUESSED, False),
        (select(curves, ANYWHERE, "answer", "test_ood"), style.TARGET, False),
        (select(curves, ACCURACY, probes="test_ood"), style.OOD, True),
    ]
    for rows, pen, band in lines:
        flat = pen.dashes is not None and pen.dashes[0] < 2
        ends.append(draw(ax, rows, pen, band, thin=not flat))
    style.step_axis(ax, curves["step"].unique().to_list())
    style.rate_axis(ax)
    if labels:
        style.end_labels(ax, [end for end in ends if end])


def course_panel(curves: pl.DataFrame, title: str) -> Figure:
    """Bridge, exact OOD accuracy with its band, guess baseline, target found and train accuracy."""
    figure = style.new_figure(6.0, 3.5)
    ax = figure.add_subplot()
    if not len(curves):
        style.say(ax, "No checkpoint of this regime was evaluated.")
        return figure
    ax.set_title(title)
    course(ax, curves)
    return figure


def overview(view: StudyView) -> Figure:
    """The figure-2 panels of all regimes on shared axes, with one legend."""
    regimes = view.regimes
    columns = min(3, len(regimes))
    rows = -(-len(regimes) // columns)
    figure = style.new_figure(max(3.1 * columns, 4.5), 2.5 * rows + 0.7)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for number, ax in enumerate(axes.flat):
        if number >= len(regimes):
            ax.set_axis_off()
            continue
        curves = view.curves.filter(pl.col("regime") == regimes[number])
        if len(curves):
            course(ax, curves, labels=False)
        else:
            style.say(ax, "no checkpoint")
        ax.set_title(regimes[number])
        if number % columns:
            ax.set_ylabel("")
        if number + columns < len(regimes):
            ax.set_xlabel("")
    pens = [style.OOD, style.GUESSED, style.TARGET, style.TRAIN]
    pens += [pen for three in style.latent_pens(latents(view.curves)).values() for pen in three]
    handles = [
        ax.plot([], [], color=p.color, linewidth=p.width, linestyle=(0, p.dashes or ()))[0] for p in pens
    ]
    figure.legend(
        handles, [p.label for p in pens], loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    return figure


def split_panel(curves: pl.DataFrame, title: str) -> Figure:
    """Exact accuracy by which hop is OOD: the hop that stays low is the bottleneck."""
    lines = [(select(curves, ACCURACY, probes=probes), pen, True) for probes, pen in ood_sets(curves).items()]
    lines.append((select(curves, ACCURACY, probes="test_iid"), style.HELD_OUT, False))
    lines.append((select(curves, GUESS, probes="test_ood"), style.GUESSED, False))
    return _accuracies(curves, lines, title)


def learning_panel(curves: pl.DataFrame, title: str, saturation: float) -> Figure:
    """Accuracy on what is trained: compositions, ID facts, OOD facts, and the level of saturation."""
    sets = (("train_inferred", style.TRAIN), ("id_atomic", style.ID_FACTS), ("ood_atomic", style.OOD_FACTS))
    figure = _accuracies(
        curves, [(select(curves, ACCURACY, probes=name), pen, False) for name, pen in sets], title
    )
    figure.axes[0].axhline(saturation, color=style.MUTED, linewidth=0.7, zorder=0.5)
    return figure


def _accuracies(curves: pl.DataFrame, lines: Sequence[tuple[pl.DataFrame, Pen, bool]], title: str) -> Figure:
    """Accuracy lines on a log step axis with their names at the end."""
    figure = style.new_figure(6.0, 3.1)
    ax = figure.add_subplot()
    ends = [end for end in (draw(ax, *line) for line in lines) if end]
    if not ends:
        style.say(ax, "No accuracy was recorded.")
        return figure
    ax.set_title(title)
    style.step_axis(ax, curves["step"].unique().to_list())
    style.rate_axis(ax, "exact accuracy")
    style.end_labels(ax, ends, gap=0.08)
    return figure


def paper_panel(
    curves: pl.DataFrame, saturation: dict[str, int], paper: PaperCurve | None, title: str
) -> Figure:
    """Ours (solid) and the paper's (dashed) against step over each one's saturation step.

    Args:
        saturation: by run name, the first step at which trained queries are at or above the threshold;
            runs that never saturated are missing, and not drawn.
        paper: the published curve of the regime, if there is one.
    """
    figure = style.new_figure(6.0, 3.5)
    ax = figure.add_subplot()
    scaled_paper = None if paper is None or paper.saturation is None else paper
    if not saturation and scaled_paper is None:
        style.say(ax, "Neither ours nor a published run saturated in this regime: there is no common time.")
        return figure
    pens = [(style.TRAIN, ACCURACY, "", "train_inferred", "train_accuracy")]
    pens += [(three[0], ANYWHERE, name, "test_ood", "bridge_found_rate") for name, three in
             style.latent_pens(latents(curves) or ["bridge"]).items()]  # fmt: skip
    pens.append(
        (Pen("target found", style.TARGET.color), ANYWHERE, "answer", "test_ood", "target_found_rate")
    )
    spans: list[float] = []
    for pen, measure, variable, probes, column in pens:
        rows = select(curves, measure, variable, probes).filter(pl.col("run").is_in(list(saturation)))
        courses = []
        for (run,), one in rows.group_by("run", maintain_order=True):
            time = one["step"].to_numpy() / saturation[str(run)]
            keep = time > 0
            courses.append((time[keep], one["value"].to_numpy()[keep]))
        _scaled(ax, courses, pen)
        spans += [time for times, _ in courses for time in times.tolist()]
        if scaled_paper is not None:
            time = scaled_paper.table["step"].to_numpy() / (scaled_paper.saturation or 1)
            ax.plot(
                time, scaled_paper.table[column].to_numpy(), color=pen.color, linewidth=1.1, dashes=(4, 1.8)
            )
            spans += [time.min(), time.max()]
    if not spans:
        style.say(ax, "No run that saturated has a checkpoint after step 0: there is nothing to scale.")
        return figure
    ax.axvline(1.0, color=style.MUTED, linewidth=0.7)
    ax.set_xscale("log")
    first, last = max(min(spans), 0.02), max(spans)
    ticks = style.log_ticks(first, last)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(first, last if last > first else first * 2)
    style.rate_axis(ax)
    ax.set_xlabel("step / saturation step (log scale)")
    ax.set_title(title)
    named = [(pen.label, pen.color, "-", pen.width) for pen, *_ in pens]
    named += [("this study", style.MUTED, "-", 1.8)] * bool(saturation)
    named += [("the paper (one seed)", style.MUTED, "--", 1.1)] * (scaled_paper is not None)
    handles = [
        ax.plot([], [], color=color, linestyle=line, linewidth=width)[0] for _, color, line, width in named
    ]
    figure.legend(handles, [text for text, *_ in named], loc="outside lower center", ncols=3, frameon=False,
                  fontsize=8, handlelength=2.4)  # fmt: skip
    return figure


def _scaled(ax: Axes, courses: Sequence[tuple[np.ndarray, np.ndarray]], pen: Pen) -> None:
    """Courses on different time grids: thin each, and their median on a common grid (linear in log time)."""
    courses = [(np.log(time), value) for time, value in courses if len(time) > 1]
    if not courses:
        return
    low, high = max(t[0] for t, _ in courses), min(t[-1] for t, _ in courses)
    if len(courses) > 1:
        for time, value in courses:
            ax.plot(np.exp(time), value, color=pen.color, linewidth=0.7, alpha=0.5)
    grid = np.unique(np.concatenate([t[(t >= low) & (t <= high)] for t, _ in courses]))
    median = np.median([np.interp(grid, time, value) for time, value in courses], axis=0)
    ax.plot(np.exp(grid), median, color=pen.color, linewidth=pen.width)


def emergence_maps(emergence: pl.DataFrame, variable: str, title: str) -> Figure:
    """Where `variable` is the argmax: stages x positions at three moments (mean over seeds)."""
    rows = emergence.filter(pl.col("variable") == variable)
    figure = style.new_figure(6.0, 3.0)
    if not len(rows):
        style.say(figure.add_subplot(), f"No trace holds the {variable}: there is no map.")
        return figure
    stages = rows.select("stage_index", "stage").unique().sort("stage_index")["stage"].to_list()
    columns = rows.select("position_index", "position").unique().sort("position_index")
    places, column_of = columns["position"].to_list(), {p: c for c, p in enumerate(columns["position_index"])}
    figure.set_size_inches(6.0, 1.25 + 0.19 * len(stages) + (0.45 if len(places) > 6 else 0.0))
    axes = figure.subplots(1, len(MOMENTS), sharey=True)
    image = None
    for ax, moment in zip(axes, MOMENTS, strict=True):
        here = rows.filter(pl.col("moment") == moment)
        ax.grid(False)
        if not len(here):
            style.say(ax, f"{moment}:\nnot reached")
            continue
        cells = here.group_by("stage_index", "position_index").agg(pl.col("rate").mean())
        grid = np.full((len(stages), len(places)), np.nan)
        grid[cells["stage_index"].to_numpy(), [column_of[p] for p in cells["position_index"]]] = cells[
            "rate"
        ].to_numpy()
        image = ax.pcolormesh(grid, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
        steps = sorted(set(here["step"].to_list()))
        when = style.step_text(steps[0]) + (f"–{style.step_text(steps[-1])}" if len(steps) > 1 else "")
        ax.set_title(f"{moment} (step {when})", fontsize=8.5, fontweight="normal")
        tall = len(places) > 6
        short = [place.replace("relation", "r").replace("prefix", "p") for place in places]
        ax.set_xticks(
            np.arange(len(places)) + 0.5, short, rotation=90 if tall else 0, fontsize=6.5 if tall else 7.5
        )
        ax.set_yticks(np.arange(len(stages)) + 0.5, stages, fontsize=7)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        if not tall:
            _write_rates(ax, grid)
    figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.01, ha="left")
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), fraction=0.03, pad=0.02, ticks=[0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.set_label("argmax rate", fontsize=7.5)
    return figure


def _write_rates(ax: Axes, grid_LS: np.ndarray) -> None:
    """The rate of every cell, in it; dark on light cells and light on dark ones."""
    for (stage, position), rate in np.ndenumerate(grid_LS):
        if np.isfinite(rate):
            text = "1" if rate > 0.995 else f"{rate:.2f}".removeprefix("0")
            color = "white" if rate < 0.55 else style.INK
            ax.text(position + 0.5, stage + 0.5, text, ha="center", va="center", fontsize=6.5, color=color)
