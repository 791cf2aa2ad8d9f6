"""The patching engine: queries are run once and kept, edits of them travel together to the answer.

The plain way runs a query once for every intervention: L * C runs of L passes (L stages, C columns of
positions). Here the base is run once, its carry kept at every stage, and all edits travel together: an edit
joins at its stage as rows of a carry, and the rows go on from stage to stage in few large passes. So each
edit costs only the passes after it.

What an edit is, is in `edits.py`: anything that says which carries join at which stage. Whoever patches
(interchange, routing, ablation, tracing, interventions of one's own) makes edits and calls `travel`.

What cannot show is not run. Rows whose edit changes no bit are left out by the edits. The last pass is run
for the position of the answer alone: a state at the last stage speaks only there.

Shapes: B probes of a chunk, M donors averaged into one source, S input positions, T positions with the prefix
first, D width, X what lives on of a position (`Reasoner.live`; D where the carry has one part), R rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.unrolled import (
    STATE,
    device_of,
    fills_a_pass,
    joined,
    run_to_end,
    step_rows,
    step_rows_at,
    take_rows,
)
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

NOISE = 1_000_003
"""Seeds of neighbouring probes' noise lie together; those of neighbouring settings this far apart."""


@dataclass(frozen=True, eq=False)
class Joining:
    """Rows that an edit sends on their way at one stage."""

    address_RK: NDArray[np.int64]
    """What each row is called when it comes back; the probe last."""
    carry: Carry | None
    """At the stage joined; None at the last stage."""
    end_RD: Tensor | None = None
    """At the last stage: the state that is read."""


class Edit(Protocol):
    """What `travel` asks of an edit."""

    def joining(self, stage: int) -> Iterator[Joining]:
        """The rows that join at a stage."""


def travel(model: Reasoner, edits: Sequence[Edit], answer: int) -> tuple[NDArray[np.int64], Tensor]:
    """Run all edits to the end: together from stage to stage, until they are enough for passes of their own.

    Args:
        model: any reasoner. edits: of one address length. answer: position on the T axis that is read in the
        end.

    Returns:
        (R, K) the address of every row, and its final state (R, D).
    """
    last = len(model.stages) - 1
    travelling: list[Carry] = []
    addresses: list[NDArray[np.int64]] = []
    ends: list[Tensor] = []
    for stage in range(last + 1):
        if travelling:
            together = joined(travelling)
            if stage < last:
                travelling = [step_rows(model, together, stage)]
            else:
                ends.append(step_rows_at(model, together, last, answer))
        for edit in edits:
            for new in edit.joining(stage):
                addresses.append(new.address_RK)
                if new.end_RD is not None:
                    ends.append(new.end_RD)
                    continue
                travelling.append(new.carry)
                if fills_a_pass(travelling):
                    ends.append(run_to_end(model, joined(travelling), stage, answer))
                    travelling = []
    if not addresses:
        return np.zeros((0, 1), np.int64), torch.empty(0)
    return np.concatenate(addresses), torch.cat(ends)


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run of some queries that is kept."""

    carries: list[Carry]
    """At every stage but the last."""
    value: dict[tuple[int, str], Tensor]
    """By stage and site: STATE (B, T, X), sites inside a pass (B, T, D); at the last stage (B, 1, D), the
    answer's position, where the pass computes no more."""

    @property
    def end_BD(self) -> Tensor:
        """The state that the answer is read from."""
        return self.value[len(self.carries), STATE][:, 0]

    def take(self, index_R: Tensor) -> "Recorded":
        """The run of some of the queries."""
        return Recorded(
            [take_rows(carry, index_R) for carry in self.carries],
            {place: value_BTD[index_R] for place, value_BTD in self.value.items()},
        )


