"""The cells of a sweep: what became of their runs, what a law says of them, and of cells that were never run.

Predictions are made of the points that a study's sequence would add, written down, and scored later on the
runs of a study that has them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from grokscope.errors import InputError
from grokscope.findings.law import (
    DESCRIBED,
    DRAWS,
    FATES,
    LAWS,
    Fate,
    Floats,
    Law,
    describe,
    fate_of,
    fit_both,
)
from grokscope.findings.measured import measure
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.runs.study import Study
from grokscope.spec import Stored
from grokscope.statistics.times import Time

REPLICATES = 200
"""Bootstrap samples of points, for the interval of a coefficient."""
AVERAGED = 25
"""Of these, the laws whose predictions are averaged."""
LEAST = 1e-3
"""A chance below this counts as this in a log score: one run cannot refute a law for ever."""


@dataclass(frozen=True, eq=False)
class Ran:
    """A finished run of a cell."""

    cell: str
    regime: str
    """The study's own, of which the cell is a point."""
    point: str
    """Of the sweep. Its cells share what varies, so that they are drawn, and left out, together."""
    seed: int
    described: Mapping[str, float]
    saturation: Time
    generalisation: Time
    budget: float
    """Steps it might have taken."""
    delay: float
    fate: Fate
    verdict: str | None
    """By interventions; None: nobody has intervened."""
    share: float | None = None
    """Of the right OOD answers, through the bridge; None: cannot tell."""
    bridge: str | None = None
    """Visible, in registers, dark or idle; None: cannot tell."""


def ran(study: Study) -> list[Ran]:
    """The finished runs of a study.

    Raises:
        InputError: there are none, or a file is damaged.
    """
    found, swept = [], study.spec.swept()
    for name, run in study.runs.items():
        diagnosis = run.diagnosis
        if diagnosis is None or not run.finished:
            continue
        one = measure(name, run, diagnosis)
        first, second = one.time("saturation"), one.time(f"generalisation.{VERDICT_SET}")
        delay = diagnosis.spec.delay
        judged = one.verdict.of(VERDICT_SET) if one.verdict else None
        found.append(
            Ran(
                cell=one.regime,
                regime=swept[one.regime][0],
                point=str(swept[one.regime][1]),
                seed=one.seed,
                described=describe(run.spec),
                saturation=first,
                generalisation=second,
                budget=run.spec.training.steps,
                delay=delay,
                fate=fate_of(first, second, delay),
                verdict=one.verdict.verdict if one.verdict else None,
                share=judged.share.value if judged and judged.share else None,
                bridge=judged.bridge if judged else None,
            )
        )
    if not found:
        raise InputError(f"{study.directory}: no run of study {study.spec.name} is finished yet.")
    return found


def law_of(runs: Sequence[Ran], names: Sequence[str] = DESCRIBED) -> Law:
    """The law of some runs.

    Raises:
        InputError: one of the events never happened.
    """
    saturations, generalisations = [one.saturation for one in runs], [one.generalisation for one in runs]
    return fit_both([one.described for one in runs], saturations, generalisations, names)


