"""The patching engine: every (stage, position) of every probe, patched from another state, in few large
passes.

The plain way runs a query once for every intervention: L * C runs of L passes (L stages, C columns of
positions). Here the base is run once, its carry kept at every stage; and all interventions travel together:
at stage s the base carry is copied once per column, its states there replaced, and those rows join the batch
that goes on to stage s + 1. So each intervention costs only the passes after it, and there are L large
passes in place of L * C * L small ones.

What cannot show is not run. Rows whose patch changes no bit (the same token at the embedding, a constant
initial state) are left out. The last pass is run for the position of the answer alone: a state at the last
stage speaks only there. A change inside a pass after which nothing mixes positions any more
(`Reasoner.stays`) recomputes its own position; the others' states are the base's.

Shapes: P probes, B probes of a chunk, M donors averaged into one source, L stages, C columns, S input
positions, T positions with the prefix first, X all of them or the answer's alone, D width, V vocabulary,
R rows of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.patch.recorded import Recorded, Source, lent, record
from grokscope.mechanics.unrolled import (
    LARGEST_PASS,
    STATE,
    chunks,
    device_of,
    fills_a_pass,
    has,
    inside_sites,
    joined,
    judge,
    reading,
    run_to_end,
    step_rows,
    step_rows_at,
    take_rows,
    width_of,
)
from grokscope.models.protocol import Carry, Reasoner
from grokscope.models.taps import Tap

__all__ = [
    "Patched",
    "Source",
    "columns_of",
    "patch_map",
    "probes_per_chunk",
    "travel",
]

DEFAULT_BUDGET = 2**30
"""Bytes of states and activations at a time."""


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
) -> tuple[Patched, list[Patched]]:
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
        site: STATE, or a site inside the pass that leads to each stage, of shape (B, T, D); stages without it
            hold the clean answer.

    Returns:
        The clean answer (L = C = 1), and the patched ones by source.

    Raises:
        InputError: the budget does not hold a single probe, tokens do not fit, or no stage has the site.
    """
    if site != STATE and site not in inside_sites(model):
        raise InputError(f"site = {site!r}: allowed are {STATE} and {', '.join(inside_sites(model))}.")
    tokens_PS = np.asarray(tokens_PS).astype(np.int64)
    wanted_LC = np.zeros((len(model.stages), len(columns)), dtype=bool)
    for stage in range(len(model.stages)) if stages is None else stages:
        wanted_LC[stage] = has(model, stage, site)
    until = int(np.flatnonzero(wanted_LC.any(axis=1)).max(initial=0))
    shape = (len(model.stages), len(columns), len(tokens_PS))
    clean, out = _empty((1, 1, len(tokens_PS))), [_empty(shape) for _ in sources]
    donors = max((source.present_PM.shape[1] for source in sources), default=1)
    most = probes_per_chunk(model, tokens_PS.shape[1], int(wanted_LC.sum()), donors, budget)
    answer = model.prefix + answer_position
    with reading(model) as model:
        for rows in chunks(len(tokens_PS), most):
            tokens_BS = torch.from_numpy(tokens_PS[rows]).to(device_of(model))
            base = record(model, tokens_BS, (site,), answer)
            said = judge(model, base.end_BD, watch_P[rows])
            for one in (clean, *out):
                one.said_LCP[:, :, rows], one.margin_LCP[:, :, rows] = said
            for source, one in zip(sources, out, strict=True):
                values = lent(model, base, source, rows, (site,), answer, until)
                address_R4, state_RD = travel(model, base, values, {site: wanted_LC}, columns, answer)
                if len(address_R4):
                    _, stage_R, column_R, probe_R = address_R4.T
                    said_R, margin_R = judge(model, state_RD, watch_P[rows][probe_R])
                    one.said_LCP[stage_R, column_R, probe_R + rows.start] = said_R
                    one.margin_LCP[stage_R, column_R, probe_R + rows.start] = margin_R
    return clean, out


def _empty(shape: tuple[int, ...]) -> Patched:
    return Patched(np.zeros(shape, np.int64), np.zeros(shape, np.float32))


