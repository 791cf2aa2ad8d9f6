"""Invariants of new facts, checked whenever they are built. A breach is a bug, not bad input.

Shape suffixes: F facts, N compositions, P probes, K hops.
"""

from collections.abc import Mapping

import numpy as np

from grokscope.world.arrays import BoolArray, IntArray, contains
from grokscope.world.graph import World
from grokscope.world.probes import MIXES, NEW_PATTERNS, ProbeSet
from grokscope.world.queries import Queries


def check_new_facts(
    world: World,
    new_F: BoolArray,
    retained_F: BoolArray,
    retained: Queries,
    taught: Queries,
    probes: Mapping[str, ProbeSet],
) -> None:
    """Check that mixes are never trained, are testable, and are what they are called; and the old sets.

    Args:
        world: of old and new facts.
        new_F, retained_F: (F,) which facts are new, and which are old atoms of the fine-tuning data.
        retained, taught: its compositions, without and with a new fact.
        probes: what is asked.

    Raises:
        RuntimeError: an invariant is broken; the message says which.
    """
    trained_N = np.union1d(_ids(world, retained), _ids(world, taught))
    _require(not (new_F & retained_F).any(), "a new fact counts as retained")
    _require(bool(world.ood_F[new_F].all()), "a new fact counts as ID")
    _require(not new_F[retained.fact_NK(world)].any(), "a retained composition uses a new fact")
    _require(bool((taught.fact_NK(world) >= 0).all()), "a taught composition is not true")
    data_F = new_F | retained_F
    for name, probe_set in probes.items():
        queries, fact_PK = probe_set.queries, probe_set.fact_PK
        id_P = _ids(world, queries)
        _require(bool((np.diff(id_P) > 0).all()), f"a probe of {name} is repeated or out of order")
        _require(bool((queries.fact_NK(world) == fact_PK).all()), f"a probe of {name} is not true")
        if name in NEW_PATTERNS:
            letters_K = np.array([letter == "N" for letter in NEW_PATTERNS[name]])
            _require(bool((new_F[fact_PK] == letters_K).all()), f"{name} has a probe of another pattern")
            _require(bool(data_F[fact_PK].all()), f"a fact of {name} is not in the fine-tuning data")
            _require(bool((world.ood_F[fact_PK] == letters_K).all()), f"an old fact of {name} is OOD")
            _require(not queries.degenerate().any(), f"{name} has a degenerate probe")
        if name in MIXES or (queries.hops == 2 and name != "train_inferred"):
            _require(not contains(trained_N, id_P).any(), f"a probe of {name} is trained")


def _ids(world: World, queries: Queries) -> IntArray:
    return queries.stable_id(world.entities, world.relations)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"internal error in the new facts: {otherwise}.")
