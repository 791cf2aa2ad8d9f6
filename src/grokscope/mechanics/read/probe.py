"""The bridge probe: an affine map per (stage, position), fitted for an entity, that sees it in any basis.

The logit lens asks whether the output head would say b; a probe asks whether b can be read at all by a
linear reader. It is fitted on one fold of facts and scored on the other (`folds.py`), because a probe as wide
as a state learns by heart the few hundred facts it was fitted on. How well it does so is reported as
`capacity`: its control accuracy on the very facts it was fitted on.

Control task (Hewitt and Liang 2019, arXiv 1909.03368): the same map fitted for a shuffled entity, permuted
over facts of the same relation, so that whatever the relation alone tells of the entity is in the control
as well. Selectivity is accuracy minus control accuracy.

Decodable is not used: a memoriser that writes the bridge where nobody reads it is decoded as well as a
circuit. Only an intervention tells them apart.

The map is ridge regression to one-hot targets (closed form, all positions of a stage at once), the entity is
the highest output.

Shape legend: P probes, X fitted probes, L stages, S positions (prefix first), D width, E entities, F facts.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.read.folds import all_states, both_folds
from grokscope.mechanics.read.lens import roles
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import FEWEST_PROBES, clustered_rate, paired_difference
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet

RIDGE = 0.01
"""Penalty in units of the mean eigenvalue of the fitted states' scatter. Fixed: choosing it per cell would
need a third fold of facts."""

WIDEST = 8192
"""Coordinates up to which the products of all of them are kept: 0.5 GB."""

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def probe(
    model: Reasoner,
    probe_set: ProbeSet,
    encoded: Encoded,
    latent: str = "bridge",
    seed: int = 0,
    confidence: float = 0.95,
    batch: int = 1024,
) -> xr.Dataset:
    """Fit and score a probe in every cell.

    Args:
        model: any reasoner.
        probe_set, encoded: the probes and their tokens, row by row.
        latent: which entity of the path is read.
        seed: draws the shuffled control task.
        confidence: level of the intervals.
        batch: probes per forward pass.

    Returns:
        Over (stage, position): `rate` with `low` and `high`; `control`, the control task's accuracy;
        `selectivity` with `selectivity_low` and `selectivity_high`; `capacity`. NaN if fewer
        than `FEWEST_PROBES` are scored: cannot tell. Positions that are given the answer as input are read
        like any other; `readouts` leaves them out. Over (probe,
        stage, position), the scored probes alone: `hit` and `control_hit`. Scalars `n`, `chance` (always
        saying the entity that the relation has most often among the fitted facts) and `covered`, the share
        of the held-out probes whose entity occurs in the fitted fold: the others cannot be right, and are
        not scored. `fact` and `role` as in the lens.

    Raises:
        InputError: the latent is not on the path, or the probes cannot be split by fact.
    """
    latents = probe_set.queries.latents()
    if latent not in latents:
        raise InputError(
            f"latent = {latent!r} is not on the path of {probe_set.name!r}; {', '.join(latents)} are."
        )
    hop = list(latents).index(latent)
    entity_P = np.asarray(latents[latent], dtype=np.int64)
    relation_PX = probe_set.queries.relation_NK  # comparisons ask both facts for one relation
    relation_P = np.asarray(relation_PX[:, min(hop, relation_PX.shape[1] - 1)], dtype=np.int64)
    fact_P = np.asarray(probe_set.fact_PK[:, min(hop, probe_set.fact_PK.shape[1] - 1)], dtype=np.int64)
    shuffled_P = shuffled_within(relation_P, fact_P, entity_P, seed)
    fold_P = both_folds(probe_set)
    covered_P, guess_P = _known_from_other_fold(fold_P, relation_P, entity_P)
    states = all_states(model, encoded.tokens_NS, batch)
    shape = (len(fold_P), len(states), states[0].shape[1])
    hit_PLS, control_PLS, by_heart_PLS = (np.zeros(shape, dtype=bool) for _ in range(3))
    for stage, state_PSD in enumerate(states):
        for fold in (0, 1):
            fitted_P, scored_P = fold_P == 1 - fold, fold_P == fold
            labels = np.stack([entity_P, shuffled_P])
            said_2PS = fitted(state_PSD, labels, fitted_P)
            hit_PLS[scored_P, stage] = said_2PS[0, scored_P] == entity_P[scored_P, None]
            control_PLS[scored_P, stage] = said_2PS[1, scored_P] == shuffled_P[scored_P, None]
            by_heart_PLS[fitted_P, stage] = said_2PS[1, fitted_P] == shuffled_P[fitted_P, None]
    held_P = fold_P >= 0
    scored_P = held_P & covered_P
    out = _numbers(
        hit_PLS[scored_P],
        control_PLS[scored_P],
        by_heart_PLS[held_P].mean(axis=0),
        np.asarray(probe_set.fact_PK)[scored_P],
        confidence,
    )
    return out.assign(
        n=int(scored_P.sum()),
        chance=float(guess_P[scored_P].mean()) if scored_P.any() else np.nan,
        covered=float(covered_P[held_P].mean()),
    ).assign_coords(
        probe=np.asarray(probe_set.id_P, dtype=np.int64)[scored_P],
        fact=(("probe", "hop"), np.asarray(probe_set.fact_PK)[scored_P]),
        stage=[stage.name for stage in model.stages],
        position=np.arange(-model.prefix, shape[2] - model.prefix, dtype=np.int32),
        role=(("position",), list(roles(model, encoded))),
    )


def fitted(state_PSD: Tensor, labels_YP: IntArray, fitted_P: BoolArray) -> IntArray:
    """(Y, P, S) labels said of all probes by maps fitted on some: one map per labelling and position."""
    state_SPD = state_PSD.double().transpose(0, 1)
    rows_X = torch.from_numpy(np.flatnonzero(fitted_P))
    mean_S1D = state_SPD[:, rows_X].mean(dim=1, keepdim=True)
    centred_SPD = state_SPD - mean_S1D
    state_SXD = centred_SPD[:, rows_X]
    scatter_SDD = state_SXD.mT @ state_SXD
    mean_S = scatter_SDD.diagonal(dim1=1, dim2=2).mean(dim=1)
    # A state that is the same for all probes has no scatter; any positive number gives it the zero map.
    penalty_S = torch.where(mean_S > 0, RIDGE * mean_S, 1.0)
    scatter_SDD += penalty_S[:, None, None] * torch.eye(scatter_SDD.shape[1], dtype=torch.float64)
    factor_SDD = torch.linalg.cholesky(scatter_SDD)
    said = []
    for label_P in labels_YP:
        classes_E, index_P = np.unique(label_P, return_inverse=True)
        hot_XE = torch.nn.functional.one_hot(torch.from_numpy(index_P)[rows_X], len(classes_E)).double()
        mean_E = hot_XE.mean(dim=0)
        map_SDE = torch.cholesky_solve(state_SXD.mT @ (hot_XE - mean_E), factor_SDD)
        said_SP = (centred_SPD @ map_SDE + mean_E).argmax(dim=2)
        said.append(classes_E[said_SP.T.numpy()])
    return np.stack(said)


def ridge(state_NY: Tensor, goal_NX: Tensor, asked_PY: Tensor, columns: Sequence[Tensor]) -> Iterator[Tensor]:
    """(P, X) what ridge regression of the goals on some columns of the states says of other states, for
    each of `columns`."""
    mean_Y, mean_X = state_NY.mean(0), goal_NX.mean(0)
    state_NY, asked_PY = state_NY - mean_Y, asked_PY - mean_Y
    goal_NX = goal_NX - mean_X
    # All columns' products are made once, and of each group's its own are taken.
    once = state_NY.shape[1] <= WIDEST
    scatter_YY = (state_NY.T @ state_NY).double() if once else torch.empty(0)
    right_YX = (state_NY.T @ goal_NX).double() if once else torch.empty(0)
    for some in columns:
        own_NZ, asked_PZ = state_NY[:, some], asked_PY[:, some]
        if len(some) > len(own_NZ):
            # With more coordinates than rows the same map is found from the rows' products.
            weight_NX = _solved((own_NZ @ own_NZ.T).double(), goal_NX.double(), len(some))
            yield (asked_PZ @ own_NZ.T) @ weight_NX + mean_X
            continue
        scatter_ZZ = scatter_YY[some][:, some] if once else (own_NZ.T @ own_NZ).double()
        right_ZX = right_YX[some] if once else (own_NZ.T @ goal_NX).double()
        yield asked_PZ @ _solved(scatter_ZZ, right_ZX, len(some)) + mean_X


def _solved(scatter: Tensor, right: Tensor, width: int) -> Tensor:
    """Ridge's map: the penalty is `RIDGE` of the mean eigenvalue that the states have."""
    penalty = RIDGE * float(scatter.diagonal().sum()) / width or 1.0
    eye = torch.eye(len(scatter), dtype=torch.float64)
    return torch.cholesky_solve(right, torch.linalg.cholesky(scatter + penalty * eye)).float()


