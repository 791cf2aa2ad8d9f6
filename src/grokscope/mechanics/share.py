"""The share of a model's right answers that go through the bridge, query by query.

Interchange accuracy is not that share: where a memory overrides an intact circuit it is low on queries the
circuit could answer, where the second hop is missing for some facts it says whether the TARGET's fact works.
The share asks the base query itself: is its answer LOST when the bridge alone is changed (other_bridge: same
r1, another h' and b'), and does it STAY when all but the bridge is changed (same_bridge: another h' and r1',
same b)? The first alone would count a memory that carries a code of the pair (h, r1), the second alone an
untouched memory.

Lost means that the margin (logit of the right answer over the best other one) falls below `HALF` of the
clean one: two routes that add up hide behind an argmax. The same line decides what stays. The share by
argmax stands beside it, and so do the falls of the margin themselves: `drop` when the bridge alone changes,
biased upward because competitors rise as well, and `rest` when all but the bridge changes. Where two routes
feed every answer, 1 - `rest` is the bridge's part of the evidence (on wired models with parts 0.25, 0.5 and
0.75 it is 0.25, 0.49 and 0.75).

The cell (stage, position) is where the second hop takes the bridge: the cell with the largest share on one
half of the facts, scored on the other half, both ways round.

Shapes: P probes, A arms, L stages, C columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.intervals import Rate, clustered_rate
from grokscope.mechanics.rates import halves

HALF = 0.5
"""A margin below this part of the clean one is a lost answer: more than half of the evidence was the
bridge's."""
EDGE = 0.05
"""A share this near to 0 or 1 is not told from it: the zoo's own error of a share."""
NEEDED = ("other_bridge", "same_bridge")
"""Arms a share is read from."""


@dataclass(frozen=True)
class Cell:
    """A place in a map."""

    site: str
    stage: int
    column: int


@dataclass(frozen=True, eq=False)
class Share:
    """The share through the bridge, with what it was read from."""

    rate: Rate | None
    """Lost and stays, by the margin; None: no usable probe, or facts of one half only."""
    by_argmax: Rate | None
    """The same by the argmax alone; undercounts where routes add up."""
    drop_U: NDArray[np.float64]
    """Fall of the margin when the bridge alone changes, in parts of the clean one, cut to 0 .. 1."""
    rest_U: NDArray[np.float64]
    """Fall of the margin when all but the bridge changes, likewise: what other routes add."""
    cells: tuple[Cell, ...]
    """Where half 0 and half 1 of the facts were scored, each chosen on the other; empty: nothing was."""
    probe_U: NDArray[np.int64]
    """Row numbers of the probes used: base right, both donors there."""
    through_U: NDArray[np.bool_]
    """Which of them go through the bridge."""
    half_U: NDArray[np.int64]
    """The half each was scored in."""


def share(maps: xr.Dataset, *inside: xr.Dataset, confidence: float = 0.95) -> Share:
    """The share of right answers through the bridge.

    Args:
        maps: from `interchange`, with the arms of `NEEDED`.
        inside: maps of the same probes at sites inside the passes, whose cells may be chosen as well.
        confidence: level of the intervals.

    Raises:
        InputError: an arm is missing.
    """
    every = (maps, *inside)
    both = [through_bridge(one) for one in every]
    through_LCP, by_argmax_LCP = (np.concatenate([pair[k] for pair in both]) for k in (0, 1))
    probe_U = np.flatnonzero(usable_for_share(maps))
    facts_UK = maps["fact"].values[probe_U]
    half_U = halves(facts_UK[:, 0]) if len(probe_U) else np.zeros(0, dtype=np.int64)
    if not half_U.any():
        return Share(
            None, None, np.zeros(0), np.zeros(0), (), probe_U, np.zeros(len(probe_U), dtype=bool), half_U
        )
    through_LCU = through_LCP[:, :, probe_U]
    moved_LCU = np.concatenate([_moved(one) for one in every])[:, :, probe_U]
    cells = tuple(
        best_cell(through_LCU[:, :, half_U != half], moved_LCU[:, :, half_U != half]) for half in (0, 1)
    )
    stage_U, column_U = np.array(cells)[half_U].T
    rows_U = np.arange(len(probe_U))
    at_cell_U = through_LCU[stage_U, column_U, rows_U]
    argmax_U = by_argmax_LCP[stage_U, column_U, probe_U]
    drop_U, rest_U = (
        np.concatenate([margin_drop(one, arm) for one in every])[stage_U, column_U, probe_U] for arm in NEEDED
    )
    return Share(
        clustered_rate(at_cell_U, facts_UK, confidence),
        clustered_rate(argmax_U, facts_UK, confidence),
        drop_U,
        rest_U,
        tuple(_cell(every, *cell) for cell in cells),
        probe_U,
        at_cell_U,
        half_U,
    )


