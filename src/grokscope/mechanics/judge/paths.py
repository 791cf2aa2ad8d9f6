"""The inference path of one checkpoint on one probe set: where the bridge emerges, and where it is used.

Where every position reads every other the path is a sequence of cuts (`cuts`): after each stage, the smallest
group of positions whose exchange with a donor of another bridge AND another r2 makes the model answer r2
of the donor's bridge, which is nobody's answer. A group that gives the donor's own answer carries the
answer, not the bridge. Where no group that a role names holds it, the group is searched for on half of the
facts (`needed.shown_map`) and scored on the other.

Emergence is what the lens shows; the causal map is what interchange shows. They need not agree: a decoded
bridge may be read by nobody, and a bridge in another basis is read without being decoded. `disagrees` says
when.

Shapes: L stages, C columns.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from grokscope.errors import InputError
from grokscope.mechanics.judge.needed import HOLDS, NEARLY, SEARCHED, UNSEEN
from grokscope.mechanics.judge.routing import Route, carrying
from grokscope.mechanics.judge.share import Share
from grokscope.mechanics.patch.interchange import accuracy, cluster_facts, success, usable
from grokscope.mechanics.read.lens import names
from grokscope.mechanics.read.rates import halves
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, clustered_rate

USED = 0.5
"""A cell carries the bridge where its interchange accuracy is at least this part of the best cell's."""


@dataclass(frozen=True)
class Cut:
    """The positions that hold the bridge after a stage."""

    stage: int
    column: str
    """Name of the group."""
    rate: Rate
    """How often another bridge put there is followed: the model answers r2 of it."""
    own: float
    """How often the donor's own answer comes along: what is there is then the answer."""


@dataclass(frozen=True, eq=False)
class InferencePath:
    """Emergence and causal use, cell by cell."""

    cells: xr.Dataset
    """Over (stage, position): `bridge_decoded`, `answer_decoded` (share of probes with it as argmax),
    `bridge_rank`, `answer_rank` (median), `bridge_logp` (mean), and `moves` with `low` and `high`: how often
    another bridge there makes the model say the other answer. `role` stands on position."""
    position: str | None
    """Column that carries the bridge; None: cannot tell, or no cell moves the answer."""
    resolved: int | None
    """First stage at which it carries it."""
    read: int | None
    """Last stage at which it does: the next pass reads it."""
    stages_left: int | None
    """Passes after `read`, the reading one included: what the second hop has."""
    disagrees: str
    """Where lens and interchange contradict each other, as a sentence; empty: nowhere."""
    routes: tuple[Route, ...] = ()
    """Edges that carry the bridge, where they were asked for."""
    cuts: tuple[Cut, ...] = ()
    """Which positions hold the bridge after each stage that has such, where the map has groups of
    positions."""


def inference_path(
    trace: xr.Dataset, maps: xr.Dataset, found: Share | None = None, routed: xr.Dataset | None = None
) -> InferencePath:
    """Join what the lens and the interchange say of the same probe set.

    Args:
        trace: one probe set's lens (no `step` dimension).
        maps: its interchange map, with the arm "bridge".
        found: the share, if known; its cell's column is then the path's.
        routed: its `routing`, if its edges are wanted.

    Raises:
        InputError: stages differ, the trace has several checkpoints, or an arm or the bridge is missing.
    """
    if "step" in trace.dims:
        raise InputError("trace: one checkpoint is needed; choose it with trace.sel(step=...).")
    if trace["stage"].values.tolist() != maps["stage"].values.tolist():
        raise InputError("trace and maps: their stages differ, so they are not of one model.")
    if "bridge" not in maps["arm"].values or _latent(maps) not in trace["variable"].values:
        raise InputError("trace and maps: both must have the bridge, as a variable and as an arm.")
    moves = accuracy(maps, "bridge")
    cells = _emergence(trace, maps).assign({name: moves[key] for name, key in _MOVES.items()})
    rate_LC = moves["rate"].values
    enough = int(usable(maps, "bridge").sum()) >= FEWEST_PROBES
    if not enough or not (moves["low"].values > moves["guess"].fillna(0).values).any():
        return InferencePath(cells, None, None, None, None, "")
    column = (
        int(rate_LC[1:].max(axis=0).argmax()) if found is None or not found.cells else found.cells[0].column
    )
    carries_L = np.flatnonzero(rate_LC[:, column] >= USED * rate_LC[:, column].max())
    resolved, read = int(carries_L[0]), int(carries_L[-1])
    return InferencePath(
        cells,
        str(maps["position"].values[column]),
        resolved,
        read,
        maps.sizes["stage"] - 1 - read,
        _contradiction(cells, column, resolved, read),
        carrying(routed) if routed is not None else (),
        cuts(maps) if (maps["size"] > 1).any() else (),
    )