def shuffled_within(relation_P: IntArray, fact_P: IntArray, entity_P: IntArray, seed: int) -> IntArray:
    """(P,) the control task: entities permuted over the facts of each relation, one entity per fact."""
    _, first_F, of_P = np.unique(fact_P, return_index=True, return_inverse=True)
    entity_F, relation_F = entity_P[first_F].copy(), relation_P[first_F]
    rng = generator("probe", seed)
    for relation in np.unique(relation_F):
        rows = np.flatnonzero(relation_F == relation)
        entity_F[rows] = entity_F[rng.permutation(rows)]
    return np.asarray(entity_F[of_P])


def _known_from_other_fold(
    fold_P: IntArray, relation_P: IntArray, entity_P: IntArray
) -> tuple[BoolArray, BoolArray]:
    """(P,) whether the other fold has the entity at all, and whether it is the relation's most frequent
    there.
    """
    covered_P, guess_P = np.zeros(len(fold_P), dtype=bool), np.zeros(len(fold_P), dtype=bool)
    for fold in (0, 1):
        here_P, there_P = fold_P == fold, fold_P == 1 - fold
        covered_P |= here_P & np.isin(entity_P, entity_P[there_P])
        for relation in np.unique(relation_P[there_P]):
            most = np.bincount(entity_P[there_P & (relation_P == relation)]).argmax()
            guess_P |= here_P & (relation_P == relation) & (entity_P == most)
    return covered_P, guess_P


