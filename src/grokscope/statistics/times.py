"""Times to an event, of runs that are looked at on a grid of checkpoints and end before it may have happened.

A run is looked at only at checkpoints, so an event is known to lie between two of them; a run without it is
censored: it has not happened by its last look, and may later. Both are kept: `Time(after, by, until)`.

Where all runs share the grid, the Kaplan-Meier curve at the later ends is the maximum likelihood estimate for
interval-censored data at every grid point (Turnbull 1976); between grid points nothing is known, and the
curves of the earlier and of the later ends are its bounds.

Interval of the curve: the beta product of Fay, Brittain and Proschan (2013), which without censoring is the
exact interval of Clopper and Pearson, and in 8 runs covers where the usual log-log interval has no value or
falls short (docs/statistics.md has both).

Groups are compared up to a common horizon, the shortest observation of any run in either group, so that
censoring is the same in both and exchanging runs is exact (`exact.py`) although studies give regimes
different numbers of steps.

Shape legend: U runs, T distinct times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from grokscope.errors import InputError
from grokscope.statistics.estimate import Estimate
from grokscope.statistics.exact import Effect, difference

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Time:
    """When an event happened in one run, in steps."""

    after: float
    """Not yet at this step."""
    by: float | None
    """Had happened at this step; None: censored, not seen within the run."""
    until: float
    """Would have been seen up to this step."""


@dataclass(frozen=True, eq=False)
class Survival:
    """The share of runs in which the event has not happened yet, just after every time."""

    step_T: Floats
    """The first is 0."""
    waiting_T: Floats
    low_T: Floats
    high_T: Floats
    at_risk_T: NDArray[np.int64]
    """Runs that were still looked at just before."""
    n: int
    events: int
    median: Estimate
    """The step by which the event has happened in half of the runs; infinite: not within the time that was
    looked at."""
    median_after: float
    """Not before this step (the earlier end of its interval of checkpoints)."""


def kaplan_meier(times: Sequence[Time], confidence: float = 0.95) -> Survival:
    """The Kaplan-Meier curve of the later ends, with pointwise intervals.

    Args:
        times: one per run.
        confidence: level of the interval at every single time.

    Raises:
        InputError: there is no run, or a time is impossible.
    """
    _check(times)
    step_T, waiting_T, low_T, high_T, at_risk_T = _curve(times, "by", confidence)
    early = _curve(times, "after", confidence)
    last = max(time.until for time in times)
    after, low = (min(last, _crossing(early[0], curve_T)) for curve_T in (early[1], early[2]))
    median = Estimate(_crossing(step_T, waiting_T), low, _crossing(step_T, high_T))
    events = sum(time.by is not None for time in times)
    return Survival(step_T, waiting_T, low_T, high_T, at_risk_T, len(times), events, median, after)


def horizon(*groups: Sequence[Time]) -> float:
    """The last step up to which every run of every group was looked at.

    Raises:
        InputError: a group is empty, or a time is impossible.
    """
    for group in groups:
        _check(group)
    return min(time.until for group in groups for time in group)


def restricted(times: Sequence[Time], end: float) -> Floats:
    """(U,) log2 of the step at which the event was seen, or of the horizon `end` if it was not by then; of
    step 1 for a run that was not looked at beyond step 0.

    Their mean is the restricted mean time on a log scale; a difference of 1 is twice as late. Without
    censoring before the horizon, which `horizon` makes sure of, every one of them is known.
    """
    return np.log2(np.maximum(_capped(times, end), 1.0))


def seen(times: Sequence[Time], end: float) -> NDArray[np.bool_]:
    """(U,) whether the event was seen by the horizon."""
    return np.array([time.by is not None and time.by <= end for time in times])


def compare_times(
    first: Sequence[Time],
    second: Sequence[Time],
    *,
    paired: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> Effect:
    """How much later the event comes in the first group, in log2 steps, restricted to the common horizon.

    Where runs of the later group are censored at the horizon the true difference is larger still.

    Raises:
        InputError: as `horizon` and `difference`.
    """
    end = horizon(first, second)
    return difference(
        restricted(first, end),
        restricted(second, end),
        paired=paired,
        confidence=confidence,
        seed=seed,
    )


def log_rank(first: Sequence[Time], second: Sequence[Time], seed: int = 0) -> Effect:
    """The log-rank test, exact by exchanging runs: a comparison of log-rank scores.

    The score of a run is 1 if it had the event, less the events per run at risk of all times up to its own
    (Peto and Peto 1972); the sum over a group is the log-rank statistic's observed minus expected. A negative
    value says that the first group is later.

    Raises:
        InputError: as `horizon` and `difference`.
    """
    end = horizon(first, second)
    at_U = _capped([*first, *second], end)
    event_U = seen([*first, *second], end)
    step_T = np.unique(at_U[event_U])
    happened_T = (at_U[event_U][:, None] == step_T).sum(axis=0)
    at_risk_T = (at_U[:, None] >= step_T).sum(axis=0)
    expected_U = ((at_U[:, None] >= step_T) * (happened_T / at_risk_T)).sum(axis=1)
    score_U = event_U - expected_U
    return difference(score_U[: len(first)], score_U[len(first) :], seed=seed)


def _capped(times: Sequence[Time], end: float) -> Floats:
    """(U,) the step at which the event was seen, at most the horizon."""
    return np.array([end if time.by is None else min(time.by, end) for time in times])


def _curve(
    times: Sequence[Time], end: Literal["after", "by"], confidence: float
) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.int64]]:
    """Times from 0 on, the curve, its interval, and the runs at risk."""
    events = [getattr(time, end) for time in times if time.by is not None]
    censored = [time.after for time in times if time.by is None]
    found = stats.ecdf(stats.CensoredData(uncensored=events, right=censored)).sf
    fresh = int(found.quantiles[0] > 0)
    step_T = np.concatenate([[0.0] * fresh, found.quantiles])
    waiting_T = np.concatenate([[1.0] * fresh, found.probabilities])
    at_U, event_U = np.array([*events, *censored], dtype=np.float64), np.arange(len(times)) < len(events)
    happened_T = (at_U[event_U][:, None] == step_T).sum(axis=0)
    at_risk_T = (at_U[:, None] >= step_T).sum(axis=0)
    left_T = (at_U[:, None] > step_T).sum(axis=0)
    low_T, high_T = _beta_product(happened_T, at_risk_T, left_T, confidence)
    return step_T, waiting_T, low_T, high_T, at_risk_T


def _beta_product(
    happened_T: NDArray[np.int64], at_risk_T: NDArray[np.int64], left_T: NDArray[np.int64], confidence: float
) -> tuple[Floats, Floats]:
    """Pointwise interval: quantiles of a product of beta variables, matched in its first two moments.

    Of n at risk with d events the share that goes on is below Beta(n - d + 1, d); the lower end also takes
    Beta(left, 1) for what may happen before the next look.
    """
    tail, first, second = (1 - confidence) / 2, 1.0, 1.0
    low, high = [], []
    for d, n, left in zip(happened_T.tolist(), at_risk_T.tolist(), left_T.tolist(), strict=True):
        if d:
            first *= (n - d + 1) / (n + 1)
            second *= (n - d + 1) * (n - d + 2) / ((n + 1) * (n + 2))
        high.append(_beta_quantile(1 - tail, first, second))
        rest = (left / (left + 1), left / (left + 2)) if left else (0.0, 0.0)
        low.append(_beta_quantile(tail, first * rest[0], second * rest[1]))
    return np.array(low), np.array(high)


def _beta_quantile(share: float, mean: float, square: float) -> float:
    """Quantile of the beta distribution with this mean and mean square."""
    spread = square - mean**2
    if spread <= 0 or not 0 < mean < 1:
        return mean
    size = mean * (1 - mean) / spread - 1
    return float(stats.beta.ppf(share, mean * size, (1 - mean) * size))


def _crossing(step_T: Floats, value_T: Floats, level: float = 0.5) -> float:
    """First time at which a falling curve is at or below a level; infinite: it never is."""
    below = np.flatnonzero(value_T <= level)
    return float(step_T[below[0]]) if len(below) else np.inf


def _check(times: Sequence[Time]) -> None:
    if not times:
        raise InputError("times: a curve needs the time of 1 run at least; there is none.")
    for time in times:
        ordered = 0 <= time.after <= time.until and (time.by is None or time.after < time.by <= time.until)
        if not ordered:
            raise InputError(f"times: {time} is impossible; allowed is 0 <= after < by <= until.")
