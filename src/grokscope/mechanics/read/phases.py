"""Phases: when things happened in a training, as events on stable windows.

An event happens at the first of `window` consecutive checkpoints that are all at or above a threshold. One
that did not happen is censored at the last checkpoint: it may have happened later, had training gone on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import xarray as xr

from grokscope.errors import InputError
from grokscope.mechanics.read.atoms import atoms_known
from grokscope.mechanics.read.layout import ranks, select
from grokscope.mechanics.read.lens import ANSWER, CONTROL
from grokscope.mechanics.read.rates import anywhere, in_cell, latents_of, registers
from grokscope.mechanics.spec import DiagnosisSpec
from grokscope.world.probes import ProbeSet

SATURATION = ("train_inferred", "id_atomic", "ood_atomic")
"""The sets that are all trained on: a model that has saturated has learned what it was shown, atoms
included.
"""


@dataclass(frozen=True)
class Event:
    """The step at which a level was reached to stay, or the last step if it was not."""

    step: int | None
    """First checkpoint of the stable window; None: not reached."""
    censored_at: int | None
    """Last checkpoint of a run that did not reach it; None: reached."""
    threshold: float
    """The level."""

    @property
    def reached(self) -> bool:
        """Whether it happened."""
        return self.step is not None


@dataclass(frozen=True)
class Phases:
    """Events by name, and the curves that they were read from.

    Events, thresholds in brackets (fields of `DiagnosisSpec`); SET is a two-hop probe set, LATENT a bridge:

    - `saturation`: train_inferred, id_atomic and ood_atomic together [saturation]; `saturation.SET` each
      alone
    - `generalisation.SET`, `half.SET`: exact accuracy [generalisation], [half]
    - `generalisation_atoms_known.SET`, `half_atoms_known.SET`: the same among queries whose atoms are all
      known
    - `LATENT.SET`, `half_LATENT.SET`: decoded in one cell; `LATENT_before_last.SET`: in one before the last
      stage
    - `target_found.SET`: the answer decoded at any stage and any position. Not accuracy.

    Columns of `curves` beside `step`: `exact.SET` (from the metrics); `atoms_known.SET` (share of queries
    whose atoms are all known), `exact_atoms_known.SET` (null below `known_minimum` such queries); and for
    every VARIABLE (latents and answer) `cell.VARIABLE.SET`, `cell_before_last.VARIABLE.SET`,
    `anywhere.VARIABLE.SET`, each with its chance level under `chance_...`; where there are registers also
    `tokens.VARIABLE.SET`, the paper's rate, anywhere but in these.
    """

    events: dict[str, Event]
    curves: pl.DataFrame


def phases(
    metrics: pl.DataFrame, traces: xr.Dataset, probes: Mapping[str, ProbeSet], spec: DiagnosisSpec
) -> Phases:
    """Read the events of a run from its metrics and traces.

    Args:
        metrics: columns `step` and `accuracy.<set>`, one row per checkpoint.
        traces: of the same run, with `step`.
        probes: the run's probe sets by name; empty ones are left out.
        spec: thresholds and the window.

    Raises:
        InputError: no metrics, no training set among the probes, or a set without a column.
    """
    curves = curves_of(metrics, traces, probes, spec)
    used = [name for name in SATURATION if f"exact.{name}" in curves.columns]
    if not used:
        raise InputError(f"probes: saturation needs at least one of {', '.join(SATURATION)}; there is none.")
    together = curves.select("step", both=pl.min_horizontal(_all_or_none([f"exact.{name}" for name in used])))
    events = {"saturation": _event(together, "both", spec.saturation, spec)}
    for name in used:
        events[f"saturation.{name}"] = _event(curves, f"exact.{name}", spec.saturation, spec)
    for name in _composed(probes):
        levels = (("generalisation", spec.generalisation), ("half", spec.half))
        for word, level in levels:
            events[f"{word}.{name}"] = _event(curves, f"exact.{name}", level, spec)
            events[f"{word}_atoms_known.{name}"] = _event(curves, f"exact_atoms_known.{name}", level, spec)
        for latent in [latent for latent in probes[name].queries.latents() if latent != ANSWER]:
            events[f"{latent}.{name}"] = _event(curves, f"cell.{latent}.{name}", spec.generalisation, spec)
            events[f"half_{latent}.{name}"] = _event(curves, f"cell.{latent}.{name}", spec.half, spec)
            early = f"cell_before_last.{latent}.{name}"
            events[f"{latent}_before_last.{name}"] = _event(curves, early, spec.generalisation, spec)
        found = f"anywhere.{ANSWER}.{name}"
        events[f"target_found.{name}"] = _event(curves, found, spec.generalisation, spec)
    return Phases(events, curves)


def first_stable(
    steps: Sequence[int], values: Sequence[float | None], threshold: float, window: int
) -> Event:
    """The first of `window` consecutive checkpoints at or above `threshold`; None and NaN are below
    everything.

    Raises:
        InputError: there is no checkpoint.
    """
    if not len(steps):
        raise InputError("steps: an event needs at least 1 checkpoint; there is none.")
    above = [value is not None and value >= threshold for value in values]
    for start in range(len(above) - window + 1):
        if all(above[start : start + window]):
            return Event(int(steps[start]), None, threshold)
    return Event(None, int(steps[-1]), threshold)


def curves_of(
    metrics: pl.DataFrame, traces: xr.Dataset, probes: Mapping[str, ProbeSet], spec: DiagnosisSpec
) -> pl.DataFrame:
    """Everything the events are read from, one row per checkpoint; see `Phases`."""
    present = [name for name, probe_set in probes.items() if len(probe_set)]
    missing = [name for name in present if f"accuracy.{name}" not in metrics.columns]
    if missing or not metrics.height:
        raise InputError(f"metrics: {metrics.height} rows, no accuracy of {', '.join(missing) or 'any set'}.")
    exact = {f"exact.{name}": pl.col(f"accuracy.{name}") for name in present}
    accuracy = metrics.sort("step").select(pl.col("step").cast(pl.Int64), **exact)
    columns: dict[str, Sequence[float | None]] = {}
    for name in _composed(probes):
        columns |= _atom_curves(traces, name, spec.known_minimum)
        columns |= _decoding_curves(traces, name)
    traced = pl.DataFrame({"step": traces["step"].values.astype(np.int64), **columns}).with_columns(
        pl.all().fill_nan(None)
    )
    return accuracy.join(traced, on="step", how="left", maintain_order="left")


def _atom_curves(traces: xr.Dataset, name: str, fewest: int) -> dict[str, Sequence[float | None]]:
    """Share of queries with known atoms, and the accuracy among them."""
    known_NP = atoms_known(traces, name).known_NP
    rows = traces["probe_set"].values == name
    exact_NP = traces["exact"].values[:, rows]
    among = [
        float(exact_P[known_P].mean()) if known_P.sum() >= fewest else None
        for exact_P, known_P in zip(exact_NP, known_NP, strict=True)
    ]
    return {f"atoms_known.{name}": known_NP.mean(axis=1).tolist(), f"exact_atoms_known.{name}": among}


def _decoding_curves(traces: xr.Dataset, name: str) -> dict[str, Sequence[float | None]]:
    """The rates of every variable of one set, and their chance levels."""
    part = select(ranks(traces), name).load()
    out: dict[str, Sequence[float | None]] = {}
    for variable in latents_of(part):
        for kind, before_last in (("cell", False), ("cell_before_last", True)):
            cells = in_cell(part, variable, before_last)
            nothing = [None] * part.sizes["step"]
            out[f"{kind}.{variable}.{name}"] = (
                nothing if cells is None else cells.hit_NP.mean(axis=1).tolist()
            )
            out[f"chance_{kind}.{variable}.{name}"] = (
                nothing if cells is None else cells.control_NP.mean(axis=1).tolist()
            )
        if registers(part):
            for kind, whose in (("tokens", variable), ("chance_tokens", CONTROL + variable)):
                hit_NP = anywhere(part, whose, tokens_only=True)
                out[f"{kind}.{variable}.{name}"] = hit_NP.mean(axis=1).tolist()
        out[f"anywhere.{variable}.{name}"] = anywhere(part, variable).mean(axis=1).tolist()
        out[f"chance_anywhere.{variable}.{name}"] = anywhere(part, CONTROL + variable).mean(axis=1).tolist()
    return out


def _composed(probes: Mapping[str, ProbeSet]) -> list[str]:
    """Names of the sets with more than one hop that have probes."""
    return [name for name, probe_set in probes.items() if probe_set.queries.hops > 1 and len(probe_set)]


def _event(curves: pl.DataFrame, column: str, threshold: float, spec: DiagnosisSpec) -> Event:
    return first_stable(curves["step"].to_list(), curves[column].to_list(), threshold, spec.window)


def _all_or_none(columns: list[str]) -> list[pl.Expr]:
    """Columns in which a missing value of one counts as 0, so that "all of them" never means "those we
    have".
    """
    return [pl.col(column).fill_null(0.0).fill_nan(0.0) for column in columns]