def usable_for_share(maps: xr.Dataset) -> NDArray[np.bool_]:
    """(P,) probes that are answered right and have both donors.

    Raises:
        InputError: an arm is missing.
    """
    arms = maps["arm"].values.tolist()
    for arm in NEEDED:
        if arm not in arms:
            raise InputError(
                f"maps: the share needs the arms {' and '.join(NEEDED)}, there are {', '.join(arms)}."
            )
    right_P = (maps["clean_said"] == maps["answer"]).values & (maps["clean_margin"].values > 0)
    out_P: NDArray[np.bool_] = right_P & maps["present"].sel(arm=list(NEEDED)).values.all(axis=0)
    return out_P


def through_bridge(maps: xr.Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(L, C, P) lost when the bridge alone changes, and stays when all else does: by the margin, by the
    argmax.

    A same-bridge donor whose own query the model cannot answer may not have resolved its bridge; that it
    fails says nothing. For such probes it is asked whether, in this cell, lost answers stay with donors that
    ARE answered: if so for more than half of them (lower end of Wilson's 95 % interval), being lost is
    enough.
    """
    use_P = usable_for_share(maps)
    order = ("stage", "position", "probe")
    other, same = (maps.sel(arm=arm) for arm in NEEDED)
    line, answer = HALF * maps["clean_margin"], maps["answer"]
    known_P = same["source_right"].values
    out = []
    for lost, stays in (
        (other["margin"] < line, same["margin"] >= line),
        (other["said"] != answer, same["said"] == answer),
    ):
        lost_LCP, stays_LCP = (one.transpose(*order).values & use_P for one in (lost, stays))
        asked_LC = (lost_LCP & known_P).sum(axis=2)
        held_LC = _wilson_low((lost_LCP & stays_LCP & known_P).sum(axis=2), asked_LC) > HALF
        out.append(lost_LCP & (stays_LCP | (held_LC[:, :, None] & ~known_P)))
    return out[0], out[1]


def _wilson_low(hits: NDArray[Any], n: NDArray[Any], z: float = 1.96) -> NDArray[np.float64]:
    """Lower end of Wilson's 95 % interval; 0 where n = 0."""
    n = np.maximum(n, 1)
    rate = hits / n
    half = z * np.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
    out: NDArray[np.float64] = (rate + z * z / (2 * n) - half) / (1 + z * z / n)
    return out


def margin_drop(maps: xr.Dataset, arm: str) -> NDArray[np.float64]:
    """(L, C, P) fall of the margin in parts of the clean one under an arm, cut to 0 .. 1."""
    clean_P = maps["clean_margin"].values
    margin_LCP = maps["margin"].sel(arm=arm).transpose("stage", "position", "probe").values
    with np.errstate(divide="ignore", invalid="ignore"):
        drop_LCP: NDArray[np.float64] = np.clip(1 - margin_LCP / clean_P, 0.0, 1.0)
    return drop_LCP


def best_cell(through_LCU: NDArray[np.bool_], moved_LCU: NDArray[np.bool_]) -> tuple[int, int]:
    """The cell through which most answers go; where hardly any do, the one where most interchanges succeed.

    The second case is that of two routes of which neither alone is more than half of the margin. Stage 0 is
    left out: the embedding is the question, nothing has been resolved there. Of equal cells the earliest
    stage counts, then the first column.
    """
    score_LC = through_LCU.mean(axis=2)
    moved_LC = moved_LCU.mean(axis=2)
    if score_LC[1:].max() <= EDGE < moved_LC[1:].max():
        score_LC = moved_LC
    stage, column = np.unravel_index(int(score_LC[1:].argmax()), score_LC[1:].shape)
    return int(stage) + 1, int(column)


def _moved(maps: xr.Dataset) -> NDArray[np.bool_]:
    """(L, C, P) whether the bridge arm makes the base say the other answer, where it can."""
    if "bridge" not in maps["arm"].values:
        return np.zeros((maps.sizes["stage"], maps.sizes["position"], maps.sizes["probe"]), dtype=bool)
    one = maps.sel(arm="bridge")
    hit = (one["said"] == one["expected"]) & one["present"] & one["natural_right"] & one["atom_right"]
    out_LCP: NDArray[np.bool_] = hit.transpose("stage", "position", "probe").values
    return out_LCP


def _cell(maps: tuple[xr.Dataset, ...], stage: int, column: int) -> Cell:
    """Which map, and where in it, when their stages are counted on."""
    which, within = divmod(stage, maps[0].sizes["stage"])
    return Cell(str(maps[which].attrs["site"]), within, column)
