"""The tuned lens: the logit lens after one affine map per stage (Belrose et al. 2023, arXiv 2303.08112).

A stage may hold what the output head will say in another basis than the head's. The map of a stage is fitted
so that the head, reading the mapped state, says what the model says in the end AT THAT POSITION (the mean
over probes and positions of KL(final || lens)). It is one map for all positions, and is fitted on one fold of
facts and scored on the other (`folds.py`). The last stage has no map: there it is the logit lens.

It sees a latent only where the model's own final output at some position says it. A bridge that no position
ever outputs stays invisible to it; the probe (`probe.py`) is trained for the bridge itself.

Fit: the affine map that predicts the final state best (ridge regression, closed form), then at most `ROUNDS`
full-batch L-BFGS rounds on the KL from there. No randomness.

Shape legend: P probes, X rows (fitted probes x positions), B rows of a chunk, L stages, S token positions,
D width, V vocabulary, C variables.
"""

from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.read.folds import MIXED, all_states, both_folds
from grokscope.mechanics.read.lens import LOGITS_AT_ONCE, lens, measure, targets
from grokscope.mechanics.read.probe import RIDGE
from grokscope.models.protocol import Reasoner
from grokscope.world.format import Encoded
from grokscope.world.probes import ProbeSet
from grokscope.world.vocabulary import Vocabulary

ROUNDS = 5
"""L-BFGS rounds. The closed form has the decoding right already; a few rounds sharpen it, more of them let
D x D numbers learn the fitted facts by heart (zoo member `unread`: the bridge at r1, log-probability of held
out probes -1.9 after 1 round, -1.8 after 5, -2.4 after 20)."""


def tuned_lens(
    model: Reasoner, probe_set: ProbeSet, encoded: Encoded, vocabulary: Vocabulary, batch: int = 1024
) -> xr.Dataset:
    """Read every stage through its map and the model's output head.

    Args:
        model: any `Reasoner`; its weights and mode are left as they were.
        probe_set, encoded: the probes and their tokens, row by row.
        vocabulary: maps entity numbers to token ids.
        batch: probes per forward pass.

    Returns:
        What `lens` returns, for the probes of either fold alone, so that everything that reads a lens reads
        this.

    Raises:
        InputError: as `lens`, or the probes cannot be split by fact.
    """
    out = lens(model, probe_set, encoded, vocabulary, batch)
    fold_P = both_folds(probe_set)
    _, target_PC = targets(probe_set, vocabulary)
    counted_S = np.flatnonzero(out["counted"].values[0])
    states = all_states(model, encoded.tokens_NS, batch)
    rank, logp, argmax = (out[name].values.copy() for name in ("rank", "logp", "argmax"))
    for fold in (0, 1):
        fitted = torch.from_numpy(np.flatnonzero(fold_P == 1 - fold))
        scored_P = np.flatnonzero(fold_P == fold)
        final_XD = states[-1][fitted][:, counted_S].flatten(0, 1)
        for stage in range(len(states) - 1):
            state_XD = states[stage][fitted][:, counted_S].flatten(0, 1)
            map_DD, shift_D = fit(model, state_XD, final_XD)
            for rows in _blocks(scored_P, model.vocab * rank.shape[3]):
                mapped_BSD = states[stage][rows] @ map_DD + shift_D
                with torch.no_grad():
                    logits_BSV = _unembed(model, mapped_BSD)
                    found = measure(logits_BSV, torch.from_numpy(target_PC[rows]))
                rank[rows, :, stage], logp[rows, :, stage], argmax[rows, stage] = (
                    one.numpy() for one in found
                )
    values = {"rank": rank, "logp": logp, "argmax": argmax}
    out = out.assign({name: (out[name].dims, array) for name, array in values.items()})
    return out.isel(probe=np.flatnonzero(fold_P != MIXED))


def fit(model: Reasoner, state_XD: Tensor, final_XD: Tensor) -> tuple[Tensor, Tensor]:
    """The map (D, D) and shift (D,), float32, that make the head say of a stage's states what it says of the
    final ones.
    """
    map_DD, shift_D = _closed_form(state_XD, final_XD)
    with torch.no_grad():
        goal_XV = _unembed(model, final_XD[:, None])[:, 0].log_softmax(-1)
    map_DD.requires_grad_()
    shift_D.requires_grad_()
    optimiser = torch.optim.LBFGS([map_DD, shift_D], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        total = 0.0
        for rows in _blocks(np.arange(len(state_XD)), model.vocab):
            said_BV = _unembed(model, (state_XD[rows] @ map_DD + shift_D)[:, None])[:, 0].log_softmax(-1)
            goal_BV = goal_XV[rows]
            part = (goal_BV.exp() * (goal_BV - said_BV)).sum() / len(state_XD)
            gradient = torch.autograd.grad(part, [map_DD, shift_D])
            for parameter, one in zip((map_DD, shift_D), gradient, strict=True):
                parameter.grad = one.contiguous() if parameter.grad is None else parameter.grad + one
            total += float(part.detach())
        return total

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return map_DD.detach(), shift_D.detach()


def _closed_form(state_XD: Tensor, final_XD: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of final states on a stage's."""
    state, final = state_XD.double(), final_XD.double()
    state_mean, final_mean = state.mean(dim=0), final.mean(dim=0)
    centred = state - state_mean
    scatter_DD = centred.T @ centred
    penalty = RIDGE * float(scatter_DD.diagonal().mean()) or 1.0
    scatter_DD += penalty * torch.eye(len(scatter_DD), dtype=torch.float64)
    map_DD = torch.linalg.solve(scatter_DD, centred.T @ (final - final_mean))
    return map_DD.float().contiguous(), (final_mean - state_mean @ map_DD).float()


def _unembed(model: Reasoner, state_BSD: Tensor) -> Tensor:
    """Logits of CPU states, wherever and in whatever type the model computes."""
    weight = next(model.parameters())
    return model.unembed(state_BSD.to(weight.device, model.dtype)).cpu()


def _blocks(rows: NDArray[np.integer], logits_per_row: int) -> Iterator[Tensor]:
    """Rows in parts whose logits stay in the cache."""
    most = max(1, LOGITS_AT_ONCE // logits_per_row)
    return (torch.from_numpy(rows[start : start + most]) for start in range(0, len(rows), most))
