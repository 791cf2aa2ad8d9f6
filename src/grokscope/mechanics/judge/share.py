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

A same-bridge donor whose own query the model cannot answer may not have resolved its bridge: that the answer
does not stay with it says nothing. Such a donor is a missing answer to the second question, and what makes it
missing (the donor's own two facts) is not part of the base query. So a lost answer with such a donor counts
by the share of lost answers that stay, in this cell, among those whose donor is answered.

The cell (stage, group of positions) is where the second hop takes the bridge: the cell with the largest share
on one half of the facts, scored on the other half, both ways round. Positions alone come first; a larger
group is taken where it is better by more than `GAIN`: a cut that leaves a carrier out undercounts, and one
that takes part of the answer along is worse by that (`scored`). Both donors ask another r2 than the base, so
that a cut which carries the answer loses it with either, and is not chosen. Of its column the last stage
counts that is surely not worse by more than `EDGE`: a bridge that is taken away earlier may be resolved once
more, where the input is injected again, and then looks unnecessary. States are a full cut of the computation,
values inside a pass are not: what attention brings to r2's position holds h and r1 beside b where a memory
reads them. So a site inside a pass is chosen only where it is surely better, by more than `EDGE`, than the
best state: where bridge and r2 share a position.

Shapes: P probes, A arms, L stages, C columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.read.rates import halves
from grokscope.statistics.clustered import Rate, clustered_rate, paired_difference
from grokscope.statistics.estimate import wilson

HALF = 0.5
"""A margin below this part of the clean one is a lost answer: more than half of the evidence was the
bridge's."""
NEEDED = ("other_bridge", "same_bridge")
"""Arms a share is read from."""
MOVABLE = ("present", "natural_right", "atom_right")
"""What must hold for the bridge arm to be able to move an answer."""
EDGE = 0.05
"""A share this near to 0 or 1 is not told from it: the zoo's own error of a share."""


REST = 0.2
"""What any exchange of states can cost a trained model, in parts of the margin; beyond it something is
exchanged beside the bridge, or adds to it."""
GAIN = 0.02
"""A larger group of positions is taken where so much more goes through it: two answers in a hundred."""


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
    through_U: NDArray[np.float64]
    """1 where the answer goes through the bridge, 0 where not; between them where it is lost and the
    same-bridge donor is itself not answered: the share that stay among lost answers with an answered one."""
    half_U: NDArray[np.int64]
    """The half each was scored in."""


def share(maps: xr.Dataset, *inside: xr.Dataset, confidence: float = 0.95) -> Share:
    """The share of right answers through the bridge.

    Args:
        maps: from `interchange`, with the arms of `NEEDED`.
        inside: maps of the same probes at sites inside the passes; a cell of theirs is chosen only where it
            is better than every state by more than `EDGE`, by the interval of the paired difference.
        confidence: level of the intervals.

    Raises:
        InputError: an arm is missing.
    """
    every = (maps, *inside)
    both = [through_bridge(one) for one in every]
    probe_U = np.flatnonzero(usable_for_share(maps))
    facts_UK = maps["fact"].values[probe_U]
    half_U = halves(facts_UK[:, 0]) if len(probe_U) else np.zeros(0, dtype=np.int64)
    if half_U.all() or not half_U.any():
        empty = np.zeros(0)
        return Share(None, None, empty, empty, (), probe_U, np.zeros(len(probe_U)), half_U)
    through, moved_LCU = [pair[0][:, :, probe_U] for pair in both], moved(maps)[:, :, probe_U]
    score_LCU = scored(maps)[:, :, probe_U]
    chosen = [
        _chosen(through, score_LCU, moved_LCU, maps["size"].values, facts_UK, rows_U)
        for rows_U in (half_U != 0, half_U != 1)
    ]
    values_4U = np.zeros((4, len(probe_U)))
    for half, (which, stage, column) in enumerate(chosen):
        rows_U = half_U == half
        drops = (margin_drop(every[which], arm) for arm in NEEDED)
        for number, values_LCP in enumerate((*both[which], *drops)):
            values_4U[number, rows_U] = values_LCP[stage, column, probe_U[rows_U]]
    through_U, argmax_U, drop_U, rest_U = values_4U
    return Share(
        clustered_rate(through_U, facts_UK, confidence),
        clustered_rate(argmax_U, facts_UK, confidence),
        drop_U,
        rest_U,
        tuple(Cell(str(every[which].attrs["site"]), stage, column) for which, stage, column in chosen),
        probe_U,
        through_U,
        half_U,
    )


def settled(maps: xr.Dataset) -> bool:
    """Whether no site inside a pass could be chosen, whatever its map shows: on both halves of the facts the
    best state leaves at most `EDGE` of the answers to be better on, or a half is empty.

    Raises:
        InputError: an arm is missing.
    """
    rows_2P = choosing(maps)
    if rows_2P is None:
        return True
    through_LCP = through_bridge(maps)[0][1:]
    best = [through_LCP[:, :, rows_P].mean(axis=2).max() for rows_P in rows_2P]
    return bool(min(best) >= 1 - EDGE)


def choosing(maps: xr.Dataset) -> NDArray[np.bool_] | None:
    """(2, P) by which probes the cell is chosen that half 0 and half 1 of the facts are scored in; None where
    a half has no usable probe, so that no cell is chosen."""
    probe_U = np.flatnonzero(usable_for_share(maps))
    half_U = halves(maps["fact"].values[probe_U, 0]) if len(probe_U) else np.zeros(0, dtype=np.int64)
    if half_U.all() or not half_U.any():
        return None
    rows_2P = np.zeros((2, maps.sizes["probe"]), dtype=bool)
    for half in (0, 1):
        rows_2P[half, probe_U[half_U != half]] = True
    return rows_2P


def to_beat(maps: xr.Dataset, rows_2P: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(2,) the share of either set of probes that goes through the state that they choose: a site inside a
    pass is chosen only where it is better by more than `EDGE`."""
    through_LCP, moved_LCP, facts_PK = through_bridge(maps)[0], moved(maps), maps["fact"].values
    score_LCP, best = scored(maps), []
    for rows_P in rows_2P:
        state = _state(
            score_LCP[:, :, rows_P], moved_LCP[:, :, rows_P], maps["size"].values, facts_PK[rows_P]
        )
        best.append(through_LCP[*state, rows_P].mean())
    return np.array(best)


def best_cell(
    through_LCU: NDArray[Any], moved_LCU: NDArray[np.bool_], size_C: NDArray[np.int64]
) -> tuple[int, int]:
    """The cell through which most answers go; where hardly any do, the one where most interchanges succeed.

    The second case is that of two routes of which neither alone is more than half of the margin. Stage 0 is
    left out: the embedding is the question, nothing has been resolved there. Of equal cells the earliest
    stage counts, then the first column. A larger group of positions counts only where it is better than every
    smaller one by more than `GAIN`.
    """
    score_LC = through_LCU.mean(axis=2)
    moved_LC = moved_LCU.mean(axis=2)
    if score_LC[1:].max() <= EDGE < moved_LC[1:].max():
        score_LC = moved_LC
    best, most = (0, 0), -1.0
    for size in np.unique(size_C):
        score_LX = np.where(size_C == size, score_LC, -1.0)[1:]
        stage, column = np.unravel_index(int(score_LX.argmax()), score_LX.shape)
        here = float(score_LX[stage, column])
        if most < 0 or here > most + GAIN:
            best, most = (int(stage) + 1, int(column)), here
    return best


def _chosen(
    through: list[NDArray[np.float64]],
    score_LCU: NDArray[np.float64],
    moved_LCU: NDArray[np.bool_],
    size_C: NDArray[np.int64],
    facts_UK: NDArray[np.int64],
    rows_U: NDArray[np.bool_],
) -> tuple[int, int, int]:
    """(map, stage, column) by some of the probes: of the states, the first map, unless another is surely
    better."""
    state = _state(score_LCU[:, :, rows_U], moved_LCU[:, :, rows_U], size_C, facts_UK[rows_U])
    best: tuple[int, int, int] = (0, *state)
    of_state_U = through[0][*state, rows_U]
    most = 0.0
    for which, inside_LCU in enumerate(through[1:], start=1):
        inside_LCX = inside_LCU[:, :, rows_U]
        alone_C = np.ones(inside_LCX.shape[1], dtype=np.int64)
        cell = best_cell(inside_LCX, np.zeros(inside_LCX.shape, dtype=bool), alone_C)
        better = paired_difference(inside_LCU[*cell, rows_U], of_state_U, facts_UK[rows_U])
        if better.low > EDGE and better.value > most:
            best, most = (which, *cell), better.value
    return best


def _state(
    score_LCU: NDArray[np.float64],
    moved_LCU: NDArray[np.bool_],
    size_C: NDArray[np.int64],
    facts_UK: NDArray[np.int64],
) -> tuple[int, int]:
    """(stage, column) of the state that is chosen by some of the probes."""
    return _last_as_good(score_LCU, best_cell(score_LCU, moved_LCU, size_C), facts_UK)


def _last_as_good(
    through_LCU: NDArray[np.float64], cell: tuple[int, int], facts_UK: NDArray[np.int64]
) -> tuple[int, int]:
    """The last stage of the cell's column through which surely not fewer answers go, give or take `EDGE`."""
    first, column = cell
    best_U = through_LCU[cell]
    if best_U.mean() <= EDGE:
        return cell
    for stage in range(len(through_LCU) - 1, first, -1):
        if paired_difference(through_LCU[stage, column], best_U, facts_UK).low >= -EDGE:
            return stage, column
    return cell


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
    out_P: NDArray[np.bool_] = (maps["clean_said"].values == maps["answer"].values) & (
        maps["clean_margin"].values > 0
    )
    for arm in NEEDED:
        out_P &= _pairs(maps, "present", arm)
    return out_P


def through_bridge(maps: xr.Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(L, C, P) lost when the bridge alone changes, and stays when all else does: by the margin, by the
    argmax; 0 where a probe is not usable.

    Lost with a same-bridge donor that is itself not answered: the share that stay among lost answers with
    answered donors, if that is more than half (lower end of Wilson's 95 % interval), else 0: a cell from
    which lost answers do not mostly stay carries something beside the bridge, and being lost shows nothing.
    """
    use_P = usable_for_share(maps)
    line_P, answer_P = HALF * maps["clean_margin"].values, maps["answer"].values
    (other, same), (says_other, says_same) = (
        [_cells(maps, name, arm) for arm in NEEDED] for name in ("margin", "said")
    )
    known_P = _pairs(maps, "source_right", NEEDED[1])
    out = []
    for lost_LCP, stays_LCP in (
        (other < line_P, same >= line_P),
        (says_other != answer_P, says_same == answer_P),
    ):
        lost_LCP &= use_P
        held_LC = held((lost_LCP & stays_LCP & known_P).sum(axis=2), (lost_LCP & known_P).sum(axis=2))
        unknown_LCP = lost_LCP & ~known_P
        out.append(np.where(unknown_LCP, held_LC[:, :, None], lost_LCP & stays_LCP & known_P))
    return out[0], out[1]


def scored(maps: xr.Dataset) -> NDArray[np.float64]:
    """(L, C, P) what a state is chosen by: `through_bridge`; where groups of positions are exchanged, less
    what the answers of the cell lose of their margin, beyond `REST`, when the bridge stays the same.

    A cut that takes part of the answer along with part of the bridge loses answers with another bridge and
    hardly keeps them with the same: of two cuts through which all answers go, the one is meant that leaves
    them as whole as any exchange does.
    """
    through_LCP = through_bridge(maps)[0]
    if (maps["size"].values == 1).all():
        return through_LCP
    own_LCP = through_LCP * _pairs(maps, "source_right", NEEDED[1])
    rest_LC = (margin_drop(maps, NEEDED[1]) * own_LCP).sum(axis=2) / np.maximum(own_LCP.sum(axis=2), 1)
    out_LCP: NDArray[np.float64] = through_LCP * (1 - np.maximum(rest_LC - REST, 0))[:, :, None]
    return out_LCP


def held(stayed_LC: NDArray[Any], lost_LC: NDArray[Any]) -> NDArray[np.float64]:
    """What a lost answer counts whose donor is not answered, given those whose donor is."""
    n_LC = np.maximum(lost_LC, 1)
    low_LC, _ = wilson(stayed_LC / n_LC, n_LC, 1.96)
    return np.where(low_LC > HALF, stayed_LC / n_LC, 0.0)


def margin_drop(maps: xr.Dataset, arm: str) -> NDArray[np.float64]:
    """(L, C, P) fall of the margin in parts of the clean one under an arm, cut to 0 .. 1."""
    clean_P = maps["clean_margin"].values
    margin_LCP = _cells(maps, "margin", arm)
    with np.errstate(divide="ignore", invalid="ignore"):
        drop_LCP: NDArray[np.float64] = np.clip(1 - margin_LCP / clean_P, 0.0, 1.0)
    return drop_LCP


def moved(maps: xr.Dataset) -> NDArray[np.bool_]:
    """(L, C, P) whether the bridge arm makes the base say the other answer, where it can."""
    if "bridge" not in maps["arm"].values:
        return np.zeros((maps.sizes["stage"], maps.sizes["position"], maps.sizes["probe"]), dtype=bool)
    can_P = np.logical_and.reduce([_pairs(maps, name, "bridge") for name in MOVABLE])
    out_LCP: NDArray[np.bool_] = (
        _cells(maps, "said", "bridge") == _pairs(maps, "expected", "bridge")
    ) & can_P
    return out_LCP


def _cells(maps: xr.Dataset, name: str, arm: str) -> NDArray[Any]:
    """(L, C, P) what an arm measured."""
    every_ALCP = maps[name].transpose("arm", "stage", "position", "probe").values
    out_LCP: NDArray[Any] = every_ALCP[maps["arm"].values.tolist().index(arm)]
    return out_LCP


def _pairs(maps: xr.Dataset, name: str, arm: str) -> NDArray[Any]:
    """(P,) what is known of an arm's donors."""
    every_AP = maps[name].transpose("arm", "probe").values
    out_P: NDArray[Any] = every_AP[maps["arm"].values.tolist().index(arm)]
    return out_P