def cuts(maps: xr.Dataset, confidence: float = 0.95) -> tuple[Cut, ...]:
    """For every stage after the first the smallest group of positions that holds the bridge; stages
    without one are left out.

    A group holds it where exchanging it is followed for at least `HOLDS` of the answers, and for nearly as
    many (`NEARLY`) as any group's is.

    Args:
        maps: an interchange map with the arm "bridge"; groups that were not run count as not holding it.
        confidence: level of the intervals.
    """
    rows_P, size_C = usable(maps, "bridge"), maps["size"].values
    if rows_P.sum() < FEWEST_PROBES:
        return ()
    unseen_U = (halves(maps["fact"].values[:, 0]) == UNSEEN)[rows_P]
    said_LCP = maps["said"].sel(arm="bridge").transpose("stage", "position", "probe").values[:, :, rows_P]
    hit_LCP = success(maps, "bridge")[:, :, rows_P]
    own_LCP = said_LCP == maps["own"].sel(arm="bridge").values[rows_P]
    rate_LC, facts_PK = hit_LCP.mean(axis=2), cluster_facts(maps, "bridge")[rows_P]
    out = []
    for stage in range(1, len(rate_LC)):
        most = rate_LC[stage].max()
        if most < HOLDS:
            continue
        by_size = np.argsort(size_C, kind="stable")
        # Of the smallest groups that hold nearly as much as any, the best.
        enough = by_size[rate_LC[stage, by_size] >= NEARLY * most]
        smallest = enough[size_C[enough] == size_C[enough[0]]]
        best = int(smallest[rate_LC[stage, smallest].argmax()])
        name, own_U = str(maps["position"].values[best]), own_LCP[stage, best]
        scored_U = unseen_U if name in (maps.attrs.get(SEARCHED) or ()) else np.ones_like(unseen_U)
        found = clustered_rate(hit_LCP[stage, best, scored_U], facts_PK[scored_U], confidence)
        out.append(Cut(stage, name, found, float(own_U[scored_U].mean())))
    return tuple(out)


_MOVES = {"moves": "rate", "low": "low", "high": "high"}


def _latent(maps: xr.Dataset) -> str:
    """Name of the bridge that was exchanged."""
    return str(maps.attrs["latent"])


def _emergence(trace: xr.Dataset, maps: xr.Dataset) -> xr.Dataset:
    """The lens' numbers on the map's columns; a group of positions is NaN."""
    alone, columns = names(trace), maps["position"].values.tolist()
    there = [(alone.index(name), column) for column, name in enumerate(columns) if name in alone]
    from_S, to_C = (list(index) for index in zip(*there, strict=True))
    out: dict[str, tuple[tuple[str, str], np.ndarray]] = {}
    for name, variable in (("bridge", _latent(maps)), ("answer", "answer")):
        one = trace.sel(variable=variable)
        numbers = {
            "decoded": (one["rank"] == 0).mean("probe"),
            "rank": one["rank"].median("probe"),
            "logp": one["logp"].mean("probe"),
        }
        for measure, array in numbers.items():
            values_LC = np.full((maps.sizes["stage"], len(columns)), np.nan)
            values_LC[:, to_C] = array.transpose("stage", "position").values[:, from_S]
            out[f"{name}_{measure}"] = (("stage", "position"), values_LC)
    return xr.Dataset(out, coords={name: maps[name] for name in ("stage", "position", "role")})


def _contradiction(cells: xr.Dataset, column: int, resolved: int, read: int) -> str:
    used = cells["bridge_decoded"].values[resolved : read + 1, column]
    if np.isnan(used).all():
        return ""
    if np.nanmax(used) < USED:
        best = float(np.nanmax(used))
        return f"The bridge is used where the lens decodes it on {best:.0%} of the probes: another basis."
    return ""
