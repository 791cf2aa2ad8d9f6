"""What can be read of a bridge, beside what is used of it: is it visible, in registers, dark, or idle?

Three readings of one checkpoint and probe set:

- `lens_tokens`: it is what the output head reads at ANY stage and ANY position that holds a token. This is
the
  measure of He et al. (2026), whose evaluation cuts the prefix off before it looks.
- `lens_all`: the same, prefix (registers) included.
- `linear`: an affine map reads it off the state of a group of positions after a stage: ridge regression in
  closed form, fitted on compositions of ID facts, none of which has a first fact of those it is scored on.
  Stage and group are chosen on one half of the scored facts and scored on the other.

None of them shows use. What they leave out or add, against what interventions show, has a name:

| the bridge is | used | read by the head | linear |
|---|---|---|---|
| visible | yes | at a token | |
| in registers | yes | at the prefix alone | |
| dark | yes | nowhere | yes |
| unread | yes | nowhere | no |
| idle | no | somewhere, or linear | |
| absent | no | nowhere | no |

Read, or linear, means: on at least half of the queries.

Shapes: P probes, N fitted queries, L stages, G groups of positions, Y what lives on at a group, E entities.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from grokscope.mechanics.patch.drawing import Setting
from grokscope.mechanics.patch.edits import Column
from grokscope.mechanics.patch.groups import columns_of
from grokscope.mechanics.read.lens import CONTROL
from grokscope.mechanics.read.probe import ridge, shuffled_within
from grokscope.mechanics.read.rates import anywhere, halves
from grokscope.mechanics.unrolled import device_of, reading, step_rows
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, clustered_rate
from grokscope.world.format import Encoded
from grokscope.world.pool import compositions
from grokscope.world.probes import ProbeSet
from grokscope.world.queries import queries_of

Kind: TypeAlias = Literal["visible", "in registers", "dark", "unread", "idle", "absent", "cannot tell"]
FITTED = 4000
"""Queries that the linear map is fitted on, at most."""
ON = 0.5
"""Share of the queries from which on a bridge counts as read, or as used."""


@dataclass(frozen=True)
class Linear:
    """How often an affine map reads the bridge."""

    rate: Rate
    control: float
    """The same map fitted for a shuffled bridge (one entity per fact, permuted within relations)."""
    where: str
    """Stage and group it was read at, in the larger half of the facts."""


@dataclass(frozen=True)
class Readings:
    """Three readings of a bridge; a control is the matched entity of the same in-degree, read likewise."""

    lens_tokens: Rate
    lens_tokens_control: float
    lens_all: Rate
    lens_all_control: float
    linear: Linear | None
    """None: too few compositions of ID facts to fit on, or fewer than 30 probes to score."""

    def kind(self, used: Rate | None) -> Kind:
        """The name of what they say together, given the share that is used; None: nothing could be tested."""
        if used is None:
            return "cannot tell"
        linear = self.linear is not None and self.linear.rate.value >= ON
        if used.value < ON:
            return "idle" if linear or self.lens_all.value >= ON else "absent"
        if self.lens_tokens.value >= ON:
            return "visible"
        if self.lens_all.value >= ON:
            return "in registers"
        return "dark" if linear else "unread"


def readings(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    trace: xr.Dataset,
    confidence: float = 0.95,
) -> Readings:
    """The three readings of a probe set.

    Args:
        model: the checkpoint. probe_set: its probes. setting: as for `interchange`; says which bridge.
        trace: their lens.
        confidence: level of the intervals.
    """
    part = trace.isel(set=0) if "set" in trace.dims else trace
    facts_PK, latent = np.asarray(probe_set.fact_PK), setting.latent

    def found(variable: str, tokens_only: bool) -> NDArray[np.bool_]:
        hit_P: NDArray[np.bool_] = anywhere(part, variable, tokens_only=tokens_only)[0]
        return hit_P

    return Readings(
        lens_tokens=clustered_rate(found(latent, True), facts_PK, confidence),
        lens_tokens_control=float(found(CONTROL + latent, True).mean()),
        lens_all=clustered_rate(found(latent, False), facts_PK, confidence),
        lens_all_control=float(found(CONTROL + latent, False).mean()),
        linear=linear(model, probe_set, setting, confidence),
    )


def linear(model: Reasoner, probe_set: ProbeSet, setting: Setting, confidence: float = 0.95) -> Linear | None:
    """How often an affine map, fitted on compositions of other facts, reads the setting's bridge of these
    probes."""
    hop = setting.hop - 1
    entity_P = np.asarray(probe_set.queries.path_NK[:, hop], dtype=np.int64)
    fact_P = np.asarray(probe_set.fact_PK[:, hop], dtype=np.int64)
    half_P = halves(fact_P)
    pool_NK = _fitted(setting, fact_P, hop)
    if len(pool_NK) < FEWEST_PROBES or len(fact_P) < FEWEST_PROBES or not half_P.any():
        return None
    fitted = queries_of(setting.world, pool_NK)
    label_N = np.asarray(fitted.path_NK[:, hop], dtype=np.int64)
    control_N = shuffled_within(
        fitted.relation_NK[:, hop].astype(np.int64), pool_NK[:, hop], label_N, setting.seed
    )
    encoded, fitted_encoded = setting.encode(probe_set.queries), setting.encode(fitted)
    groups = _groups(model, encoded, setting)
    hit_PLG, control_PLG = _read(
        model, fitted_encoded, encoded, list(groups.values()), np.stack([label_N, control_N]), entity_P
    )
    cells = hit_PLG.shape[1:]
    best = [np.unravel_index(int(hit_PLG[half_P != half].mean(axis=0).argmax()), cells) for half in (0, 1)]
    rows = np.arange(len(half_P))
    at = tuple(np.array(best).T[:, half_P])
    larger = int((half_P == 1).sum() > (half_P == 0).sum())
    stage, group = best[larger]
    return Linear(
        clustered_rate(hit_PLG[rows, *at], np.asarray(probe_set.fact_PK), confidence),
        float(control_PLG[rows, *at].mean()),
        f"{model.stages[int(stage)].name} {list(groups)[int(group)]}",
    )


def _fitted(setting: Setting, fact_P: NDArray[np.int64], hop: int) -> NDArray[np.int64]:
    """(N, K) compositions of ID facts that share no fact at this hop with the probes."""
    world = setting.world
    pool_NK = compositions(world, setting.trained.hops).fact_NK
    fine_N = ~world.ood_F[pool_NK].any(axis=1) & ~np.isin(pool_NK[:, hop], fact_P)
    rows_N = np.flatnonzero(fine_N)
    rows_N = np.sort(generator("probe", setting.seed, 1).permutation(rows_N)[:FITTED])
    chosen_NK: NDArray[np.int64] = pool_NK[rows_N].astype(np.int64)
    return chosen_NK


def _groups(model: Reasoner, encoded: Encoded, setting: Setting) -> dict[str, Column]:
    """What is read together: groups by role where there are any, else every position alone."""
    every = columns_of(model, encoded, setting.format)
    named = {name: where for name, where in every.items() if len(where) > 1}
    return named or every


def _read(
    model: Reasoner,
    fitted: Encoded,
    asked: Encoded,
    groups: list[Column],
    labels_2N: NDArray[np.int64],
    entity_P: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(P, L, G) whether the map of a stage and group says the entity, and whether the control's map does."""
    shape = (len(entity_P), len(model.stages), len(groups))
    hit_PLG, control_PLG = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    classes_E, index_2N = np.unique(labels_2N, return_inverse=True)
    hot = torch.nn.functional.one_hot(torch.from_numpy(index_2N.reshape(labels_2N.shape)), len(classes_E))
    # Both labellings are fitted at once: they differ on the right-hand side alone.
    goal_NX = torch.cat(list(hot.float()), dim=1)
    every = np.concatenate([fitted.tokens_NS, asked.tokens_NS]).astype(np.int64)
    with reading(model) as model:
        carry = model.start(torch.from_numpy(every).to(device_of(model)))
        for stage in range(1, len(model.stages)):
            carry = step_rows(model, carry, stage)
            live_NTY = model.live(carry, stage).float().cpu()
            wide = live_NTY.shape[2]
            columns = [torch.cat([torch.arange(wide) + at * wide for at in where]) for where in groups]
            said = ridge(
                live_NTY[: len(goal_NX)].flatten(1), goal_NX, live_NTY[len(goal_NX) :].flatten(1), columns
            )
            for number, said_PX in enumerate(said):
                for out, said_PE in zip((hit_PLG, control_PLG), said_PX.chunk(2, dim=1), strict=True):
                    out[:, stage, number] = classes_E[said_PE.argmax(1).numpy()] == entity_P
    return hit_PLG, control_PLG
