"""Figures of a sweep: what becomes of runs where, and what moves the times that decide it.

Shape suffixes: X, Y a grid of two predictors, F fates, B bootstrap samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation
from numpy.typing import NDArray

from grokscope.findings.cells import Ran, Resampled
from grokscope.findings.law import FATES, Fate
from grokscope.report import style

COLORS: dict[Fate, str] = {
    "not learned": "#8c8c8c",
    "remembers": "#D55E00",
    "composes at once": "#009E73",
    "composes after a delay": "#0072B2",
}
CIRCUIT = "circuit"
"""In the verdicts of runs that have one."""
SUPERVISION = ("k first", "k second")
"""What a panel fixes: its regime."""
GRID = 28
"""Points a side that the law is asked at."""
DRAWS = 400
"""Of times a point and bootstrap sample: of each sample only the likeliest fate counts."""
SURE = 0.95
"""Of the bootstrap samples must agree on the likeliest fate where a map is not hatched."""
NAMES = {
    "phi": "compositions per fact (phi)",
    "degree": "facts per entity",
    "entities": "entities",
    "OOD share": "share of OOD facts",
    "k first": "k + 1, OOD fact first",
    "k second": "k + 1, OOD fact second",
    "skew": "skew of frequencies",
    "width": "width of the model",
}
APART = 0.1
"""Inches between the dots of a cell."""
RAW = frozenset({"skew"})
"""Predictors that are not logarithms."""


@dataclass(frozen=True, eq=False)
class Region:
    """What the law says of a regime on a plane of two predictors, the others being as they are on average."""

    x_X: NDArray[np.float64]
    y_Y: NDArray[np.float64]
    likeliest_YX: NDArray[np.int64]
    """Place in `FATES`."""
    sure_YX: NDArray[np.bool_]
    """Whether the bootstrap agrees."""


@dataclass(frozen=True, eq=False)
class Plane:
    """The two predictors whose change over the sweep moves the time of OOD answers most."""

    runs: Sequence[Ran]
    law: Resampled

    @cached_property
    def names(self) -> tuple[str, str]:
        """Of the horizontal and the vertical one; "" where one alone varies."""
        time = self.law.law.generalisation
        order = [time.names[place] for place in np.argsort(-np.abs(time.weight_K))]
        first, second, *_ = [*(name for name in order if name not in SUPERVISION), "", ""]
        return first, second

    def region(self, regime: str) -> Region:
        """What the law says of a regime."""
        x_name, y_name = self.names
        own = [one for one in self.runs if one.regime == regime]
        x_X, y_Y = (self._over(name) for name in self.names)
        middle = {
            name: float(np.mean([one.described[name] for one in (own if name in SUPERVISION else self.runs)]))
            for name in own[0].described
        }
        at = {name: np.full((len(y_Y), len(x_X)), value) for name, value in middle.items()}
        at |= {x_name: np.broadcast_to(x_X, (len(y_Y), len(x_X)))} if x_name else {}
        at |= {y_name: np.broadcast_to(y_Y[:, None], (len(y_Y), len(x_X)))} if y_name else {}
        budget, delay = float(np.median([one.budget for one in own])), own[0].delay
        likeliest_YX = self.law.law.fates(at, budget, delay, DRAWS).argmax(axis=-1)
        agrees_BYX = [
            law.fates(at, budget, delay, DRAWS).argmax(axis=-1) == likeliest_YX for law in self.law.again
        ]
        return Region(x_X, y_Y, likeliest_YX, np.mean(agrees_BYX, axis=0) >= SURE)

    def _over(self, name: str) -> NDArray[np.float64]:
        if not name:
            return np.array([-0.5, 0.5])
        values = [one.described[name] for one in self.runs]
        room = 0.06 * (max(values) - min(values))
        return np.linspace(min(values) - room, max(values) + room, GRID)


def fate_map(plane: Plane) -> Figure:
    """A panel per regime: the likeliest fate by the law in pale, hatched where its bootstrap disagrees; every
    cell as a row of dots, one per seed, in the colour of what became of it: full if its causal verdict is
    "circuit", half if that is undecided, else empty."""
    regimes = list(dict.fromkeys(one.regime for one in plane.runs))
    figure = style.new_figure(max(2.9 * len(regimes), 4.6), 3.7)
    axes = figure.subplots(1, len(regimes), sharey=True, squeeze=False)[0]
    for ax, regime in zip(axes, regimes, strict=True):
        _region(ax, plane.region(regime))
        _dots(ax, [one for one in plane.runs if one.regime == regime], plane.names)
        ax.set_title(regime)
        _axis(ax, plane.names[0], "x")
    _axis(axes[0], plane.names[1], "y")
    seen = {one.fate for one in plane.runs}
    handles = [
        axes[0].plot([], [], "o", color=color, markersize=6, label=fate)[0]
        for fate, color in COLORS.items()
        if fate in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _region(ax: Axes, region: Region) -> None:
    pale = ListedColormap([COLORS[fate] for fate in FATES])
    ax.grid(False)
    ax.pcolormesh(region.x_X, region.y_Y, region.likeliest_YX, cmap=pale, vmin=-0.5, vmax=len(FATES) - 0.5,
                  alpha=0.28, shading="nearest", linewidth=0, rasterized=True)  # fmt: skip
    if not region.sure_YX.all():
        unsure_YX = 1.0 - region.sure_YX
        with np.errstate(invalid="ignore"):
            ax.contourf(region.x_X, region.y_Y, unsure_YX, levels=[0.5, 1.5], colors="none", hatches=["////"])
    ax.set_xlim(region.x_X[0], region.x_X[-1])
    ax.set_ylim(region.y_Y[0], region.y_Y[-1])


def _dots(ax: Axes, runs: Sequence[Ran], names: tuple[str, str]) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    cells: dict[str, list[Ran]] = {}
    for one in runs:
        cells.setdefault(one.cell, []).append(one)
    for group in cells.values():
        for place, one in enumerate(sorted(group, key=lambda one: one.seed)):
            x, y = (one.described[name] if name else 0.0 for name in names)
            aside = ScaledTranslation((place - (len(group) - 1) / 2) * APART, 0, figure.dpi_scale_trans)
            color = COLORS[one.fate]
            ax.plot(x, y, "o", markersize=6, markeredgecolor=color, markeredgewidth=1.3, clip_on=False,
                    fillstyle=_fill(one.verdict), markerfacecolor=color, markerfacecoloralt="white",
                    transform=ax.transData + aside)  # fmt: skip


def _fill(verdict: str | None) -> Literal["full", "left", "none"]:
    if verdict in (None, "undecided"):
        return "left"
    return "full" if verdict and CIRCUIT in verdict else "none"


def _axis(ax: Axes, name: str, which: str) -> None:
    """Ticks at round values of what was varied, not of its logarithm."""
    axis = getattr(ax, f"{which}axis")
    if not name:
        axis.set_ticks([])
        return
    axis.set_label_text(NAMES.get(name, name))
    if name in RAW:
        return
    low, high = getattr(ax, f"get_{which}lim")()
    ticks = _round_ticks(2.0**low, 2.0**high)
    axis.set_ticks([np.log2(tick) for tick in ticks], [f"{tick:g}" for tick in ticks])


def _round_ticks(low: float, high: float) -> list[float]:
    """At least three round numbers within, if there are so many."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for mantissas in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), np.arange(1, 10, 0.2)):
        ticks = [
            float(f"{m * 10.0**d:.6g}") for d in decades for m in mantissas if low <= m * 10.0**d <= high
        ]
        if len(ticks) >= 3:
            break
    return ticks


def factors(law: Resampled) -> Figure:
    """By what factor both times change when a predictor doubles (skew: rises by one), with 95 % intervals."""
    rows = law.coefficients().to_dicts()
    names = list(dict.fromkeys(row["predictor"] for row in rows))
    figure = style.new_figure(5.6, 0.9 + 0.36 * len(names))
    ax = figure.add_subplot()
    times = {"saturation": (style.TRAIN.color, "training compositions learned", -0.14),
             "generalisation": (style.OOD.color, "OOD queries answered", 0.14)}  # fmt: skip
    for time, (color, label, shift) in times.items():
        here = [row for row in rows if row["time"] == time]
        y = [names.index(row["predictor"]) + shift for row in here]
        ax.hlines(y, [row["low"] for row in here], [row["high"] for row in here], color=color, linewidth=1.6)
        ax.plot([row["factor"] for row in here], y, "o", color=color, markersize=5, label=label)
    ax.axvline(1.0, color=style.INK, linewidth=0.8)
    ax.set_yticks(range(len(names)), [NAMES.get(name, name) for name in names])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ticks = _round_ticks(min(row["low"] for row in rows), max(row["high"] for row in rows))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("time is multiplied by, when it doubles (skew: + 1)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
