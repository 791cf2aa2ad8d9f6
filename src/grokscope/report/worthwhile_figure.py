"""Data against compute: what every way to an OOD accuracy costs, one line per accuracy."""

from math import isfinite

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokscope.findings.ways import Way, Worth
from grokscope.report import style

COLORS = ("#56B4E9", "#0072B2", "#009E73", "#D55E00", "#CC79A7")


def iso_accuracy(worth: Worth) -> Figure:
    """Training FLOP to reach each level against compositions added per OOD fact.

    Small marks are runs, with the checkpoints between which they got there; arrows are runs that had not by
    their last look. Large marks are medians over runs, joined in order of data. Where the median run did not
    get there, there is no large mark.
    """
    figure = style.new_figure(6.4, 3.6)
    ax: Axes = figure.subplots()
    levels = list(dict.fromkeys(way.level for way in worth.ways))
    for number, level in enumerate(levels):
        ways = [way for way in worth.ways if way.level == level]
        _level(ax, worth, ways, COLORS[number % len(COLORS)], shift=0.25 * (number - (len(levels) - 1) / 2))
    _names(ax, worth)
    ax.set_yscale("log")
    ax.set_xlabel("compositions added per OOD fact")
    ax.set_ylabel("training FLOP")
    ax.set_title("What reaching an OOD accuracy costs: data against compute")
    ax.legend(title="OOD accuracy", frameon=False, fontsize=8, title_fontsize=8)
    return figure


def _level(ax: Axes, worth: Worth, ways: list[Way], color: str, shift: float) -> None:
    level = ways[0].level
    for one in (run for run in worth.runs if run.level == level):
        x = one.added_per_fact + shift
        if one.time.by is None:
            at_least = one.known_after * one.step_flop
            ax.plot(x, at_least, marker="^", color=color, markersize=5, fillstyle="none")
            continue
        low, high = max(one.time.after, 1.0) * one.step_flop, one.time.by * one.step_flop
        ax.plot([x, x], [low, high], color=color, linewidth=0.8, alpha=0.6)
        ax.plot(x, high, marker=".", color=color, markersize=4, alpha=0.6)
    there = [way for way in ways if isfinite(way.step.value)]
    x_W = [way.added_per_fact + shift for way in there]
    y_W = [way.flop(way.step.value) for way in there]
    efficient = [(x, y) for x, y, way in zip(x_W, y_W, there, strict=True) if way.efficient]
    if efficient:
        ax.plot(*zip(*efficient, strict=True), color=color, linewidth=1.6)
    ax.plot(x_W, y_W, linestyle="none", marker="o", color=color, markersize=6, label=f"{level:g}")


def _names(ax: Axes, worth: Worth) -> None:
    """Each way's name beside its highest median."""
    highest: dict[str, tuple[float, float]] = {}
    for way in worth.ways:
        flop = way.flop(way.step.value)
        if isfinite(flop) and flop >= highest.get(way.regime, (0.0, 0.0))[1]:
            highest[way.regime] = (way.added_per_fact, flop)
    for regime, place in highest.items():
        ax.annotate(regime, place, xytext=(8, 5), textcoords="offset points", fontsize=7, color=style.MUTED)
