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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.models.protocol import Carry, Reasoner

DEFAULT_BUDGET = 2**30
"""Bytes of states and activations at a time."""
LARGEST_PASS = 32
"""Rows x positions x width of one pass, in units of 2^14: activations beyond the cache cost more than they
save.
"""


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


def answers(
    model: Reasoner,
    tokens_PS: NDArray[np.integer[Any]],
    answer_position: int,
    watch_P: NDArray[np.int64],
    batch: int = 1024,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Said token (P,) and margin (P,) of the clean model."""
    said, margin = [], []
    with reading(model):
        for rows in chunks(len(tokens_PS), batch):
            tokens_BS = torch.from_numpy(tokens_PS[rows].astype(np.int64)).to(device_of(model))
            state_BTD = run_from(model, model.start(tokens_BS), 0)
            one, two = judge(model, state_BTD[:, model.prefix + answer_position], watch_P[rows])
            said.append(one)
            margin.append(two)
    empty = np.zeros(0)
    return (
        (np.concatenate(said), np.concatenate(margin))
        if said
        else (empty.astype(int), empty.astype(np.float32))
    )


def patch_map(
    model: Reasoner,
    tokens_PS: NDArray[np.integer[Any]],
    sources: Sequence[Source],
    columns: Sequence[tuple[int, ...]],
    answer_position: int,
    watch_P: NDArray[np.int64],
    stages: Sequence[int] | None = None,
    budget: int = DEFAULT_BUDGET,
) -> list[Patched]:
    """Patch every (stage, column) of every probe from every source.

    Args:
        model: any reasoner.
        tokens_PS: the base queries.
        sources: what is patched in; the base is run once for all of them.
        columns: positions on the T axis that are patched together.
        answer_position: input position where the answer is read.
        watch_P: token whose margin is reported.
        stages: stages that are patched; None: all. Those left out hold the clean answer.
        budget: bytes that states and activations may take at a time.

    Raises:
        InputError: the budget does not hold a single probe, or tokens do not fit.
    """
    wanted = range(len(model.stages)) if stages is None else sorted(stages)
    tokens_PS = np.asarray(tokens_PS).astype(np.int64)
    shape = (len(model.stages), len(columns), len(tokens_PS))
    out = [Patched(np.zeros(shape, np.int64), np.zeros(shape, np.float32)) for _ in sources]
    per_chunk = probes_per_chunk(model, tokens_PS.shape[1], len(wanted) * len(columns), budget)
    with reading(model):
        for rows in chunks(len(tokens_PS), per_chunk):
            base = _carries(model, torch.from_numpy(tokens_PS[rows]).to(device_of(model)))
            last_BTD = model.read(base[-1], len(model.stages) - 1)
            clean = judge(model, last_BTD[:, model.prefix + answer_position], watch_P[rows])
            for source, result in zip(sources, out, strict=True):
                result.said_LCP[:, :, rows], result.margin_LCP[:, :, rows] = clean
                states = _source_states(model, base, source, rows)
                _chunk(model, base, states, columns, wanted, answer_position, watch_P, rows, result)
    return out


def probes_per_chunk(model: Reasoner, positions: int, patches: int, budget: int) -> int:
    """Probes whose patches are run together within `budget` bytes.

    Raises:
        InputError: not even one probe fits.
    """
    width = _width(model)
    state = (positions + model.prefix) * width * (2 if model.dtype == torch.bfloat16 else 4)
    # A row keeps up to three states, twice while rows are joined, and one final state; each base keeps its
    # carries.
    per_probe = state * (8 * patches + 4 * len(model.stages)) + 8 * patches * model.vocab
    most = (budget - 64 * LARGEST_PASS * 2**14) // per_probe
    if most < 1:
        need = (per_probe + 64 * LARGEST_PASS * 2**14) / 2**20
        raise InputError(f"budget = {budget / 2**20:.0f} MiB: the map of one probe needs {need:.0f} MiB.")
    return int(min(most, 4096))


def _chunk(
    model: Reasoner,
    base: list[Carry],
    states: list[Tensor],
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
        joining, address_R3 = _patched(model, base[stage], states[stage], columns, stage)
        if joining is not None:
            carry = joining if carry is None else _joined([carry, joining])
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
    model: Reasoner, base: Carry, source_BTD: Tensor, columns: Sequence[tuple[int, ...]], stage: int
) -> tuple[Carry | None, NDArray[np.int64]]:
    """The base carry with each column replaced in turn, without the rows that this does not change."""
    own_BTD = model.read(base, stage)
    parts, addresses = [], []
    for column, where in enumerate(columns):
        index = list(where)
        changed_B = (own_BTD[:, index] != source_BTD[:, index]).flatten(1).any(1)
        probe_R = changed_B.nonzero()[:, 0]
        if not len(probe_R):
            continue
        kept = _rows(base, probe_R)
        state_RTD = own_BTD[probe_R].clone()
        state_RTD[:, index] = source_BTD[probe_R][:, index]
        parts.append(model.write(kept, stage, state_RTD))
        numbers_R = probe_R.cpu().numpy()
        addresses.append(
            np.stack([np.full_like(numbers_R, stage), np.full_like(numbers_R, column), numbers_R], 1)
        )
    if not parts:
        return None, np.zeros((0, 3), np.int64)
    return _joined(parts), np.concatenate(addresses)


def _source_states(model: Reasoner, base: list[Carry], source: Source, rows: slice) -> list[Tensor]:
    """The state to patch in, per stage (B, T, D)."""
    tokens_BMS, present_BM = source.tokens_PMS[rows], torch.from_numpy(source.present_PM[rows])
    probes, donors = present_BM.shape
    device = device_of(model)
    carry = model.start(torch.from_numpy(tokens_BMS.reshape(probes * donors, -1).astype(np.int64)).to(device))
    weight_BM = (present_BM / present_BM.sum(1, keepdim=True).clamp(min=1)).to(device)
    without_B11 = (~present_BM.any(1)).to(device)[:, None, None]
    draws = None
    if source.noise_seed is not None:
        draws = torch.Generator().manual_seed(source.noise_seed * 1_000_003 + rows.start)
    out = []
    for stage in range(len(model.stages)):
        if stage:
            carry = step_rows(model, carry, stage)
        state_BTD = model.read(carry, stage)
        state_BTD = state_BTD.reshape(probes, donors, *state_BTD.shape[1:])
        if donors == 1:
            state_BTD = state_BTD[:, 0]
        else:
            state_BTD = torch.einsum("bm,bm...->b...", weight_BM, state_BTD.float()).to(model.dtype)
        if draws is not None:
            state_BTD = _noise_like(state_BTD, draws)
        out.append(torch.where(without_B11, model.read(base[stage], stage), state_BTD))
    return out


def _noise_like(state_BTD: Tensor, draws: torch.Generator) -> Tensor:
    noise_BTD = torch.randn(state_BTD.shape, generator=draws).to(state_BTD.device)
    norms = state_BTD.float().norm(dim=-1, keepdim=True) / noise_BTD.norm(dim=-1, keepdim=True)
    scaled_BTD: Tensor = (noise_BTD * norms).to(state_BTD.dtype)
    return scaled_BTD


def step_rows(model: Reasoner, carry: Carry, stage: int) -> Carry:
    """`model.step`, in parts small enough for the cache."""
    rows, positions, width = carry[0].shape
    most = max(1, LARGEST_PASS * 2**14 // (positions * width))
    if rows <= most:
        return model.step(carry, stage)
    return _joined([model.step(_rows(carry, part), stage) for part in chunks(rows, most)])


def run_all(model: Reasoner, tokens_BS: Tensor, until: int) -> Carry:
    """The carry at stage `until`, in parts small enough for the cache."""
    carry = model.start(tokens_BS)
    for stage in range(1, until + 1):
        carry = step_rows(model, carry, stage)
    return carry


def run_from(model: Reasoner, carry: Carry, stage: int) -> Tensor:
    """Final state_BTD from the carry at `stage` on, in parts small enough for the cache."""
    last = len(model.stages) - 1
    for later in range(stage + 1, last + 1):
        carry = step_rows(model, carry, later)
    return model.read(carry, last)


def _carries(model: Reasoner, tokens_BS: Tensor) -> list[Carry]:
    carries = [model.start(tokens_BS)]
    for stage in range(1, len(model.stages)):
        carries.append(step_rows(model, carries[-1], stage))
    return carries


def judge(
    model: Reasoner, state_RD: Tensor, watch_R: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Said token and margin of the watched token, for states at the answer position."""
    said, margin = [], []
    for part in chunks(len(state_RD), max(1, 2**22 // model.vocab)):
        logits_RV = model.unembed(state_RD[part][:, None])[:, 0]
        watch_R1 = torch.from_numpy(np.asarray(watch_R[part], dtype=np.int64)).to(logits_RV.device)[:, None]
        own_R = logits_RV.gather(1, watch_R1)[:, 0]
        said.append(logits_RV.argmax(1).cpu().numpy())
        margin.append((own_R - logits_RV.scatter(1, watch_R1, -torch.inf).amax(1)).cpu().numpy())
    return np.concatenate(said), np.concatenate(margin)


def _rows(carry: Carry, rows: Any) -> Carry:
    return type(carry)(*[part[rows] for part in carry])


def _joined(carries: Sequence[Carry]) -> Carry:
    return type(carries[0])(*[torch.cat(parts) for parts in zip(*carries, strict=True)])


def chunks(size: int, most: int) -> Iterator[slice]:
    """Consecutive slices of at most `most`."""
    return (slice(start, min(start + most, size)) for start in range(0, size, most))


@contextmanager
def reading(model: Reasoner) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def device_of(model: Reasoner) -> torch.device:
    """Where the weights are."""
    return next(model.parameters()).device


def _width(model: Reasoner) -> int:
    with torch.no_grad():
        probe = model.start(torch.zeros(1, model.positions, dtype=torch.int64, device=device_of(model)))
        return int(model.read(probe, 0).shape[-1])
