"""Exact tests and intervals for a difference between a few runs: who would have had to change places?

Under the hypothesis that groups differ by a shift d, the runs of the first group less d could as well have
stood in the second. A test counts in how many of all exchanges the difference of means is at least as large;
the interval holds every shift that this test does not reject, so both always agree (Garthwaite 1996, and for
pairs the typical values of Hartigan 1969). An exchange of k runs A of the first group for k runs B of the
second gives a difference at least as large exactly for d >= mean(A) - mean(B), and flipping the signs of some
pairs exactly for d >= their mean difference: these numbers, sorted, are both test and interval.

Nothing but exchangeability is assumed: no normal distribution, no large sample. Up to `MOST` exchanges (all
groups of 10 and smaller; 17 pairs) every one is looked at; beyond, `DRAWN` are drawn, and the observed one
counts among them (Phipson and Smyth 2010), so that the error rate holds as well.

`scipy.stats.permutation_test` gives the same p values (tested) but no interval.

Shape legend: U runs of the first group, V of the second, X exchanges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grokscope.errors import InputError
from grokscope.seeds import generator
from grokscope.statistics.estimate import Estimate

MOST = 200_000
"""Exchanges that are all looked at; there are 184,756 between two groups of 10."""
DRAWN = 19_999
"""Exchanges that are drawn where there are more."""
FEWEST_RUNS = 6
"""Runs per group below which nothing is claimed: six pairs that all agree have a p value of 0.031, five of
0.063."""
Answer: TypeAlias = Literal["equivalent", "different", "cannot tell"]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Effect(Estimate):
    """A difference of means, with the exact interval and test: mean of the first group minus mean of the
    second, or mean difference of pairs. Unbounded where there are too few runs for an interval at this
    level."""

    p_value: float
    """Two-sided, against no difference."""
    smallest_p: float
    """The smallest two-sided p value that so many runs can give."""
    n: tuple[int, int]
    """Runs."""
    paired: bool
    exact: bool
    """Every exchange was looked at."""
    confidence: float


@dataclass(frozen=True)
class Equivalence(Effect):
    """Two one-sided tests (Schuirmann 1987) of a difference against a margin on either side. The interval is
    at level 1 - 2 alpha: equivalent exactly where it lies inside the margin. The p value is the larger of the
    two: small where the difference is within the margin."""

    margin: float
    p_beyond: float
    """Two-sided, against a difference within the margin: small where it is beyond."""
    answer: Answer
    """Different: the interval at level 1 - alpha lies beyond the margin."""


def difference(
    first_U: ArrayLike,
    second_V: ArrayLike,
    *,
    paired: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> Effect:
    """The difference of means of two groups of runs.

    Args:
        first_U, second_V: one number per run; paired: run u of both belongs together (one world).
        paired: flip signs within pairs instead of exchanging between groups.
        confidence: level of the interval.
        seed: draws exchanges where there are too many.

    Raises:
        InputError: a group is empty or not finite, pairs do not match, or the level is impossible.
    """
    crossing = _Crossing(first_U, second_V, paired, seed)
    return crossing.effect(_level(confidence))


def equivalence(
    first_U: ArrayLike,
    second_V: ArrayLike,
    margin: float,
    *,
    paired: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> Equivalence:
    """Whether two groups of runs differ by less than a margin that was fixed before they were looked at.

    Args:
        first_U, second_V, paired, seed: as for `difference`.
        margin: the largest difference that counts as none, in units of the numbers.
        confidence: 1 - alpha; each of the two one-sided tests is at alpha.

    Raises:
        InputError: as `difference`, or the margin is not positive.
    """
    if not margin > 0:
        raise InputError(f"margin = {margin}: allowed is any number above 0.")
    crossing, alpha = _Crossing(first_U, second_V, paired, seed), 1 - _level(confidence)
    p_value = max(crossing.p_above(-margin), crossing.p_below(margin))
    p_beyond = min(1.0, 2 * min(crossing.p_above(margin), crossing.p_below(-margin)))
    answer: Answer = "equivalent" if p_value <= alpha else "different" if p_beyond <= alpha else "cannot tell"
    effect = vars(crossing.effect(1 - 2 * alpha)) | {"p_value": p_value}
    return Equivalence(**effect, margin=margin, p_beyond=p_beyond, answer=answer)


def location(value_U: ArrayLike, against: float = 0.0, *, confidence: float = 0.95, seed: int = 0) -> Effect:
    """The mean of one group of runs less a fixed number, by flipping signs about it (symmetry is assumed).

    Raises:
        InputError: as `difference`.
    """
    values_U = np.asarray(value_U, dtype=np.float64)
    return difference(
        values_U, np.full(values_U.shape, against), paired=True, confidence=confidence, seed=seed
    )


class _Crossing:
    """The shifts at which exchanges overtake the observed difference."""

    def __init__(self, first_U: ArrayLike, second_V: ArrayLike, paired: bool, seed: int) -> None:
        one, two = _checked(first_U, second_V, paired)
        self.n, self.paired = (len(one), len(two)), paired
        if paired:
            chosen_XU, self.exact = _subsets(len(one), seed)
            at_X = chosen_XU @ (one - two) / chosen_XU.sum(axis=1)
            self.value = float((one - two).mean())
        else:
            moved_XN, self.exact = _exchanges(len(one), len(two), seed)
            size_X = moved_XN[:, : len(one)].sum(axis=1)
            at_X = (moved_XN[:, : len(one)] @ one - moved_XN[:, len(one) :] @ two) / size_X
            self.value = float(one.mean() - two.mean())
        self.at_X: Floats = np.sort(at_X)
        self.all = len(at_X) + 1
        # Means of equal numbers in another order differ in their last bits; such exchanges are ties.
        self.tie = 1e-12 * max(float(np.abs(one).max()), float(np.abs(two).max()), 1e-300)

    def p_above(self, shift: float) -> float:
        """One-sided p value of "the difference is at most `shift`"."""
        return float(1 + np.searchsorted(self.at_X, shift + self.tie, side="right")) / self.all

    def p_below(self, shift: float) -> float:
        """One-sided p value of "the difference is at least `shift`"."""
        return float(self.all - np.searchsorted(self.at_X, shift - self.tie, side="left")) / self.all

    def effect(self, confidence: float) -> Effect:
        """The interval holds the shifts of which neither one-sided p value is at most half of 1 - level."""
        out = int(np.floor((1 - confidence) / 2 * self.all + 1e-9))
        low, high = (float(self.at_X[out - 1]), float(self.at_X[-out])) if out else (-np.inf, np.inf)
        p_value = min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))
        smallest = min(1.0, 2 / self.all)
        return Effect(self.value, low, high, p_value, smallest, self.n, self.paired, self.exact, confidence)


@lru_cache(maxsize=16)
def _exchanges(first: int, second: int, seed: int) -> tuple[Floats, bool]:
    """(X, U + V) 1 for the runs that change places, every exchange but the empty one; and whether all are."""
    total = first + second
    if comb(total, first) <= MOST:
        chosen_XU = np.array(list(combinations(range(total), first)), dtype=np.int64)
        exact = True
    else:
        rng = generator("exchanges", seed)
        order_XN = rng.permuted(np.tile(np.arange(total), (DRAWN, 1)), axis=1)
        chosen_XU, exact = order_XN[:, :first], False
    moved_XN = np.zeros((len(chosen_XU), total))
    np.put_along_axis(moved_XN, chosen_XU, 1.0, axis=1)
    moved_XN[:, :first] = 1 - moved_XN[:, :first]
    return moved_XN[moved_XN.any(axis=1)], exact


@lru_cache(maxsize=16)
def _subsets(size: int, seed: int) -> tuple[Floats, bool]:
    """(X, U) 1 for the pairs whose sign is flipped, every subset but the empty one; and whether all are."""
    if 2**size <= MOST:
        number_X = np.arange(1, 2**size)
        return ((number_X[:, None] >> np.arange(size)) & 1).astype(np.float64), True
    drawn_XU = generator("sign flips", seed).integers(0, 2, (DRAWN, size)).astype(np.float64)
    return drawn_XU[drawn_XU.any(axis=1)], False


def _level(confidence: float) -> float:
    if not 0.5 < confidence < 1:
        raise InputError(f"confidence = {confidence}: it must lie between 0.5 and 1.")
    return confidence


def _checked(first_U: ArrayLike, second_V: ArrayLike, paired: bool) -> tuple[Floats, Floats]:
    one, two = np.asarray(first_U, dtype=np.float64), np.asarray(second_V, dtype=np.float64)
    for name, group in (("first_U", one), ("second_V", two)):
        if group.ndim != 1 or not len(group) or not np.isfinite(group).all():
            raise InputError(
                f"{name} = {group.tolist()}: it takes one finite number per run, of 1 run at least."
            )
    if paired and len(one) != len(two):
        raise InputError(
            f"groups of {len(one)} and {len(two)} runs: pairs need as many of one as of the other."
        )
    return one, two


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's (1979) adjusted p values by name: calling those at most alpha true errs, in any of them, in at
    most alpha of all studies. The k-th smallest of n is multiplied by n - k + 1, and none is below a smaller
    one's.
    """
    names = sorted(p_values, key=lambda name: p_values[name])
    factor = np.arange(len(names), 0, -1)
    adjusted = np.maximum.accumulate(np.array([p_values[name] for name in names]) * factor)
    found = dict(zip(names, np.minimum(adjusted, 1.0).tolist(), strict=True))
    return {name: found[name] for name in p_values}
