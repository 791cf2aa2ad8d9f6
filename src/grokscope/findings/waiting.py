"""Why grokking waits: how much of the delay is the form of the bridge, and how much the second lookup?

At every checkpoint of a run its queries are asked with and without realignment
(`mechanics/patch/realign.py`). Were the form of the bridge all that is missing, realigned answers would be
right from saturation on; were the second lookup all, realignment would change nothing. So the delay, from
saturation to OOD accuracy `LEVEL`, is split in steps' logarithm when realigned answers reach that level:

    saturation --lookup--> realigned answers at LEVEL --form--> answers at LEVEL

Both parts are means over runs with exact intervals; what was not reached is censored (`statistics/times.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.patch.realign import realign
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.phases import first_stable
from grokscope.runs.causal import TRAINED_SET
from grokscope.runs.open import Run
from grokscope.statistics.estimate import numbers, text
from grokscope.statistics.exact import Effect
from grokscope.statistics.times import Time, compare_times

SETS = {
    VERDICT_SET: "OOD then OOD", "first_hop_ood": "OOD then ID", "second_hop_ood": "ID then OOD",
    "test_iid": "ID then ID",
}  # fmt: skip
"""Probe sets that are realigned, as far as a run has them."""
ASKED = ("clean", "decoded", "true", "read")
LEVEL = 0.9
SCHEMA: dict[str, Any] = {
    "run": pl.String, "regime": pl.String, "seed": pl.Int64, "step": pl.Int64, "probe_set": pl.String,
    "asked": pl.String, "rate": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64,
    "stage": pl.String, "group": pl.String, "followed": pl.Float64,
}  # fmt: skip
"""Columns of realign.csv: one row per run, checkpoint, probe set and way of asking (`ASKED`; "read": how
often the bridge is read right at the cell)."""


def course(run: Run, most: int, steps: Iterable[int] | None = None) -> pl.DataFrame:
    """Realign every checkpoint of a run.

    Args:
        run: with checkpoints. most: probes per set. steps: None: all that are kept.

    Raises:
        InputError: the run has no checkpoint, or not all that is needed.
    """
    probes, setting = run.corpus.probes, run.setting()
    if TRAINED_SET not in probes or not run.steps:
        lacks = TRAINED_SET if run.steps else "checkpoint"
        raise InputError(f"run {run.name} has no {lacks} to realign.")
    few = {
        name: some_probes(probes[name], setting.encode(probes[name].queries), most)[0]
        for name in (TRAINED_SET, *SETS)
        if name in probes
    }
    asked = [few[name] for name in SETS if name in few]
    rows = []
    for step in run.steps if steps is None else steps:
        model = run.model(step)
        cell, found = realign(model, few[TRAINED_SET], asked, setting)
        for one in found:
            for way in ASKED:
                rate = getattr(one, way)
                rows.append({
                    "run": run.name, "regime": run.spec.regime.name, "seed": run.spec.seed, "step": step,
                    "probe_set": one.probe_set, "asked": way, **numbers(rate, "rate"), "n": rate.n,
                    "stage": model.stages[cell.stage].name, "group": cell.group, "followed": cell.followed,
                })  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


@dataclass(frozen=True)
class Split:
    """The delay and its parts, in log2 steps over runs; None: saturation or a level was never reached."""

    delay: Effect | None
    lookup: Effect | None
    """Saturation to realigned answers."""
    form: Effect | None
    """Realigned answers to answers."""


def split(rows: pl.DataFrame, saturated: Mapping[str, Time], window: int, way: str = "true") -> Split:
    """Split the delay of OOD queries.

    Args:
        rows: of `course`, of all runs. saturated: when each saturated, by run. window: checkpoints in a row
        for a level to count. way: of asking, "true" or "decoded".
    """
    names = [name for name in rows["run"].unique(maintain_order=True) if saturated[name].by is not None]
    full = [saturated[name] for name in names]
    plain, helped = ([reached(rows, name, one, window) for name in names] for one in ("clean", way))

    def part(later: Sequence[Time], earlier: Sequence[Time]) -> Effect | None:
        if len(names) < 2 or not any(time.by is not None for time in (*later, *earlier)):
            return None
        return compare_times(later, earlier, paired=True)

    return Split(part(plain, full), part(helped, full), part(plain, helped))


def reached(rows: pl.DataFrame, run: str, way: str, window: int, level: float = LEVEL) -> Time:
    """When OOD queries of a run, asked in a way, are answered at a level, stably."""
    own = rows.filter(
        (pl.col("run") == run) & (pl.col("asked") == way) & (pl.col("probe_set") == VERDICT_SET)
    ).sort("step")
    grid = own["step"].to_list()
    step = first_stable(grid, own["rate"].to_list(), level, window).step
    until = float(grid[max(0, len(grid) - window)])
    if step is None:
        return Time(until, None, until)
    before = [one for one in grid if one < step]
    return Time(float(before[-1]) if before else 0.0, float(max(step, 1)), max(until, float(step), 1.0))


def sentences(found: Split, runs: int) -> list[str]:
    """What a split says, in factors of steps."""

    def said(effect: Effect | None) -> str:
        return text(effect, lambda value: f"{2**value:.2f} ×", missing="cannot tell", form="{} [{}, {}]")

    return [
        f"Delay, saturation to OOD accuracy {LEVEL:g}: {said(found.delay)} ({runs} runs).",
        f"Of it the second lookup, saturation to realigned answers at {LEVEL:g}: {said(found.lookup)}.",
        f"Of it the form of the bridge, realigned answers to answers: {said(found.form)}.",
    ]
