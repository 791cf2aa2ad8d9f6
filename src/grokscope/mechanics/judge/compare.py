"""Are two paths the same? Distance between regimes minus distance between seeds of one regime, against a
margin.

Two measures per kind of channel (`profile.py`), because neither sees everything:

- `profile`: the Jensen-Shannon divergence of what a cell says over the probes, averaged over cells. Blind to
  WHICH queries are answered how: two memories of different halves look alike.
- `queries`: the share of (probe, cell) in which two runs say different things of the same probe. Needs the
  same probes.

For both, with runs a of one regime and b of the other,

    distance = mean d(a, b) - 1/2 (mean d(a, a') + mean d(b, b')),   a != a', b != b'

(the energy distance of Szekely and Rizzo 2013, without pairs of a run with itself). A regime of one run has
no second seed; d(a, a) stands in, and the answer is then about these runs alone.

A divergence of samples is never zero by itself. So d(a, b) is always taken between probes that share no
fact: the facts are halved, a is read on one half and b on the other, and d(a, a) is the same run on both
halves. All terms have the same noise, which falls out of the difference. Halved `HALVINGS` times.

Interval: multiplier bootstrap (Rao and Zhao 1992), clustered by fact and by run. In every replicate a fact
counts a little more or less (1 +- `SWING`), a probe by the product over its facts, and, from 3 runs of a
regime on, so does a run; the spread of the distance, divided by `SWING`, is its standard error. Drawing facts
with replacement instead thins the probes of two facts to a quarter, and a distance near 0, which falls with
1 / n, then spreads several times too widely. A bootstrap cannot see what no probe showed: the interval is at
least as wide as what a share of the queries would change that is too small to be seen once among the
effective number of probes.

Shape legend: P probes, K hops, F facts, U runs, H half pairs, B replicates, X cells and arms, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from grokscope.errors import InputError
from grokscope.mechanics.judge.profile import Alignment, Kind, Profile, align, divergence, one_hot
from grokscope.mechanics.judge.yardstick import SHARE, Measure, yardstick
from grokscope.seeds import generator
from grokscope.statistics.clustered import clustered_rate
from grokscope.statistics.estimate import PROSE, Estimate, text
from grokscope.statistics.exact import Answer

HALVINGS = 4
"""Ways to halve the facts: each uses half of the two-hop probes; four use nearly all."""
FEWEST_FOR_SPREAD = 3
"""With fewer runs of a regime the spread between them cannot be bootstrapped."""
SWING = 0.25
"""Small, so that the distance is nearly linear in the weights; any small value gives the same error."""
AT_ONCE = 20
"""Replicates held in memory together."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Distance:
    """One measure of one kind of channel."""

    kind: Kind
    measure: Measure
    estimate: Estimate | None
    """0: as near as seeds of one regime. Can be negative by noise. None: no cell has probes of all runs."""
    margin: float
    answer: Answer
    """Different: the interval lies above the margin. Equivalent: below it."""

    @property
    def known(self) -> Estimate | None:
        """The estimate, where there were enough probes for one with an interval."""
        one = self.estimate
        return one if one is not None and np.isfinite([one.low, one.high]).all() else None


@dataclass(frozen=True)
class Comparison:
    """Whether two groups of runs take the same path."""

    answer: Answer
    """Different if any distance is; equivalent if all are."""
    reason: str
    distances: tuple[Distance, ...]
    n: int
    """Probes (of the smaller set)."""
    runs: tuple[int, int]
    scope: Literal["these runs", "regimes"]
    """Whether the runs' own spread is in the interval."""


