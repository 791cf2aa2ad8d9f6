"""Invariants of new facts, checked whenever they are built. A breach is a bug, not bad input.

Shape suffixes: F facts, N compositions, P probes, K hops.
"""

from typing import TYPE_CHECKING

import numpy as np

from grokscope.world.arrays import IntArray, contains
from grokscope.world.probes import MIXES, NEW_PATTERNS
from grokscope.world.queries import Queries

if TYPE_CHECKING:
    from grokscope.world.newfacts import NewFacts


def check_new_facts(new: "NewFacts") -> None:
    """Check that mixes are never trained, are testable, and are what they are called; and the old sets.

    Raises:
        RuntimeError: an invariant is broken; the message says which.
    """
    world = new.world
    trained_N = np.union1d(_ids(new, new.retained), _ids(new, new.taught))
    _require(not (new.new_F & new.retained_F).any(), "a new fact counts as retained")
    _require(bool(world.ood_F[new.new_F].all()), "a new fact counts as ID")
    _require(not new.new_F[new.retained.fact_NK(world)].any(), "a retained composition uses a new fact")
    _require(bool((new.taught.fact_NK(world) >= 0).all()), "a taught composition is not true")
    data_F = new.new_F | new.retained_F
    for name, probe_set in new.probes.items():
        queries, fact_PK = probe_set.queries, probe_set.fact_PK
        id_P = _ids(new, queries)
        _require(bool((np.diff(id_P) > 0).all()), f"a probe of {name} is repeated or out of order")
        _require(bool((queries.fact_NK(world) == fact_PK).all()), f"a probe of {name} is not true")
        if name in NEW_PATTERNS:
            letters_K = np.array([letter == "N" for letter in NEW_PATTERNS[name]])
            _require(bool((new.new_F[fact_PK] == letters_K).all()), f"{name} has a probe of another pattern")
            _require(bool(data_F[fact_PK].all()), f"a fact of {name} is not in the fine-tuning data")
            _require(bool((world.ood_F[fact_PK] == letters_K).all()), f"an old fact of {name} is OOD")
            _require(not queries.degenerate().any(), f"{name} has a degenerate probe")
        if name in MIXES or (queries.hops == 2 and name != "train_inferred"):
            _require(not contains(trained_N, id_P).any(), f"a probe of {name} is trained")


def _ids(new: "NewFacts", queries: Queries) -> IntArray:
    return queries.stable_id(new.world.entities, new.world.relations)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"internal error in the new facts: {otherwise}.")
