"""A rate over several runs: the mean over runs, with an interval that knows both runs and facts.

Two runs of one regime differ by more than their probes, and the probes of one run share facts. The variance
of the mean over runs is that between the runs' own rates; by construction it contains what the facts of every
run add, as long as every run has a world of its own. Where all runs share one world, their facts are the same
ones, averaging over runs does not average over facts, and the facts' part is added in full. Runs of the same
of several worlds are averaged first: the unit is then the world.

With few runs of nearly equal rates the spread between them is underestimated by luck. It is therefore never
taken to be smaller than what the facts alone would cause, and at exactly 0 or 1 that is all there is. The
interval is Wilson's on the effective number of probes, with Student's t on (units - 1) degrees of freedom.

It is about runs like these: a failure so rare that none of them showed it widens nothing
(docs/statistics.md says what that costs).

Shape legend: U runs, W worlds.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from grokscope.errors import InputError
from grokscope.statistics.clustered import Rate, critical
from grokscope.statistics.estimate import Estimate, wilson

Floats = NDArray[np.float64]


def over_runs(rates: Sequence[Rate], worlds: Sequence[str], confidence: float = 0.95) -> Rate:
    """The mean of one rate over the runs of a group; of a single run its own, which knows its facts alone.

    Args:
        rates: of every run, with its interval clustered by fact (`statistics.clustered.clustered_rate`).
        worlds: fingerprint of every run's world.
        confidence: level of the interval.

    Raises:
        InputError: there is no run, or not one world per run.
    """
    if not rates or len(rates) != len(worlds):
        raise InputError(f"{len(rates)} rates and {len(worlds)} worlds: one of each is needed for every run.")
    if len(rates) == 1:
        return rates[0]
    unit_W, effective_W = _units(rates, worlds)
    shared = len(set(worlds)) == 1
    mean = float(unit_W.mean())
    even = mean * (1 - mean)
    # Of independent worlds the facts' effective numbers add up; of one shared world they do not.
    most = float(effective_W.mean() if shared else len(unit_W) ** 2 / (1 / effective_W).sum())
    variance = float(unit_W.var(ddof=1)) / len(unit_W) + (even / most if shared else 0.0)
    n_effective = min(most, even / variance) if variance > 0 and even > 0 else most
    low, high = wilson(mean, n_effective, critical(len(unit_W), confidence))
    total = sum(one.n for one in rates)
    return Rate(mean, float(low), float(high), total, (len(unit_W),), n_effective)


def trials(rate: float, n: int, confidence: float = 0.95) -> Estimate:
    """A published rate with the interval that `n` independent probes imply: Wilson's, the least it can be.

    Raises:
        InputError: the rate is not between 0 and 1, or n is below 1.
    """
    if not 0 <= rate <= 1 or n < 1:
        raise InputError(f"rate = {rate}, n = {n}: allowed are a rate from 0 to 1 and at least 1 probe.")
    low, high = wilson(rate, n, float(special.ndtri((1 + confidence) / 2)))
    return Estimate(rate, float(low), float(high))


def _units(rates: Sequence[Rate], worlds: Sequence[str]) -> tuple[Floats, Floats]:
    """Value and effective probes of every unit: a run, or the mean of the runs of one of several worlds."""
    values_U = np.array([one.value for one in rates])
    effective_U = np.array([one.n_effective for one in rates])
    names = list(dict.fromkeys(worlds))
    if len(names) in (1, len(rates)):
        return values_U, effective_U
    rows = [[u for u, world in enumerate(worlds) if world == name] for name in names]
    return np.array([values_U[row].mean() for row in rows]), np.array(
        [effective_U[row].mean() for row in rows]
    )