def compare(
    first: Sequence[Profile],
    second: Sequence[Profile],
    how: Alignment = "stage",
    confidence: float = 0.95,
    share: float = SHARE,
    replicates: int = 200,
    seed: int = 0,
) -> Comparison:
    """Compare the paths of two groups of runs: checkpoints, regimes, probe sets or architectures.

    Where all have the same probes of the same world, they are also compared query by query. Facts of two
    worlds are different facts, whatever their numbers.

    Args:
        first, second: the profiles of each group, one per run.
        how: which stages belong together (`profile.align`).
        confidence: level of the whole answer; split evenly over the distances.
        share: the mixture whose distance is the margin.
        replicates: bootstrap replicates.
        seed: of the halvings and the bootstrap.

    Raises:
        InputError: a group is empty, a number is impossible, or the profiles have nothing in common.
    """
    if not first or not second:
        raise InputError(f"groups of {len(first)} and {len(second)} runs: each needs at least one.")
    if not 0 < confidence < 1 or not 0 < share <= 1 or replicates < 20:
        raise InputError(
            f"confidence = {confidence}, share = {share}, replicates = {replicates}: a level between 0 and "
            "1, a share above 0 and up to 1, and at least 20 replicates are needed."
        )
    every = align(first, second, how)
    kinds, sizes = every[0].kinds, (len(first), len(second))
    paired = all(one.world == every[0].world and np.array_equal(one.id_P, every[0].id_P) for one in every)
    measures: tuple[Measure, ...] = ("profile", "queries") if paired else ("profile",)
    level = 1 - (1 - confidence) / (len(kinds) * len(measures))
    smallest = min(every, key=lambda one: len(one.id_P))
    unseen = clustered_rate(np.zeros(len(smallest.id_P)), smallest.fact_PK, level).high
    found = _replicated(every, sizes, measures, replicates, seed)
    # The runs' degrees of freedom add up over the groups, as in a two-sample t.
    spread = sum(size - 1 for size in sizes if size >= FEWEST_FOR_SPREAD)
    fewest = min(len(np.unique(column)) for column in smallest.fact_PK.T) - 1
    freedom = min(fewest, spread) if spread else fewest
    out = []
    for kind in kinds:
        yard = yardstick(every[0].labels[kind] if kind == "causal" else ())
        margins, hidden = yard.at(share, kind), yard.at(unseen, kind)
        for measure in measures:
            values_B = found[kind, measure]
            error = (
                float(np.nanstd(values_B[1:], ddof=1)) / SWING
                if np.isfinite(values_B[1:]).sum() > 1
                else np.inf
            )
            wide = error * float(special.stdtrit(freedom, (1 + level) / 2)) if freedom > 0 else np.inf
            out.append(_judged(kind, measure, float(values_B[0]), wide, unseen, hidden, margins[measure]))
    answer, reason = _answer(out)
    scope: Literal["these runs", "regimes"] = "regimes" if min(sizes) >= FEWEST_FOR_SPREAD else "these runs"
    return Comparison(answer, reason, tuple(out), len(smallest.id_P), sizes, scope)


def _judged(
    kind: Kind,
    measure: Measure,
    value: float,
    wide: float,
    unseen: float,
    hidden: dict[Measure, float],
    margin: float,
) -> Distance:
    if not np.isfinite(value):
        return Distance(kind, measure, None, margin, "cannot tell")
    low = value - max(0.0 if np.isnan(wide) else wide, unseen * abs(value))
    high = value + max(0.0 if np.isnan(wide) else wide, hidden[measure])
    answer: Answer = "different" if low > margin else "equivalent" if high < margin else "cannot tell"
    return Distance(kind, measure, Estimate(value, low, high), margin, answer)


def _answer(found: list[Distance]) -> tuple[Answer, str]:
    def said(one: Distance) -> str:
        told = f"{text(one.known, '.3f', form=PROSE)}, margin {one.margin:.3f}"
        few = "too few probes for a distance with an interval"
        return f"{one.kind} by {one.measure}: {told if one.known else few}"

    apart = [one for one in found if one.answer == "different"]
    unsure = [one for one in found if one.answer == "cannot tell"]
    if apart:
        return "different", "; ".join(map(said, apart)) + "."
    if unsure:
        return "cannot tell", "; ".join(map(said, unsure)) + "."
    untested = "" if any(one.kind == "causal" for one in found) else " What is used was not compared."
    if not any(one.measure == "queries" for one in found):
        untested += " Without common probes, which query goes which way was not compared."
    return "equivalent", f"all {len(found)} distances lie below their margins.{untested}"


def _replicated(
    every: Sequence[Profile],
    sizes: tuple[int, int],
    measures: tuple[Measure, ...],
    replicates: int,
    seed: int,
) -> dict[tuple[Kind, Measure], Floats]:
    """(1 + B,) distances: of the data as they are, then of the replicates."""
    facts_F, at = np.unique(np.concatenate(_facts_apart(every)), return_inverse=True)
    splits = np.cumsum([one.fact_PK.size for one in every])[:-1]
    fact_of = [a.reshape(p.fact_PK.shape) for a, p in zip(np.split(at, splits), every, strict=True)]
    halving_HF = _halvings(len(facts_F), seed)
    rng = generator("compare", seed, 1)
    weight_BF = _weights(len(facts_F), replicates, rng)
    still = np.ones(replicates + 1)[:, None]
    runs_BU = np.concatenate(
        [
            _weights(size, replicates, rng) if size >= FEWEST_FOR_SPREAD else np.repeat(still, size, axis=1)
            for size in sizes
        ],
        axis=1,
    )
    out: dict[tuple[Kind, Measure], Floats] = {}
    for kind in every[0].kinds:
        hot = [one_hot(one, kind) for one in every]
        for measure in measures:
            parts = []
            for start in range(0, replicates + 1, AT_ONCE):
                weights = [weight_BF[start : start + AT_ONCE][:, fact_PK].prod(axis=2) for fact_PK in fact_of]
                if measure == "queries":
                    between_BUU = _disagreement(hot, weights[0])
                else:
                    inside = [(halving_HF[:, fact_PK] == 0).all(axis=2) for fact_PK in fact_of]
                    outside = [(halving_HF[:, fact_PK] == 1).all(axis=2) for fact_PK in fact_of]
                    between_BUU = _divergence(hot, weights, inside, outside)
                parts.append(_distance(between_BUU, runs_BU[start : start + AT_ONCE], sizes))
            out[kind, measure] = np.concatenate(parts)
    return out


