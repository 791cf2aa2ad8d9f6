"""Running a model from any stage, in pieces: carries kept, joined and split, values seen inside a pass.

Shapes: P probes, B probes of a chunk, S input positions, T positions with the prefix first, D width,
V vocabulary, R rows of a batch.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.kernels.accelerated import accelerated
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

STATE = "state"
"""The site that is all of the carry that lives on (`Reasoner.live`; TRM: z_H and z_L together)."""
LARGEST_PASS = 8
"""Rows x positions x width of one pass, in units of 2^14: activations beyond the cache cost more than they
save.
"""


def answers(
    model: Reasoner,
    tokens_PS: NDArray[np.integer[Any]],
    answer_position: int,
    watch_P: NDArray[np.int64],
    batch: int = 1024,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Said token (P,) and margin (P,) of the clean model."""
    said, margin = [], []
    with reading(model) as model:
        for rows in chunks(len(tokens_PS), batch):
            tokens_BS = torch.from_numpy(tokens_PS[rows].astype(np.int64)).to(device_of(model))
            state_BD = run_to_end(model, model.start(tokens_BS), 0, model.prefix + answer_position)
            one, two = judge(model, state_BD, watch_P[rows])
            said.append(one)
            margin.append(two)
    empty = np.zeros(0)
    return (
        (np.concatenate(said), np.concatenate(margin))
        if said
        else (empty.astype(int), empty.astype(np.float32))
    )


def step_rows(
    model: Reasoner, carry: Carry, stage: int, tap_of: Callable[[slice], Tap] | None = None
) -> Carry:
    """`model.step`, in parts small enough for the cache; `tap_of` gives the tap for a slice of the rows."""
    before, after = [], []
    for part in _cached(carry):
        before.append(take_rows(carry, part))
        after.append(model.step(before[-1], stage, None if tap_of is None else tap_of(part)))
    if len(after) == 1:
        return after[0]
    # What a pass hands on as it was given is whole already.
    fields = [
        whole if all(new is old for new, old in zip(news, olds, strict=True)) else torch.cat(news)
        for whole, news, olds in zip(carry, zip(*after, strict=True), zip(*before, strict=True), strict=True)
    ]
    return type(carry)(*fields)


def step_rows_at(
    model: Reasoner,
    carry: Carry,
    stage: int,
    position: int,
    tap_of: Callable[[slice], Tap] | None = None,
) -> Tensor:
    """`model.step_at` in the same parts: state_BD at one position."""
    parts = [
        model.step_at(take_rows(carry, part), stage, position, None if tap_of is None else tap_of(part))
        for part in _cached(carry)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def fills_a_pass(carries: Sequence[Carry]) -> bool:
    """Whether these together have the rows of a whole part of `step_rows`."""
    return sum(len(carry[0]) for carry in carries) >= _rows_of_a_part(carries[0])


def _cached(carry: Carry) -> Iterator[slice]:
    return chunks(len(carry[0]), _rows_of_a_part(carry))


def _rows_of_a_part(carry: Carry) -> int:
    _, positions, width = carry[0].shape
    return max(1, int(LARGEST_PASS * 2**14 // (positions * width)))


def run_all(model: Reasoner, tokens_BS: Tensor, until: int) -> Carry:
    """The carry at stage `until`, in parts small enough for the cache."""
    carry = model.start(tokens_BS)
    for stage in range(1, until + 1):
        carry = step_rows(model, carry, stage)
    return carry


def run_to_end(model: Reasoner, carry: Carry, stage: int, position: int) -> Tensor:
    """Final state_BD at one position, all that the last pass is run for, from the carry at `stage` on."""
    last = len(model.stages) - 1
    if stage == last:
        return model.read(carry, last)[:, position]
    ends = []
    # Part by part to the end: between two stages nothing is put together.
    for part in _cached(carry):
        own = take_rows(carry, part)
        for later in range(stage + 1, last):
            own = model.step(own, later)
        ends.append(model.step_at(own, last, position))
    return ends[0] if len(ends) == 1 else torch.cat(ends)


def has(model: Reasoner, stage: int, site: str) -> bool:
    """Whether a stage has a site."""
    return site == STATE or site in model.sites(stage)


def patchable(model: Reasoner) -> tuple[str, ...]:
    """Sites with one value per position and coordinate: STATE, parts of the carry alone, inside the
    passes."""
    parts = dict.fromkeys(stage.site for stage in model.stages)
    return tuple(dict.fromkeys((STATE, *parts, *inside_sites(model))))


def inside_sites(model: Reasoner) -> tuple[str, ...]:
    """Sites inside the passes with one value per position and coordinate, what the map can patch beside
    states."""
    names = dict.fromkeys(site for stage in model.stages for site in model.sites(stage.index)[1:])
    return tuple(name for name in names if not name.endswith("pattern"))


def judge(
    model: Reasoner, state_RD: Tensor, watch_R: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Said token and margin of the watched token, for states at the answer position."""
    said, margin = [], []
    # Cut out of all positions they lie apart, and there a bfloat16 product takes PyTorch a hundred times as
    # long, for the same bits.
    state_RD = state_RD.contiguous()
    for part in chunks(len(state_RD), max(1, 2**22 // model.vocab)):
        logits_RV = model.unembed(state_RD[part][:, None])[:, 0]
        watch_R1 = torch.from_numpy(np.asarray(watch_R[part], dtype=np.int64)).to(logits_RV.device)[:, None]
        own_R = logits_RV.gather(1, watch_R1)[:, 0]
        said.append(logits_RV.argmax(1).cpu().numpy())
        margin.append((own_R - logits_RV.scatter(1, watch_R1, -torch.inf).amax(1)).cpu().numpy())
    return np.concatenate(said), np.concatenate(margin)


def take_rows(carry: Carry, rows: Any) -> Carry:
    return type(carry)(*[part[rows] for part in carry])


def joined(carries: Sequence[Carry]) -> Carry:
    """The rows of several carries at one stage, in this order."""
    if len(carries) == 1:
        return carries[0]
    return type(carries[0])(*[torch.cat(parts) for parts in zip(*carries, strict=True)])


def chunks(size: int, most: int) -> Iterator[slice]:
    """Consecutive slices of at most `most`."""
    return (slice(start, min(start + most, size)) for start in range(0, size, most))


@contextmanager
def reading(model: Reasoner) -> Iterator[Reasoner]:
    """The model as it is read: its accelerated twin in evaluation mode, and no gradients meanwhile."""
    with torch.inference_mode():
        yield accelerated(model).eval()


def device_of(model: Reasoner) -> torch.device:
    """Where the weights are."""
    return next(model.parameters()).device


def width_of(model: Reasoner) -> int:
    with torch.no_grad():
        probe = model.start(torch.zeros(1, model.positions, dtype=torch.int64, device=device_of(model)))
        return int(model.read(probe, 0).shape[-1])
