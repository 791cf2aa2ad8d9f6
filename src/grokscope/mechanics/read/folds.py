"""Two folds of probes that share no fact, and the states that a trained readout reads.

A readout that was fitted on a fact can answer for it by heart. So facts are halved (by the hash of
`rates.halves`), a probe belongs to a fold only if ALL its facts lie in that half, and every readout is
fitted on one fold and scored on the other. Both directions are taken; probes with facts of both halves (half
of the two-hop ones) are left out.

Shape legend: P probes, K hops, L stages, T positions with the prefix
first, D width.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import InputError
from grokscope.mechanics.read.lens import stage_states
from grokscope.mechanics.read.rates import halves
from grokscope.mechanics.unrolled import chunks, device_of, reading
from grokscope.models.protocol import Reasoner
from grokscope.world.probes import ProbeSet

MIXED = -1
"""The fold of a probe with facts of both halves."""


def folds(fact_PK: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """(P,) 0 or 1 for probes whose facts all lie in one half, `MIXED` for the others."""
    half_PK = halves(fact_PK.ravel()).reshape(fact_PK.shape)
    first_P = half_PK[:, 0]
    return np.where((half_PK == first_P[:, None]).all(axis=1), first_P, MIXED)


def both_folds(probe_set: ProbeSet) -> NDArray[np.int64]:
    """`folds` of a probe set.

    Raises:
        InputError: a fold is empty, so that nothing could be fitted on one and scored on the other.
    """
    fold_P = folds(np.asarray(probe_set.fact_PK))
    for fold in (0, 1):
        if not (fold_P == fold).any():
            raise InputError(
                f"probe set {probe_set.name!r}: its {len(probe_set)} probes cannot be split into two folds "
                "that share no fact; more probes are needed."
            )
    return fold_P


def all_states(model: Reasoner, tokens_PS: NDArray[Any], batch: int = 1024) -> list[Tensor]:
    """Per stage the states (P, T, D) in float32 on the CPU; 4 L P T D bytes in all."""
    tokens_PS = tokens_PS.astype(np.int64)
    parts: list[list[Tensor]] = [[] for _ in model.stages]
    with reading(model) as model:
        for rows in chunks(len(tokens_PS), batch):
            tokens_BS = torch.from_numpy(tokens_PS[rows]).to(device_of(model))
            for stage, state_BTD in enumerate(stage_states(model, tokens_BS)):
                parts[stage].append(state_BTD.float().cpu())
    # Cloned outside of inference mode: a fit differentiates through them.
    return [torch.cat(part).clone() for part in parts]
