"""The maps that a share is read from, of which only what could change it is run.

`share` looks for the cell through which most answers go and reads a few numbers there. An answer that is not
lost when the bridge alone changes does not go through a cell, whatever the other arm says; and a lost answer
whose same-bridge donor is not answered counts only where those with an answered donor mostly stay. So the
arms are run one after the other, first for the probes whose donor is answered, and cells are dropped that
could not be chosen even if all that is still open spoke for them:

- a state is chosen only if no other is better, or if it is a later stage that is worse by `EDGE` at most;
- a site inside a pass only if it is better than the chosen state by more than `EDGE`.

What a share is read from is the same as if everything had been run (tested); the maps themselves are not
there to be looked at.

Shapes: P probes, L stages, C columns, A arms; 2: the probes by which either of the two cells is chosen.
"""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.mechanics.judge.share import EDGE, choosing, settled, share, to_beat
from grokscope.mechanics.judge.through import HALF, NEEDED, held, through_bridge
from grokscope.mechanics.patch.drawing import Drawn, Setting
from grokscope.mechanics.patch.interchange import as_map
from grokscope.mechanics.patch.partial import Partial
from grokscope.mechanics.unrolled import STATE, inside_sites
from grokscope.models.protocol import Reasoner
from grokscope.world.probes import ProbeSet

OTHER, SAME = NEEDED
MOVES = "bridge"
"""The arm by which a state is chosen where hardly any answer goes through one."""
ROUNDING = 1e-9
"""Means of the same numbers, taken in two ways, differ by less."""


def needed_maps(
    model: Reasoner, probe_set: ProbeSet, setting: Setting, drawn: Drawn, maps: xr.Dataset | None = None
) -> list[xr.Dataset]:
    """What `share` takes: the map of the states, and those of other sites, none if no other could be chosen.

    Args:
        model, probe_set, setting: as for `interchange`.
        drawn: the donors of `NEEDED`, and of the bridge arm if there are no `maps`.
        maps: what `interchange` returned of the states; None: the map is made here. Then stage 0, and cells
            and probes that the share does not depend on, hold the clean answer, and what was not asked of a
            donor is False.

    Raises:
        InputError: an arm is missing, or the budget is too small.
    """
    sites = inside_sites(model)
    if maps is None:
        run = Partial(model, probe_set, setting, drawn, (STATE, *sites), (MOVES, *NEEDED))
        maps = _state_map(run, model, probe_set, setting, drawn)
        return [maps] if settled(maps) else [maps, *_inside_maps(run, maps)]
    if settled(maps):
        return [maps]
    return [maps, *_inside_maps(Partial(model, probe_set, setting, drawn, sites, NEEDED), maps)]


def _state_map(
    run: Partial, model: Reasoner, probe_set: ProbeSet, setting: Setting, drawn: Drawn
) -> xr.Dataset:
    nobody_P, answered_P = np.zeros(len(probe_set), dtype=bool), drawn.source_right(SAME)
    donors, natural_P = {arm: drawn.donors[arm] for arm in run.arms}, nobody_P

    def so_far() -> xr.Dataset:
        measured = {
            "said": run.said[STATE],
            "margin": run.margin[STATE],
            "source_right": np.stack([nobody_P, nobody_P, answered_P]),
            "natural_right": np.stack([natural_P, nobody_P, nobody_P]),
            "atom_right": np.stack([natural_P, nobody_P, nobody_P]),
            "clean_said": run.clean_said_P,
            "clean_margin": run.clean_margin_P,
        }
        return as_map(model, probe_set, setting, donors, measured, STATE, list(run.columns))

    rows_2P = choosing(so_far())
    if rows_2P is None:
        return so_far()
    use_P = np.logical_or(*rows_2P)
    known_P, unknown_P = use_P & answered_P, use_P & ~answered_P
    later_LC = run.cells()[STATE]
    later_LC[0] = False
    run.fill((OTHER,), known_P, {STATE: later_LC})
    lost_LCP = _lost(run, STATE, OTHER) & known_P
    most_2LC = _most(lost_LCP, lost_LCP.sum(axis=2), unknown_P, rows_2P)
    exact_LC, best_2 = np.zeros_like(later_LC), most_2LC[:, later_LC].max(axis=1)
    while True:
        open_LC = later_LC & ~exact_LC & (most_2LC >= best_2[:, None, None] - EDGE - ROUNDING).any(axis=0)
        if not open_LC.any():
            break
        run.fill((SAME,), known_P, {STATE: open_LC})
        stays_LCP = lost_LCP & ~_lost(run, STATE, SAME)
        held_LC = held(stays_LCP.sum(axis=2), lost_LCP.sum(axis=2))
        run.fill((OTHER,), unknown_P, {STATE: open_LC & (held_LC > 0)})
        exact_LC |= open_LC
        through_LCP = through_bridge(so_far())[0]
        most_2LC[:, open_LC] = [through_LCP[open_LC][:, rows_P].mean(axis=1) for rows_P in rows_2P]
        best_2 = most_2LC[:, exact_LC].max(axis=1)
    if best_2.min() <= EDGE:
        natural_P = drawn.natural_right(MOVES) & drawn.atom_right(MOVES)
        run.fill((MOVES,), use_P & natural_P, {STATE: later_LC})
    for cell in share(so_far()).cells:
        here_LC = np.zeros_like(later_LC)
        here_LC[cell.stage, cell.column] = True
        run.fill(NEEDED, use_P, {STATE: here_LC})
    return so_far()


def _inside_maps(run: Partial, maps: xr.Dataset) -> list[xr.Dataset]:
    rows_2P = choosing(maps)
    if rows_2P is None:
        return []
    use_P, answered_P = np.logical_or(*rows_2P), maps["source_right"].sel(arm=SAME).values
    known_P, unknown_P = use_P & answered_P, use_P & ~answered_P
    line_2LC = to_beat(maps, rows_2P)[:, None, None] + EDGE - ROUNDING
    cells = {site: cells_LC for site, cells_LC in run.cells().items() if site != STATE}
    run.fill((OTHER,), known_P, cells)
    lost = {site: _lost(run, site, OTHER) & known_P for site in cells}
    for site, lost_LCP in lost.items():
        most_2LC = _most(lost_LCP, lost_LCP.sum(axis=2), unknown_P, rows_2P)
        cells[site] &= (most_2LC > line_2LC).any(axis=0)
    run.fill((SAME,), known_P, cells)
    for site, lost_LCP in lost.items():
        most_2LC = _most(lost_LCP & ~_lost(run, site, SAME), lost_LCP.sum(axis=2), unknown_P, rows_2P)
        cells[site] &= (most_2LC > line_2LC).any(axis=0)
    run.fill(NEEDED, unknown_P, cells)
    dims, arms = ("arm", "stage", "position", "probe"), [run.arms.index(arm) for arm in NEEDED]
    shared = maps.sel(arm=list(NEEDED)).isel(position=slice(len(run.columns)))
    return [
        shared.assign(said=(dims, run.said[site][arms]), margin=(dims, run.margin[site][arms])).assign_attrs(
            site=site
        )
        for site in cells
    ]


def _lost(run: Partial, site: str, arm: str) -> NDArray[np.bool_]:
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
