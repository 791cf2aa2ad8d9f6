"""Fine-tuning on new facts: figure 4 of the reference in our form, every base and mix, bands over seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.errors import InputError
from grokscope.findings.paper import finetuning_curves
from grokscope.mechanics.read.rates import found_anywhere
from grokscope.report import style
from grokscope.report.figures import median_over_seeds
from grokscope.report.style import Pen
from grokscope.runs.study import Study
from grokscope.world.probes import MIXES

SCHEMA: dict[str, Any] = {
    "run": pl.String, "base": pl.String, "published": pl.String, "seed": pl.Int64, "step": pl.Int64,
    "last": pl.Int64, "mix": pl.String, "measure": pl.String, "value": pl.Float64,
}  # fmt: skip
"""One row per transfer, checkpoint, mix and measure; `published` names the published curve of the base."""
LINES = (
    (Pen("new facts", "#4d4d4d", width=1.4), "new_atomic", "new_fact_accuracy"),
    (Pen("bridge found", "#D55E00", width=1.8), "bridge", "bridge_found_rate"),
    (Pen("exact answers", "#0072B2", width=2.2), "exact", "exact_match"),
)
"""Pen, measure, and the column of the published curves."""
CONTROL = "untrained"


def tuning_curves(study: Study) -> pl.DataFrame:
    """Every finished transfer of a study at every checkpoint, columns as `SCHEMA`; empty: there is none."""
    rows: list[dict[str, Any]] = []
    for name, one in study.transfers.items():
        try:
            result = one.result
            if result is None:
                continue
            curves, bridge = one.curves, found_anywhere(one.traces, "bridge")["rate"]
        except InputError:  # what is missing is said where the finding is judged
            continue
        regime, moment = result.base.regime, result.base.moment
        key = {
            "run": name,
            "base": CONTROL if moment == CONTROL else f"{regime}, {moment}",
            "published": {CONTROL: "control", "end": regime}.get(moment, ""),
            "seed": one.spec.base.seed,
            "last": result.step,
        }
        for mix in [mix for mix in MIXES if f"exact.{mix}" in curves.columns]:
            found_N = bridge.sel(set=mix).values
            measured = curves.select("step", new_atomic="exact.new_atomic", exact=f"exact.{mix}")
            for row, found in zip(measured.iter_rows(named=True), found_N, strict=True):
                values = {"new_atomic": row["new_atomic"], "exact": row["exact"], "bridge": float(found)}
                rows += [
                    {**key, "step": row["step"], "mix": mix, "measure": measure, "value": value}
                    for measure, value in values.items()
                ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def tunings(curves: pl.DataFrame) -> Figure:
    """Bases side by side, mixes below each other: ours solid with the range of the seeds, the paper's dashed.

    Both on the share of their own fine-tuning, as their numbers of steps differ.
    """
    bases = curves["base"].unique(maintain_order=True).to_list()
    figure = style.new_figure(max(2.5 * len(bases), 4.5), 6.2)
    if not bases:
        style.say(figure.add_subplot(), "No transfer of this study has finished.")
        return figure
    axes = figure.subplots(len(MIXES), len(bases), sharex=True, sharey=True, squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        own = curves.filter(pl.col("base") == bases[column])
        here, published = own.filter(pl.col("mix") == MIXES[row]), _published(own["published"][0], MIXES[row])
        for pen, measure, name in LINES:
            _draw(ax, here.filter(pl.col("measure") == measure), pen)
            if len(published):
                at = published["step"].to_numpy() / published["step"].max()
                ax.plot(at, published[name], color=pen.color, linewidth=0.9, linestyle="--", alpha=0.8)
        style.rate_axis(ax, MIXES[row].replace("_", "-") if not column else "")
        if not len(here):
            ax.text(0.5, 0.5, "no probes", ha="center", color=style.MUTED, transform=ax.transAxes)
        if not row:
            seeds = here["seed"].n_unique()
            ax.set_title(f"{bases[column]}\n{seeds} seed{'s' if seeds != 1 else ''}", fontsize=8.6)
        if row == len(MIXES) - 1:
            ax.set_xlabel("share of the fine-tuning")
    _legend(figure, axes[0, 0])
    return figure


def _legend(figure: Figure, ax: Axes) -> None:
    named = [(pen.label, pen.color, "-") for pen, *_ in LINES] + [("the paper (one run)", style.MUTED, "--")]
    handles = [ax.plot([], [], color=color, linestyle=line)[0] for _, color, line in named]
    names: Sequence[str] = [label for label, *_ in named]
    figure.legend(handles, names, loc="outside lower center", ncols=len(named), frameon=False)


def _draw(ax: Axes, rows: pl.DataFrame, pen: Pen) -> None:
    """The median over seeds and their range, where all seeds have a checkpoint."""
    if not len(rows):
        return
    step, value = median_over_seeds(rows)
    if not len(step):
        return
    last = float(rows["last"].max())  # type: ignore[arg-type]
    ends = rows.group_by("step").agg(low=pl.col("value").min(), high=pl.col("value").max()).sort("step")
    ends = ends.filter(pl.col("step").is_in(step.astype(int).tolist()))
    ax.fill_between(ends["step"] / last, ends["low"], ends["high"], color=pen.color, alpha=0.2, linewidth=0)
    ax.plot(step / last, value, color=pen.color, linewidth=pen.width)


def _published(name: str, mix: str) -> pl.DataFrame:
    """The published curve of a base; empty where there is none."""
    return finetuning_curves().filter((pl.col("regime") == name) & (pl.col("mix") == mix)).sort("step")
