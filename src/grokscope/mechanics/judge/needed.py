"""The maps that a share is read from, of which only what could change it is run.

`share` looks for the cell through which most answers go and reads a few numbers there. An answer that is not
lost when the bridge alone changes does not go through a cell, whatever the other arm says; and a lost answer
whose same-bridge donor is not answered counts only where those with an answered donor mostly stay. So the
arms are run one after the other, first for the probes whose donor is answered, and cells are dropped that
could not be chosen even if all that is still open spoke for them:

- a state is chosen only if no other is better, but for a smaller group of positions or a later stage that is
  worse by `EDGE` at most;
- a site inside a pass only if it is better than the chosen state by more than `EDGE`.

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
    settled,
    share,
    through_bridge,
    to_beat,
)
from grokscope.mechanics.patch.drawing import Drawn, Setting
from grokscope.mechanics.patch.groups import columns_of
from grokscope.mechanics.patch.interchange import as_map, patch_map
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.unrolled import STATE, inside_sites
from grokscope.models.protocol import Reasoner
from grokscope.world.probes import ProbeSet

OTHER, SAME = NEEDED
MOVES = "bridge"
"""The arm by which a state is chosen where hardly any answer goes through one."""
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
    found = share(state_map(run, probe_set, setting, drawn))
    every = list(columns)
    seen = [name for name, where in columns.items() if name.isdigit() or len(where) > 1]
    seen += [every[cell.column] for cell in found.cells]
    wanted_LC = run.cells()[STATE]
    wanted_LC[:, [name not in seen for name in every]] = False
    run.fill({STATE: wanted_LC}, (MOVES,))
    cells_LC = np.zeros_like(wanted_LC)
    for cell in found.cells:
        cells_LC[cell.stage, cell.column] = True
    run.fill({STATE: cells_LC}, arms)
    cells_LC[:, every.index(str(encoded.answer_position))] = True
    run.fill({STATE: cells_LC}, [arm for arm in arms if arm == "transport"])
    return as_map(run, probe_set, setting, drawn)


def state_map(run: PatchMap, probe_set: ProbeSet, setting: Setting, drawn: Drawn) -> xr.Dataset:
    """The map of the states as far as a share needs it.

    Args:
        run: its patches, which are filled here: `MOVES` and `NEEDED` must be among its arms. probe_set,
        setting,
        drawn: what they are of.
    """
    knows = dict(ASKED)

    def so_far() -> xr.Dataset:
        return as_map(run, probe_set, setting, drawn, STATE, knows)

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
        through_LCP = through_bridge(so_far())[0]
        most_2LC[:, open_LC] = [through_LCP[open_LC][:, rows_P].mean(axis=1) for rows_P in rows_2P]
        best_2 = most_2LC[:, exact_LC].max(axis=1)
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
