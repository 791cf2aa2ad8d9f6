"""The patching engine: every (stage, position) of every probe, patched from another state, in few large
passes.

The plain way runs a query once for every intervention: L * C runs of L passes (L stages, C columns of
positions). Here the base is run once, its carry kept at every stage; and all interventions travel together:
at stage s the base carry is copied once per column, its states there replaced, and those rows join the batch
that goes on to stage s + 1. So each intervention costs only the passes after it, and there are L large
passes in place of L * C * L small ones. Rows whose patch changes no bit (the same token at the embedding, a
constant initial state) are not run.

Shapes: P probes, B probes of a chunk, M donors averaged into one source, L stages, C columns, S input
positions, T positions with the prefix first, D width, V vocabulary, R rows of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.unrolled import (
    LARGEST_PASS,
    STATE,
    all_carries,
    chunks,
    device_of,
    has,
    inside_sites,
    joined,
    judge,
    reading,
    step_rows,
    take_rows,
    value_at,
    width_of,
)
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

DEFAULT_BUDGET = 2**30
"""Bytes of states and activations at a time."""


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
class Patched:
    """What the model says under every patch."""

    said_LCP: NDArray[np.int64]
    """Token with the highest logit at the answer position."""
    margin_LCP: NDArray[np.float32]
    """Logit of the probe's watched token minus the highest other logit."""


def columns_of(model: Reasoner, positions: int, with_prefix: bool = False) -> dict[str, tuple[int, ...]]:
    """Columns of a map: every input position, and, if asked, the whole prefix as one more."""
    columns: dict[str, tuple[int, ...]] = {str(s): (model.prefix + s,) for s in range(positions)}
    if with_prefix and model.prefix:
        columns["prefix"] = tuple(range(model.prefix))
    return columns


def patch_map(
    model: Reasoner,
    tokens_PS: NDArray[np.integer[Any]],
    sources: Sequence[Source],
    columns: Sequence[tuple[int, ...]],
    answer_position: int,
    watch_P: NDArray[np.int64],
    stages: Sequence[int] | None = None,
    budget: int = DEFAULT_BUDGET,
    site: str = STATE,
) -> list[Patched]:
    """Patch every (stage, column) of every probe from every source.

    Args:
        model: any reasoner. tokens_PS: the base queries. sources: what is patched in; the base is run once
        for all of them. columns: positions on the T axis that are patched together. answer_position: input
        position where the answer is read. watch_P: token whose margin is reported. stages: stages that are
        patched; None: all. Those left out hold the clean answer. budget: bytes that states and activations
        may take at a time. site: STATE, or a site inside the pass that leads to each stage, of shape (B, T,
        D); stages without it hold
            the clean answer.

    Raises:
        InputError: the budget does not hold a single probe, tokens do not fit, or no stage has the site.
    """
    wanted = [
        s for s in (range(len(model.stages)) if stages is None else sorted(stages)) if has(model, s, site)
    ]
    if not any(has(model, stage.index, site) for stage in model.stages):
        raise InputError(f"site = {site!r}: allowed are {STATE} and {', '.join(inside_sites(model))}.")
    tokens_PS = np.asarray(tokens_PS).astype(np.int64)
    shape = (len(model.stages), len(columns), len(tokens_PS))
    out = [Patched(np.zeros(shape, np.int64), np.zeros(shape, np.float32)) for _ in sources]
    donors = max((source.present_PM.shape[1] for source in sources), default=1)
    per_chunk = probes_per_chunk(model, tokens_PS.shape[1], len(wanted) * len(columns), donors, budget)
    with reading(model):
        for rows in chunks(len(tokens_PS), per_chunk):
            base = all_carries(model, torch.from_numpy(tokens_PS[rows]).to(device_of(model)))
            last_BTD = model.read(base[-1], len(model.stages) - 1)
            clean = judge(model, last_BTD[:, model.prefix + answer_position], watch_P[rows])
            for source, result in zip(sources, out, strict=True):
                result.said_LCP[:, :, rows], result.margin_LCP[:, :, rows] = clean
                values = _source_values(model, base, source, rows, site)
                _chunk(model, base, values, site, columns, wanted, answer_position, watch_P, rows, result)
    return out


def probes_per_chunk(model: Reasoner, positions: int, patches: int, donors: int, budget: int) -> int:
    """Probes whose patches are run together within `budget` bytes.

    Raises:
        InputError: not even one probe fits.
    """
    width = width_of(model)
    state = (positions + model.prefix) * width * (2 if model.dtype == torch.bfloat16 else 4)
    # A row keeps up to three states, twice while rows are joined, and one final state; bases and
    # donors keep their carries.
    per_probe = state * (8 * patches + (3 * donors + 4) * len(model.stages)) + 8 * patches * model.vocab
    most = (budget - 64 * LARGEST_PASS * 2**14) // per_probe
    if most < 1:
        need = (per_probe + 64 * LARGEST_PASS * 2**14) / 2**20
        raise InputError(f"budget = {budget / 2**20:.0f} MiB: the map of one probe needs {need:.0f} MiB.")
    return int(min(most, 4096))