def _facts_apart(every: Sequence[Profile]) -> list[NDArray[np.int64]]:
    """Per profile the facts of its probes (P * K), numbered on from world to world."""
    worlds = list(dict.fromkeys(one.world for one in every))
    most = max(int(one.fact_PK.max()) for one in every) + 1
    return [one.fact_PK.ravel() + worlds.index(one.world) * most for one in every]


def _halvings(facts: int, seed: int) -> NDArray[np.int64]:
    """(H, F) which half a fact is in."""
    rng = generator("compare", seed, 0)
    return np.stack([rng.permutation(np.arange(facts) % 2) for _ in range(HALVINGS)])


def _weights(size: int, replicates: int, rng: np.random.Generator) -> Floats:
    """(1 + B, size) weights of clusters: 1 first, then 1 +- SWING, more for few, as n - 1 is to n."""
    swing = SWING * np.sqrt(size / max(1, size - 1))
    weight_BX = 1 + swing * rng.choice((-1.0, 1.0), (replicates + 1, size))
    weight_BX[0] = 1
    return np.asarray(weight_BX)


def _distance(between_BUU: Floats, runs_BU: Floats, sizes: tuple[int, int]) -> Floats:
    """(B,) mean between the groups minus the mean within them."""
    a, b = slice(0, sizes[0]), slice(sizes[0], sum(sizes))

    def mean(one: slice, two: slice, apart: bool) -> Floats:
        weight_BUU = runs_BU[:, one, None] * runs_BU[:, None, two]
        if apart and weight_BUU.shape[1] > 1:
            weight_BUU = weight_BUU * (1 - np.eye(weight_BUU.shape[1]))
        total_B: Floats = (weight_BUU * between_BUU[:, one, two]).sum(axis=(1, 2)) / weight_BUU.sum(
            axis=(1, 2)
        )
        return total_B

    return mean(a, b, False) - (mean(a, a, True) + mean(b, b, True)) / 2


def _disagreement(hot: Sequence[Floats], weight_BP: Floats) -> Floats:
    """(B, U, U) weighted share of probes that two runs put into different categories, averaged over cells."""
    out = np.zeros((len(weight_BP), len(hot), len(hot)))
    for a in range(len(hot)):
        for b in range(a):
            both_PX = hot[a].any(axis=2) & hot[b].any(axis=2)
            differ_PX = (hot[a] != hot[b]).any(axis=2) & both_PX
            out[:, a, b] = out[:, b, a] = _mean(_ratio(weight_BP @ differ_PX, weight_BP @ both_PX))
    return out


def _divergence(
    hot: Sequence[Floats], weights: Sequence[Floats], inside: Sequence[Any], outside: Sequence[Any]
) -> Floats:
    """(B, U, U) divergence between a run read on one half of the facts and another read on the other half."""
    shape = (len(weights[0]), len(hot), len(hot))
    out = np.zeros(shape)
    for halving in range(HALVINGS):
        read = [
            [_shares(one, weight * half[halving]) for half in (within, without)]
            for one, weight, within, without in zip(hot, weights, inside, outside, strict=True)
        ]
        for a, b in np.ndindex(shape[1:]):
            out[:, a, b] += _mean(divergence(read[a][0], read[b][1])) / HALVINGS
    return (out + out.transpose(0, 2, 1)) / 2


def _shares(hot_PXC: Floats, weight_BP: Floats) -> Floats:
    """(B, X, C) the categories' shares in every cell; NaN where no probe counts."""
    total_BXC = np.tensordot(weight_BP, hot_PXC, axes=1)
    return _ratio(total_BXC, total_BXC.sum(axis=2, keepdims=True))


def _ratio(part: Floats, whole: Floats) -> Floats:
    empty = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.asarray(np.divide(part, whole, out=empty, where=whole > 0))


def _mean(value_BX: Floats) -> Floats:
    """Over the cells that have probes; NaN where none has."""
    known_BX = np.isfinite(value_BX)
    n_B = known_BX.sum(axis=1)
    total_B = np.where(known_BX, value_BX, 0).sum(axis=1)
    return np.asarray(np.where(n_B > 0, total_B / np.maximum(n_B, 1), np.nan))
