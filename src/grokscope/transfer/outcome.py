"""From a finished fine-tuning to its result: the curves and events of its traces, and the examination of its
checkpoints.

Shapes: N steps, P probes, K hops, F facts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import xarray as xr

from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.read.atoms import atoms_known
from grokscope.mechanics.read.layout import select, some_probes
from grokscope.mechanics.read.phases import Event, first_stable
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, clustered_rate, paired_difference, rate_among
from grokscope.transfer.place import place_of
from grokscope.transfer.result import BaseStanding, Forgotten, MixResult, TransferResult
from grokscope.transfer.second_hop import (
    Stations,
    cell_rates,
    deadline_of,
    known_atoms,
    measure,
    stations,
)
from grokscope.transfer.spec import ExamineSpec
from grokscope.world.arrays import BoolArray
from grokscope.world.format import FormatSpec
from grokscope.world.newfacts import NewFacts
from grokscope.world.probes import MIXES, NEW_PATTERNS, ProbeSet

OLD_PATH = "test_iid"
"""Old two-hop queries that were never trained: they show which path the model uses."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A result, and the cells that it was read from."""

    result: TransferResult
    cells: pl.DataFrame
    """One row per step, mix, group (known, failing), kind (read, given), stage and position."""


def outcome_of(
    base: BaseStanding,
    new: NewFacts,
    fmt: FormatSpec,
    spec: ExamineSpec,
    traces: xr.Dataset,
    model_at: Callable[[int], Reasoner],
    kept: list[int],
) -> Outcome:
    """The result of a finished fine-tuning. The same traces and weights give the same numbers.

    Args:
        base: what is known of the base.
        new: data and probes. fmt: the format. spec: what is asked.
        traces: of all probe sets at every checkpoint, step 0 among them, all probes.
        model_at: the model at a kept step. kept: those steps.
    """
    last = int(traces["step"].values[-1])
    curves = curves_of(traces)
    looked: list[MixResult] = []
    cells: list[dict[str, Any]] = []
    said = ""
    for step in kept if spec.steps == "all" else [last]:
        results, rows, said = _examine(step, model_at(step), new, fmt, spec, traces)
        looked += results
        cells += rows
    atomic = _rate(traces, "new_atomic", last, spec.confidence)
    return Outcome(
        TransferResult(
            base=base,
            fingerprint=new.fingerprint,
            step=last,
            data={name: n for name, n in new.summary().items() if isinstance(n, int)},
            new_atomic=atomic,
            learned=_event(curves, "exact.new_atomic", spec.learned, spec.window),
            reached={
                name: _event(curves, f"exact_atoms_known.{name}", spec.works, spec.window)
                for name in MIXES
                if name in new.probes
            },
            mixes=tuple(looked),
            deadline=said,
            old={
                name: _forgotten(traces, one, last, spec.confidence)
                for name, one in new.probes.items()
                if name not in NEW_PATTERNS
            },
            shortages=tuple(one.sentence() for one in new.shortages),
            examine=spec,
        ),
        pl.DataFrame(cells, schema=CELLS),
    )


CELLS = {
    "step": pl.Int64, "mix": pl.String, "group": pl.String, "kind": pl.String, "stage": pl.String,
    "position": pl.String, "role": pl.String, "rate": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "n": pl.Int64,
}  # fmt: skip
"""Columns of the cells."""


def curves_of(traces: xr.Dataset) -> pl.DataFrame:
    """One row per checkpoint: `step`; per set `exact.SET`; per set of two hops `atoms_known.SET`, the share
    of queries whose atoms are both answered right there, and `exact_atoms_known.SET`, the accuracy among
    those (null below 30 such queries)."""
    columns: dict[str, list[float | None]] = {}
    for name in traces["set"].values.tolist():
        part = select(traces, name)
        exact_NP = part["exact"].values
        columns[f"exact.{name}"] = exact_NP.mean(axis=1).tolist()
        if part.sizes["hop"] == 2:
            known_NP = atoms_known(traces, name).known_NP
            columns[f"atoms_known.{name}"] = known_NP.mean(axis=1).tolist()
            columns[f"exact_atoms_known.{name}"] = [
                float(exact_P[known_P].mean()) if known_P.sum() >= FEWEST_PROBES else None
                for exact_P, known_P in zip(exact_NP, known_NP, strict=True)
            ]
    steps = traces["step"].values.astype(np.int64)
    return pl.DataFrame({"step": steps, **columns}, schema_overrides=dict.fromkeys(columns, pl.Float64))


