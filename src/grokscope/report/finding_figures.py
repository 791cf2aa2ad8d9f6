"""Figures of the findings: the course of every regime with bands over seeds (figure 3 of the reference in our
form), the share of runs still waiting for an event, and OOD accuracy against the bridge.

Bands and thin lines are the runs themselves: a band reaches from the lowest to the highest seed, so that
three seeds do not look like an interval.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.findings.paper import pretraining_curve
from grokscope.findings.waiting import SETS
from grokscope.mechanics.judge.verdict import SetVerdict
from grokscope.report import style
from grokscope.report.figures import median_over_seeds
from grokscope.report.style import Pen
from grokscope.report.tables import ACCURACY, ANYWHERE, TOKENS, select
from grokscope.statistics.times import Time, kaplan_meier

BRIDGE = Pen("bridge found", "#D55E00", width=2.1)
AT_TOKENS = Pen("bridge found at tokens (the paper's measure)", "#D55E00", (2, 1.6))
USED = Pen("used", "#0072B2")
LINES = (
    (style.TRAIN, ACCURACY, "", "train_inferred", "train_accuracy"),
    (BRIDGE, ANYWHERE, "bridge", "test_ood", "bridge_found_rate"),
    (AT_TOKENS, TOKENS, "bridge", "test_ood", None),
    (style.TARGET, ANYWHERE, "answer", "test_ood", "target_found_rate"),
    (style.OOD, ACCURACY, "", "test_ood", None),
)
"""What figure 3 shows: pen, measure, variable, probe set, and the column of the published curve."""
REALIGNED = {
    "clean": style.OOD,
    "decoded": Pen("the bridge it reads, realigned", "#E69F00", (5, 1.6)),
    "true": Pen("the true bridge, realigned", "#D55E00"),
}
REGIME_COLORS = {
    "natural": "#0072B2", "both_hops_full": "#009E73", "second_hop_full": "#D55E00",
    "first_hop_full": "#CC79A7", "both_hops_half": "#E69F00",
}  # fmt: skip


def courses(curves: pl.DataFrame) -> Figure:
    """Every regime: median over seeds and their range above; the published run, where there is one, below."""
    regimes = curves["regime"].unique(maintain_order=True).to_list()
    figure = style.new_figure(max(2.5 * len(regimes), 4.5), 4.9)
    axes = figure.subplots(2, max(1, len(regimes)), sharey=True, squeeze=False)
    for column, regime in enumerate(regimes):
        own, paper = axes[:, column]
        here = curves.filter(pl.col("regime") == regime)
        for pen, measure, variable, probes, _ in LINES:
            _band(own, select(here, measure, variable, probes), pen)
        style.step_axis(own, here["step"].unique().to_list(), "step")
        own.set_title(f"{regime}\n{_seeds(here)}", fontsize=8.6)
        _published(paper, regime)
        for ax in (own, paper):
            style.rate_axis(ax, "" if column else "rate")
    axes[0, 0].set_ylabel("this study")
    axes[1, 0].set_ylabel("the paper (one run)")
    pens = [pen for pen, measure, *_ in LINES if measure != TOKENS or len(select(curves, TOKENS, "bridge"))]
    handles = [
        axes[0, 0].plot([], [], color=pen.color, linewidth=pen.width, linestyle=(0, pen.dashes or ()))[0]
        for pen in pens
    ]
    columns = min(3, max(1, len(regimes)))
    figure.legend(
        handles, [pen.label for pen in pens], loc="outside lower center", ncols=columns, frameon=False
    )
    return figure


def waiting(times: Mapping[str, Sequence[Time]], title: str) -> Figure:
    """Kaplan-Meier curves of an event by regime, with their intervals; ticks: runs that ended before it."""
    figure = style.new_figure(6.0, 3.4)
    ax = figure.add_subplot()
    known = {regime: one for regime, one in times.items() if one}
    if not known:
        style.say(ax, "No finished run of these regimes.")
        return figure
    steps = [step for one in known.values() for time in one if (step := time.by or time.until) > 0]
    if not steps:
        style.say(ax, "Every run is too short to have an event: it has fewer checkpoints than the window.")
        return figure
    first, last = min(steps) / 2, max(steps) * 1.1
    for regime, one in known.items():
        found, color = kaplan_meier(one), REGIME_COLORS.get(regime, style.INK)
        step_T, label = found.step_T, f"{regime} (n = {found.n})"
        ax.step(step_T, found.waiting_T, where="post", color=color, linewidth=2, label=label)
        ax.fill_between(step_T, found.low_T, found.high_T, step="post", color=color, alpha=0.12, linewidth=0)
        ended = [time.until for time in one if time.by is None]
        at = np.searchsorted(found.step_T, ended, side="right") - 1
        ax.plot(np.maximum(ended, first), found.waiting_T[at], "|", color=color, markersize=9)
    ax.set_xscale("log")
    ticks = style.log_ticks(first, last)
    ax.set_xticks(ticks, [style.step_text(tick) for tick in ticks])
    ax.minorticks_off()
    ax.set_xlim(first, last)
    style.rate_axis(ax, "share of runs without it")
    ax.set_xlabel("step (log scale)")
    ax.set_title(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def plane(curves: pl.DataFrame, regimes: Sequence[str]) -> Figure:
    """OOD accuracy against the bridge found, checkpoint by checkpoint: a model that answers without the
    bridge rises along the left edge.
    """
    figure = style.new_figure(4.6, 4.2)
    ax = figure.add_subplot()
    drawn = False
    for regime in regimes:
        here = curves.filter(pl.col("regime") == regime)
        x = select(here, ANYWHERE, "bridge", "test_ood").select("run", "step", bridge="value")
        y = select(here, ACCURACY, probes="test_ood").select("run", "step", exact="value")
        both = x.join(y, on=["run", "step"], maintain_order="left").drop_nulls()
        color = REGIME_COLORS.get(regime, style.INK)
        for number, (_, run) in enumerate(both.group_by("run", maintain_order=True)):
            bridge, exact = run["bridge"].to_numpy(), run["exact"].to_numpy()
            ax.plot(bridge, exact, color=color, linewidth=1.0, alpha=0.6, label="" if number else regime)
            ax.plot(bridge[-1:], exact[-1:], "o", color=color, markersize=6, markeredgecolor="white")
            drawn = True
    if not drawn:
        style.say(ax, "No trace of these regimes.")
        return figure
    style.rate_axis(ax, "exact OOD accuracy")
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", ".25", ".5", ".75", "1"])
    ax.set_xlabel("bridge found at any stage and position, OOD queries")
    ax.set_title("Behaviour against circuit (dots: end of each run)")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def seen(found: Sequence[tuple[str, SetVerdict]]) -> Figure:
    """Per run: how often the bridge of OOD queries is read at tokens, with registers too, and used."""
    figure = style.new_figure(6.4, 1.3 + 0.26 * len(found))
    ax = figure.add_subplot()
    for row, (_, one) in enumerate(found):
        for shift, (pen, marker, rate) in zip(
            (-0.2, 0.0, 0.2),
            (
                (AT_TOKENS, "o", one.lens_tokens),
                (BRIDGE, "o", one.lens_all),
                (USED, "D", one.share),
            ),
            strict=True,
        ):
            if rate is None:
                continue
            ax.plot([max(rate.low, 0), min(rate.high, 1)], [row + shift] * 2, color=pen.color, linewidth=1.4)
            face = "white" if pen is AT_TOKENS else pen.color
            ax.plot([rate.value], [row + shift], marker, color=pen.color, markerfacecolor=face, markersize=6)
    ax.set_yticks(range(len(found)), [name for name, _ in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of OOD queries (used: of the right answers)")
    handles = [
        ax.plot([], [], marker, color=pen.color, markerfacecolor="white" if pen is AT_TOKENS else pen.color)[
            0
        ]
        for pen, marker in ((AT_TOKENS, "o"), (BRIDGE, "o"), (USED, "D"))
    ]
    labels = ["read at tokens (the paper's measure)", "read anywhere, registers too", "used"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def realigned(rows: pl.DataFrame) -> Figure:
    """Every probe set of realign.csv over training: answered as it is, with the bridge that is read put into
    the form of trained queries, and with the true one. Median over runs, and their range."""
    sets = [name for name in SETS if name in rows["probe_set"].unique()]
    figure = style.new_figure(max(2.6 * len(sets), 4.5), 2.9)
    axes = figure.subplots(1, max(1, len(sets)), sharey=True, squeeze=False)[0]
    for column, (ax, name) in enumerate(zip(axes, sets, strict=False)):
        here = rows.filter(pl.col("probe_set") == name)
        for way, pen in REALIGNED.items():
            _band(ax, here.filter(pl.col("asked") == way).rename({"rate": "value"}), pen)
        style.step_axis(ax, sorted(here["step"].unique().to_list()), "step")
        ax.set_title(SETS[name], fontsize=8.6)
        style.rate_axis(ax, "" if column else "accuracy")
    handles = [
        axes[0].plot([], [], color=pen.color, linewidth=pen.width, linestyle=(0, pen.dashes or ()))[0]
        for pen in REALIGNED.values()
    ]
    labels = [pen.label for pen in REALIGNED.values()]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _band(ax: Axes, rows: pl.DataFrame, pen: Pen) -> None:
    """The median over seeds, and the range of the seeds around it."""
    rows = rows.filter(pl.col("value").is_not_null())
    if not len(rows):
        return
    step, value = median_over_seeds(rows)
    ends = rows.group_by("step").agg(low=pl.col("value").min(), high=pl.col("value").max()).sort("step")
    ends = ends.filter(pl.col("step").is_in(step.astype(int).tolist()))
    ax.fill_between(ends["step"], ends["low"], ends["high"], color=pen.color, alpha=0.22, linewidth=0)
    ax.plot(step, value, color=pen.color, linewidth=pen.width * 0.8, linestyle=(0, pen.dashes or ()))


def _published(ax: Axes, regime: str) -> None:
    """The published run on its own clock."""
    curve = pretraining_curve(regime)
    if curve is None:
        style.say(ax, "not published")
        return
    for pen, *_, column in LINES:
        if column is not None:
            ax.plot(curve.table["step"], curve.table[column], color=pen.color, linewidth=1.2,
                    linestyle=(0, pen.dashes or ()))  # fmt: skip
    style.step_axis(ax, curve.table["step"].to_list(), "step")


def _seeds(rows: pl.DataFrame) -> str:
    count = rows["seed"].n_unique()
    return f"{count} seed{'s' if count != 1 else ''}"
