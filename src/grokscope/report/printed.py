"""Tables in the terminal: any table, and a causal verdict with all its numbers."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grokscope.mechanics.judge.causal import Interchanged
from grokscope.mechanics.judge.verdict import CausalVerdict, PathCells, SetVerdict
from grokscope.statistics.estimate import WITH_N, text

WIDTH = 160
"""Columns where the output is no terminal."""


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under heads; nothing in a cell is taken for markup."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDTH))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(escape(head), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    print(title)
    console.print(table)


def print_verdict(name: str, verdict: CausalVerdict) -> None:
    """Every number of a verdict, one column per checkpoint and probe set."""

    def number(one: float | None) -> str:
        return "-" if one is None else f"{one:.2f}"

    def interchanged(one: Interchanged | None) -> str:
        if one is None:
            return "-"
        rate = number(one.rate.value if one.rate else None)
        return f"{rate}, n = {one.n} (any: {number(one.unconditioned)}, n = {one.n_unconditioned})"

    for step in dict.fromkeys(one.step for one in verdict.sets):
        sets = [one for one in verdict.sets if one.step == step]
        rows: list[tuple[str, ...]] = [("mechanism", *(one.mechanism for one in sets))]
        for head, field in (
            ("accuracy", "accuracy"), ("guess baseline", "guess"), ("accuracy, atoms known", "atoms_known"),
            ("share through the bridge", "share"), ("the same by argmax", "share_by_argmax"),
            ("path sufficient", "sufficient"), ("path necessary", "necessary"),
        ):  # fmt: skip
            rates = [getattr(one, field) for one in sets]
            rows.append((head, *(text(one, form=WITH_N, missing="-") for one in rates)))
        for head, field in (
            ("bridge read at tokens (paper's measure)", "lens_tokens"),
            ("bridge read anywhere, registers too", "lens_all"), ("bridge read by a linear map", "linear"),
        ):  # fmt: skip
            controls = [getattr(one, f"{field}_control") for one in sets]
            texts = [text(getattr(one, field), form=WITH_N, missing="-") for one in sets]
            rows.append((head, *(f"{a} (control {number(b)})" for a, b in zip(texts, controls, strict=True))))
        rows.append(("the bridge is", *(one.bridge or "-" for one in sets)))
        for head, field in (
            ("redundant", "redundant"), ("incomplete", "incomplete"),
            ("single share, if all agree", "through_circuit"),
        ):  # fmt: skip
            rows.append((head, *(number(getattr(one, field)) for one in sets)))
        for arm in dict.fromkeys(arm for one in sets for arm in one.arms):
            found = [one.arms.get(arm) for one in sets]
            rows.append((f"interchange, {arm}", *map(interchanged, found)))
        paths = [one.path for one in sets]
        texts = ["-" if p is None else f"{p.role}, {p.resolved} to {p.read}" for p in paths]
        rows.append(("bridge held at", *texts))
        rows.append(("path, stage by stage", *("-" if p is None else _cuts(p) for p in paths)))
        rows.append(("bridge read along", *("-" if p is None else _edges(p) for p in paths)))
        rows.append(("stages left for hop 2", *("-" if p is None else str(p.stages_left) for p in paths)))
        print_table(f"{name}, step {step:,}", ["", *map(_heading, sets)], rows)
    for one in verdict.sets:
        if one.step == verdict.step:
            print(f"{_heading(one)}: {one.mechanism}: {one.reason}")
    print(f"verdict: {verdict.verdict} ({verdict.reason})")


def _heading(one: SetVerdict) -> str:
    """The set, and which of several bridges."""
    return f"{one.probe_set}, {one.latent}" if one.latent else one.probe_set


def _cuts(path: PathCells) -> str:
    """The positions that hold the bridge after each stage."""
    held = [f"{one.stage} {one.group} {text(one.rate)}" for one in path.cuts]
    return "; ".join(held) or "-"


def _edges(path: PathCells) -> str:
    """The edges between positions that carry the bridge."""
    reads = [one for one in path.routes if one.sender != one.receiver]
    return ", ".join(
        f"{one.sender} to {one.receiver} in {one.stage} {text(one.rate)}"
        + ("" if one.attention is None else f", {one.head} looks there with {one.attention:.2f}")
        for one in reads
    ) or "-"  # fmt: skip
