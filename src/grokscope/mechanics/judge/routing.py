"""Routing: which edge of the unrolled computation carries the bridge, found by patching one edge at a time.

An edge is (stage - 1, sender) -> (stage, receiver): one pass, from one position to one. It is patched by
giving the sender's state another query's value, running that one pass, and keeping of its result the
receiver's state alone; every other state, the sender's own included, is the clean one. So what is new can go
on only through that receiver. Between two positions nothing but the mixing over positions of that pass reads
the sender (an MLP stays at its position): the edge is the receiver's attention read. From a position to
itself it is what the position carries on. This is path patching (Goldowsky-Dill et al. 2023) with states as
nodes, which asks the same of a token mixer.

Where a carry has several parts (TRM: z_H and z_L), all that lives on of a position is its node.

Beside it stands the attention pattern of the clean run, which shows where a receiver looks and not what it
takes from there.

Shapes: P probes, B probes of a chunk, L stages, C input positions (receiver before sender), G heads of all
blocks of a pass, T positions with the prefix first, D width, R rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.judge.share import EDGE
from grokscope.mechanics.patch.edits import Column, Edges
from grokscope.mechanics.patch.engine import record, travel
from grokscope.mechanics.patch.groups import columns_of
from grokscope.mechanics.patch.interchange import (
    RANDOM,
    Drawn,
    Setting,
    accuracy,
    cluster_facts,
    draw,
    source_of,
    usable,
)
from grokscope.mechanics.patch.maps import probes_per_chunk
from grokscope.mechanics.read.lens import PREFIX
from grokscope.mechanics.unrolled import (
    STATE,
    chunks,
    device_of,
    judge,
    reading,
)
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES, rate_map
from grokscope.statistics.estimate import Estimate
from grokscope.world.format import Encoded, FormatSpec
from grokscope.world.probes import ProbeSet

PATTERN = ".pattern"
"""How sites of attention weights end."""
SPREAD = (0.05, 0.95)
"""Quantiles over the queries given beside a mean attention weight."""
USED = 0.5
"""An edge carries if its rate is at least this part of the best edge's of its kind: between two positions, or
from one to itself."""


@dataclass(frozen=True)
class Route:
    """An edge that carries what an arm changes."""

    stage: int
    """Index of the stage that the pass leads to."""
    sender: str
    receiver: str
    """Input positions, by name; equal where a position carries the bridge on."""
    rate: Estimate
    """How often this edge alone makes the model say the other answer."""
    n: int
    head: str | None
    """Head with the largest mean weight from receiver to sender; None: carried on, or no attention."""
    attention: float | None
    """Its mean weight."""


def routing(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    maps: xr.Dataset,
    arm: str = "bridge",
    every: bool = False,
    drawn: Drawn | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """How often each edge alone makes the model say what the arm expects.

    Args:
        model, probe_set, setting: as given to `interchange`.
        maps: what it returned, with `arm`: says which pairs count, and which senders can matter.
        arm: one with a single donor (not centroid, not random).
        every: all senders; else only cells whose whole state, put in from the donor, gives what is expected
            more often than guessing does. An edge out of another cell cannot be on the way.
        drawn: from `draw`, with `arm`; None: drawn here, the same donors.
        confidence: level of the intervals.

    Returns:
        `rate`, `low`, `high` (stage, receiver, sender), clustered by fact, over the pairs that `accuracy`
        conditions on: NaN where the sender was not asked, at the first stage, and below `FEWEST_PROBES`; `n`.
        For models with attention `attention`, `attention_low`, `attention_high` (stage, head, receiver,
        sender): mean weight in the clean run and its 5th and 95th percentile over the probes.

    Raises:
        InputError: the arm is missing or has several donors.
    """
    if arm in ("centroid", RANDOM) or arm not in maps["arm"].values:
        raise InputError(f"arm = {arm!r}: routing needs an arm of the map with a single donor.")
    rows_P = np.flatnonzero(usable(maps, arm))
    base = setting.encode(probe_set.queries)
    columns = routed_columns(model, maps, base, setting.format)
    names = list(columns)
    kept = [maps["position"].values.tolist().index(name) for name in names]
    asked_LC = _asked(maps, arm, every)[:, kept]
    shape = (maps.sizes["stage"], len(names), len(names))
    values_3LCC = np.full((3, *shape), np.nan)
    tokens_PS = base.tokens_NS[rows_P].astype(np.int64)
    if len(rows_P) >= FEWEST_PROBES:
        donors = (draw(model, probe_set, setting, [arm]) if drawn is None else drawn).donors[arm]
        lent_PS = source_of(setting, donors).tokens_PMS[rows_P, 0]
        said_LCCP = _said(
            model, tokens_PS, lent_PS, asked_LC, tuple(columns.values()), base.answer_position, setting.budget
        )
        hit_LCCP = said_LCCP == maps["expected"].sel(arm=arm).values[rows_P]
        facts_PK = cluster_facts(maps, arm)[rows_P]
        into_LCC = np.broadcast_to(_into(asked_LC), shape)
        values_3LCC[:, into_LCC] = rate_map(hit_LCCP[into_LCC], facts_PK, confidence)
    edges = ("stage", "receiver", "sender")
    values = {name: (edges, one) for name, one in zip(("rate", "low", "high"), values_3LCC, strict=True)}
    out = xr.Dataset(
        {**values, "n": len(rows_P)},
        coords={"stage": maps["stage"].values, "receiver": names, "sender": names},
        attrs={"arm": arm},
    )
    alone = [name for name in names if name.isdigit()]
    looked = attention_patterns(model, base.tokens_NS, out.sel(receiver=alone, sender=alone).coords)
    return out.merge(looked, join="left")


def routed_columns(model: Reasoner, maps: xr.Dataset, encoded: Encoded, fmt: FormatSpec) -> dict[str, Column]:
    """The columns of a map that an edge leads from or to: every input position; what the first hop is
    asked with and the prefix, as one each."""
    every = columns_of(model, encoded, fmt)
    names = maps["position"].values.tolist()
    kept = [
        name
        for name in names
        if name in every and (name.isdigit() or name == PREFIX or name.startswith("head+"))
    ]
    return {name: every[name] for name in kept}


def carrying(found: xr.Dataset) -> tuple[Route, ...]:
    """The edges of a `routing` that carry, in the order of the stages: surely above `EDGE`, and at least
    `USED` of the best edge of their kind."""
    rate, low = found["rate"].values, found["low"].values
    stays = np.eye(rate.shape[1], dtype=bool)[None]
    carries = np.zeros(rate.shape, dtype=bool)
    for kind in (stays, ~stays):
        own = np.where(kind & np.isfinite(rate), rate, 0.0)
        carries |= (own >= USED * own.max()) & (own > 0) & (low > EDGE)
    return tuple(_route(found, *(int(i) for i in edge)) for edge in np.argwhere(carries))


def _route(found: xr.Dataset, stage: int, receiver: int, sender: int) -> Route:
    names, head, weight = found["sender"].values.tolist(), None, None
    if "attention" in found and receiver != sender:
        weight_G = found["attention"].values[stage, :, receiver, sender]
        if np.isfinite(weight_G).any():
            best = int(np.nanargmax(weight_G))
            head, weight = str(found["head"].values[best]), float(weight_G[best])
    rate, low, high = (float(found[name].values[stage, receiver, sender]) for name in ("rate", "low", "high"))
    estimate = Estimate(rate, low, high)
    return Route(stage, names[sender], names[receiver], estimate, int(found["n"]), head, weight)


def attention_patterns(
    model: Reasoner, tokens_PS: NDArray[np.integer], coords: xr.Coordinates, batch: int = 1024
) -> xr.Dataset:
    """Attention weights of the clean run per pass and head; empty for a model without attention.

    Args:
        model: any reasoner. tokens_PS: queries. coords: stage, receiver and sender of the result.
        batch: queries per forward pass.
    """
    sites = list(dict.fromkeys(s for stage in model.stages for s in model.sites(stage.index) if _shown(s)))
    if not sites or not len(tokens_PS):
        return xr.Dataset()
    parts: list[NDArray[np.float32]] = []
    with reading(model) as model:
        for rows in chunks(len(tokens_PS), batch):
            tokens_BS = torch.from_numpy(tokens_PS[rows].astype(np.int64)).to(device_of(model))
            parts.append(_patterns(model, tokens_BS, sites))
    pattern_PLGCC = np.concatenate(parts)
    edges = ("stage", "head", "receiver", "sender")
    low, high = np.quantile(pattern_PLGCC, SPREAD, axis=0)
    heads = pattern_PLGCC.shape[2] // len(sites)
    names = [f"{site.removesuffix(PATTERN)}.head{head}" for site in sites for head in range(heads)]
    mean = pattern_PLGCC.mean(axis=0, dtype=np.float64)
    return xr.Dataset(
        {"attention": (edges, mean), "attention_low": (edges, low), "attention_high": (edges, high)},
        coords={**{name: coords[name] for name in ("stage", "receiver", "sender")}, "head": names},
    )


def _shown(site: str) -> bool:
    return site.endswith(PATTERN)


def _asked(maps: xr.Dataset, arm: str, every: bool) -> NDArray[np.bool_]:
    """(L, C) cells whose edges to the next stage are patched."""
    if every:
        return np.ones((maps.sizes["stage"], maps.sizes["position"]), dtype=bool)
    nodes = accuracy(maps, arm)
    out_LC: NDArray[np.bool_] = nodes["low"].values > nodes["guess"].fillna(0).values
    return out_LC


def _into(asked_LC: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(L, 1, C) the same, by the stage that the edge leads to."""
    into_LC = np.zeros_like(asked_LC)
    into_LC[1:] = asked_LC[:-1]
    return into_LC[:, None]