def record(
    model: Reasoner, tokens_BS: Tensor, sites: Iterable[str], answer: int, until: int | None = None
) -> Recorded:
    """Run queries and keep what is asked.

    Args:
        model: any reasoner. tokens_BS: the queries.
        sites: STATE, a part of the carry ("z_L"), or sites inside the passes.
        answer: the position on the T axis where the last stage is read.
        until: last stage that is needed; None: all.
    """
    last = len(model.stages) - 1
    until = last if until is None else until
    carries = [model.start(tokens_BS)]
    value = {(0, STATE): model.live(carries[0], 0)}
    for stage in range(1, until + 1):
        inside = {site: list[Tensor]() for site in sites if site in model.sites(stage)[1:]}
        tap_of = _watching(inside) if inside else None
        if stage < last:
            carries.append(step_rows(model, carries[-1], stage, tap_of))
            value[stage, STATE] = model.live(carries[-1], stage)
        else:
            value[stage, STATE] = step_rows_at(model, carries[-1], stage, answer, tap_of)[:, None]
        value |= {(stage, site): torch.cat(seen) for site, seen in inside.items()}
    for stage in range(until + 1):
        part = model.stages[stage].site
        if part != STATE and part in sites:
            value[stage, part] = model.read(carries[stage], stage) if stage < last else value[stage, STATE]
    return Recorded(carries, value)


def _watching(inside: dict[str, list[Tensor]]) -> Callable[[slice], Tap]:
    def keep(name: str, value: Tensor) -> Tensor:
        if name in inside:
            inside[name].append(value)
        return value

    return lambda _: keep


@dataclass(frozen=True, eq=False)
class Source:
    """Where patched-in states come from: the mean over the donors of each probe, or noise of the same
    norm."""

    tokens_PMS: NDArray[np.int64]
    """(P, M, S) the donors."""
    present_PM: NDArray[np.bool_]
    """(P, M) which of them count; a probe without donors is patched with its own state, that is, not at
    all."""
    noise_seed: int | None = None
    """Set: in place of the donors' state a Gaussian direction with that state's norm."""


def lent(
    model: Reasoner,
    base: Recorded,
    source: Source,
    rows_B: NDArray[np.int64],
    sites: Sequence[str],
    answer: int,
    until: int | None = None,
) -> dict[tuple[int, str], Tensor]:
    """What a source puts in the place of each of `base.value`, up to stage `until`.

    Args:
        model, sites, answer, until: as for `record`.
        base: the run of these probes. source: of all probes. rows_B: which of them.
    """
    device = device_of(model)
    tokens_BMS, present_BM = source.tokens_PMS[rows_B], torch.from_numpy(source.present_PM[rows_B])
    probes, donors = present_BM.shape
    # Donors are drawn from few compositions: each is run once.
    tokens_US, which_N = np.unique(tokens_BMS.reshape(probes * donors, -1), axis=0, return_inverse=True)
    run = record(model, torch.from_numpy(tokens_US).to(device), sites, answer, until)
    index_N = torch.from_numpy(which_N.reshape(-1)).to(device)
    weight_BM = (present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)).to(device)
    without_B11 = (~present_BM.any(1)).to(device)[:, None, None]
    draws = {site: _draws(source, rows_B) for site in sites}
    positions = run.carries[0][0].shape[1]
    out = {}
    for (stage, site), value_UTD in run.value.items():
        if site not in sites:
            continue
        value_BTD = value_UTD[index_N]
        if donors > 1:
            value_BMTD = value_BTD.reshape(probes, donors, *value_BTD.shape[1:]).float()
            value_BTD = torch.einsum("bm,bm...->b...", weight_BM, value_BMTD).to(model.dtype)
        if draws[site]:
            value_BTD = _noise_like(value_BTD, draws[site], positions, answer)
        out[stage, site] = torch.where(without_B11, base.value[stage, site], value_BTD)
    return out


def _draws(source: Source, rows_B: NDArray[np.int64]) -> list[torch.Generator]:
    """A stream per probe: what is drawn must not depend on how many fit into memory together."""
    if source.noise_seed is None:
        return []
    return [torch.Generator().manual_seed(source.noise_seed * NOISE + int(one)) for one in rows_B]


def _noise_like(value_BTD: Tensor, draws: Sequence[torch.Generator], positions: int, answer: int) -> Tensor:
    """Noise with the norm of the value at each position, of which there are all or the answer's alone."""
    each = [torch.randn((positions, value_BTD.shape[2]), generator=one) for one in draws]
    noise_BTD = torch.stack(each).to(value_BTD.device)
    if value_BTD.shape[1] != positions:
        noise_BTD = noise_BTD[:, answer : answer + 1]
    norms = value_BTD.float().norm(dim=-1, keepdim=True) / noise_BTD.norm(dim=-1, keepdim=True)
    scaled_BTD: Tensor = (noise_BTD * norms).to(value_BTD.dtype)
    return scaled_BTD