def _chunk(
    model: Reasoner,
    base: list[Carry],
    values: list[Tensor],
    site: str,
    columns: Sequence[tuple[int, ...]],
    wanted: Sequence[int],
    answer_position: int,
    watch_P: NDArray[np.int64],
    rows: slice,
    result: Patched,
) -> None:
    """All patches of one chunk of probes from one source, travelling together."""
    carry: Carry | None = None
    addresses: list[NDArray[np.int64]] = []
    for stage in range(len(model.stages)):
        if carry is not None:
            carry = step_rows(model, carry, stage)
        if stage not in wanted:
            continue
        joining, address_R3 = _patched(model, base, values[stage], site, columns, stage)
        if joining is not None:
            carry = joining if carry is None else joined([carry, joining])
            addresses.append(address_R3)
    if carry is None:
        return
    address_R3 = np.concatenate(addresses)
    stage_R, column_R, probe_R = address_R3.T
    state_RD = model.read(carry, len(model.stages) - 1)[:, model.prefix + answer_position]
    said_R, margin_R = judge(model, state_RD, watch_P[rows][probe_R])
    probe_R = probe_R + rows.start
    result.said_LCP[stage_R, column_R, probe_R] = said_R
    result.margin_LCP[stage_R, column_R, probe_R] = margin_R


def _patched(
    model: Reasoner,
    base: list[Carry],
    value_BTD: Tensor,
    site: str,
    columns: Sequence[tuple[int, ...]],
    stage: int,
) -> tuple[Carry | None, NDArray[np.int64]]:
    """The base carry with each column replaced in turn, without the rows that this does not change."""
    own_BTD = value_at(model, base, stage, site)
    parts, addresses = [], []
    for column, where in enumerate(columns):
        index = list(where)
        changed_B = (own_BTD[:, index] != value_BTD[:, index]).flatten(1).any(1)
        probe_R = changed_B.nonzero()[:, 0]
        if not len(probe_R):
            continue
        new_RTD = own_BTD[probe_R].clone()
        new_RTD[:, index] = value_BTD[probe_R][:, index]
        if site == STATE:
            parts.append(model.write(take_rows(base[stage], probe_R), stage, new_RTD))
        else:
            before = take_rows(base[stage - 1], probe_R)
            parts.append(step_rows(model, before, stage, _replacing(site, new_RTD)))
        numbers_R = probe_R.cpu().numpy()
        addresses.append(
            np.stack([np.full_like(numbers_R, stage), np.full_like(numbers_R, column), numbers_R], 1)
        )
    if not parts:
        return None, np.zeros((0, 3), np.int64)
    return joined(parts), np.concatenate(addresses)


def _source_values(
    model: Reasoner, base: list[Carry], source: Source, rows: slice, site: str
) -> list[Tensor]:
    """What to patch in, per stage (B, T, D); an empty tensor at stages without the site."""
    tokens_BMS, present_BM = source.tokens_PMS[rows], torch.from_numpy(source.present_PM[rows])
    probes, donors = present_BM.shape
    carries = all_carries(
        model, torch.from_numpy(tokens_BMS.reshape(probes * donors, -1)).to(device_of(model))
    )
    weight_BM = (present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)).to(device_of(model))
    without_B11 = (~present_BM.any(1)).to(device_of(model))[:, None, None]
    draws = None
    if source.noise_seed is not None:
        # A stream per probe: what is drawn must not depend on how many fit into memory together.
        numbers = range(rows.start, rows.start + probes)
        draws = [torch.Generator().manual_seed(source.noise_seed * 1_000_003 + one) for one in numbers]
    out = []
    for stage in range(len(model.stages)):
        if not has(model, stage, site):
            out.append(torch.empty(0))
            continue
        value_XTD = value_at(model, carries, stage, site)
        value_BTD = value_XTD
        if donors > 1:
            value_BMTD = value_XTD.reshape(probes, donors, *value_XTD.shape[1:]).float()
            value_BTD = torch.einsum("bm,bm...->b...", weight_BM, value_BMTD).to(model.dtype)
        if draws is not None:
            value_BTD = _noise_like(value_BTD, draws)
        out.append(torch.where(without_B11, value_at(model, base, stage, site), value_BTD))
    return out


def _replacing(site: str, value_RTD: Tensor) -> Callable[[slice], Tap]:
    """Taps that put in a slice of `value_RTD`."""
    return lambda part: lambda name, own: value_RTD[part] if name == site else own


def _noise_like(state_BTD: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
    each = [torch.randn(state_BTD.shape[1:], generator=one) for one in draws]
    noise_BTD = torch.stack(each).to(state_BTD.device)
    norms = state_BTD.float().norm(dim=-1, keepdim=True) / noise_BTD.norm(dim=-1, keepdim=True)
    scaled_BTD: Tensor = (noise_BTD * norms).to(state_BTD.dtype)
    return scaled_BTD
