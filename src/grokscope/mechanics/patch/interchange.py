"""Interchange: what the model says when the state at one (stage, column) comes from another query.

Exact pairs (`donors.py`), every stage and column at once (`maps.py`), all arms and controls in one
dataset, probe by probe, so that every rate can be conditioned, split, and given an interval that clusters by
fact.

A rate is conditioned on what must hold for a patch to be able to succeed: the base, the natural query and
the second atom of the natural query are answered right without any patch. The unconditioned rate and both n
stand beside it, and below `FEWEST_PROBES` usable pairs the rate is NaN: cannot tell.

Shapes: P probes, A arms, L stages, C columns (groups of positions, by name), K hops.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.patch.donors import ABSENT, Donors
from grokscope.mechanics.patch.drawing import ARMS, RANDOM, Drawn, Setting, draw, draw_donors, source_of
from grokscope.mechanics.patch.edits import Column
from grokscope.mechanics.patch.groups import tokens_alone
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.unrolled import STATE
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, rate_among, rate_map
from grokscope.world.probes import ProbeSet

__all__ = [
    "ARMS",
    "RANDOM",
    "Drawn",
    "Setting",
    "accuracy",
    "accuracy_in",
    "as_map",
    "cluster_facts",
    "draw",
    "draw_donors",
    "interchange",
    "source_of",
    "success",
    "usable",
]


def interchange(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    arms: Sequence[str] = ARMS,
    stages: Sequence[int] | None = None,
    columns: Mapping[str, Column] | None = None,
    site: str = STATE,
    drawn: Drawn | None = None,
) -> xr.Dataset:
    """The full interchange map of a probe set.

    Args:
        model: any reasoner.
        probe_set: the base queries.
        setting: the world, what was trained, the format, seed and memory.
        arms: some of `ARMS`; RANDOM takes its norms from the bridge arm's sources.
        stages: indices of the stages to patch; None: all. Others hold the clean answer.
        columns: positions on the T axis that are exchanged together, by name; None: every input position
        alone.
        site: STATE, everything that lives on there; a part of it ("z_L"); or a site inside every pass
            ("block0.mlp"): needed where bridge and r2 share a position.
        drawn: from `draw` of the same model, probes and setting, with these arms at least; None: drawn here.

    Returns:
        `said` (arm, stage, position, probe) token with the highest logit; `margin`, logit of the right
        answer minus the highest other one; `run` (arm, stage, position) whether a cell was run for all
        probes; `present`, `source_right`, `natural_right`, `atom_right`, `expected` and `own` (tokens:
        what a patch of the bridge gives, and the donor's own answer), `natural_fact` (the facts of
        the natural query after the bridge) over (arm, probe, after); `clean_said`, `clean_margin`, `answer`,
        `guess` (tokens) over (probe); `fact` (probe, hop).

    Raises:
        InputError: the probes have other hops than what was trained, an arm does not exist, or the budget is
            too small.
    """
    setting.check(probe_set)
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"arm = {arm!r}: allowed are {', '.join(ARMS)}.")
    drawn = draw(model, probe_set, setting, arms) if drawn is None else drawn
    patches = patch_map(model, probe_set, setting, drawn, arms, columns, (site,))
    wanted_LC = patches.cells()[site]
    if stages is not None:
        wanted_LC[np.setdiff1d(np.arange(len(wanted_LC)), stages)] = False
    return as_map(patches.fill({site: wanted_LC}), probe_set, setting, drawn, site)


def patch_map(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    drawn: Drawn,
    arms: Sequence[str],
    columns: Mapping[str, Column] | None = None,
    sites: Sequence[str] = (STATE,),
) -> PatchMap:
    """The patches of an interchange, none of which has been run.

    Args:
        model, probe_set, setting, columns: as for `interchange`. drawn: with these arms at least. sites:
        one or more.

    Raises:
        InputError: a site does not exist, or the budget is too small.
    """
    base = setting.encode(probe_set.queries)
    sources = {
        arm: source_of(setting, drawn.donors[arm], setting.seed if arm == RANDOM else None) for arm in arms
    }
    columns = tokens_alone(model, len(base.roles)) if columns is None else columns
    answer_P = setting.tokens_of(probe_set.queries.path_NK[:, -1])
    return PatchMap(
        model, base.tokens_NS, base.answer_position, answer_P, sources, columns, sites, setting.budget
    )


def as_map(
    patches: PatchMap,
    probe_set: ProbeSet,
    setting: Setting,
    drawn: Drawn,
    site: str = STATE,
    knows: Mapping[str, Sequence[str]] | None = None,
) -> xr.Dataset:
    """What `interchange` returns, of patches as far as they have been filled; the rest holds the clean
    answer.

    Args:
        patches: of `patch_map`. probe_set, setting, drawn, site: as for it.
        knows: the arms of which the model is asked `source_right`, `natural_right` and `atom_right`; False
        for the
            others. None: all.
    """
    nobody_P = np.zeros(len(probe_set), dtype=bool)

    def right(name: str) -> NDArray[np.bool_]:
        asked = patches.arms if knows is None else knows[name]
        return np.stack([getattr(drawn, name)(arm) if arm in asked else nobody_P for arm in patches.arms])

    cells, pairs = ("arm", "stage", "position", "probe"), ("arm", "probe")
    roles_S, arms = setting.encode(probe_set.queries).roles, patches.arms
    donors = [drawn.donors[arm] for arm in arms]
    columns = list(patches.columns)
    return xr.Dataset(
        {
            "said": (cells, patches.said[site]),
            "margin": (cells, patches.margin[site]),
            "run": (cells[:3], patches.run(site)),
            "source_right": (pairs, right("source_right")),
            "natural_right": (pairs, right("natural_right")),
            "atom_right": (pairs, right("atom_right")),
            "present": (pairs, np.stack([one.present_PM[:, 0] for one in donors])),
            "expected": (pairs, np.stack([setting.tokens_of(one.expected_P) for one in donors])),
            "own": (pairs, np.stack([setting.tokens_of(_own_answer(one, setting)) for one in donors])),
            "natural_fact": (
                (*pairs, "after"),
                np.stack([one.natural_PMK[:, 0, setting.hop :] for one in donors]),
            ),
            "clean_said": ("probe", patches.clean_said_P),
            "clean_margin": ("probe", patches.clean_margin_P),
            "answer": ("probe", setting.tokens_of(probe_set.queries.path_NK[:, -1])),
            "guess": ("probe", setting.tokens_of(probe_set.guess_P)),
        },
        coords={
            "arm": list(arms),
            "stage": [stage.name for stage in patches.model.stages],
            "position": columns,
            "size": ("position", [len(where) for where in patches.columns.values()]),
            "where": ("position", [",".join(map(str, where)) for where in patches.columns.values()]),
            "role": ("position", [roles_S[int(one)] if one.isdigit() else one for one in columns]),
            "probe": np.asarray(probe_set.id_P, dtype=np.int64),
            "fact": (("probe", "hop"), np.asarray(probe_set.fact_PK, dtype=np.int64)),
        },
        attrs={
            "probe_set": probe_set.name,
            "pattern": probe_set.pattern,
            "site": site,
            "latent": setting.latent,
        },
    )


def _own_answer(donors: Donors, setting: Setting) -> NDArray[np.int64]:
    """(P,) the entity that the first donor's own query asks for."""
    last_P = donors.source_PMK[:, 0, -1]
    tail_P: NDArray[np.int64] = setting.world.fact_F3[np.maximum(last_P, 0), 2].astype(np.int64)
    return np.where(last_P == ABSENT, ABSENT, tail_P)


