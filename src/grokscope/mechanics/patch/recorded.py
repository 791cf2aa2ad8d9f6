"""Runs that are kept: the carry after every pass, and the values at the sites that are to be patched.

The model is read at the answer alone. So of the last pass only that position is computed, and what is kept
of it is that position's.

Shapes: B probes of a chunk, M donors averaged into one source, X donors of a chunk (B * M), S input
positions, T positions with the prefix first, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.unrolled import STATE, device_of, has, step_rows, step_rows_at, take_rows
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

NOISE = 1_000_003
"""Seeds of neighbouring probes' noise lie together; those of neighbouring settings this far apart."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where patched-in states come from: the mean over the donors of each probe, or noise of the same
    norm.
    """

    tokens_PMS: NDArray[np.int64]
    """(P, M, S) the donors."""
    present_PM: NDArray[np.bool_]
    """(P, M) which of them count; a probe without donors is patched with its own state, that is, not at
    all.
    """
    noise_seed: int | None = None
    """Set: in place of the donors' state a Gaussian direction with that state's norm."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run of some queries."""

    carries: list[Carry]
    """At every stage but the last."""
    value: dict[tuple[int, str], Tensor]
    """By stage and site (B, T, D); at the last stage (B, 1, D), the answer's position, where the pass
    computes no more."""

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
        model: any reasoner. tokens_BS: the queries. sites: STATE, or sites inside the passes.
        answer: the position on the T axis where the last stage is read.
        until: last stage that is needed; None: all.
    """
    last = len(model.stages) - 1
    until = last if until is None else until
    carries = [model.start(tokens_BS)]
    value = {(0, STATE): model.read(carries[0], 0)}
    for stage in range(1, until + 1):
        inside = {site: list[Tensor]() for site in sites if site != STATE and has(model, stage, site)}
        tap_of = _watching(inside) if inside else None
        if stage < last:
            carries.append(step_rows(model, carries[-1], stage, tap_of))
            value[stage, STATE] = model.read(carries[-1], stage)
        else:
            value[stage, STATE] = step_rows_at(model, carries[-1], stage, answer, tap_of)[:, None]
        value |= {(stage, site): torch.cat(seen) for site, seen in inside.items()}
    return Recorded(carries, value)


def _watching(inside: dict[str, list[Tensor]]) -> Callable[[slice], Tap]:
    def look(name: str, value: Tensor) -> Tensor:
        if name in inside:
            inside[name].append(value)
        return value

    return lambda _: look


def lent(
    model: Reasoner,
    base: Recorded,
    source: Source,
    rows: slice,
    sites: Sequence[str],
    answer: int,
    until: int | None = None,
) -> dict[tuple[int, str], Tensor]:
    """What a source puts in the place of each of `base.value`, up to stage `until`.

    Args:
        model, sites, answer, until: as for `record`.
        base: the run of the probes of these rows. source: of all probes. rows: which of them.
    """
    device = device_of(model)
    tokens_BMS, present_BM = source.tokens_PMS[rows], torch.from_numpy(source.present_PM[rows])
    probes, donors = present_BM.shape
    # Donors are drawn from few compositions: each is run once.
    tokens_US, which_X = np.unique(tokens_BMS.reshape(probes * donors, -1), axis=0, return_inverse=True)
    run = record(model, torch.from_numpy(tokens_US).to(device), sites, answer, until)
    index_X = torch.from_numpy(which_X.reshape(-1)).to(device)
    weight_BM = (present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)).to(device)
    without_B11 = (~present_BM.any(1)).to(device)[:, None, None]
    draws = {site: _draws(source, rows, probes) for site in sites}
    positions = run.carries[0][0].shape[1]
    out = {}
    for (stage, site), value_UTD in run.value.items():
        if site not in sites:
            continue
        value_BTD = value_UTD[index_X]
        if donors > 1:
            value_BMTD = value_BTD.reshape(probes, donors, *value_BTD.shape[1:]).float()
            value_BTD = torch.einsum("bm,bm...->b...", weight_BM, value_BMTD).to(model.dtype)
        if draws[site]:
            value_BTD = _noise_like(value_BTD, draws[site], positions, answer)
        out[stage, site] = torch.where(without_B11, base.value[stage, site], value_BTD)
    return out


def _draws(source: Source, rows: slice, probes: int) -> list[torch.Generator]:
    """A stream per probe: what is drawn must not depend on how many fit into memory together."""
    if source.noise_seed is None:
        return []
    numbers = range(rows.start, rows.start + probes)
    return [torch.Generator().manual_seed(source.noise_seed * NOISE + one) for one in numbers]


def _noise_like(value_BTD: Tensor, draws: Sequence[torch.Generator], positions: int, answer: int) -> Tensor:
    """Noise with the norm of the value at each position, of which there are all or the answer's alone."""
    each = [torch.randn((positions, value_BTD.shape[2]), generator=one) for one in draws]
    noise_BTD = torch.stack(each).to(value_BTD.device)
    if value_BTD.shape[1] != positions:
        noise_BTD = noise_BTD[:, answer : answer + 1]
    norms = value_BTD.float().norm(dim=-1, keepdim=True) / noise_BTD.norm(dim=-1, keepdim=True)
    scaled_BTD: Tensor = (noise_BTD * norms).to(value_BTD.dtype)
    return scaled_BTD