def probes_per_chunk(
    model: Reasoner, positions: int, patches: int, donors: int, budget: int, sites: int = 1
) -> int:
    """Probes whose patches are run together within `budget` bytes.

    Raises:
        InputError: not even one probe fits.
    """
    width = width_of(model)
    state = (positions + model.prefix) * width * (2 if model.dtype == torch.bfloat16 else 4)
    # A row keeps up to three states, twice while rows are joined, and one final state; bases and
    # donors keep their carries, and a value per site.
    kept = ((2 + sites) * donors + 3 + sites) * len(model.stages)
    per_probe = state * (8 * patches + kept) + 8 * patches * model.vocab
    most = (budget - 64 * LARGEST_PASS * 2**14) // per_probe
    if most < 1:
        need = (per_probe + 64 * LARGEST_PASS * 2**14) / 2**20
        raise InputError(f"budget = {budget / 2**20:.0f} MiB: the map of one probe needs {need:.0f} MiB.")
    return int(min(most, 4096))


def travel(
    model: Reasoner,
    base: Recorded,
    values: Mapping[tuple[int, str], Tensor],
    wanted: Mapping[str, NDArray[np.bool_]],
    columns: Sequence[tuple[int, ...]],
    answer: int,
) -> tuple[NDArray[np.int64], Tensor]:
    """All patches of one chunk of probes from one source. They travel together, from stage to stage, until
    they are enough for passes of their own; then they are run to the end.

    Args:
        model: any reasoner. base: the probes' run. values: what is put in (`lent`).
        wanted: (L, C) by site, which cells are patched.
        columns: positions on the T axis that are patched together. answer: where the last stage is read.

    Returns:
        (R, 4) number of the site, stage, column and probe of every row, and its final state (R, D).
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
        for which, (site, wanted_LC) in enumerate(wanted.items()):
            if (stage, site) not in values:
                continue
            for column in np.flatnonzero(wanted_LC[stage]).tolist():
                own_BXD, value_BXD = base.value[stage, site], values[stage, site]
                index = _index(model, own_BXD, stage, site, columns[column], answer)
                changed_B = (own_BXD[:, index] != value_BXD[:, index]).flatten(1).any(1)
                probe_R = changed_B.nonzero()[:, 0]
                if not len(probe_R):
                    continue
                new_RXD = own_BXD[probe_R].clone()
                new_RXD[:, index] = value_BXD[probe_R][:, index]
                if stage < last:
                    travelling.append(_joining(model, base, probe_R, new_RXD, stage, site, columns[column]))
                    if fills_a_pass(travelling):
                        ends.append(run_to_end(model, joined(travelling), stage, answer))
                        travelling = []
                elif site == STATE:
                    ends.append(new_RXD[:, 0])
                else:
                    before = take_rows(base.carries[last - 1], probe_R)
                    tap_of = _replacing(site, new_RXD, answer)
                    ends.append(step_rows_at(model, before, last, answer, tap_of))
                probe_N = probe_R.cpu().numpy()
                addresses.append(np.stack(np.broadcast_arrays(which, stage, column, probe_N), axis=1))
    if not addresses:
        return np.zeros((0, 4), np.int64), torch.empty(0)
    return np.concatenate(addresses), torch.cat(ends)


def _index(
    model: Reasoner, own_BXD: Tensor, stage: int, site: str, where: tuple[int, ...], answer: int
) -> list[int]:
    """Where a column lies in a recorded value; nowhere if the last stage does not show it at the answer."""
    if stage < len(model.stages) - 1:
        return list(where)
    if own_BXD.shape[1] == 1:
        return [0] if answer in where else []
    return list(where)


def _joining(
    model: Reasoner,
    base: Recorded,
    probe_R: Tensor,
    new_RTD: Tensor,
    stage: int,
    site: str,
    where: tuple[int, ...],
) -> Carry:
    """The base carry at `stage` with a new value at one site."""
    if site == STATE:
        return model.write(take_rows(base.carries[stage], probe_R), stage, new_RTD)
    before = take_rows(base.carries[stage - 1], probe_R)
    if len(where) > 1 or not model.stays(stage, site):
        return step_rows(model, before, stage, _replacing(site, new_RTD, where[0]))
    carry = take_rows(base.carries[stage], probe_R)
    state_RTD = model.read(carry, stage).clone()
    state_RTD[:, where[0]] = step_rows_at(model, before, stage, where[0], _replacing(site, new_RTD, where[0]))
    return model.write(carry, stage, state_RTD)


def _replacing(site: str, value_RXD: Tensor, position: int) -> Callable[[slice], Tap]:
    """Taps that put in a slice of `value_RXD`, or of its one position where a pass computes only that."""

    def tap_of(part: slice) -> Tap:
        value = value_RXD[part]

        def tap(name: str, own: Tensor) -> Tensor:
            if name != site:
                return own
            return value if own.shape[1] == value.shape[1] else value[:, position : position + 1]

        return tap

    return tap_of
