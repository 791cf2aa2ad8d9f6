"""The profile of a path: what every cell says of every probe, as small categories that can be compared.

Two kinds of channels, never mixed:

- *emergence*: in every cell, which latent is the argmax of the lens (the first of them, else none);
- *causal*: in every cell and interchange arm, what the model says after the patch: its own answer still, what
  the arm expects, or something else.

Cells of two models are laid on each other by the role of the position, and by stage as `align` says.

Shape legend: P probes, K hops, A arms, L stages, S positions, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.patch.interchange import RANDOM
from grokscope.mechanics.read.rates import latents_of

Kind: TypeAlias = Literal["emergence", "causal"]
Alignment: TypeAlias = Literal["stage", "depth", "profile"]
MISSING = -1
"""The category of a probe that has no donor in an arm."""


@dataclass(frozen=True, eq=False)
class Profile:
    """One run's path on one probe set."""

    id_P: NDArray[np.int64]
    """Stable ids of the probes."""
    fact_PK: NDArray[np.int64]
    """The facts that each rests on."""
    said: dict[Kind, NDArray[np.int8]]
    """Per kind the category (P, L, S, A) or `MISSING`; A = 1 for emergence."""
    categories: dict[Kind, int]
    """How many there are: latents + 1, and 3."""
    labels: dict[Kind, tuple[str, ...]]
    """Names of the A axis: "" for emergence, the arms for causal."""
    stages: tuple[str, ...]
    places: tuple[str, ...]
    """Role of every position, numbered where it occurs again ("pad", "pad.1")."""
    world: str = ""
    """Fingerprint of the world that facts and probes belong to: equal numbers of two worlds are not equal."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.said)


def profile(trace: xr.Dataset, maps: xr.Dataset | None = None, world: str = "") -> Profile:
    """The profile of one probe set.

    Args:
        trace: its lens at one checkpoint (the logit lens or the tuned one).
        maps: its interchange map on some of the same probes; None: emergence alone, which cannot tell a
            bridge that is used from one that nobody reads. The profile is then of those probes.
        world: fingerprint of the world; needed where profiles of several worlds are compared.

    Raises:
        InputError: several checkpoints or sets, or the map is of other stages or probes.
    """
    if "step" in trace.dims or len(np.unique(trace["probe_set"])) > 1:
        raise InputError("trace: one checkpoint and one probe set are needed; use sel(step=...) and select.")
    ids_P = trace["probe"].values
    if maps is not None:
        if trace["stage"].values.tolist() != maps["stage"].values.tolist():
            raise InputError("trace and maps: their stages differ, so they are not of one model.")
        if not np.isin(maps["probe"].values, ids_P).all():
            raise InputError("trace and maps: the map has probes that the trace has not.")
        trace = trace.sel(probe=maps["probe"].values)
    squeezed = trace.isel(set=0) if "set" in trace.dims else trace
    counted_S = np.flatnonzero(squeezed["counted"].values)
    places = _numbered([str(role) for role in squeezed["role"].values])
    latents = latents_of(trace)
    found = (
        trace["rank"].sel(variable=latents).transpose("variable", "probe", "stage", "position").values == 0
    )
    emergence = np.where(found.any(axis=0), found.argmax(axis=0), len(latents)).astype(np.int8)
    out = Profile(
        id_P=trace["probe"].values.astype(np.int64),
        fact_PK=trace["fact"].values.astype(np.int64),
        said={"emergence": emergence[:, :, counted_S, None]},
        categories={"emergence": len(latents) + 1, "causal": 3},
        labels={"emergence": ("",)},
        stages=tuple(str(name) for name in trace["stage"].values),
        places=tuple(places[index] for index in counted_S),
        world=world,
    )
    return out if maps is None else _with_causal(out, maps)


def _with_causal(found: Profile, maps: xr.Dataset) -> Profile:
    columns = dict(zip(_numbered([str(role) for role in maps["role"].values]), range(99), strict=False))
    there = [index for index, place in enumerate(found.places) if place in columns]
    places = tuple(found.places[index] for index in there)
    kept = [columns[place] for place in places]
    arms = [str(arm) for arm in maps["arm"].values if arm != RANDOM]
    parts = []
    for arm in arms:
        one = maps.sel(arm=arm).isel(position=kept)
        said = one["said"].transpose("probe", "stage", "position").values
        answer, expected = (maps["answer"].values[:, None, None], one["expected"].values[:, None, None])
        category = np.where(said == answer, 0, np.where(said == expected, 1, 2))
        parts.append(np.where(one["present"].values[:, None, None], category, MISSING).astype(np.int8))
    said_PLSA = np.stack(parts, axis=3)
    return replace(
        found,
        places=places,
        said={"emergence": found.said["emergence"][:, :, there], "causal": said_PLSA},
        labels={**found.labels, "causal": tuple(arms)},
    )


def taken(one: Profile, rows: NDArray[np.int64]) -> Profile:
    """The profile of some of its probes."""
    said = {kind: array[rows] for kind, array in one.said.items()}
    return replace(one, id_P=one.id_P[rows], fact_PK=one.fact_PK[rows], said=said)


def align(first: Sequence[Profile], second: Sequence[Profile], how: Alignment) -> list[Profile]:
    """All profiles, first those of `first`, on common stages, positions, kinds and arms.

    `how` says which stages belong together:

    - "stage": equal index; the stages must have equal names.
    - "depth": equal share of the way from the first stage to the last; the model with fewer stages repeats
      its nearest.
    - "profile": by what they do: the monotone path through (stage of one, stage of the other), from both
      first to both last stages, with the least divergence of the groups' mean emergence (dynamic time
      warping). It takes differences of timing away, so that equivalence means "the same in the same order".

    Positions belong together by role; those of one model alone are left out.

    Raises:
        InputError: nothing is in common, or stages of different names are to be compared by index.
    """
    every = [*first, *second]
    kinds = [kind for kind in every[0].kinds if all(kind in one.kinds for one in every)]
    places = [place for place in every[0].places if all(place in one.places for one in every)]
    if not kinds or not places:
        raise InputError("profiles: they have no kind of channel or no role of a position in common.")
    for group in (first, second):
        if any(one.stages != group[0].stages for one in group):
            raise InputError("profiles: the runs of one group must have the same stages.")
    if len({one.categories["emergence"] for one in every}) > 1:
        raise InputError("profiles: their queries have different numbers of hops.")
    every = [_at_places(one, places, kinds, every) for one in every]
    one, two = every[0], every[len(first)]
    if how == "stage":
        if one.stages != two.stages:
            raise InputError(
                f"align = 'stage': {len(one.stages)} and {len(two.stages)} stages differ; allowed for "
                "different models are 'depth' and 'profile'."
            )
        pairs = [(stage, stage) for stage in range(len(one.stages))]
    elif how == "depth":
        most = max(len(one.stages), len(two.stages))
        pairs = [
            (_nearest(i, most, len(one.stages)), _nearest(i, most, len(two.stages))) for i in range(most)
        ]
    else:
        pairs = _warped(every[: len(first)], every[len(first) :])
    stages = tuple(f"{one.stages[i]}|{two.stages[j]}" if how != "stage" else one.stages[i] for i, j in pairs)
    out = []
    for number, each in enumerate(every):
        side = [pair[number >= len(first)] for pair in pairs]
        out.append(replace(each, stages=stages, said={k: a[:, side] for k, a in each.said.items()}))
    return out


def divergence(p_XC: NDArray[np.float64], q_XC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in bits, between 0 and 1, over the last axis (Lin 1991)."""
    middle_XC = (p_XC + q_XC) / 2
    return np.asarray(_entropy(middle_XC) - (_entropy(p_XC) + _entropy(q_XC)) / 2)