def _said(
    model: Reasoner,
    tokens_PS: NDArray[np.int64],
    lent_PS: NDArray[np.int64],
    asked_LC: NDArray[np.bool_],
    columns: Sequence[Column],
    answer_position: int,
    budget: int,
) -> NDArray[np.int64]:
    """(L, C, C, P) what is said when one edge alone brings the lender's state; the clean answer elsewhere."""
    many, probes = len(columns), len(tokens_PS)
    out = np.zeros((len(model.stages), many, many, probes), dtype=np.int64)
    patches = int(asked_LC.sum()) * many
    most = probes_per_chunk(model, tokens_PS.shape[1], max(1, patches), 1, budget)
    at = model.prefix + answer_position
    with reading(model) as model:
        for rows in chunks(probes, most):
            base, other = (
                record(model, torch.from_numpy(tokens[rows]).to(device_of(model)), (STATE,), at)
                for tokens in (tokens_PS, lent_PS)
            )
            out[..., rows] = _judged(model, base.end_BD)
            address_R4, state_RD = travel(model, [Edges(model, base, other, asked_LC, columns, at)], at)
            if len(address_R4):
                stage_R, receiver_R, sender_R, probe_R = address_R4.T
                out[stage_R, receiver_R, sender_R, probe_R + rows.start] = _judged(model, state_RD)
    return out


def _judged(model: Reasoner, state_RD: Tensor) -> NDArray[np.int64]:
    return judge(model, state_RD, np.zeros(len(state_RD), dtype=np.int64))[0]


def _patterns(model: Reasoner, tokens_BS: Tensor, sites: Sequence[str]) -> NDArray[np.float32]:
    """(B, L, G, C, C) the weights at every stage, prefix cut; NaN at stages without attention."""
    carry = model.start(tokens_BS)
    stages: list[Tensor | None] = [None]
    for stage in range(1, len(model.stages)):
        seen: dict[str, Tensor] = {}

        def look(site: str, value: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            if _shown(site):
                seen[site] = value[:, :, model.prefix :, model.prefix :].float().cpu()
            return value

        carry = model.step(carry, stage, look)
        stages.append(torch.cat([seen[site] for site in sites], dim=1) if seen else None)
    shape = next(one for one in stages if one is not None).shape
    filled = [torch.full(shape, torch.nan) if one is None else one for one in stages]
    return np.asarray(torch.stack(filled, dim=1).numpy())
