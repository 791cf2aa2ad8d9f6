"""Figures of what interventions said: an interchange map, the distances of a comparison, and a run's paths.

Shapes: L stages, C columns.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.mechanics.judge.compare import Comparison
from grokscope.mechanics.judge.sketch import Sketch, sketch_of_rows
from grokscope.mechanics.judge.verdict import CausalVerdict
from grokscope.report import style

SHORT = {"head": "h", "relation1": "r1", "relation2": "r2"}
COLORMAP = "YlOrBr"
SHOWN_ARMS = {
    "decoded.bridge": "bridge decoded",
    "bridge": "another bridge put in",
    "centroid": "its centroid put in",
}
"""Arms of causal.csv in the panel, and how they are headed."""
SHOWN_SETS = ("test_iid", "test_ood")
"""ID and OOD queries that no training saw: side by side."""


def interchange_map(found: xr.Dataset, title: str, n: str) -> Figure:
    """Interchange accuracy per stage (input at the bottom) and position, with the number in every cell."""
    stages = [str(name) for name in found["stage"].values]
    roles = [str(role) for role in found["role"].values]
    figure = style.new_figure(max(4.6, 1.6 + 0.8 * len(roles)), 1.5 + 0.3 * len(stages))
    ax = figure.add_subplot()
    heat(ax, found["rate"].values, stages, roles)
    ax.set_title(_broken(title), fontsize=8.8)
    ax.set_xlabel(n, fontsize=7.3)
    return figure


def heat(ax: Axes, rate_LC: np.ndarray, stages: list[str], roles: list[str]) -> None:
    """A map of rates from 0 to 1; hatched where there are too few pairs."""
    ax.grid(False)
    ax.set_facecolor("#efeff2")
    ax.pcolormesh(rate_LC, cmap=COLORMAP, vmin=0, vmax=1, edgecolors="white", linewidth=1.2)
    for (i, j), rate in np.ndenumerate(rate_LC):
        text = "?" if np.isnan(rate) else "1" if rate > 0.995 else f"{rate:.2f}".removeprefix("0")
        color = "white" if rate > 0.6 else style.INK
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7.5, color=color)
    ax.set_xticks(np.arange(len(roles)) + 0.5, [SHORT.get(role, role) for role in roles])
    ax.set_yticks(np.arange(len(stages)) + 0.5, stages, fontsize=7.5)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def distances(found: Comparison, title: str) -> Figure:
    """Every distance with its interval, and the margin within which two paths count as the same."""
    figure = style.new_figure(6.0, 1.3 + 0.42 * len(found.distances))
    ax = figure.add_subplot()
    colors = {"equivalent": "#009E73", "different": "#D55E00", "cannot tell": style.MUTED}
    ends = [
        end
        for one in found.distances
        for end in (one.margin, *((one.estimate.low, one.estimate.high) if one.estimate else ()))
        if np.isfinite(end)
    ]
    left, right = min([0.0, *ends]), max([0.05, *ends])
    for row, one in enumerate(reversed(found.distances)):
        if one.estimate is not None:
            span = [max(one.estimate.low, left), min(one.estimate.high, right)]
            ax.plot(span, [row, row], color=colors[one.answer], linewidth=2.2, solid_capstyle="butt")
            ax.plot([one.estimate.value], [row], "o", color=colors[one.answer], markersize=5)
        ax.plot([one.margin] * 2, [row - 0.32, row + 0.32], color=style.INK, linewidth=1.4)
        ax.annotate(one.answer, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                    color=colors[one.answer], annotation_clip=False)  # fmt: skip
    names = [f"{one.kind}, {one.measure}" for one in reversed(found.distances)]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.6, len(names) - 0.4)
    room = 0.04 * (right - left)
    ax.set_xlim(left - room, right + room)
    ax.set_xlabel("distance beyond that between seeds; black: the margin, a mixture of 10 %", fontsize=7.6)
    ax.set_title(_broken(f"{title}: {found.answer}"), fontsize=8.8)
    return figure


def run_sketches(
    name: str, rows: Sequence[Mapping[str, Any]], verdict: CausalVerdict, answer_position: int
) -> list[Sketch]:
    """The paths of ID and OOD queries at a run's last checkpoint, bridge by bridge, as far as examined.

    Args:
        name: of the run. rows: its causal.csv. verdict: its verdict.
        answer_position: where its answers are read.
    """
    out = []
    for latent, probe_set in product(verdict.latents, SHOWN_SETS):
        wanted = (verdict.step, probe_set, latent)
        here = [row for row in rows if (row["step"], row["probe_set"], row.get("latent")) == wanted]
        found = verdict.of(probe_set, latent=latent)
        if here and found is not None:
            title = ", ".join([name, f"step {verdict.step:,}", probe_set, *([latent] if latent else [])])
            out.append(sketch_of_rows(here, found.path, answer_position, title))
    return out


def causal_panel(causal: pl.DataFrame, title: str) -> Figure:
    """Where the bridge is decoded beside where another one moves the answer, for ID and OOD queries.

    Args:
        causal: rows of one regime, one step per run; several runs are averaged.
    """
    sets = [name for name in SHOWN_SETS if len(causal.filter(pl.col("probe_set") == name))]
    figure = style.new_figure(6.0, 3.0)
    if not sets:
        style.say(figure.add_subplot(), "Nothing has been intervened on in this regime.")
        return figure
    stages = causal["stage"].unique(maintain_order=True).to_list()
    places = causal.select("position", "role").unique(maintain_order=True).rows()
    figure.set_size_inches(6.0, 0.9 + len(sets) * (0.55 + 0.21 * len(stages)))
    figure.set_layout_engine("constrained", w_pad=0.09)
    axes = figure.subplots(len(sets), len(SHOWN_ARMS), sharex=True, sharey=True, squeeze=False)
    for line, name in zip(axes, sets, strict=True):
        for ax, (arm, said) in zip(line, SHOWN_ARMS.items(), strict=True):
            rows = causal.filter((pl.col("probe_set") == name) & (pl.col("arm") == arm))
            mean = rows.group_by("stage", "position").agg(pl.col("rate").mean())
            rate_LC = np.full((len(stages), len(places)), np.nan)
            positions = [position for position, _ in places]
            for stage, position, rate in mean.rows():
                if rate is not None:
                    rate_LC[stages.index(stage), positions.index(position)] = rate
            heat(ax, rate_LC, stages, [role for _, role in places])
            if name == sets[0]:
                ax.set_title(said, fontsize=8.2, fontweight="normal")
        line[0].set_ylabel(name, fontsize=8.2, labelpad=8)
    figure.suptitle(title, fontsize=9.5, fontweight="bold", x=0.01, ha="left")
    return figure


def _broken(title: str, most: int = 62) -> str:
    """A long title on two lines."""
    if len(title) <= most:
        return title
    cut = title.rfind(" ", 0, most)
    return f"{title[:cut]}\n{title[cut + 1 :]}"
