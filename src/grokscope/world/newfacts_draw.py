"""Drawing new facts: linked pairs a -> b -> t on unused (entity, relation) pairs.

Shape suffixes: F facts, E entities, R relations, L linked pairs, X free cells.
"""

import numpy as np

from grokscope.errors import InputError
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.graph import World
from grokscope.world.newfacts_spec import NewFactsSpec

ROUNDS = 1000
"""Attempts at linking facts of two different entities before it counts as impossible."""


def draw_facts(world: World, spec: NewFactsSpec, rng: np.random.Generator) -> IntArray:
    """(count, 3) int32 new facts: first (a, r1, b) of every pair, then (b, r2, t) of every pair.

    The (entity, relation) pairs are unused and distinct, a, b and t of a pair are three different entities,
    and every entity and relation is one that the base's facts mention; but b, with `spec.new_entities`, is
    one that they do not. Uniform under these conditions.

    Raises:
        InputError: there are not enough unused pairs, entities or unmentioned entities.
    """
    mentioned_E = mentioned(world)
    old_E = np.flatnonzero(mentioned_E)
    if len(old_E) < 3:
        raise InputError(f"new facts link 3 entities, the base's facts mention {len(old_E)}.")
    pairs = spec.count // 2
    free_X2 = _free_cells(world, mentioned_E)
    if spec.new_entities:
        second_L2 = _cells_of_new(world, mentioned_E, spec, rng)
        first_L2 = free_X2[_some(len(free_X2), pairs, spec, rng)]
    else:
        both_X2 = free_X2[_some(len(free_X2), 2 * pairs, spec, rng)]
        first_L2, second_L2 = _apart(both_X2[:pairs], both_X2[pairs:], rng)
    a_L, b_L = first_L2[:, 0], second_L2[:, 0]
    t_L = rng.choice(old_E, pairs)
    while len(clash := np.flatnonzero((t_L == a_L) | (t_L == b_L))):
        t_L[clash] = rng.choice(old_E, len(clash))
    first_L3 = np.concatenate([first_L2, b_L[:, None]], axis=1)
    second_L3 = np.concatenate([second_L2, t_L[:, None]], axis=1)
    return np.concatenate([first_L3, second_L3]).astype(np.int32)


def mentioned(world: World) -> BoolArray:
    """(E,) entities that stand in a fact, as head or tail."""
    out_E = np.zeros(world.entities, dtype=bool)
    out_E[world.fact_F3[:, 0]] = True
    out_E[world.fact_F3[:, 2]] = True
    return out_E


def _free_cells(world: World, mentioned_E: BoolArray) -> IntArray:
    """(X, 2) the (entity, relation) pairs without a fact whose entity and relation facts do mention."""
    known_R = np.zeros(world.relations, dtype=bool)
    known_R[world.fact_F3[:, 1]] = True
    free_ER = (world.tail_of_ER < 0) & mentioned_E[:, None] & known_R[None, :]
    return np.argwhere(free_ER)


def _some(free: int, wanted: int, spec: NewFactsSpec, rng: np.random.Generator) -> IntArray:
    if wanted > free:
        most = 2 * (free if spec.new_entities else free // 2)
        raise InputError(
            f"count = {spec.count}: the base's world has {free} unused (entity, relation) pairs; allowed is "
            f"at most {most}."
        )
    out_X: IntArray = rng.choice(free, wanted, replace=False)
    return out_X


def _apart(first_L2: IntArray, second_L2: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The same cells, linked so that no entity is linked to itself."""
    second_L2 = second_L2.copy()
    for _ in range(ROUNDS):
        clash = np.flatnonzero(first_L2[:, 0] == second_L2[:, 0])
        if not len(clash):
            return first_L2, second_L2
        for at in clash:
            other = rng.integers(len(second_L2))
            second_L2[[at, other]] = second_L2[[other, at]]
    raise InputError(
        f"count = {2 * len(first_L2)}: the unused (entity, relation) pairs belong to too few entities to be "
        "linked in pairs; allowed is fewer new facts, or a world of lower degree."
    )


def _cells_of_new(
    world: World, mentioned_E: BoolArray, spec: NewFactsSpec, rng: np.random.Generator
) -> IntArray:
    """(L, 2) cells of entities that no fact mentions, spread over them evenly."""
    spare_E = np.flatnonzero(~mentioned_E)
    if spec.new_entities > len(spare_E):
        raise InputError(
            f"new_entities = {spec.new_entities}: the base's vocabulary has {len(spare_E)} entities that no "
            "fact mentions, and a trained model cannot get more tokens; allowed is at most that number."
        )
    known_R = np.unique(world.fact_F3[:, 1])
    pairs = spec.count // 2
    if pairs > spec.new_entities * len(known_R):
        raise InputError(
            f"count = {spec.count}: {spec.new_entities} new entities have "
            f"{spec.new_entities * len(known_R)} pairs with a relation, for one of every two new facts; "
            f"allowed is at most {2 * spec.new_entities * len(known_R)}."
        )
    chosen_E = rng.permutation(spare_E)[: spec.new_entities]
    relation_ER = np.stack([rng.permutation(known_R) for _ in chosen_E])
    turn_L = np.arange(pairs)
    of_L = turn_L % len(chosen_E)
    return np.stack([chosen_E[of_L], relation_ER[of_L, turn_L // len(chosen_E)]], axis=1)