def usable(maps: xr.Dataset, arm: str, conditioned: bool = True) -> NDArray[np.bool_]:
    """(P,) the pairs that a rate of this arm is taken over."""
    one = maps.sel(arm=arm)
    there_P: NDArray[np.bool_] = one["present"].values
    if not conditioned:
        return there_P
    right_P = maps["clean_said"].values == maps["answer"].values
    out_P: NDArray[np.bool_] = there_P & right_P & one["natural_right"].values & one["atom_right"].values
    return out_P


def success(maps: xr.Dataset, arm: str) -> NDArray[np.bool_]:
    """(L, C, P) whether the patched base says what the arm expects (noise: whether it keeps its answer)."""
    one = maps.sel(arm=arm)
    expected_P = maps["answer"] if arm == RANDOM else one["expected"]
    out_LCP: NDArray[np.bool_] = (one["said"] == expected_P).transpose("stage", "position", "probe").values
    return out_LCP


def accuracy(maps: xr.Dataset, arm: str, conditioned: bool = True, confidence: float = 0.95) -> xr.Dataset:
    """Interchange accuracy of an arm per (stage, position), with intervals that cluster by fact.

    Returns:
        `rate`, `low`, `high` (stage, position), NaN where there are fewer than `FEWEST_PROBES`; `guess`, how
        often the patched base says the most frequent tail of r2 where that is neither its own answer nor
        expected; `n` and `enough` as scalars.
    """
    rows_P = usable(maps, arm, conditioned)
    hit_LCP = success(maps, arm)[:, :, rows_P]
    n = int(rows_P.sum())
    rate_LC, low_LC, high_LC = rate_map(hit_LCP, cluster_facts(maps, arm)[rows_P], confidence)
    guess_LC = _guessed(maps, arm, rows_P) if n >= FEWEST_PROBES else np.full(rate_LC.shape, np.nan)
    cells = ("stage", "position")
    return xr.Dataset(
        {
            "rate": (cells, rate_LC),
            "low": (cells, low_LC),
            "high": (cells, high_LC),
            "guess": (cells, guess_LC),
            "n": n,
            "enough": n >= FEWEST_PROBES,
        },
        coords={name: maps[name] for name in ("stage", "position", "role")},
    )


def accuracy_in(
    maps: xr.Dataset,
    arm: str,
    cell: tuple[int, int],
    conditioned: bool = True,
    confidence: float = 0.95,
) -> tuple[Rate | None, int]:
    """`accuracy` in one cell (stage, column), None where there are too few pairs; and how many there are."""
    rows_P = usable(maps, arm, conditioned)
    rate = rate_among(success(maps, arm)[cell], cluster_facts(maps, arm), rows_P, confidence)
    return rate, int(rows_P.sum())


def cluster_facts(maps: xr.Dataset, arm: str) -> NDArray[np.int64]:
    """(P, K + J) the facts that a pair rests on: the base's, and the natural query's after the bridge."""
    return np.concatenate([maps["fact"].values, maps["natural_fact"].sel(arm=arm).values], axis=1)


def _guessed(maps: xr.Dataset, arm: str, rows_P: NDArray[np.bool_]) -> NDArray[np.float64]:
    one = maps.sel(arm=arm).isel(probe=rows_P)
    guess_P = one["guess"]
    open_P = ((guess_P != one["answer"]) & (guess_P != one["expected"])).values
    said_LCP = (one["said"] == guess_P).transpose("stage", "position", "probe").values
    empty_LC = np.full(said_LCP.shape[:2], np.nan)
    return said_LCP[:, :, open_P].mean(axis=2) if open_P.any() else empty_LC
