"""Rates: on how many queries an entity is decoded, where, and how often that would happen by chance.

Three numbers that must not be confused:

- *any-stage-any-position*: the entity is the argmax at ANY stage and ANY position. The paper's rate is
this one
  at token positions alone (`tokens_only`): its evaluation cuts the prefix (registers) off, where a bridge
  may stand. It grows with stages x positions and with small vocabularies, so it never stands without its
  chance level: the same rate for the matched control entity.
- *one cell*: the entity is the argmax in ONE (stage, position), chosen on one half of the facts and scored on
  the other, so that choosing among many cells gains nothing.
- *before the last stage*: either of them without the last stage. A causal model is trained to output the
  bridge at r1's position, because [h, r1] is also an atomic query; seeing it there at the last stage only
  says that the fact is memorised. A bridge can serve a second hop only if it is there earlier.

Positions that are given the answer as input (`counted` False) never count.
None of them shows that the model uses what is decoded.

Functions take a trace (from `open_traces`, or one checkpoint's `lens`); a trace without `step` counts as one
step.

Shape legend: N steps, P probes, L stages, S positions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from grokscope.errors import InputError
from grokscope.mechanics.read.layout import select
from grokscope.mechanics.read.lens import CONTROL

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Cells:
    """Where a variable was looked for, and whether it was there. The scores of probe p use the cell of
    `half_P[p]`.
    """

    hit_NP: BoolArray
    """The variable is the argmax in the cell."""
    control_NP: BoolArray
    """The matched control entity is the argmax in that same cell."""
    stage_N2: NDArray[np.int64]
    """Stage scored in either half (and chosen on the other)."""
    position_N2: NDArray[np.int64]
    """Position, likewise."""
    half_P: NDArray[np.int64]
    """The half a probe is scored in: 0 or 1, by the fact whose tail the variable is."""


def found_anywhere(
    trace: xr.Dataset, variable: str, before_last: bool = False, tokens_only: bool = False
) -> xr.Dataset:
    """The any-stage-any-position rate and its chance level, per step and probe set.

    Args:
        trace: a trace.
        variable: a latent ("bridge") or "answer".
        before_last: leave the last stage out.
        tokens_only: leave the prefix out, as the published evaluation does.

    Returns:
        `rate` and `chance` over (step, set); NaN for sets that have no such variable.

    Raises:
        InputError: no probe set of the trace has the variable.
    """
    out = _blank(trace)
    for name in _sets_with(trace, variable):
        part = select(trace, name)
        for row, kind in (("rate", variable), ("chance", CONTROL + variable)):
            out[row].loc[{"set": name}] = anywhere(part, kind, before_last, tokens_only).mean(axis=1)
    return out


def found_in_cell(trace: xr.Dataset, variable: str, before_last: bool = False) -> xr.Dataset:
    """The rate in one cell, chosen on half of the facts and scored on the other, and its chance level.

    Facts are halved by a hash of their number; the fact meant is the one whose tail the variable is, so that
    no fact helps to choose the cell that it is scored in. Both directions are taken, and the rate is the mean
    over all probes. The cell is chosen anew at every step; among equal cells the earliest stage, then the
    leftmost position.

    Args:
        trace: a trace.
        variable: a latent ("bridge") or "answer".
        before_last: only stages before the last one may be chosen.

    Returns:
        `rate` and `chance` over (step, set), NaN for sets that have no such variable or fewer than two facts;
        the chosen cells as `stage_index` and `position_index` (-1: none) over (step, set, half), where `half`
        is the half that was scored there.

    Raises:
        InputError: no probe set of the trace has the variable, or no stage is left to choose.
    """
    out = _blank(trace)
    shape = (out.sizes["step"], out.sizes["set"], 2)
    for name in ("stage", "position"):
        out[name + "_index"] = (("step", "set", "half"), np.full(shape, -1))
    for name in _sets_with(trace, variable):
        cells = in_cell(select(trace, name), variable, before_last)
        if cells is None:
            continue
        here = {"set": name}
        out["rate"].loc[here], out["chance"].loc[here] = (
            cells.hit_NP.mean(axis=1),
            cells.control_NP.mean(axis=1),
        )
        out["stage_index"].loc[here], out["position_index"].loc[here] = cells.stage_N2, cells.position_N2
    return out


def emergence_map(trace: xr.Dataset, variable: str, probe_set: str, step: int | None = None) -> xr.DataArray:
    """The share of probes with `variable` as the argmax, for every stage and position, at one step.

    Args:
        trace: a trace.
        variable: any variable, controls included.
        probe_set: name of the set.
        step: one of the trace's steps; None for a trace without `step`.

    Returns:
        (stage, position), with `role` on position; NaN at positions that are not counted.

    Raises:
        InputError: the set, the variable or the step is not in the trace.
    """
    part = select(trace, probe_set)
    if step is not None:
        if step not in part["step"].values:
            raise InputError(f"step = {step}: not among the trace's {part.sizes['step']} steps.")
        part = part.sel(step=step)
    found = (_rank(part, variable) == 0).mean("probe").where(part["counted"])
    return found.rename("rate").drop_vars("variable").transpose("stage", "position")


def anywhere(
    part: xr.Dataset, variable: str, before_last: bool = False, tokens_only: bool = False
) -> BoolArray:
    """(N, P): is `variable` the argmax at any stage and any position? `part` is one probe set's trace."""
    looked_S = part["position"].values >= (0 if tokens_only else -np.inf)
    hits = _hits(part, variable, before_last)
    return np.stack([hit_PLS[:, :, looked_S].any(axis=(1, 2)) for hit_PLS in hits])


