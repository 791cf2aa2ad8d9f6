"""Sufficiency and necessity of the path: keep only its states, or ablate only them.

The path's one state that says "bridge" is the cell from which the second hop reads (`share.py` finds it).
Means are taken over queries that share what is NOT to be removed:

- *sufficient*: at the reading stage everything but that cell, the carried input embedding included, is
  replaced by
  its mean over queries with the same r2 (another h, b and t). r2 stays known; h and r1, wherever else they
  are remembered, are gone. Is the answer still right?
- *necessary*: that cell alone is replaced by its mean over queries with the same r1 and other bridges. r1
  stays; only
  what tells the bridges apart goes. Is the answer lost (margin below half)?

A circuit alone needs both. A memory beside it makes queries sufficient but not necessary (redundant); a path
that names too few states makes them necessary but not sufficient (incomplete).

Shapes: P probes, M queries of a mean, T positions, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.judge.share import HALF, Share
from grokscope.mechanics.patch.donors import Donors, DonorTable
from grokscope.mechanics.patch.edits import Kept
from grokscope.mechanics.patch.engine import Source, travel
from grokscope.mechanics.patch.groups import where_of
from grokscope.mechanics.patch.interchange import Setting, source_of
from grokscope.mechanics.patch.maps import PatchMap
from grokscope.mechanics.unrolled import STATE, judge, reading, run_all, take_rows
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.statistics.clustered import Rate, clustered_rate, paired_difference
from grokscope.world.probes import ProbeSet

MEAN_OF = 16
"""Queries per mean: what is private to one of them is cut to a sixteenth."""
BATCH = 64
"""Probes at a time; each brings `MEAN_OF` queries."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """Shares of the right answers, over the probes that a `Share` used."""

    sufficient: Rate
    """Still right when only the cell, and r2, is kept."""
    necessary: Rate
    """Lost when only the cell is ablated."""
    overlap: float
    """Both."""
    redundant: float
    """Sufficient, not necessary: another route answers as well."""
    incomplete: float
    """Necessary, not sufficient: the answer needs more than this cell."""
    agree: bool
    """The paired difference of sufficient and necessary has 0 in its interval or is at most `TOLERANCE`."""
    sufficient_U: NDArray[np.bool_]
    necessary_U: NDArray[np.bool_]


TOLERANCE = 0.05
"""Shares nearer than this count as equal: it is the error that the zoo allows of a share."""


def ablate(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    maps: xr.Dataset,
    found: Share,
    confidence: float = 0.95,
) -> Ablation | None:
    """Sufficiency and necessity of the cells a share was scored in; None where there is no share, or none in
    a state: a value inside a pass leaves the state that it is added to, so that there is nothing to keep
    alone.

    Args:
        model, probe_set, setting: as given to `interchange`.
        maps: what it returned.
        found: the share read from it.
        confidence: level of the intervals.
    """
    if found.rate is None or any(cell.site != STATE for cell in found.cells):
        return None
    base = setting.encode(probe_set.queries)
    columns = where_of(maps)
    table = DonorTable(setting.world, setting.trained, setting.hop)
    sufficient_U = np.zeros(len(found.probe_U), dtype=bool)
    necessary_U = np.zeros(len(found.probe_U), dtype=bool)
    for half, cell in enumerate(found.cells):
        name = str(maps["position"].values[cell.column])
        of_half_U = np.flatnonzero(found.half_U == half)
        rows_U = found.probe_U[of_half_U]
        facts_PK, answer_P = probe_set.fact_PK[rows_U], maps["answer"].values[rows_U]
        tokens_PS = base.tokens_NS[rows_U].astype(np.int64)
        rng = generator("interchange", setting.seed, 100 + half)
        same_r2 = _source(setting, table.of_same_relation2(facts_PK, rng, MEAN_OF))
        said_P = _only_kept(
            model, tokens_PS, same_r2, cell.stage, columns[name], base.answer_position, answer_P
        )
        sufficient_U[of_half_U] = said_P == answer_P
        same_r1 = _source(setting, table.of_same_relation1(facts_PK, rng, MEAN_OF))
        cut = PatchMap(
            model,
            tokens_PS,
            base.answer_position,
            answer_P,
            {"mean": same_r1},
            {name: columns[name]},
            budget=setting.budget,
        )
        wanted_LC = np.zeros((len(model.stages), 1), dtype=bool)
        wanted_LC[cell.stage] = True
        margin_P = cut.fill({STATE: wanted_LC}).margin[STATE][0, cell.stage, 0]
        necessary_U[of_half_U] = margin_P < HALF * maps["clean_margin"].values[rows_U]
    facts_UK = probe_set.fact_PK[found.probe_U]
    gap = paired_difference(sufficient_U, necessary_U, facts_UK, confidence)
    return Ablation(
        sufficient=clustered_rate(sufficient_U, facts_UK, confidence),
        necessary=clustered_rate(necessary_U, facts_UK, confidence),
        overlap=float((sufficient_U & necessary_U).mean()),
        redundant=float((sufficient_U & ~necessary_U).mean()),
        incomplete=float((necessary_U & ~sufficient_U).mean()),
        agree=gap.holds(0) or abs(gap.value) <= TOLERANCE,
        sufficient_U=sufficient_U,
        necessary_U=necessary_U,
    )


def _source(setting: Setting, facts_PMK: NDArray[np.int64]) -> Source:
    nowhere_P = np.full(len(facts_PMK), -1, dtype=np.int64)
    return source_of(setting, Donors(facts_PMK, facts_PMK, nowhere_P))


def _only_kept(
    model: Reasoner,
    tokens_PS: NDArray[np.int64],
    others: Source,
    stage: int,
    kept: tuple[int, ...],
    answer_position: int,
    answer_P: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(P,) what is said when everything at `stage` but the `kept` positions is the mean over `others`."""
    said = []
    at = model.prefix + answer_position
    with reading(model) as model:
        for start in range(0, len(tokens_PS), BATCH):
            part = slice(start, start + BATCH)
            own = run_all(model, torch.from_numpy(tokens_PS[part]), until=stage)
            present_BM = torch.from_numpy(others.present_PM[part])
            tokens_XS, which_X = torch.unique(
                torch.from_numpy(others.tokens_PMS[part]).flatten(0, 1), dim=0, return_inverse=True
            )
            crowd = take_rows(run_all(model, tokens_XS, until=stage), which_X)
            means = [_mean(mine, theirs, present_BM) for mine, theirs in zip(own, crowd, strict=True)]
            _, state_BD = travel(model, [Kept(model, own, type(own)(*means), stage, kept, at)], at)
            said.append(judge(model, state_BD, answer_P[part])[0])
    return np.concatenate(said)


def _mean(own_BTD: Tensor, crowd_XTD: Tensor, present_BM: Tensor) -> Tensor:
    """The crowd's mean; the base's own where there is no crowd."""
    probes, many = present_BM.shape
    weight_BM = present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)
    crowd_BMTD = crowd_XTD.reshape(probes, many, *crowd_XTD.shape[1:]).float()
    mean_BTD = torch.einsum("bm,bm...->b...", weight_BM, crowd_BMTD).to(own_BTD.dtype)
    return torch.where(present_BM.any(1)[:, None, None], mean_BTD, own_BTD)
