"""Bridge centroids: the mean state over many (h', r1') that share a bridge.

Averaging removes what the donors do not share, h' and r1' first of all. It does not remove a vote: an
averaged memory still leans towards answers that many of its members give. So a centroid's donors follow the
rules of every other arm (`donors.py`): none of their compositions with r2 was ever trained.

As an arm of `interchange` ("centroid") this is done probe by probe. `bridge_centroids` gives the centroids
themselves, one per (bridge, relation 2, stage, position), for plots and for interventions of one's own.

Shapes: G groups, M donors, L stages, S input positions, D width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.mechanics.patch.donors import DonorTable
from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.unrolled import device_of, reading, step_rows
from grokscope.models.protocol import Reasoner
from grokscope.seeds import generator
from grokscope.world.queries import queries_of


@dataclass(frozen=True, eq=False)
class Centroids:
    """Mean states, and what they are means of."""

    state_GLTD: Tensor
    """float32 (G, L, T, D), prefix first; the state that `read` shows at each stage."""
    bridge_G: NDArray[np.int64]
    """The entity shared."""
    relation2_G: NDArray[np.int64]
    """The relation that none of the donors was ever trained with."""
    donors_G: NDArray[np.int64]
    """How many states each is the mean of; groups with fewer than 2 are left out."""


def bridge_centroids(
    model: Reasoner, setting: Setting, bridges: NDArray[np.int64], relation2: NDArray[np.int64], most: int = 8
) -> Centroids:
    """Centroids of (bridge, relation 2) pairs.

    Args:
        model: any reasoner.
        setting: the world, what was trained, the format, the seed.
        bridges, relation2: (G,) entity and relation numbers.
        most: donors per centroid.
    """
    table = DonorTable(setting.world, setting.trained)
    rng = generator("interchange", setting.seed, 200)
    states, kept, counts = [], [], []
    for group, (bridge, relation) in enumerate(zip(bridges.tolist(), relation2.tolist(), strict=True)):
        facts_M2 = table.of_bridge(bridge, relation, rng, most)
        if len(facts_M2) < 2:
            continue
        states.append(_mean_states(model, setting, facts_M2))
        kept.append(group)
        counts.append(len(facts_M2))
    if not states:
        return Centroids(torch.zeros(0, len(model.stages), 0, 0), *(np.zeros(0, np.int64) for _ in range(3)))
    return Centroids(torch.stack(states), bridges[kept], relation2[kept], np.array(counts))


def _mean_states(model: Reasoner, setting: Setting, facts_M2: NDArray[np.int64]) -> Tensor:
    tokens_MS = torch.from_numpy(
        setting.encode(queries_of(setting.world, facts_M2)).tokens_NS.astype(np.int64)
    )
    means = []
    with reading(model) as model:
        carry = model.start(tokens_MS.to(device_of(model)))
        for stage in range(len(model.stages)):
            if stage:
                carry = step_rows(model, carry, stage)
            means.append(model.read(carry, stage).float().mean(0))
    return torch.stack(means).cpu()
