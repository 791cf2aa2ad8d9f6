"""Baselines: the guess a relation alone allows, and a matched entity that a lens should not find.

Shape suffixes: P probes, E entities, R relations, X excluded entities, C rows of a chunk.
"""

import numpy as np

from grokscope.errors import InputError
from grokscope.world.arrays import IntArray
from grokscope.world.graph import World

CHUNK = 256
"""Rows of the exact search at once; bounds its memory."""


def guess_of_relation(world: World) -> IntArray:
    """(R,) int32 most frequent tail of every relation over all facts, ID and OOD; the smallest of equals."""
    cell_F = world.fact_F3[:, 1].astype(np.int64) * world.entities + world.fact_F3[:, 2]
    count_RE = np.bincount(cell_F, minlength=world.relations * world.entities).reshape(world.relations, -1)
    guess_R: IntArray = count_RE.argmax(axis=1).astype(np.int32)
    return guess_R


def draw_controls(
    true_P: IntArray, excluded_PX: IntArray, indegree_E: IntArray, rng: np.random.Generator
) -> IntArray:
    """(P,) int32 for every entity a random other one of the same in-degree, or of the nearest there is.

    Args:
        true_P: the entities to match.
        excluded_PX: entities that may not be drawn for this row; must hold the true one.
        indegree_E: how many facts have each entity as tail.
        rng: where the draws come from.

    Raises:
        InputError: there are not enough entities to leave one.
    """
    if len(indegree_E) <= excluded_PX.shape[1]:
        raise InputError(
            f"entities = {len(indegree_E)} leaves no control entity beside the {excluded_PX.shape[1]} of a "
            f"query; at least {excluded_PX.shape[1] + 1} are needed."
        )
    order_E = np.argsort(indegree_E, kind="stable").astype(np.int32)
    sorted_E = indegree_E[order_E]
    low_P = np.searchsorted(sorted_E, indegree_E[true_P], side="left")
    high_P = np.searchsorted(sorted_E, indegree_E[true_P], side="right")
    control_P = np.full(len(true_P), -1, dtype=np.int32)
    left = np.arange(len(true_P))
    for _ in range(8):  # rejection: nearly all rows are done after a round or two
        pick = order_E[rng.integers(low_P[left], high_P[left])]
        fine = (pick[:, None] != excluded_PX[left]).all(axis=1)
        control_P[left[fine]] = pick[fine]
        left = left[~fine]
    for start in range(0, len(left), CHUNK):  # small groups of equal in-degree: search them all
        row = left[start : start + CHUNK]
        distance_CE = np.abs(indegree_E[None, :] - indegree_E[true_P[row], None]) + rng.random(
            (len(row), len(indegree_E))
        )
        np.put_along_axis(distance_CE, excluded_PX[row], np.inf, axis=1)
        control_P[row] = distance_CE.argmin(axis=1)
    return control_P
