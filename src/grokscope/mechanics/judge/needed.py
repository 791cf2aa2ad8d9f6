"""The maps that a share is read from, of which only what could change it is run.

`share` looks for the cell through which most answers go and reads a few numbers there. An answer that is not
lost when the bridge alone changes does not go through a cell, whatever the other arm says; and a lost answer
whose same-bridge donor is not answered counts only where those with an answered donor mostly stay. So the
arms are run one after the other, first for the probes whose donor is answered, and cells are dropped that
could not be chosen even if all that is still open spoke for them:

- a state is chosen only if no other is better, but for a smaller group of positions or a later stage that is
  worse by `EDGE` at most;
- a site inside a pass only if it is better than the chosen state by more than `EDGE`.

Where groups are exchanged and none that a role names carries all answers but `EDGE` and leaves them whole
(`scored`), groups of other positions are searched for (`_search`) and stand beside them.

What a share is read from is the same as if everything had been run (tested); the maps themselves are not
there to be looked at.

Shapes: P probes, L stages, C columns, A arms; 2: the probes by which either of the two cells is chosen.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.mechanics.judge.share import (
    EDGE,
    GAIN,
    HALF,
    NEEDED,
    choosing,
    held,
    scored,
    settled,
    share,
    through_bridge,
    to_beat,
)
from grokscope.mechanics.patch.drawing import Drawn, Setting
from grokscope.mechanics.patch.groups import ALL, columns_of
from grokscope.mechanics.patch.interchange import as_map, patch_map, usable
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.read.rates import halves
from grokscope.mechanics.unrolled import STATE, inside_sites
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES
from grokscope.world.probes import ProbeSet

OTHER, SAME = NEEDED
MOVES = "bridge"
"""The arm by which a state is chosen where hardly any answer goes through one."""
HOLDS = 0.5
"""A group of positions holds the bridge where exchanging it is followed for so many of the answers."""
NEARLY = 0.9
"""A smaller group holds it as well as a larger one from this part of its rate on; a position holds nothing
but the bridge where so many answers stay with another query of the same bridge."""
SEEN, UNSEEN = 0, 1
"""The halves of the facts: groups are searched for on one, and scored on the other."""
SEARCHED = "searched"
"""Attribute of a map: names of the groups that were searched for and found; None: nobody searched."""
ROUNDING = 1e-9
"""Means of the same numbers, taken in two ways, differ by less."""
ASKED = {"source_right": (SAME,), "natural_right": (), "atom_right": ()}
"""What a share asks of the donors, as long as the arm `MOVES` is not needed."""


def needed_maps(
    model: Reasoner, probe_set: ProbeSet, setting: Setting, drawn: Drawn, maps: xr.Dataset | None = None
) -> list[xr.Dataset]:
    """What `share` takes: the map of the states, and those of other sites, none if no other could be chosen.

    Args:
        model, probe_set, setting: as for `interchange`.
        drawn: the donors of `NEEDED`, and of the bridge arm if there are no `maps`.
        maps: what `interchange` returned of the states; None: the map is made here, of
        `groups.columns_of`. Then
            stage 0, and cells and probes that the share does not depend on, hold the clean answer, and
            what was not asked of a donor is False.

    Raises:
        InputError: an arm is missing, or the budget is too small.
    """
    if maps is None:
        columns = columns_of(model, setting.encode(probe_set.queries), setting.format)
        run = patch_map(model, probe_set, setting, drawn, (MOVES, *NEEDED), columns)
        maps = state_map(run, probe_set, setting, drawn)
    if settled(maps):
        return [maps]
    inside = patch_map(model, probe_set, setting, drawn, NEEDED, None, inside_sites(model))
    return [maps, *_inside_maps(inside, maps)]


def shown_map(
    model: Reasoner, probe_set: ProbeSet, setting: Setting, drawn: Drawn, arms: Sequence[str]
) -> xr.Dataset:
    """The map that a verdict shows and is read from.

    In a causal model every position alone, every arm. Where there are groups of positions, what the share
    needs; `MOVES` at every input position, every group and the share's cells; the other arms in the share's
    cells, and transport where the answer is read: the rest holds the clean answer.

    Args:
        model, probe_set, setting: as for `interchange`. drawn: the donors of `arms`, `MOVES` and `NEEDED`
        among them.
    """
    encoded = setting.encode(probe_set.queries)
    columns = columns_of(model, encoded, setting.format)
    run = patch_map(model, probe_set, setting, drawn, arms, columns)
    if not any(len(where) > 1 for where in columns.values()):
        return as_map(run.fill(), probe_set, setting, drawn)
    states = state_map(run, probe_set, setting, drawn)
    found, every = share(states), list(run.columns)
    seen = [name for name, where in run.columns.items() if name.isdigit() or len(where) > 1]
    seen += [every[cell.column] for cell in found.cells]
    wanted_LC = run.cells()[STATE]
    wanted_LC[:, [name not in seen for name in every]] = False
    run.fill({STATE: wanted_LC}, (MOVES,))
    searched = states.attrs[SEARCHED]
    if searched is None:
        searched = _search(run, probe_set, setting, drawn, HOLDS)
    cells_LC = np.zeros_like(run.cells()[STATE])
    for cell in found.cells:
        cells_LC[cell.stage, cell.column] = True
    run.fill({STATE: cells_LC}, arms)
    cells_LC[:, every.index(str(encoded.answer_position))] = True
    run.fill({STATE: cells_LC}, [arm for arm in arms if arm == "transport"])
    return as_map(run, probe_set, setting, drawn).assign_attrs({SEARCHED: searched})


def _search(
    run: PatchMap, probe_set: ProbeSet, setting: Setting, drawn: Drawn, least: float
) -> tuple[str, ...]:
    """Add to a map, after every stage at which none of its groups but all positions together is followed so
    often, the smaller group that holds the bridge, if there is one.

    Beginning with all positions that hold nothing but the bridge, or nothing: each alone, taken from another
    query of the same bridge, leaves the answer. If these together hold the bridge, those are left out one by
    one without which the others hold it as well (give or take `GAIN`), the ones whose bridge alone matters
    least first, and then those without which they do so nearly as well; both groups are added.

    Returns:
        Names of the groups, made of those of their positions.
    """
    maps = as_map(run, probe_set, setting, drawn)
    seen_P = halves(maps["fact"].values[:, 0]) == SEEN
    rows_P = usable(maps, MOVES) & seen_P & maps["present"].sel(arm=OTHER).values
    answer_P, expected_P = maps["answer"].values, maps["expected"].sel(arm=MOVES).values
    same_P = seen_P & maps["present"].sel(arm=SAME).values & maps["source_right"].sel(arm=SAME).values
    same_P &= maps["clean_said"].values == answer_P
    if min(rows_P.sum(), same_P.sum()) < FEWEST_PROBES:
        return ()
    named_LC = run.cells()[STATE]
    named_LC[:, [name == ALL for name in run.columns]] = False
    named_LC[[0, -1]] = False
    run.fill({STATE: named_LC}, (MOVES,), rows_P)
    said_LCP = run.said[STATE][run.arms.index(MOVES)][:, :, rows_P]
    hit_LC = np.where(named_LC, (said_LCP == expected_P[rows_P]).mean(axis=2), 0.0)
    without = [int(stage) + 1 for stage in np.flatnonzero(hit_LC[1:-1].max(axis=1) < least)]
    if not without:
        return ()
    alone = {name: where for name, where in run.columns.items() if len(where) == 1}
    trial = patch_map(run.model, probe_set, setting, drawn, (MOVES, *NEEDED), alone)
    there_LC = trial.cells()[STATE]
    there_LC[np.setdiff1d(np.arange(len(there_LC)), without)] = False
    trial.fill({STATE: there_LC}, (SAME,), same_P)
    trial.fill({STATE: there_LC}, (OTHER,), rows_P)

    def are(token_P: NDArray[np.int64], arm: str, stage: int, column: int, of_P: NDArray[np.bool_]) -> float:
        """How often these tokens are said."""
        said_P = trial.said[STATE][trial.arms.index(arm), stage, column]
        return float((said_P == token_P)[of_P].mean())

    def holds(stage: int, names: list[str]) -> float:
        """How often a group is followed."""
        if (name := "+".join(names)) not in trial.columns:
            trial.add(name, tuple(sorted(alone[one][0] for one in names)))
        column = list(trial.columns).index(name)
        wanted_LC = np.zeros_like(trial.cells()[STATE])
        wanted_LC[stage, column] = True
        trial.fill({STATE: wanted_LC}, (MOVES,), rows_P)
        return are(expected_P, MOVES, stage, column, rows_P)

    roles_S, found = setting.encode(probe_set.queries).roles, []
    called = {name: roles_S[int(name)] if name.isdigit() else name for name in alone}
    called |= {name: name for name, role in called.items() if list(called.values()).count(role) > 1}
    for stage in without:
        stays = {name: are(answer_P, SAME, stage, c, same_P) for c, name in enumerate(alone)}
        kept = {name: are(answer_P, OTHER, stage, c, rows_P) for c, name in enumerate(alone)}
        names = [name for name in sorted(alone, key=lambda one: -kept[one]) if stays[name] >= NEARLY]
        if len(names) < 2 or (most := holds(stage, names)) < HOLDS:
            continue
        for enough in (most - GAIN, NEARLY * most):
            for name in list(names):
                fewer = [one for one in names if one != name]
                if fewer and holds(stage, fewer) >= enough:
                    names = fewer
            where = tuple(sorted(alone[name][0] for name in names))
            label = "+".join(called[name] for name in alone if name in names)
            if len(names) > 1 and where not in run.columns.values():
                run.add(label, where)
                found.append(label)
    wanted_LC = np.zeros_like(run.cells()[STATE])
    wanted_LC[without, len(run.columns) - len(found) :] = True
    run.fill({STATE: wanted_LC}, (MOVES,))
    return tuple(found)


def state_map(run: PatchMap, probe_set: ProbeSet, setting: Setting, drawn: Drawn) -> xr.Dataset:
    """The map of the states as far as a share needs it.

    Args:
        run: its patches, which are filled here: `MOVES` and `NEEDED` must be among its arms. probe_set,
        setting,
        drawn: what they are of.
    """
    knows = dict(ASKED)

    searched: tuple[str, ...] | None = None

    def so_far() -> xr.Dataset:
        return as_map(run, probe_set, setting, drawn, STATE, knows).assign_attrs({SEARCHED: searched})

    rows_2P = choosing(so_far())
    if rows_2P is None:
        return so_far()
    answered_P, use_P = drawn.source_right(SAME), np.logical_or(*rows_2P)
    known_P, unknown_P = use_P & answered_P, use_P & ~answered_P
    later_LC = run.cells()[STATE]
    later_LC[0] = False
    run.fill({STATE: later_LC}, (OTHER,), known_P)
    lost_LCP = _lost(run, STATE, OTHER) & known_P
    most_2LC = _most(lost_LCP, lost_LCP.sum(axis=2), unknown_P, rows_2P)
    exact_LC, best_2 = np.zeros_like(later_LC), most_2LC[:, later_LC].max(axis=1)
    # A later stage may be worse by EDGE than the cell it follows, and that one by GAIN than a larger group.
    grouped = any(len(where) > 1 for where in run.columns.values())
    slack = EDGE + GAIN * grouped + ROUNDING
    while True:
        open_LC = later_LC & ~exact_LC & (most_2LC >= best_2[:, None, None] - slack).any(axis=0)
        if not open_LC.any():
            break
        run.fill({STATE: open_LC}, (SAME,), known_P)
        stays_LCP = lost_LCP & ~_lost(run, STATE, SAME)
        held_LC = held(stays_LCP.sum(axis=2), lost_LCP.sum(axis=2))
        run.fill({STATE: open_LC & (held_LC > 0)}, (OTHER,), unknown_P)
        exact_LC |= open_LC
        through_LCP, score_LCP = through_bridge(so_far())[0], scored(so_far())
        most_2LC[:, open_LC] = [through_LCP[open_LC][:, rows_P].mean(axis=1) for rows_P in rows_2P]
        best_2 = np.array([score_LCP[exact_LC][:, rows_P].mean(axis=1).max() for rows_P in rows_2P])
    if grouped and best_2.min() < 1 - EDGE:
        searched = _search(run, probe_set, setting, drawn, NEARLY)
        later_LC = run.cells()[STATE]
        later_LC[0] = False
        new_LC = later_LC.copy()
        new_LC[:, : len(run.columns) - len(searched)] = False
        run.fill({STATE: new_LC}, NEEDED, use_P)
        score_LCP = scored(so_far())
        best_2 = np.array([score_LCP[later_LC][:, rows_P].mean(axis=1).max() for rows_P in rows_2P])
    if best_2.min() <= EDGE:
        knows |= {"natural_right": (MOVES,), "atom_right": (MOVES,)}
        can_P = drawn.natural_right(MOVES) & drawn.atom_right(MOVES)
        run.fill({STATE: later_LC}, (MOVES,), use_P & can_P)
    for cell in share(so_far()).cells:
        here_LC = np.zeros_like(later_LC)
        here_LC[cell.stage, cell.column] = True
        run.fill({STATE: here_LC}, NEEDED, use_P)
    return so_far()


def _inside_maps(run: PatchMap, maps: xr.Dataset) -> list[xr.Dataset]:
    rows_2P = choosing(maps)
    if rows_2P is None:
        return []
    use_P, answered_P = np.logical_or(*rows_2P), maps["source_right"].sel(arm=SAME).values
    known_P, unknown_P = use_P & answered_P, use_P & ~answered_P
    line_2LC = to_beat(maps, rows_2P)[:, None, None] + EDGE - ROUNDING
    cells = run.cells()
    run.fill(cells, (OTHER,), known_P)
    lost = {site: _lost(run, site, OTHER) & known_P for site in cells}
    for site, lost_LCP in lost.items():
        most_2LC = _most(lost_LCP, lost_LCP.sum(axis=2), unknown_P, rows_2P)
        cells[site] &= (most_2LC > line_2LC).any(axis=0)
    run.fill(cells, (SAME,), known_P)
    for site, lost_LCP in lost.items():
        most_2LC = _most(lost_LCP & ~_lost(run, site, SAME), lost_LCP.sum(axis=2), unknown_P, rows_2P)
        cells[site] &= (most_2LC > line_2LC).any(axis=0)
    run.fill(cells, NEEDED, unknown_P)
    dims, arms = ("arm", "stage", "position", "probe"), [run.arms.index(arm) for arm in NEEDED]
    shared = maps.sel(arm=list(NEEDED)).isel(position=slice(len(run.columns)))
    return [
        shared.assign(said=(dims, run.said[site][arms]), margin=(dims, run.margin[site][arms])).assign_attrs(
            site=site
        )
        for site in cells
    ]


def _lost(run: PatchMap, site: str, arm: str) -> NDArray[np.bool_]:
    """(L, C, P) whether the margin falls below half of the clean one."""
    out_LCP: NDArray[np.bool_] = run.margin[site][run.arms.index(arm)] < HALF * run.clean_margin_P
    return out_LCP


def _most(
    through_LCP: NDArray[np.bool_],
    lost_LC: NDArray[np.int64],
    unknown_P: NDArray[np.bool_],
    rows_2P: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """(2, L, C) the largest share that may go through a cell: these answers, and, as far as they count, all
    whose donor is not answered. `lost_LC`: how many of the others are lost."""
    most_LCP = through_LCP + held(through_LCP.sum(axis=2), lost_LC)[:, :, None] * unknown_P
    return np.stack([most_LCP[:, :, rows_P].mean(axis=2) for rows_P in rows_2P])
