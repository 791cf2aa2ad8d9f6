"""Donors: which query lends a state to which, so that only what is meant can explain the answer.

A base query is (h, r1, r2) with bridge b and answer t. Every arm names, for each base, a *source* (whose
states are patched in), the *natural* query (the composition that a successful patch makes the base into) and
the *expected* answer, the natural query's. The natural query was never trained in any arm: a memory of
compositions cannot answer it. It is never degenerate (b = h, t = b or t = h), and the source's own answer is
neither t nor the expected one, so that a transported answer is never counted.

| arm | source | natural, never trained | what is changed |
|---|---|---|---|
| bridge | (h', r1', r2''), b' != b, r2'' != r2 | (h', r1', r2) | the bridge |
| centroid | many (h', r1', r2'') of one b' | (h', r1', r2) each | the bridge alone |
| other_bridge | (h', r1, r2''), b' != b, r2'' != r2 | (h', r1, r2) | the bridge, not r1 |
| same_bridge | (h', r1', r2''), b' = b, h' != h, r1' != r1, r2'' != r2 | (h', r1', r2) | not the bridge |
| transport | (h', r1', r2) | itself | all that the state carries |
| head | (h', r1'', r2''), r1'' != r1, r2'' != r2 | (h', r1, r2) | h |
| relation2 | (h', r1', r2*), b' != b, h' != h | (h, r1, r2*), r2* != r2 | r2 |

Beyond that, wherever h and r1 may come from different queries after a patch (bridge, centroid, same_bridge),
the chimeras (h, r1', r2) and (h', r1, r2) were never trained: else a memory of them would speak up and hide
what the bridge does. What is expected is not the most frequent tail of its relation, so that guessing cannot
hit it (in same_bridge it is t, whatever that is). A source of same_bridge was itself never trained:
answering it shows that the model resolves (h', r1'). In transport the source's own answer IS the expected
one: the arm is about that.

Shapes: P probes, M donors of a probe, N compositions of the pool, F facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from grokscope.world.controls import guess_of_relation
from grokscope.world.graph import World
from grokscope.world.pool import compositions
from grokscope.world.queries import Queries, queries_of

Ints: TypeAlias = NDArray[np.int64]
Arm: TypeAlias = Literal[
    "bridge", "centroid", "other_bridge", "same_bridge", "transport", "head", "relation2"
]
DONOR_ARMS: tuple[Arm, ...] = get_args(Arm)
ABSENT = -1
TABLED = 2**28
"""Compositions that a world could have, up to which a truth value is kept for each: looking it up takes a
tenth of a search, which is made in larger worlds.
"""


@dataclass(frozen=True, eq=False)
class Donors:
    """The donors of one arm, as facts; `ABSENT` where a base has none."""

    source_PM2: Ints
    """Facts that each source chains."""
    natural_PM2: Ints
    """Facts of the natural query of each source."""
    expected_P: Ints
    """Entity that the patched base should say."""

    @property
    def present_PM(self) -> NDArray[np.bool_]:
        """Which donors there are."""
        out_PM: NDArray[np.bool_] = self.source_PM2[:, :, 0] != ABSENT
        return out_PM

    def choose(self, index_P: Ints) -> "Donors":
        """One donor per base: that of this index."""
        rows = np.arange(len(index_P))
        source_PM2, natural_PM2 = (
            self.source_PM2[rows, index_P][:, None],
            self.natural_PM2[rows, index_P][:, None],
        )
        return Donors(source_PM2, natural_PM2, self.expected_P)

    def sources(self, world: World) -> Queries:
        """All sources (P * M); an absent one is some fact's chain with itself, to be masked."""
        return queries_of(world, np.maximum(self.source_PM2.reshape(-1, 2), 0))


