"""Every composition of a world, and what of it is held out before any regime is looked at.

Shape suffixes: N compositions, K hops, F facts, E entities.
"""

from dataclasses import dataclass

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, FloatArray, IntArray, ragged_ranges, rank_within
from grokscope.world.comparisons import queries_about, ranks
from grokscope.world.graph import World
from grokscope.world.spec import CorpusSpec, Task

MOST_COMPOSITIONS = 2**27
"""Most compositions that are enumerated; each takes about 30 bytes."""
COUNTS = ("no", "one", "two", "three", "four")
"""Numbers of hops as words."""
RESERVING = (3, 4, 8, 9)
"""Number of every hop's stream of reserved probes, among those of "split"."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All chains of K facts, by (head, relation 1, relation 2, ..). A row number names a composition."""

    fact_NK: IntArray
    """(N, K) int32 index of the fact of every hop."""
    ood_NK: BoolArray
    """(N, K) which of them are OOD."""
    degenerate_N: BoolArray
    """(N,) an entity stands twice on the path: may be trained on, is never a probe."""

    @property
    def hops(self) -> int:
        """K."""
        return int(self.fact_NK.shape[1])

    def rows(self, *ood: int) -> BoolArray:
        """(N,) the compositions in which just these hops (from 0) are OOD."""
        mask_N: BoolArray = (self.ood_NK == np.isin(np.arange(self.hops), ood)).all(axis=1)
        return mask_N


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Row numbers of the pool, ascending; a function of the world and `seeds.split` alone."""

    test_iid: IntArray
    test_ood: IntArray
    one_ood: tuple[IntArray, ...]
    """Per hop, those in which it alone is OOD: first_hop_ood, second_hop_ood, .."""

    def mask(self, size: int) -> BoolArray:
        """(N,) the rows held out."""
        out_N = np.zeros(size, dtype=bool)
        for rows in (self.test_iid, self.test_ood, *self.one_ood):
            out_N[rows] = True
        return out_N


def compositions(world: World, hops: int = 2, task: Task = "chain") -> Pool:
    """Enumerate the pool: every fact followed by every fact of its tail, and so on; of comparisons, every
    fact with every other of its relation that has another tail.

    Raises:
        InputError: there are none, or more than can be held.
    """
    fact_NK = chains(world, hops) if task == "chain" else compared(world)
    return Pool(fact_NK, world.ood_F[fact_NK], queries_about(world, fact_NK, task).degenerate())


def compared(world: World) -> IntArray:
    """(N, 2) int32 facts of all comparisons, sorted by row.

    Raises:
        InputError: as `compositions`; what the values are compared by is not known.
    """
    relation_F = world.fact_F3[:, 1]
    by_relation = np.argsort(relation_F, kind="stable").astype(np.int32)
    pair_N2 = joined(relation_F, relation_F[by_relation], 2)
    pair_N2[:, 1] = by_relation[pair_N2[:, 1]]
    rank_N2 = ranks(world)[world.fact_F3[pair_N2, 2]]
    unequal_N2: IntArray = pair_N2[rank_N2[:, 0] != rank_N2[:, 1]]
    if not len(unequal_N2):
        raise InputError(
            f"the {len(relation_F)} facts make no comparison: no two of one relation have different tails."
        )
    return unequal_N2


def chains(world: World, hops: int) -> IntArray:
    """(N, K) int32 facts of all chains of so many facts (one and more), sorted by row.

    Raises:
        InputError: as `compositions`.
    """
    fact_NK = np.arange(len(world.fact_F3), dtype=np.int32)[:, None]
    for known in range(1, hops):
        pair_N2 = joined(world.fact_F3[fact_NK[:, -1], 2], world.fact_F3[:, 0], known + 1)
        fact_NK = np.concatenate([fact_NK[pair_N2[:, 0]], pair_N2[:, 1:]], axis=1)
    return fact_NK


def joined(tail_M: IntArray, head_N: IntArray, hops: int) -> IntArray:
    """(X, 2) int32 every row of M with every row of N that starts where it ends, sorted by row.

    Args:
        tail_M: where they end. head_N: where the others start, ascending. hops: what they make together.

    Raises:
        InputError: there are none, or more than can be held.
    """
    outgoing_E = np.bincount(head_N, minlength=int(tail_M.max(initial=-1)) + 1)
    first_E = np.cumsum(outgoing_E) - outgoing_E
    count_M = outgoing_E[tail_M]
    total, name = int(count_M.sum()), f"{COUNTS[hops]}-hop"
    if total == 0:
        raise InputError(
            f"the {len(head_N)} facts make no {name} query: no tail is the head of another fact."
        )
    if total > MOST_COMPOSITIONS:
        raise InputError(f"the facts make {total} {name} queries, at most {MOST_COMPOSITIONS} can be held.")
    pair_X2 = np.empty((total, 2), dtype=np.int32)
    pair_X2[:, 0] = np.repeat(np.arange(len(tail_M), dtype=np.int32), count_M)
    pair_X2[:, 1] = ragged_ranges(first_E[tail_M], count_M)
    return pair_X2


def hold_out(pool: Pool, world: World, spec: CorpusSpec, seeds: Seeds) -> HeldOut:
    """Draw the probes that must never be trained, before any injection and for all regimes alike.

    test_iid: a share of the all-ID pool; test_ood: every query of OOD facts alone; first_hop_ood,
    second_hop_ood, ..: partners of every OOD fact in that role. All at most `spec.probe_cap`, none
    degenerate.

    Raises:
        InputError: there are OOD facts, but no OOD query to test; or no ID query.
    """
    clean_N = ~pool.degenerate_N
    count, every = COUNTS[pool.hops], range(pool.hops)
    id_rows = np.flatnonzero(pool.rows() & clean_N)
    if len(id_rows) == 0:
        raise InputError(
            f"the {int((~world.ood_F).sum())} ID facts make no {count}-hop query; more facts are needed."
        )
    ood_rows = np.flatnonzero(pool.rows(*every) & clean_N)
    if len(ood_rows) == 0 and world.ood_F.any():
        raise InputError(
            f"no query has {count} OOD hops among {int(world.ood_F.sum())} OOD facts, so there is no "
            "test_ood; raise ood_fraction, degree or entities."
        )
    share = max(1, round(spec.iid_fraction * int(pool.rows().sum())))
    reserved = [
        reserve(pool, hop, pool.rows(hop) & clean_N, spec, generator("split", seeds.split, RESERVING[hop]))
        for hop in every
    ]
    return HeldOut(
        sample(id_rows, min(share, spec.probe_cap), generator("split", seeds.split, 1)),
        sample(ood_rows, spec.probe_cap, generator("split", seeds.split, 2)),
        tuple(reserved),
    )


def reserve(pool: Pool, hop: int, free_N: BoolArray, spec: CorpusSpec, rng: np.random.Generator) -> IntArray:
    """`spec.partners` random partners of every OOD fact used as `hop`; one of each before a second of any."""
    rows = np.flatnonzero(free_N)
    key = rng.random(len(rows))
    rank = rank_within(pool.fact_NK[rows, hop], key)
    order = np.lexsort((key, rank))
    chosen = order[rank[order] < spec.partners][: spec.probe_cap]
    return np.sort(rows[chosen])


def sample(rows: IntArray, most: int, rng: np.random.Generator) -> IntArray:
    """At most `most` of the rows, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, most, replace=False, shuffle=False))


def weighted(rows: IntArray, weight_N: FloatArray, most: int, rng: np.random.Generator) -> IntArray:
    """`most` of the rows, ascending, drawn one after another without replacement, each with a chance that
    goes with e to the power of its weight: the largest weights with Gumbel noise (Kool et al., 2019)."""
    score_N = weight_N + rng.gumbel(size=len(rows))
    return np.sort(rows[np.argsort(-score_N, kind="stable")[:most]])
