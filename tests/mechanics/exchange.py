"""Exchanges of whole states between queries, made by hand: what the zoo's truth is held against.

Shapes: N queries, T positions with prefix, D width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from grokscope.mechanics.zoo import Wired
from grokscope.models.protocol import Carry
from grokscope.models.recursive import RecursiveModel
from grokscope.world.format import encode
from grokscope.world.pool import compositions
from grokscope.world.queries import Queries, queries_of

BOTH = ("z_H_BTD", "z_L_BTD")
"""The states of a recursive model."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Queries and, for each, two others that lend their states; no h or r1 is shared, and no r2."""

    base: Queries
    other: Queries
    """Has another bridge b', from which the base's r2 leads to an entity that neither query's answer is."""
    same: Queries
    """Has the same bridge."""
    moved: Queries
    """(h', r1', r2): the other's bridge with the base's r2; never trained."""


def pairs(wired: Wired, base: Queries, seed: int = 0) -> Pairs:
    """Draw lenders; queries without both kinds are left out."""
    world, rng = wired.corpus.world, np.random.default_rng(seed)
    every = queries_of(world, compositions(world).fact_NK)
    trained = wired.corpus.composition
    known_N = np.zeros((world.entities, world.relations, world.relations), dtype=bool)
    known_N[trained.head_N, *trained.relation_NK.T] = True
    rows, others, sames, seconds = [], [], [], []
    for row in range(len(base)):
        head, (first, second), (bridge, answer) = (
            x[row] for x in (base.head_N, base.relation_NK, base.path_NK)
        )
        fact_N = world.fact_of_ER[every.path_NK[:, 0], second]
        tail_N = world.fact_F3[fact_N, 2]
        apart_N = (every.head_N != head) & (every.relation_NK != (first, second)).all(axis=1)
        apart_N &= (every.path_NK[:, 1] != answer) & (fact_N >= 0)
        apart_N &= ~known_N[every.head_N, every.relation_NK[:, 0], second]
        same_N = apart_N & (every.path_NK[:, 0] == bridge)
        other_N = apart_N & (every.path_NK[:, 0] != bridge)
        other_N &= (tail_N != answer) & (tail_N != every.path_NK[:, 1])
        if same_N.any() and other_N.any():
            rows.append(row)
            others.append(rng.choice(np.flatnonzero(other_N)))
            sames.append(rng.choice(np.flatnonzero(same_N)))
            seconds.append(fact_N[others[-1]])
    other = every.take(np.array(others))
    moved = queries_of(world, np.stack([other.fact_NK(world)[:, 0], seconds], axis=1))
    return Pairs(base.take(np.array(rows)), other, every.take(np.array(sames)), moved)


def unrolled(wired: Wired, queries: Queries) -> list[Carry]:
    """The carry at every stage."""
    model = wired.model
    tokens_NS = torch.from_numpy(encode(queries, wired.corpus.world.vocabulary, wired.format).tokens_NS)
    with torch.inference_mode():
        carries = [model.start(tokens_NS)]
        for stage in range(1, len(model.stages)):
            carries.append(model.step(carries[-1], stage))
    return carries


def said(
    wired: Wired,
    carry: Carry,
    stage: int,
    lender: Carry,
    positions: Sequence[int],
    parts: Sequence[str] = (),
) -> np.ndarray:
    """(N,) the entity said, -1 for any other token, once the lender's states (all of them, or some parts)
    stand at some positions."""
    model, ids = wired.model, wired.corpus.world.vocabulary.entity_ids
    parts = parts or (BOTH if isinstance(model, RecursiveModel) else ("state_BTD",))
    answer = encode(wired.corpus.composition, wired.corpus.world.vocabulary, wired.format).answer_position
    with torch.inference_mode():
        for part in parts:
            state_BTD = getattr(carry, part).clone()
            state_BTD[:, list(positions)] = getattr(lender, part)[:, list(positions)]
            carry = carry._replace(**{part: state_BTD})
        for later in range(stage + 1, len(model.stages)):
            carry = model.step(carry, later)
        state_BTD = model.read(carry, len(model.stages) - 1)
        logits_BV = model.unembed(state_BTD[:, model.prefix + answer])
    number_V = np.full(model.vocab, -1)
    number_V[ids] = np.arange(len(ids))
    return number_V[logits_BV.argmax(-1).numpy()]