def one_hot(one: Profile, kind: Kind) -> NDArray[np.float64]:
    """(P, cells x arms, C): 1 at the category; all 0 where missing."""
    said_PX = one.said[kind].reshape(len(one.id_P), -1)
    hot_PXC: NDArray[np.float64] = (said_PX[:, :, None] == np.arange(one.categories[kind])).astype(np.float64)
    return hot_PXC


def _entropy(p_XC: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-(p_XC * np.log2(np.where(p_XC > 0, p_XC, 1.0))).sum(axis=-1))


def _numbered(roles: list[str]) -> list[str]:
    before = [roles[:index].count(role) for index, role in enumerate(roles)]
    return [f"{role}.{count}" if count else role for role, count in zip(roles, before, strict=True)]


def _at_places(one: Profile, places: list[str], kinds: list[Kind], every: Sequence[Profile]) -> Profile:
    """Positions and arms that all have."""
    at = [one.places.index(place) for place in places]
    labels = {k: tuple(x for x in one.labels[k] if all(x in p.labels[k] for p in every)) for k in kinds}
    rows = {kind: [one.labels[kind].index(label) for label in labels[kind]] for kind in kinds}
    said = {kind: one.said[kind][:, :, at][..., rows[kind]] for kind in kinds if rows[kind]}
    return replace(one, places=tuple(places), said=said, labels=labels)


def _nearest(index: int, most: int, stages: int) -> int:
    return round(index * (stages - 1) / max(1, most - 1))


def _warped(first: Sequence[Profile], second: Sequence[Profile]) -> list[tuple[int, int]]:
    """The cheapest monotone path of stage pairs; among equals the diagonal step."""
    one_LSC, two_MSC = (
        np.mean([one_hot(p, "emergence").mean(axis=0) for p in group], axis=0).reshape(
            len(group[0].stages), -1, group[0].categories["emergence"]
        )
        for group in (first, second)
    )
    cost_LM = divergence(one_LSC[:, None], two_MSC[None]).mean(axis=-1)
    total_LM = np.full((cost_LM.shape[0] + 1, cost_LM.shape[1] + 1), np.inf)
    total_LM[0, 0] = 0.0
    steps = ((-1, -1), (-1, 0), (0, -1))
    for i, j in np.ndindex(*cost_LM.shape):
        best = min(total_LM[i + 1 + di, j + 1 + dj] for di, dj in steps)
        total_LM[i + 1, j + 1] = cost_LM[i, j] + best
    path = [(cost_LM.shape[0] - 1, cost_LM.shape[1] - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        di, dj = min(steps, key=lambda step: total_LM[i + 1 + step[0], j + 1 + step[1]])
        path.append((i + di, j + dj))
    return path[::-1]
