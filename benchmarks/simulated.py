"""Studies whose truth is known: runs in pairs of one world, facts that fail whole groups of probes, and times
to an event on a grid of checkpoints that a third of the runs never reach.

Shape legend: U runs, P probes, K hops, F facts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special

from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.statistics.times import Time

FACTS, PROBES = 130, 250
"""Of a run, per hop: as in the pocket study."""
FACT_SPREAD = 1.0
"""Standard deviation of a fact's effect on the log odds of its probes."""
CHECKPOINTS = 5
"""Per doubling of the step, as in the pocket study."""
TIME_SPREAD, WORLD_SPREAD = 0.35, 0.25
"""Standard deviations of log2 time between runs of one world, and between worlds."""
CENSORED = 0.3
"""Share of all runs that the end of observation leaves without the event."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """How accuracies of a group of runs come about: log odds = middle + run + fact of hop 1 + of hop 2."""

    middle: float
    run_spread: float
    failing: float = 0.0
    """Share of runs that fail whatever the rest: their log odds are 6 less."""

    @property
    def truth(self) -> float:
        """The mean accuracy over all runs, facts and probes there could be."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        spread = np.sqrt(self.run_spread**2 + 2 * FACT_SPREAD**2)
        rate_2 = [float((weights / weights.sum()) @ _logistic(m + spread * nodes)) for m in self._middles()]
        return (1 - self.failing) * rate_2[0] + self.failing * rate_2[1]

    def _middles(self) -> tuple[float, float]:
        return self.middle, self.middle - 6.0

    def draw(self, rng: np.random.Generator, runs: int, shared: bool = False) -> list[Rate]:
        """The measured rates of a group; `shared`: all runs have the same facts and probes."""
        return [clustered_rate(right_P, asked) for right_P, asked in self._answers(rng, runs, shared)]

    def means(self, rng: np.random.Generator, runs: int) -> list[float]:
        """The accuracies alone."""
        return [float(right_P.mean()) for right_P, _ in self._answers(rng, runs, False)]

    def _answers(
        self, rng: np.random.Generator, runs: int, shared: bool
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.int64]]]:
        facts, asked = _facts(rng)
        for _ in range(runs):
            if not shared:
                facts, asked = _facts(rng)
            middle = self._middles()[int(rng.random() < self.failing)]
            odds_P = middle + self.run_spread * rng.normal() + facts[asked].sum(axis=1)
            yield rng.random(PROBES) < _logistic(odds_P), asked


@dataclass(frozen=True)
class Course:
    """Times to an event: log2 step = middle + world + run, seen on the grid, up to `until`."""

    shift: float
    """How much later the first group is, in log2 steps."""
    middle: float = 11.5

    @cached_property
    def until(self) -> float:
        """The end of observation that leaves `CENSORED` of both groups together without the event."""
        grid = np.linspace(self.middle - 3, self.middle + 4, 7001)
        late = 1 - (_normal(grid - self.middle) + _normal(grid - self.middle - self.shift)) / 2
        return float(2 ** grid[np.flatnonzero(late <= CENSORED)[0]])

    def draw(self, rng: np.random.Generator, runs: int) -> tuple[list[Time], list[Time]]:
        """A group that is `shift` later and one that is not; run u of both has the same world."""
        world_U = self.middle + WORLD_SPREAD * rng.normal(size=runs)
        first_U, second_U = (
            2 ** (world_U + shift + TIME_SPREAD * rng.normal(size=runs)) for shift in (self.shift, 0.0)
        )
        return [seen(step, self.until) for step in first_U], [seen(step, self.until) for step in second_U]

    def waiting(self, step: float, shift: float) -> float:
        """The true share of runs without the event at a step."""
        return float(1 - _normal(np.log2(step) - self.middle - shift))

    @cached_property
    def restricted(self) -> float:
        """The true difference of restricted mean log2 times, as seen on the grid."""
        steps = grid_of(self.until)
        means = []
        for shift in (self.shift, 0.0):
            share_T = -np.diff([1.0, *(self.waiting(step, shift) for step in steps)])
            end = np.log2(steps[-1])
            means.append(float(share_T @ np.log2(steps)) + self.waiting(steps[-1], shift) * end)
        return means[0] - means[1]


def grid_of(until: float) -> Floats:
    """Checkpoints, the last of them at `until`: what comes after it is not seen, whatever the grid."""
    return np.asarray(until * 2 ** (-np.arange(8 * CHECKPOINTS)[::-1] / CHECKPOINTS))


def seen(step: float, until: float) -> Time:
    """What checkpoints say of an event at `step`."""
    grid = grid_of(until)
    by = int(np.searchsorted(grid, step))
    after = float(grid[by - 1]) if by else 0.0
    return Time(after, float(grid[by]) if by < len(grid) else None, float(grid[-1]))


def _facts(rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Effects of the facts, and (P, K) which ones every probe rests on; the hops have facts of their own."""
    effects = FACT_SPREAD * rng.normal(size=2 * FACTS)
    return effects, rng.integers(0, FACTS, (PROBES, 2)) + np.array([0, FACTS])


def _logistic(odds: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-odds)))


def _normal(away: Floats) -> Floats:
    """The distribution function of log2 time about its middle."""
    return np.asarray(special.ndtr(away / np.hypot(TIME_SPREAD, WORLD_SPREAD)))
