"""The picture of an inference path: the unrolled grid of stages and positions.

Computation runs upward, as in the emergence maps: the question below, every stage one row, the answer above.
A cell is filled with what the lens decodes there, by share of the probes; an arrow is drawn only where an
intervention showed the state to be used. Many cells are coloured and few have arrows: that is the point.

Shapes: L stages, C positions.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle

from grokscope.mechanics.judge.sketch import LAYERS, Sketch
from grokscope.report import style

COLORS = {"bridge": "#F2B134", "answer": "#56B4E9", "input": "#CFCFD4"}
"""Fill of what is decoded."""
USE = {"bridge": "#C24A00", "answer": "#0072B2"}
"""Outline and arrow of what is used."""
DECODED = {"bridge": "bridge decoded", "answer": "answer decoded", "input": "own input token decoded"}
USED = {"bridge": "bridge used: held, then read", "answer": "answer used: carried to the output"}
"""What the legend says."""
EMPTY, FRAME = "#F6F6F8", "#DDDDE2"
CELL, HIGH = 0.80, 0.66
"""Size of a cell in units of the grid."""
ROUND = "round,pad=0,rounding_size=0.09"
ROLE_NAMES = {"head": "h", "relation1": "r1", "relation2": "r2"}


def path_grid(sketches: Sequence[Sketch]) -> Figure:
    """One picture per sketch, side by side, with one legend. They must be of one model."""
    stages, columns = len(sketches[0].stages), max(len(one.roles) for one in sketches)
    width = max(3.9, 1.0 + 0.98 * columns)
    figure = style.new_figure(width * len(sketches) + 0.5, 2.45 + 0.42 * stages)
    spans = [len(one.roles) + (1.07 if number == 0 else 0.24) for number, one in enumerate(sketches)]
    axes = figure.subplots(1, len(sketches), squeeze=False, width_ratios=spans)[0]
    for number, (ax, one) in enumerate(zip(axes, sketches, strict=True)):
        _panel(ax, one, names=number == 0, width=width)
    single = sketches[0].single
    fills = [Patch(facecolor=COLORS[name], label=text) for name, text in DECODED.items()]
    fills.append(Patch(facecolor=EMPTY, edgecolor=FRAME, label="another token"))
    lines = [
        Line2D([], [], color=USE[name], linewidth=2.2, marker=">", markersize=4, label=text)
        for name, text in USED.items()
    ]
    figure.legend(
        handles=[*fills, *lines],
        loc="outside lower center",
        ncols=2 if len(sketches) == 1 else 3,
        frameon=False,
        fontsize=7.8,
        handlelength=1.6,
        columnspacing=1.6,
        title=None if single else "fill of a cell: share of the queries",
        title_fontsize=7.8,
    )
    return figure


def _panel(ax: Axes, one: Sketch, names: bool, width: float) -> None:
    stages, columns = len(one.stages), len(one.roles)
    ax.grid(False)
    ax.set_axis_off()
    ax.set_xlim(-0.62 if not names else -1.45, columns - 0.38)
    ax.set_ylim(-1.55, stages + 0.55)
    for i in range(stages):
        if names:
            ax.text(-0.55, i, one.stages[i], ha="right", va="center", fontsize=7.5, color=style.MUTED)
        for j in range(columns):
            _cell(ax, one, i, j)
    for j, role in enumerate(one.roles):
        token = one.inputs[j] if one.inputs else ""
        name = ROLE_NAMES.get(role, role)
        ax.text(j, -0.72, token or name, ha="center", va="center", fontsize=9, fontweight="bold")
        ax.text(j, -1.05, name if token else role, ha="center", va="center", fontsize=7.3, color=style.MUTED)
    _arrows(ax, one)
    ax.text(
        one.answer_column, stages - 0.02, one.answer or "answer", ha="center", va="center", fontsize=9,
        fontweight="bold", color=USE["answer"] if one.held["answer"].any() else style.INK,
    )  # fmt: skip
    ax.set_title(one.title, fontsize=9.5, pad=20)
    ax.annotate(
        one.subtitle,
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 7),
        textcoords="offset points",
        fontsize=7.6,
        color=style.MUTED,
        annotation_clip=False,
    )
    ax.text(
        0.0,
        0.0,
        _wrapped(one.note, int(width * 15.5)),
        transform=ax.transAxes,
        ha="left",
        va="top",
        fontsize=7.8,
    )


def _cell(ax: Axes, one: Sketch, stage: int, column: int) -> None:
    """The cell filled from the left by share, what is most frequent written on it."""
    left, low = column - CELL / 2, stage - HIGH / 2
    share = {name: float(one.decoded[name][stage, column]) for name in LAYERS}
    unread = np.isnan(share["bridge"])
    box = FancyBboxPatch(
        (left, low), CELL, HIGH, facecolor="white" if unread else EMPTY, boxstyle=ROUND, linewidth=0
    )
    ax.add_patch(box)
    start = left
    for name in LAYERS if not unread else ():
        size = min(share[name], max(0.0, (left + CELL - start) / CELL)) * CELL
        part = Rectangle((start, low), size, HIGH, facecolor=COLORS[name], linewidth=0)
        ax.add_patch(part)
        part.set_clip_path(box)
        start += size
    edge = next((USE[name] for name in ("bridge", "answer") if one.held[name][stage, column]), FRAME)
    strong = edge != FRAME
    ax.add_patch(FancyBboxPatch(
        (left, low), CELL, HIGH, facecolor="none", edgecolor=edge, boxstyle=ROUND,
        linewidth=2.0 if strong else 0.7, zorder=4 if strong else 2,
    ))  # fmt: skip
    if unread:
        return
    if one.single:
        ax.text(column, stage, one.tokens[stage][column], ha="center", va="center", fontsize=7.6, zorder=5)
        return
    best = max(LAYERS, key=lambda name: share[name])
    if share[best] >= 0.1:
        text = f"{best} {share[best]:.0%}"
        ax.text(column, stage, text, ha="center", va="center", fontsize=7.0, zorder=5)


def _arrows(ax: Axes, one: Sketch) -> None:
    """The edges that carry the bridge, and the answer up to the output.

    Where no edge was asked for: up the column that holds the bridge, and over to where the answer is read.
    """
    bridge_LC, answer_LC = one.held["bridge"], one.held["answer"]
    if not bridge_LC.any():
        return
    column, target = int(bridge_LC.sum(axis=0).argmax()), one.answer_column
    rows = np.flatnonzero(bridge_LC[:, column])
    last = int(rows[-1])
    if one.routes:
        for stage, sender, receiver in one.routes:
            _edge(ax, stage, sender, receiver)
    else:
        _climb(ax, column, rows, USE["bridge"])
        if last + 1 < len(one.stages):
            _edge(ax, last + 1, column, target)
    tops = np.flatnonzero(answer_LC[:, target])
    if len(tops):
        _climb(ax, target, tops, USE["answer"])
        if tops[-1] == len(one.stages) - 1:
            _arrow(ax, (target, tops[-1] + HIGH / 2), (target, tops[-1] + 0.80), USE["answer"])


def _edge(ax: Axes, stage: int, sender: int, receiver: int) -> None:
    """From a cell to one of the next stage."""
    aside = np.sign(receiver - sender) * CELL * 0.28
    start, end = (sender + aside, stage - 1 + HIGH / 2), (receiver - aside, stage - HIGH / 2)
    _arrow(ax, start, end, USE["bridge"])


def _climb(ax: Axes, column: int, rows: np.ndarray, color: str) -> None:
    """Arrows between neighbouring used cells of a column."""
    for row in rows[:-1]:
        if row + 1 in rows:
            _arrow(ax, (column, row + HIGH / 2), (column, row + 1 - HIGH / 2), color)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    ax.add_patch(FancyArrowPatch(
        start, end, arrowstyle="-|>,head_length=4.2,head_width=2.6", shrinkA=0, shrinkB=0, color=color,
        linewidth=2.0, mutation_scale=1.0, zorder=6, joinstyle="miter", capstyle="butt",
    ))  # fmt: skip


def _wrapped(text: str, most: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > most:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