def _numbers(
    hit_PLS: BoolArray,
    control_PLS: BoolArray,
    capacity_LS: NDArray[np.float64],
    fact_PK: NDArray[Any],
    confidence: float,
) -> xr.Dataset:
    names = ("rate", "low", "high", "control", "selectivity", "selectivity_low", "selectivity_high")
    shape = hit_PLS.shape[1:]
    out = {name: np.full(shape, np.nan) for name in names}
    if len(hit_PLS) >= FEWEST_PROBES:
        for cell in np.ndindex(*shape):
            hit_P, control_P = hit_PLS[:, cell[0], cell[1]], control_PLS[:, cell[0], cell[1]]
            rate = clustered_rate(hit_P, fact_PK, confidence)
            more = paired_difference(hit_P, control_P, fact_PK, confidence)
            numbers = (rate.value, rate.low, rate.high, control_P.mean(), more.value, more.low, more.high)
            for name, number in zip(names, numbers, strict=True):
                out[name][cell] = number
    cells, each = ("stage", "position"), ("probe", "stage", "position")
    return xr.Dataset(
        {
            **{name: (cells, array) for name, array in out.items()},
            "capacity": (cells, capacity_LS),
            "hit": (each, hit_PLS),
            "control_hit": (each, control_PLS),
        }
    )
