"""Which answers go through which cell of a map: lost when the bridge alone changes, staying when all else
does. `share.py` says why, and what is made of it.

Shapes: P probes, A arms, L stages, C columns.
"""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.statistics.estimate import wilson

HALF = 0.5
"""A margin below this part of the clean one is a lost answer: more than half of the evidence was the
bridge's."""
NEEDED = ("other_bridge", "same_bridge")
"""Arms a share is read from."""
MOVABLE = ("present", "natural_right", "atom_right")
"""What must hold for the bridge arm to be able to move an answer."""


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
