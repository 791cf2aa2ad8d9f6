"""Injection: the compositions with one OOD hop that a regime adds to the training set.

The draws are made over all candidates and cut by the regime afterwards, so that the regimes of one corpus
seed nest: what `both_hops_half` injects as hop 1 is part of what `first_hop_full` does.

Shape suffixes: N compositions of the pool, F facts.
"""

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray, rank_within
from grokscope.world.pool import Pool
from grokscope.world.spec import Regime

DRAWING = (2, 3, 5, 6)
"""Number of every hop's stream, among those of "corpus"."""


def injected_rows(
    pool: Pool, test_ood: IntArray, held_N: BoolArray, regime: Regime, phi: float, seeds: Seeds
) -> IntArray:
    """Rows of the pool that `regime` injects, of all hops together.

    For each role: of the OOD facts that `test_ood` (rows) uses in it, a share `ratio` gets up to `k` random
    compositions whose other hops are ID and that are not held out (`held_N`).

    Raises:
        InputError: the regime asks for an injection that rounds to nothing, or as a hop that there is not.
    """
    for hop, (ratio, _) in enumerate(regime.injection):
        if ratio > 0 and hop >= pool.hops:
            raise InputError(
                f"regime {regime.name!r} injects as hop {hop + 1}, but corpus.hops = {pool.hops}."
            )
    roles = [_role(pool, hop, test_ood, held_N, regime, phi, seeds) for hop in range(pool.hops)]
    return np.concatenate(roles)


def partners_per_fact(regime: Regime, hop: int, phi: float) -> int:
    """Compositions per injected fact in this role (0: hop 1, 1: hop 2, ..); "full" is phi, rounded."""
    k = regime.injection[hop][1]
    return round(phi) if k == "full" else k


def _role(
    pool: Pool, hop: int, test_ood: IntArray, held_N: BoolArray, regime: Regime, phi: float, seeds: Seeds
) -> IntArray:
    ratio = regime.injection[hop][0]
    if ratio == 0:
        return np.empty(0, dtype=np.int64)
    k = partners_per_fact(regime, hop, phi)
    rng = generator("corpus", seeds.corpus, DRAWING[hop])
    target = np.unique(pool.fact_NK[test_ood, hop])
    chosen = rng.permutation(target)[: round(ratio * len(target))]
    if k == 0 or len(chosen) == 0:
        raise InputError(
            f"regime {regime.name!r} injects nothing as hop {hop + 1}: ratio {ratio} of {len(target)} OOD "
            f"facts, {k} compositions each; both must come to at least 1."
        )
    rows = np.flatnonzero(pool.rows(hop) & ~held_N)
    fact = pool.fact_NK[rows, hop]
    rank = rank_within(fact, rng.random(len(rows)))
    chosen_F = np.zeros(int(pool.fact_NK.max()) + 1, dtype=bool)
    chosen_F[chosen] = True
    injected: IntArray = rows[(rank < k) & chosen_F[fact]]
    if len(injected) == 0:
        raise InputError(
            f"regime {regime.name!r} finds nothing to inject as hop {hop + 1}: the {len(chosen)} chosen OOD "
            "facts have no ID partner that is not held out; use fewer corpus.partners or a larger degree."
        )
    return injected