def table(runs: Sequence[Ran]) -> pl.DataFrame:
    """A row per run: cell, regime, seed, what describes it (`law.describe`), fate, causal verdict, share of
    right OOD answers through the bridge, where the bridge is read, and times (null: not within its steps)."""
    return pl.from_dicts(
        [
            {
                "cell": one.cell, "regime": one.regime, "seed": one.seed, **one.described, "fate": one.fate,
                "verdict": one.verdict, "share": one.share, "bridge": one.bridge,
                "saturation": one.saturation.by, "generalisation": one.generalisation.by,
                "budget": one.budget,
            }
            for one in runs
        ],
        infer_schema_length=None,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Resampled:
    """A law, and those of bootstrap samples of the points it was fitted on."""

    law: Law
    again: tuple[Law, ...]

    def coefficients(self) -> pl.DataFrame:
        """Per time and predictor the factor of time when it doubles (skew: rises by one), with its 95 %
        interval."""
        rows = []
        for time in ("saturation", "generalisation"):
            for name in getattr(self.law, time).names:
                factors = [getattr(law, time).per_doubling(name) for law in self.again]
                low, high = np.quantile(factors, [0.025, 0.975])
                value = getattr(self.law, time).per_doubling(name)
                rows.append({"time": time, "predictor": name, "factor": value, "low": low, "high": high})
        return pl.from_dicts(rows)


def resampled(runs: Sequence[Ran], replicates: int = REPLICATES) -> Resampled:
    """The law of some runs, and its bootstrap.

    Args:
        runs: of several points. replicates: how many samples of the points.

    Raises:
        InputError: nothing varies, or one of the events never happened.
    """
    point = law_of(runs)
    if not point.saturation.names:
        raise InputError(f"what could decide is the same in all {len(runs)} runs: a law needs a sweep.")
    points = sorted({one.point for one in runs})
    at_point = [[one for one in runs if one.point == point] for point in points]
    rng = np.random.default_rng(0)
    laws: list[Law] = []
    while len(laws) < replicates:
        drawn = [one for place in rng.integers(len(points), size=len(points)) for one in at_point[place]]
        try:
            laws.append(law_of(drawn))
        except InputError:  # of a draw in which something never happens
            continue
    return Resampled(point, tuple(laws))


@dataclass(frozen=True)
class Predictions(Stored):
    """What laws say of cells that were not run."""

    CALLED: ClassVar[str] = "file of predictions"

    study: str
    fitted_on: int
    """Runs."""
    cells: dict[str, dict[str, dict[Fate, Annotated[float, Field(ge=0, le=1)]]]]
    """By cell and law, the chance of every fate."""


def fitted(runs: Sequence[Ran]) -> dict[str, tuple[Law, ...]]:
    """The laws of some runs by name; of several, the predictions are averaged.

    "all, averaged" is the law of all predictors as it comes out of samples of the points: where they disagree
    it is unsure, and the one law that fits best is not.

    Raises:
        InputError: one of the events never happened.
    """
    laws = {name: (law_of(runs, predictors),) for name, predictors in LAWS.items()}
    return laws | {"all, averaged": resampled(runs, AVERAGED).again}


def chances(
    laws: Sequence[Law], described: Mapping[str, float], budget: float, delay: float
) -> dict[Fate, float]:
    """What laws say of a run on average; the arguments are those of `Law.fates`."""
    draws = DRAWS // len(laws)
    return named(np.mean([law.fates(described, budget, delay, draws) for law in laws], axis=0))


def named(chance_F: Floats) -> dict[Fate, float]:
    """Chances of fates by their name."""
    return dict(zip(FATES, chance_F.tolist(), strict=True))


def foretell(runs: Sequence[Ran], study: Study, points: int) -> Predictions:
    """What every law says of the cells that a longer sequence of points would add.

    Args:
        runs: what the laws are fitted on. study: its sweep must be a sequence (sobol). points: how many more.

    Raises:
        InputError: the study has no such sweep, or there is too little to fit.
    """
    sweep = study.spec.sweep
    if sweep is None or sweep.points is None:
        raise InputError(f"study {study.spec.name} has no sweep by 'sobol', so no point comes next.")
    more = study.spec.replace(sweep={**sweep.tree(), "points": sweep.points + points})
    specs = {spec.regime.name: spec for spec in reversed(more.expand().values())}
    new = [cell for cell in more.regime_names if cell not in study.spec.regime_names]
    laws = fitted(runs)
    delay = runs[0].delay
    cells = {}
    for cell in new:
        described, budget = describe(specs[cell]), specs[cell].training.steps
        cells[cell] = {law: chances(some, described, budget, delay) for law, some in laws.items()}
    return Predictions(study.spec.name, len(runs), cells)


def score(predictions: Predictions, runs: Sequence[Ran]) -> pl.DataFrame:
    """How good predictions were, law by law.

    Args:
        predictions: of some cells. runs: of these cells; others do not count.

    Returns:
        Columns law, runs, cells, log_score (mean log chance of what happened; higher is better), right
        (share of runs whose likeliest fate it was).

    Raises:
        InputError: no run is of a cell that was predicted.
    """
    cells = predictions.cells
    judged = [one for one in runs if one.cell in cells]
    if not judged:
        raise InputError("no finished run is of a cell that was predicted.")
    rows = []
    for law in dict.fromkeys(law for one in judged for law in cells[one.cell]):
        chance_UF = np.array(
            [[cells[one.cell].get(law, {}).get(fate, 0.0) for fate in FATES] for one in judged]
        )
        was_U = np.array([FATES.index(one.fate) for one in judged])
        got_U = np.maximum(chance_UF[np.arange(len(judged)), was_U], LEAST)
        rows.append({
            "law": law, "runs": len(judged), "cells": len({one.cell for one in judged}),
            "log_score": float(np.log(got_U).mean()),
            "right": float((chance_UF.argmax(axis=1) == was_U).mean()),
        })  # fmt: skip
    return pl.from_dicts(rows)


def left_out(runs: Sequence[Ran]) -> pl.DataFrame:
    """`score` of predictions of the cells of every point by all other points.

    Raises:
        InputError: there is one point alone, or nothing happened in the others.
    """
    predictions = {}
    for point in dict.fromkeys(one.point for one in runs):
        own = {one.cell: one for one in runs if one.point == point}
        rest = [one for one in runs if one.point != point]
        laws = fitted(rest)
        for cell, one in own.items():
            predictions[cell] = {
                law: chances(some, one.described, one.budget, one.delay) for law, some in laws.items()
            }
    return score(Predictions("", len(runs), predictions), runs)
