"""The logit lens: what the model would say if it stopped at this stage, for all probes at once.

Positions that hold no token (the prefix of a recursive model: registers) are read like any other: a bridge
may stand there alone. They come first and are numbered from below 0, so that every input position keeps its
number. The published evaluation of He et al. (2026) cuts them off before it looks; `rates` can do so too.

Shape legend: P probes, B batch, C variables (latents, the answer and their controls), L stages, T positions
with the prefix first, V vocabulary, K hops.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.kernels.pieces import readout, reads
from grokscope.mechanics.unrolled import reading, step_rows
from grokscope.models.protocol import Reasoner
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet
from grokscope.world.vocabulary import Vocabulary

ANSWER = "answer"
"""The latent that ends every path."""

PREFIX = "prefix"
"""How the roles of positions that hold no token begin; their number follows."""

CONTROL = "control_"
"""Prefix of a variable that is the matched control of another one."""


LOGITS_AT_ONCE = 2**18
"""Logits held at a time: with what is compared with them, 2 MB, they stay in the cache."""


def lens(
    model: Reasoner, probe_set: ProbeSet, encoded: Encoded, vocabulary: Vocabulary, batch: int = 1024
) -> xr.Dataset:
    """Read every stage of every probe through the model's own output head.

    Data variables, over dims (probe, variable, stage, position) unless said:

    - `rank`: how many tokens come before the variable's token, 0 = it is the argmax. Equal logits are ordered
      by token id, which is `argmax`'s own order: exactly one token has each rank, so a tie favours nobody,
      and rank 0 means argmax. A logit that is not a number puts the rank at V or near it, never at 0. int16,
      or int32 from V = 32,768.
    - `logp`: natural log of the softmax probability, float32 (softmax whatever the training loss was).
    - `argmax` (probe, stage, position): the first token id of the highest logit.
    - `exact` (probe,): the exact match of the whole labelled output: at the last stage every label is the
      argmax, which is what `grokscope.training.evaluate.correct` asks.

    Coordinates: `probe` (stable ids), `probe_set`, `fact` and `injected` (probe, hop), `variable`, `stage`
    (names), `position` (number of the input position; the prefix
    below 0). For the set (dim `set`, of length 1): `pattern`, `answer_position`, `role`
    (set, position), `defined` (set, variable), and `counted` (set, position), which is False where the input
    already holds the answer (a causal sequence format gives it): finding it there would prove nothing.

    Args:
        model: any `Reasoner`; its weights and mode are left as they were.
        probe_set: the probes.
        encoded: the same probes as tokens, row by row.
        vocabulary: maps entity numbers to token ids.
        batch: probes per forward pass.

    Raises:
        InputError: the tokens do not belong to the probes, `batch` is below 1, or a token lies outside the
        vocabulary.
    """
    tokens_PS = np.asarray(encoded.tokens_NS)
    _check(model, probe_set, tokens_PS, vocabulary, batch)
    variables, target_PC = targets(probe_set, vocabulary)
    probes = len(tokens_PS)
    rank_PCLT, logp_PCLT, argmax_PLT = read_stages(model, tokens_PS, target_PC, batch)
    dims = ("probe", "variable", "stage", "position")
    return xr.Dataset(
        {
            "rank": (dims, rank_PCLT),
            "logp": (dims, logp_PCLT),
            "argmax": (("probe", "stage", "position"), argmax_PLT),
            "exact": (("probe",), _exact(argmax_PLT[:, -1, model.prefix :], encoded)),
        },
        coords={
            "probe": np.asarray(probe_set.id_P, dtype=np.int64),
            "probe_set": (("probe",), np.array([probe_set.name] * probes, dtype=str)),
            "fact": (("probe", "hop"), np.asarray(probe_set.fact_PK, dtype=np.int32)),
            "injected": (("probe", "hop"), np.asarray(probe_set.injected_PK, dtype=bool)),
            "variable": np.array(variables, dtype=str),
            "stage": np.array([stage.name for stage in model.stages], dtype=str),
            "position": np.arange(-model.prefix, tokens_PS.shape[1], dtype=np.int32),
            "set": np.array([probe_set.name], dtype=str),
            "pattern": (("set",), np.array([probe_set.pattern], dtype=str)),
            "answer_position": (("set",), np.array([encoded.answer_position], dtype=np.int32)),
            "role": (("set", "position"), np.array([roles(model, encoded)], dtype=str)),
            "counted": (("set", "position"), _counted(encoded, model.prefix)[None]),
            "defined": (("set", "variable"), np.ones((1, len(variables)), dtype=bool)),
        },
    )


def read_stages(
    model: Reasoner, tokens_PS: NDArray[Any], target_PC: NDArray[np.int64], batch: int = 1024
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[Any]]:
    """Rank and log-probability (P, C, L, T) of target tokens, and argmax (P, L, T), at every stage and
    position, prefix first: what `lens` says of them."""
    positions, stages = model.prefix + tokens_PS.shape[1], len(model.stages)
    small = np.int16 if model.vocab < 2**15 else np.int32
    shape = (*target_PC.shape, stages, positions)
    rank_PCLT, logp_PCLT = np.empty(shape, small), np.empty(shape, np.float32)
    argmax_PLT = np.empty((len(tokens_PS), stages, positions), small)
    device = next(model.parameters()).device
    with reading(model) as model:
        for start in range(0, len(tokens_PS), batch):
            rows = slice(start, start + batch)
            tokens_BS = torch.from_numpy(tokens_PS[rows].astype(np.int64)).to(device)
            target_BC = torch.from_numpy(target_PC[rows]).to(device)
            for stage, state_BTD in enumerate(stage_states(model, tokens_BS)):
                rank_BCT, logp_BCT, argmax_BT = _measured(model, state_BTD, target_BC)
                rank_PCLT[rows, :, stage] = rank_BCT.cpu().numpy()
                logp_PCLT[rows, :, stage] = logp_BCT.cpu().numpy()
                argmax_PLT[rows, stage] = argmax_BT.cpu().numpy()
    return rank_PCLT, logp_PCLT, argmax_PLT


def roles(model: Reasoner, encoded: Encoded) -> tuple[str, ...]:
    """What stands at every position of the T axis: "prefix0", .., then the roles of the input."""
    return (*(f"{PREFIX}{p}" for p in range(model.prefix)), *encoded.roles)


def names(trace: xr.Dataset) -> list[str]:
    """The positions of one set's trace as an interchange map names them: input positions by their number, the
    prefix by its roles."""
    role_T = (trace.isel(set=0) if "set" in trace.dims else trace)["role"].values
    numbers = trace["position"].values.tolist()
    return [str(number) if number >= 0 else str(role) for number, role in zip(numbers, role_T, strict=True)]


def targets(probe_set: ProbeSet, vocabulary: Vocabulary) -> tuple[list[str], NDArray[Any]]:
    """The variables of a probe set and their token ids: latents (answer last, as they come), then their
    controls.

    Returns:
        Names, e.g. ["bridge", "answer", "control_bridge", "control_answer"], and int64 token ids (P, C).
    """
    latents = probe_set.queries.latents()
    entities = {**latents, **{CONTROL + name: probe_set.control_PL[name] for name in latents}}
    ids_E = np.asarray(vocabulary.entity_ids, dtype=np.int64)
    return list(entities), np.stack([ids_E[np.asarray(entity_P)] for entity_P in entities.values()], axis=1)


def stage_states(model: Reasoner, tokens_BS: Tensor) -> Iterator[Tensor]:
    """The states (B, T, D) of one stage after the other, from one unrolled pass, put together
    (`unrolled.judge` says why)."""
    carry = model.start(tokens_BS)
    for stage in model.stages:
        if stage.index > 0:
            carry = step_rows(model, carry, stage.index)
        yield model.read(carry, stage.index).contiguous()


def _measured(model: Reasoner, state_BTD: Tensor, target_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`measure` of a stage's logits, a bounded number of them at a time."""
    rows = max(1, LOGITS_AT_ONCE // (state_BTD.shape[1] * model.vocab))
    blocks = [
        measure(model.unembed(state), target)
        for state, target in zip(torch.split(state_BTD, rows), torch.split(target_BC, rows), strict=True)
    ]
    rank, logp, argmax = zip(*blocks, strict=True)
    return torch.cat(rank), torch.cat(logp), torch.cat(argmax)


def measure(logits_BSV: Tensor, target_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank (B, C, S), log-probability (B, C, S) and argmax (B, S) of target tokens in logits."""
    if reads(logits_BSV, target_BC):
        return readout(logits_BSV, target_BC)
    vocab, device = logits_BSV.shape[-1], logits_BSV.device
    index_BSC = target_BC[:, None, :].expand(-1, logits_BSV.shape[1], -1)
    logit_BSC = logits_BSV.gather(2, index_BSC)
    logp_BSC = logits_BSV.log_softmax(-1).gather(2, index_BSC)
    # A comparison written as numbers is summed up several times faster than one kept as truth values.
    yes_BSV = torch.empty_like(logits_BSV)
    token_V = torch.arange(vocab, device=device)
    before_B1V = torch.empty(len(logits_BSV), 1, vocab, device=device)
    ranks = []
    for column in range(target_BC.shape[1]):
        logit_BS1 = logit_BSC[..., column : column + 1]
        # Counting what is NOT above, instead of what is, sends NaN logits to the bottom rank.
        at_most_BS = torch.le(logits_BSV, logit_BS1, out=yes_BSV).sum(-1)
        torch.lt(token_V, target_BC[:, column, None, None], out=before_B1V)
        tied_before_BS = torch.eq(logits_BSV, logit_BS1, out=yes_BSV).mul_(before_B1V).sum(-1)
        ranks.append((vocab - at_most_BS + tied_before_BS).long())
    return torch.stack(ranks, dim=1), logp_BSC.transpose(1, 2), logits_BSV.argmax(-1)


def _exact(argmax_PS: NDArray[Any], encoded: Encoded) -> NDArray[np.bool_]:
    """(P,) whether every label is what the last stage says; label 0 is none, and of several right answers any
    one will do."""
    right_PS = (argmax_PS == encoded.labels_NS) | (np.asarray(encoded.labels_NS) == 0)
    if encoded.answers_NA is not None:
        read = encoded.answer_position
        right_PS[:, read] |= (argmax_PS[:, read, None] == encoded.answers_NA).any(axis=1)
    right_P: NDArray[np.bool_] = right_PS.all(axis=1)
    return right_P


def _counted(encoded: Encoded, prefix: int) -> NDArray[np.bool_]:
    """(T,): False from the first position on that is given the answer as its input."""
    read = encoded.answer_position
    given_S = (encoded.tokens_NS == encoded.labels_NS[:, read : read + 1]).all(axis=0)
    given_S[: read + 1] = False
    return np.concatenate([np.ones(prefix, dtype=bool), ~np.logical_or.accumulate(given_S)])


def _check(
    model: Reasoner, probe_set: ProbeSet, tokens_PS: NDArray[Any], vocabulary: Vocabulary, batch: int
) -> None:
    """Refuse what would be read wrongly."""
    if batch < 1:
        raise InputError(f"batch = {batch}: the lens reads at least 1 probe at a time.")
    if tokens_PS.ndim != 2 or len(tokens_PS) != len(probe_set):
        raise InputError(
            f"encoded: tokens of shape {tokens_PS.shape} do not belong to the {len(probe_set)} probes of "
            f"{probe_set.name!r}; one row per probe is needed."
        )
    if vocabulary.size > model.vocab:
        raise InputError(
            f"vocabulary: {vocabulary.size} tokens do not fit a model of {model.vocab}; it must be the one "
            "that the model was built for."
        )
