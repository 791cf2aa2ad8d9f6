"""Tables in the terminal: any table, a causal verdict with all its numbers, what a study's runs and transfers
found."""

from collections.abc import Mapping, Sequence
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grokscope.mechanics.judge.causal import Interchanged
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, Diagnosis
from grokscope.mechanics.judge.verdict import CausalVerdict, PathCells, SetVerdict
from grokscope.runs.open import Run, Transfer
from grokscope.runs.study import Study
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import PROSE, WITH_N, text
from grokscope.world.probes import MIXES

WIDTH = 160
"""Columns where the output is no terminal."""
UNTESTED = "not tested"
RUN_HEADS = ("run", "saturation", "OOD there", "OOD at the end", "guess", "behaviour", "causal verdict")
TRANSFER_HEADS = (
    "transfer", "base OOD", "new atoms", *(name.replace("_", " ") for name in MIXES), "old ID two-hop",
)  # fmt: skip


def print_rows(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    console: Console | None = None,
    width: int = WIDTH,
    whole: Sequence[str] = (),
    right: Sequence[str] = (),
) -> Console:
    """Print rows under heads; nothing in a cell is taken for markup.

    Args:
        heads, rows: the table. console: where; None: standard output. width: columns where that is no
        terminal. whole: heads of columns whose cells are not broken. right: of those that stand to the right.

    Returns:
        The console.
    """
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(console.width, width))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        side: Literal["left", "right"] = "right" if head in right else "left"
        table.add_column(escape(head), overflow="fold", no_wrap=head in whole, justify=side)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    return console


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a title and heads."""
    print(title)
    print_rows(heads, rows)


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


def summary_rows(study: Study) -> list[tuple[str, ...]]:
    """One row of `RUN_HEADS` per run, in the study's order."""
    return [_run_row(name, run) for name, run in study.runs.items()]


def print_summary(study: Study, console: Console | None = None) -> None:
    """Print the table, and say which runs it does not have."""
    console = print_rows(RUN_HEADS, summary_rows(study), console, 120, ("run", "saturation"))
    for name, run in study.runs.items():
        outer = run.verdict.of(VERDICT_SET) if run.verdict and run.verdict.verdict == "undecided" else None
        if outer is not None:
            console.print(f"{name}, undecided: {VERDICT_SET}: {outer.reason}", highlight=False, markup=False)
    if any(run.verdict is None and run.spec.task == "chain" for run in study.runs.values()):
        console.print(
            f"{UNTESTED}: nothing has been intervened on; grokscope diagnose RUN does it.", highlight=False
        )


def _run_row(name: str, run: Run) -> tuple[str, ...]:
    found = run.diagnosis
    if found is None:
        return name, "", "", "", "", "unfinished", ""
    numbers = found.sets.get(VERDICT_SET)
    return (
        name,
        _saturation(found),
        text(numbers.exact_at_saturation) if numbers else "",
        text(numbers.exact) if numbers else "",
        f"{numbers.guess.value:.2f}" if numbers else "",
        found.behaviour,
        verdict.verdict if (verdict := run.verdict) else UNTESTED,
    )


def _saturation(found: Diagnosis) -> str:
    event = found.events["saturation"]
    return f"{event.step:,}" if event.step is not None else f"> {event.censored_at:,}"


def transfer_rows(transfers: Mapping[str, Transfer]) -> list[tuple[str, ...]]:
    """One row of `TRANSFER_HEADS` per transfer: exact answers with their intervals, all probes."""
    return [_transfer_row(name, one) for name, one in transfers.items()]


def print_transfers(
    transfers: Mapping[str, Transfer], missing: Mapping[str, str], console: Console | None = None
) -> None:
    """Print the table, where each mix stands, and which transfers there are not."""
    console = print_rows(TRANSFER_HEADS, transfer_rows(transfers), console, 140, ("transfer",))
    for name, one in transfers.items():
        result = one.result
        if result is None:
            continue
        for mix in MIXES:
            found = result.of(mix)
            said = f"{found.place}: {found.reason}" if found is not None else "cannot tell: no probes."
            console.print(f"{name}, {mix}: {said}", highlight=False, markup=False, soft_wrap=True)
        for sentence in result.shortages:
            console.print(f"{name}: {sentence}", highlight=False, markup=False, soft_wrap=True)
    for name, reason in missing.items():
        console.print(f"{name}: not made: {reason}", highlight=False, markup=False, soft_wrap=True)


def _transfer_row(name: str, transfer: Transfer) -> tuple[str, ...]:
    result = transfer.result
    if result is None:
        return name, *[""] * (len(TRANSFER_HEADS) - 2), "unfinished"
    mixes = [result.of(mix) for mix in MIXES]
    old = result.old.get("test_iid")
    mature = "" if result.base.mature else " not mature"
    return (
        name,
        _rate(result.base.ood) + mature,
        _rate(result.new_atomic),
        *(_rate(one.accuracy if one is not None else None) for one in mixes),
        f"{old.before.value:.2f} -> {_rate(old.after)}" if old is not None else "",
    )


def _rate(rate: Rate | None) -> str:
    return text(rate, form=PROSE, missing="no probes")