def registers(part: xr.Dataset) -> bool:
    """Whether the trace looks at positions that hold no token."""
    return bool((part["position"].values < 0).any())


def in_cell(part: xr.Dataset, variable: str, before_last: bool = False) -> Cells | None:
    """Probe by probe what `found_in_cell` averages; None when the set rests on fewer than two facts."""
    fact_P = part["fact"].values[:, _hop_of(part, variable)]
    half_P = halves(fact_P)
    if not half_P.any():
        return None
    hits, controls, stages, positions = [], [], [], []
    for hit_PLS, control_PLS in zip(
        _hits(part, variable, before_last), _hits(part, CONTROL + variable, before_last), strict=True
    ):
        if not hit_PLS.shape[1]:
            raise InputError("before_last: the model has one stage, so there is none before the last.")
        # The cell scored in half 0 is the best cell of half 1, and the other way round.
        best = [int(hit_PLS[half_P != half].mean(axis=0).argmax()) for half in (0, 1)]
        stage_2, position_2 = np.unravel_index(best, hit_PLS.shape[1:])
        rows = np.arange(len(half_P))
        hits.append(hit_PLS[rows, stage_2[half_P], position_2[half_P]])
        controls.append(control_PLS[rows, stage_2[half_P], position_2[half_P]])
        stages.append(stage_2)
        positions.append(position_2)
    return Cells(np.stack(hits), np.stack(controls), np.stack(stages), np.stack(positions), half_P)


def halves(fact_P: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """0 or 1 for every probe, the same for probes of one fact: facts in the order of a hash, dealt
    alternately.
    """
    facts_F, of_P = np.unique(fact_P, return_inverse=True)
    order_F = np.argsort(_hashed(facts_F), kind="stable")
    half_F = np.empty(len(facts_F), dtype=np.int64)
    half_F[order_F] = np.arange(len(facts_F)) % 2
    return half_F[of_P]


def _hashed(number_F: NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser: neighbouring fact numbers (facts of one head) fall apart."""
    z = number_F.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def latents_of(part: xr.Dataset) -> list[str]:
    """The variables of one probe set that are no controls, in the order of the path: one per hop, the answer
    last.
    """
    return [str(name) for name in part["variable"].values if not str(name).startswith(CONTROL)]


def _hop_of(part: xr.Dataset, variable: str) -> int:
    """The hop whose fact has the variable as its tail; of the answer to a comparison the last."""
    latents = latents_of(part)
    if variable not in latents:
        raise InputError(
            f"variable {variable!r} is not on the path of these queries; {', '.join(latents)} are."
        )
    return min(latents.index(variable), part["fact"].shape[1] - 1)


def _hits(part: xr.Dataset, variable: str, before_last: bool) -> Any:
    """(P, L, S) booleans, one step at a time, so that a long run need not fit into memory."""
    rank = _rank(part, variable).variable  # Without its coordinates, which every step would slice again.
    if before_last:
        rank = rank.isel(stage=slice(0, -1))
    counted_S = part["counted"].values
    steps = [rank.isel(step=index) for index in range(rank.sizes["step"])] if "step" in rank.dims else [rank]
    return ((one.transpose("probe", "stage", "position").values == 0) & counted_S for one in steps)


def _rank(part: xr.Dataset, variable: str) -> xr.DataArray:
    names = part["variable"].values.tolist()
    if variable not in names:
        raise InputError(f"variable {variable!r} is not in this trace; it holds {', '.join(names)}.")
    return part["rank"].isel(variable=names.index(variable))


def _sets_with(trace: xr.Dataset, variable: str) -> list[str]:
    """The sets that have the variable."""
    names = trace["variable"].values.tolist()
    if variable not in names:
        raise InputError(f"variable {variable!r} is not in this trace; it holds {', '.join(names)}.")
    defined_S = trace["defined"].values[:, names.index(variable)]
    return [name for name, defined in zip(trace["set"].values.tolist(), defined_S, strict=True) if defined]


def _blank(trace: xr.Dataset) -> xr.Dataset:
    """`rate` and `chance` over (step, set), all NaN."""
    steps = trace["step"].values if "step" in trace.dims else np.array([-1])
    empty = np.full((len(steps), trace.sizes["set"]), np.nan)
    return xr.Dataset(
        {name: (("step", "set"), empty.copy()) for name in ("rate", "chance")},
        coords={"step": steps, "set": trace["set"].values},
    )
