"""How figures look: one colour per quantity, a log axis with a place for step 0, labels beside the lines.

Colours are Okabe and Ito's, told apart with any common colour vision; line style repeats the distinction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from grokscope.files import whole

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#e6e6e6"

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Pen:
    """How one quantity is drawn, everywhere."""

    label: str
    color: str
    dashes: tuple[float, ...] | None = None
    width: float = 1.9


TRAIN = Pen("trained queries", "#4d4d4d", width=1.5)
OOD = Pen("OOD accuracy (exact)", "#0072B2", width=2.3)
GUESSED = Pen("guess baseline", "#0072B2", (1.2, 1.6), 1.2)
TARGET = Pen("target found", "#56B4E9", (5, 1.6), 1.6)
HELD_OUT = Pen("ID then ID, held out", "#4d4d4d", (5, 1.6), 1.4)
ID_FACTS = Pen("ID facts", "#009E73", width=1.7)
OOD_FACTS = Pen("OOD facts", "#CC79A7", width=1.7)
HOPS = ("#009E73", "#CC79A7", "#E69F00", "#D55E00")
"""Colours of the hops, where one of them rests on an OOD fact."""
_LATENT_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#009E73")


def latent_pens(latents: Sequence[str]) -> dict[str, tuple[Pen, Pen, Pen]]:
    """For every latent its pens for found anywhere, found in one cell before the last stage, and chance."""
    pens = {}
    for number, latent in enumerate(latents):
        color = _LATENT_COLORS[number % len(_LATENT_COLORS)]
        cell = "#E69F00" if len(latents) == 1 else color
        pens[latent] = (
            Pen(f"{latent} found", color, width=2.1),
            Pen(f"{latent}, one early cell", cell, (3.2, 1.4), 1.6),
            Pen(f"{latent} chance", color, (1.2, 1.6), 1.2),
        )
    return pens


def new_figure(width: float, height: float) -> Figure:
    """An empty figure (inches), laid out so that nothing is clipped. No global state is touched."""
    return Figure(figsize=(width, height), layout="constrained")


def styled() -> Any:
    """Context in which figures are made and saved."""
    return matplotlib.rc_context(RC)


def step_text(step: float) -> str:
    """A step number for people: 800, 1k, 2.5k, 1.34M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:.3g}{suffix}"
    return f"{step:.3g}"


def step_axis(ax: Axes, steps: Sequence[float], label: str = "step (log scale)") -> None:
    """A log axis from the first positive step on; step 0 has its own place left of it (linear between)."""
    positive = sorted({float(s) for s in steps if s > 0})
    if not positive:
        ax.set_xlabel("step")
        return
    first, last = positive[0], positive[-1]
    zero = any(s == 0 for s in steps)
    if zero:
        ax.set_xscale("symlog", linthresh=first, linscale=0.22)
    else:
        ax.set_xscale("log")
    ticks = log_ticks(first, last)
    ax.xaxis.set_major_locator(FixedLocator(([0.0] if zero else []) + ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: step_text(value))
    ax.set_xlim(0.0 if zero else first, last if last > first else first * 2)
    ax.set_xlabel(label)


def log_ticks(first: float, last: float, most: int = 6) -> list[float]:
    """Round ticks in [first, last]: as many of 1, 2, 5 per decade as fit in `most`."""
    decades = range(int(np.floor(np.log10(first))), int(np.ceil(np.log10(last))) + 1)
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        ticks = [
            m * 10.0**d for d in decades for m in mantissas if first * 0.999 <= m * 10.0**d <= last * 1.001
        ]
        if len(ticks) <= most:
            break
    return ticks or [first]


def rate_axis(ax: Axes, label: str = "rate") -> None:
    """A rate from 0 to 1, with room so that lines at 0 and 1 are seen whole."""
    ax.set_ylim(-0.02, 1.02)
    ax.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0], ["0", ".25", ".5", ".75", "1"])
    ax.set_ylabel(label)


def spread(heights: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Move labels apart: at least `gap` between any two, order kept, as near their lines as that allows.

    Isotonic regression of `height - rank * gap` gives the least-squares positions, then kept in range.
    """
    order = np.argsort(np.asarray(heights), kind="stable")
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, size = heights[index] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    flat = [mean for mean, size in blocks for _ in range(size)]
    top = high - (len(order) - 1) * gap
    out = [0.0] * len(order)
    for rank, index in enumerate(order):
        out[index] = max(min(flat[rank], top), low) + rank * gap
    return out


def end_labels(ax: Any, ends: Sequence[tuple[Pen, float]], gap: float = 0.072) -> None:
    """Write every line's name at its right end, outside the axes, joined to it by a hair line."""
    places = spread([value for _, value in ends], gap)
    for (pen, value), place in zip(ends, places, strict=True):
        y, anchor = (value + 0.02) / 1.04, (place + 0.02) / 1.04
        hair = {"transform": ax.transAxes, "linewidth": 0.7, "clip_on": False, "solid_capstyle": "butt"}
        ax.plot([1.005, 1.03], [y, anchor], color=pen.color, **hair)
        where = {"xycoords": "axes fraction", "va": "center", "ha": "left", "annotation_clip": False}
        ax.annotate(pen.label, (1.037, anchor), color=pen.color, fontsize=8, **where)


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as `stem`.pdf and `stem`.png; the same figure gives the same bytes."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once; every format then shows the same picture
    for suffix, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 200})):
        with whole(stem.with_name(f"{stem.name}.{suffix}")) as draft:
            figure.savefig(draft, format=suffix, **options)


def say(ax: Axes, sentence: str) -> None:
    """A sentence where a drawing would be, for what does not exist."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, sentence, ha="center", va="center", color=MUTED, wrap=True, transform=ax.transAxes)
