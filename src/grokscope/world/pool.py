"""Every two-hop composition of a world, and what of it is held out before any regime is looked at.

Shape suffixes: N compositions, F facts, E entities.
"""

from dataclasses import dataclass

import numpy as np

from grokscope.errors import InputError
from grokscope.seeds import Seeds, generator
from grokscope.world.arrays import BoolArray, IntArray, ragged_ranges, rank_within
from grokscope.world.graph import World
from grokscope.world.queries import queries_of
from grokscope.world.spec import CorpusSpec

MOST_COMPOSITIONS = 2**27
"""Most compositions that are enumerated; each takes about 30 bytes."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All chains of two facts, by (head, relation 1, relation 2). A row number names a composition."""

    fact_N2: IntArray
    """(N, 2) int32 index of the facts of hop 1 and hop 2."""
    ood_N2: BoolArray
    """(N, 2) which of them are OOD."""
    degenerate_N: BoolArray
    """(N,) b = h, t = b or t = h: may be trained on, is never a probe."""

    def rows(self, ood1: bool, ood2: bool) -> BoolArray:
        """(N,) the compositions with this ID/OOD pattern."""
        mask_N: BoolArray = (self.ood_N2[:, 0] == ood1) & (self.ood_N2[:, 1] == ood2)
        return mask_N


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Row numbers of the pool, ascending; a function of the world and `seeds.split` alone."""

    test_iid: IntArray
    test_ood: IntArray
    first_hop_ood: IntArray
    second_hop_ood: IntArray

    def mask(self, size: int) -> BoolArray:
        """(N,) the rows held out."""
        out_N = np.zeros(size, dtype=bool)
        for rows in (self.test_iid, self.test_ood, self.first_hop_ood, self.second_hop_ood):
            out_N[rows] = True
        return out_N


def compositions(world: World) -> Pool:
    """Enumerate the pool: every fact followed by every fact of its tail.

    Raises:
        InputError: there are none, or more than can be held.
    """
    outgoing_E = np.bincount(world.fact_F3[:, 0], minlength=world.entities)
    first_E = np.cumsum(outgoing_E) - outgoing_E
    tail_F = world.fact_F3[:, 2]
    count_F = outgoing_E[tail_F]
    total = int(count_F.sum())
    if total == 0:
        raise InputError(
            f"the {len(tail_F)} facts make no two-hop query: no tail is the head of another fact."
        )
    if total > MOST_COMPOSITIONS:
        raise InputError(f"the facts make {total} two-hop queries, at most {MOST_COMPOSITIONS} can be held.")
    fact_N2 = np.empty((total, 2), dtype=np.int32)
    fact_N2[:, 0] = np.repeat(np.arange(len(tail_F), dtype=np.int32), count_F)
    fact_N2[:, 1] = ragged_ranges(first_E[tail_F], count_F)
    return Pool(fact_N2, world.ood_F[fact_N2], queries_of(world, fact_N2).degenerate())


def hold_out(pool: Pool, world: World, spec: CorpusSpec, seeds: Seeds) -> HeldOut:
    """Draw the probes that must never be trained, before any injection and for all regimes alike.

    test_iid: a share of the ID-ID pool; test_ood: every OOD-OOD query; first_hop_ood, second_hop_ood:
    partners of every OOD fact in that role. All at most `spec.probe_cap`, none degenerate.

    Raises:
        InputError: there are OOD facts, but no OOD query to test; or no ID query.
    """
    clean_N = ~pool.degenerate_N
    id_rows = np.flatnonzero(pool.rows(False, False) & clean_N)
    if len(id_rows) == 0:
        raise InputError(
            f"the {int((~world.ood_F).sum())} ID facts make no two-hop query; more facts are needed."
        )
    ood_rows = np.flatnonzero(pool.rows(True, True) & clean_N)
    if len(ood_rows) == 0 and world.ood_F.any():
        raise InputError(
            f"no query has two OOD hops among {int(world.ood_F.sum())} OOD facts, so there is no test_ood; "
            "raise ood_fraction, degree or entities."
        )
    share = max(1, round(spec.iid_fraction * int(pool.rows(False, False).sum())))
    reserved = [
        reserve(
            pool, hop, pool.rows(hop == 0, hop == 1) & clean_N, spec, generator("split", seeds.split, 3 + hop)
        )
        for hop in (0, 1)
    ]
    return HeldOut(
        sample(id_rows, min(share, spec.probe_cap), generator("split", seeds.split, 1)),
        sample(ood_rows, spec.probe_cap, generator("split", seeds.split, 2)),
        *reserved,
    )


def reserve(pool: Pool, hop: int, free_N: BoolArray, spec: CorpusSpec, rng: np.random.Generator) -> IntArray:
    """`spec.partners` random partners of every OOD fact used as `hop`; one of each before a second of any."""
    rows = np.flatnonzero(free_N)
    key = rng.random(len(rows))
    rank = rank_within(pool.fact_N2[rows, hop], key)
    order = np.lexsort((key, rank))
    chosen = order[rank[order] < spec.partners][: spec.probe_cap]
    return np.sort(rows[chosen])


def sample(rows: IntArray, most: int, rng: np.random.Generator) -> IntArray:
    """At most `most` of the rows, ascending."""
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, most, replace=False, shuffle=False))