def _examine(
    step: int, model: Reasoner, new: NewFacts, fmt: FormatSpec, spec: ExamineSpec, traces: xr.Dataset
) -> tuple[list[MixResult], list[dict[str, Any]], str]:
    """Every mix at one checkpoint, the rows of its cells, and the deadline's sentence."""
    setting = Setting(new.world, new.composed, fmt, spec.seed)
    old_F, knows_F = ~new.new_F, known_atoms(model, setting)
    deadline, said, old = len(model.stages) - 2, "there are no old queries to show a path.", None
    if OLD_PATH in new.probes:
        some = _some(new.probes[OLD_PATH], setting, spec.probes)
        deadline, said = deadline_of(model, some, setting)
        found = measure(model, some, setting, old_F, knows_F, deadline)
        old = stations(found, found.known_P & found.right_P, spec.confidence)
    results: list[MixResult] = []
    rows: list[dict[str, Any]] = []
    for name in [name for name in MIXES if name in new.probes]:
        some = _some(new.probes[name], setting, spec.probes)
        found = measure(model, some, setting, old_F, knows_F, deadline)
        groups = {"known": found.known_P, "failing": found.known_P & ~found.right_P}
        known, failing = (stations(found, group_P, spec.confidence) for group_P in groups.values())
        results.append(_mix(step, new.probes[name], traces, known, failing, old, spec))
        for group, group_P in groups.items():
            key = {"step": step, "mix": name, "group": group}
            rows += [{**key, **row} for row in cell_rates(found, group_P, spec.confidence)]
    return results, rows, said


def _mix(
    step: int,
    probe_set: ProbeSet,
    traces: xr.Dataset,
    known: Stations,
    failing: Stations,
    old: Stations | None,
    spec: ExamineSpec,
) -> MixResult:
    """Accuracies over all probes, from the traces; the stations over those that were examined."""
    one = traces.sel(step=[step])
    part = select(one, probe_set.name)
    exact_P, fact_PK = part["exact"].values[0], part["fact"].values
    known_P = atoms_known(one, probe_set.name).known_NP[0]
    among = rate_among(exact_P, fact_PK, known_P, spec.confidence)
    guessed_P = probe_set.guess_P == probe_set.queries.path_NK[:, 1]
    place, reason = place_of(among, failing, old, spec.works)
    return MixResult(
        step=step,
        mix=probe_set.name,
        accuracy=clustered_rate(exact_P, fact_PK, spec.confidence),
        accuracy_known=among,
        guess=clustered_rate(guessed_P, probe_set.fact_PK, spec.confidence),
        known=known,
        failing=failing,
        place=place,
        reason=reason,
    )


def _forgotten(traces: xr.Dataset, probe_set: ProbeSet, last: int, confidence: float) -> Forgotten:
    part = select(traces, probe_set.name)
    then_P, now_P = (part["exact"].sel(step=step).values for step in (0, last))
    fact_PK = part["fact"].values
    retained_P = _retained(part, probe_set)
    return Forgotten(
        before=clustered_rate(then_P, fact_PK, confidence),
        after=clustered_rate(now_P, fact_PK, confidence),
        change=paired_difference(now_P, then_P, fact_PK, confidence),
        after_retained=rate_among(now_P, fact_PK, retained_P, confidence, fewest=1),
    )


def _retained(part: xr.Dataset, probe_set: ProbeSet) -> BoolArray:
    """(P,) traced probes whose facts are all atoms of the fine-tuning data; the trace may be capped."""
    rows_P = np.searchsorted(probe_set.id_P, part["probe"].values)
    out_P: BoolArray = np.all(probe_set.exposure_PK3[rows_P, :, 0] > 0, axis=1)
    return out_P


def _rate(traces: xr.Dataset, name: str, step: int, confidence: float) -> Rate:
    part = select(traces, name)
    return clustered_rate(part["exact"].sel(step=step).values, part["fact"].values, confidence)


def _event(curves: pl.DataFrame, column: str, level: float, window: int) -> Event:
    return first_stable(curves["step"].to_list(), curves[column].to_list(), level, window)


def _some(probe_set: ProbeSet, setting: Setting, most: int) -> ProbeSet:
    return some_probes(probe_set, setting.encode(probe_set.queries), most)[0]