class DonorTable:
    """Draws donors in one world, given what was trained.

    Args:
        world: the facts.
        trained: the two-hop queries that were trained.
    """

    def __init__(self, world: World, trained: Queries) -> None:
        pool = compositions(world)
        self.relations = world.relations
        self.fact_F3 = world.fact_F3.astype(np.int64)
        self.guess_R = guess_of_relation(world)
        ids_N = self._id(trained.head_N, *trained.relation_NK.T)
        # -1 is no composition's number: a search in it finds nothing, however little was trained.
        self.trained_id_N = np.concatenate([[-1], np.sort(ids_N)])
        self.trained_X: NDArray[np.bool_] | None = None
        if (numbers := world.entities * world.relations**2) <= TABLED:
            self.trained_X = np.zeros(numbers, dtype=bool)
            self.trained_X[ids_N] = True
        trained_N = self._was_trained(*_address(self.fact_F3, pool.fact_N2))
        every_N2 = pool.fact_N2.astype(np.int64)
        fresh_N2 = every_N2[~trained_N & ~pool.degenerate_N]
        self.fresh_of_relation = _grouped(fresh_N2, self.fact_F3[fresh_N2[:, 1], 1], world.relations)
        self.fresh_of_first = _grouped(fresh_N2, fresh_N2[:, 0], len(self.fact_F3))
        self.every_of_relation = _grouped(every_N2, self.fact_F3[every_N2[:, 1], 1], world.relations)
        facts_F = np.arange(len(self.fact_F3))
        self.of_relation = _grouped(facts_F, self.fact_F3[:, 1], world.relations)
        self.of_head = _grouped(facts_F, self.fact_F3[:, 0], world.entities)

    def draw(self, arm: Arm, base_P2: NDArray[Any], rng: np.random.Generator, most: int = 8) -> Donors:
        """Donors for every base, uniformly among those that the arm's rules allow.

        Args:
            arm: one of the table above.
            base_P2: facts of the base queries.
            rng: where the draws come from.
            most: donors of a centroid, and candidates of same_bridge; the other arms have one. A centroid of
                fewer than 2 is absent.
        """
        many = most if arm in ("centroid", "same_bridge") else 1
        probes = len(base_P2)
        source_PM2 = np.full((probes, many, 2), ABSENT, dtype=np.int64)
        natural_PM2 = np.full((probes, many, 2), ABSENT, dtype=np.int64)
        for p, (first, second) in enumerate(np.asarray(base_P2, dtype=np.int64).tolist()):
            pairs = self._pairs(arm, first, second, rng, many)
            if len(pairs) < (2 if arm == "centroid" else 1):
                continue
            for m, (source, natural) in enumerate(pairs):
                source_PM2[p, m], natural_PM2[p, m] = source, natural
        expected_P = np.where(natural_PM2[:, 0, 1] == ABSENT, ABSENT, self.fact_F3[natural_PM2[:, 0, 1], 2])
        return Donors(source_PM2, natural_PM2, expected_P)

    def _id(self, head: Any, relation1: Any, relation2: Any) -> Ints:
        """A number per (head, relation 1, relation 2)."""
        big = np.int64(self.relations)
        out: Ints = (np.asarray(head, np.int64) * big + np.asarray(relation1, np.int64)) * big + relation2
        return out

    def _was_trained(self, head: Any, relation1: Any, relation2: Any) -> NDArray[np.bool_]:
        """Whether these compositions were trained; arguments broadcast."""
        id_X = self._id(head, relation1, relation2)
        if self.trained_X is not None:
            among: NDArray[np.bool_] = self.trained_X[id_X]
            return among
        # A binary search: `isin` would sort all that was trained again for every probe.
        at_X = np.searchsorted(self.trained_id_N, id_X)
        found: NDArray[np.bool_] = self.trained_id_N[np.minimum(at_X, len(self.trained_id_N) - 1)] == id_X
        return found

    def of_same_relation2(self, base_P2: NDArray[Any], rng: np.random.Generator, most: int) -> Ints:
        """(P, most, 2) compositions with the base's r2, another head and another bridge: what to average
        over.
        """
        out_PM2 = np.full((len(base_P2), most, 2), ABSENT, dtype=np.int64)
        for p, (first, second) in enumerate(np.asarray(base_P2, dtype=np.int64).tolist()):
            (head, _, bridge), (_, relation, answer) = self.fact_F3[first], self.fact_F3[second]
            rows_N2 = self.every_of_relation[relation]
            fine_N = (self.fact_F3[rows_N2[:, 0], 0] != head) & (self.fact_F3[rows_N2[:, 0], 2] != bridge)
            fine_N &= self.fact_F3[rows_N2[:, 1], 2] != answer
            rows_N2 = rows_N2[fine_N]
            chosen = rng.permutation(len(rows_N2))[:most]
            out_PM2[p, : len(chosen)] = rows_N2[chosen]
        return out_PM2

    def of_same_relation1(self, base_P2: NDArray[Any], rng: np.random.Generator, most: int) -> Ints:
        """(P, most, 2) compositions with the base's r1, another bridge and another r2: what to average
        over."""
        out_PM2 = np.full((len(base_P2), most, 2), ABSENT, dtype=np.int64)
        for p, (first, second) in enumerate(np.asarray(base_P2, dtype=np.int64).tolist()):
            (_, relation1, bridge), relation2 = self.fact_F3[first], self.fact_F3[second, 1]
            others_F = self.of_relation[relation1]
            others_F = others_F[self.fact_F3[others_F, 2] != bridge]
            m = 0
            for other in rng.permutation(others_F):
                nexts_F = self.of_head[int(self.fact_F3[other, 2])]
                chosen = _one_of(nexts_F[self.fact_F3[nexts_F, 1] != relation2], rng)
                if chosen is not None and m < most:
                    out_PM2[p, m] = other, chosen
                    m += 1
        return out_PM2

    def _pairs(
        self, arm: Arm, first: int, second: int, rng: np.random.Generator, many: int
    ) -> list[tuple[Ints, Ints]]:
        """Up to `many` (source, natural) pairs of facts for one base."""
        found: list[tuple[Ints, Ints]] = []
        shared: int | None = None
        candidates_N2 = self._naturals(arm, first, second)
        for natural in candidates_N2[rng.permutation(len(candidates_N2))]:
            bridge = int(self.fact_F3[natural[0], 2])
            if shared is not None and bridge != shared:
                continue
            source = self._source(arm, natural, first, second, rng)
            if source is None:
                continue
            found.append((source, natural))
            if len(found) == many:
                break
            if shared is None:
                # The first draw decides which bridge the centroid stands for.
                shared = bridge
        return found

    def _naturals(self, arm: Arm, first: int, second: int) -> Ints:
        """Compositions that the base may become, as facts (N, 2)."""
        fact_F3 = self.fact_F3
        (head, relation1, bridge), (_, relation2, answer) = fact_F3[first].tolist(), fact_F3[second].tolist()
        rows_N2 = self.fresh_of_first[first] if arm == "relation2" else self.fresh_of_relation[relation2]
        one_N3, two_N3 = fact_F3[rows_N2[:, 0]], fact_F3[rows_N2[:, 1]]
        fine_N: NDArray[np.bool_] = two_N3[:, 2] == answer
        if arm != "same_bridge":
            fine_N = ~fine_N & (two_N3[:, 2] != self.guess_R[two_N3[:, 1]])
        if arm == "relation2":
            fine_N &= two_N3[:, 1] != relation2
        elif arm == "same_bridge":
            fine_N &= (one_N3[:, 2] == bridge) & (one_N3[:, 0] != head) & (one_N3[:, 1] != relation1)
        else:
            fine_N &= one_N3[:, 2] != bridge
        if arm in ("other_bridge", "head"):
            fine_N &= one_N3[:, 1] == relation1
        if arm in ("bridge", "centroid", "same_bridge"):
            fine_N &= ~self._was_trained(head, one_N3[:, 1], relation2)
            fine_N &= ~self._was_trained(one_N3[:, 0], relation1, relation2)
        return _where(rows_N2, fine_N)

    def _source(
        self, arm: Arm, natural: Ints, first: int, second: int, rng: np.random.Generator
    ) -> Ints | None:
        """Facts of a source for one natural query, or None where the world has none."""
        fact_F3 = self.fact_F3
        (head, relation1, bridge), (_, relation2, answer) = fact_F3[first].tolist(), fact_F3[second].tolist()
        banned = (answer, int(fact_F3[natural[1], 2]))
        if arm == "transport":
            return natural
        if arm == "relation2":
            rows_N2 = self.every_of_relation[int(fact_F3[natural[1], 1])]
            one_N3, two_N3 = fact_F3[rows_N2[:, 0]], fact_F3[rows_N2[:, 1]]
            fine_N = (one_N3[:, 2] != bridge) & (one_N3[:, 0] != head) & ~_either(two_N3[:, 2], banned)
            return _one_of(_where(rows_N2, fine_N), rng)
        firsts = [int(natural[0])]
        if arm == "head":
            others_F = self.of_head[int(fact_F3[natural[0], 0])]
            others_F = others_F[fact_F3[others_F, 1] != relation1]
            firsts = rng.permutation(others_F).tolist()
        for one in firsts:
            fresh_F = self.fresh_of_first[one][:, 1]
            seconds_F = fresh_F if arm == "same_bridge" else self.of_head[int(fact_F3[one, 2])]
            fine_F = (fact_F3[seconds_F, 1] != relation2) & ~_either(fact_F3[seconds_F, 2], banned)
            chosen = _one_of(seconds_F[fine_F], rng)
            if chosen is not None:
                return np.array([one, int(chosen)])
        return None


def _address(fact_F3: Ints, fact_N2: NDArray[Any]) -> tuple[Ints, Ints, Ints]:
    """Head, relation 1 and relation 2 of compositions."""
    first_N3, second_N3 = fact_F3[fact_N2[:, 0]], fact_F3[fact_N2[:, 1]]
    return first_N3[:, 0], first_N3[:, 1], second_N3[:, 1]


def _either(entity_N: Ints, two: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether it is one of two: `isin` takes ten times as long for a dozen entities."""
    out_N: NDArray[np.bool_] = (entity_N == two[0]) | (entity_N == two[1])
    return out_N


def _where(rows: Ints, mask_N: NDArray[np.bool_]) -> Ints:
    kept: Ints = rows[mask_N]
    return kept


def _one_of(rows: Ints, rng: np.random.Generator) -> Ints | None:
    return np.asarray(rows[int(rng.integers(len(rows)))]) if len(rows) else None


def _grouped(rows: Ints, key_N: NDArray[Any], groups: int) -> Sequence[Ints]:
    """Rows by key."""
    order_N = np.argsort(key_N, kind="stable")
    return np.split(rows[order_N], np.cumsum(np.bincount(key_N, minlength=groups))[:-1])
