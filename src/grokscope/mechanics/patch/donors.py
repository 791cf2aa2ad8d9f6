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

A query of more hops has several bridges, and each is exchanged by the same rules. It is cut after the hop
that resolves the bridge: r1 stands for all relations up to the cut and r2 for all after it, a "first" is a
chain of facts from h to the bridge, a "second" one from the bridge to t. What same_bridge asks of h' != h and
r1' != r1 holds for every entity and relation before the cut, r2'' != r2 for every relation after it; the
source passes none of the entities after the cut that the base or the natural query do; the chimeras are all
mixtures of the two ways to the bridge; and neither they nor any other bridge of the source lead to t or to
what is expected by the base's relations, nor the base's by the source's, for parts of a chain are looked up,
or remembered, one by one. So a state that holds another bridge, or the answer, is not taken for one that
holds this bridge.

Shapes: P probes, M donors of a probe, K hops, N compositions of the pool (2: its first and its second), F
facts, C chains, J hops of a chain.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from grokscope.world.controls import guess_of_relation
from grokscope.world.graph import World
from grokscope.world.pool import chains, joined
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

    source_PMK: Ints
    """Facts that each source chains."""
    natural_PMK: Ints
    """Facts of the natural query of each source."""
    expected_P: Ints
    """Entity that the patched base should say."""

    @property
    def present_PM(self) -> NDArray[np.bool_]:
        """Which donors there are."""
        out_PM: NDArray[np.bool_] = self.source_PMK[:, :, 0] != ABSENT
        return out_PM

    def choose(self, index_P: Ints) -> "Donors":
        """One donor per base: that of this index."""
        rows = np.arange(len(index_P))
        source_PMK, natural_PMK = (
            self.source_PMK[rows, index_P][:, None],
            self.natural_PMK[rows, index_P][:, None],
        )
        return Donors(source_PMK, natural_PMK, self.expected_P)

    def sources(self, world: World) -> Queries:
        """All sources (P * M); an absent one is some fact's chain with itself, to be masked."""
        hops = self.source_PMK.shape[2]
        return queries_of(world, np.maximum(self.source_PMK.reshape(-1, hops), 0))


class Chains:
    """All chains of so many facts of a world. One of a single fact is that fact, under the same number.

    Args:
        world: the facts. hops: J.
    """

    def __init__(self, world: World, hops: int) -> None:
        self.fact_CJ = chains(world, hops).astype(np.int64)
        queries = queries_of(world, self.fact_CJ)
        self.path_CJ = queries.path_NK.astype(np.int64)
        self.relation_CJ = queries.relation_NK.astype(np.int64)
        code_C = _code(self.relation_CJ, world.relations)
        self.chain_C3: Ints = np.stack([queries.head_N.astype(np.int64), code_C, self.path_CJ[:, -1]], axis=1)
        """Head, a number for the relations, and where it ends."""
        self._facts = len(world.fact_F3)
        self._key_C = _code(self.fact_CJ, self._facts)

    def find(self, fact_PJ: NDArray[Any]) -> Ints:
        """(P,) their numbers."""
        return np.searchsorted(self._key_C, _code(np.asarray(fact_PJ, dtype=np.int64), self._facts))


class DonorTable:
    """Draws donors in one world, given what was trained.

    Args:
        world: the facts.
        trained: the queries that were trained, of two hops or more.
        hop: the bridge that is exchanged is the entity after this hop.
    """

    def __init__(self, world: World, trained: Queries, hop: int = 1) -> None:
        self.hop, self.after = hop, trained.hops - hop
        self.first, self.second = Chains(world, hop), Chains(world, self.after)
        self.first_C3, self.second_C3 = self.first.chain_C3, self.second.chain_C3
        self.relations, self.tail_of_ER = world.relations, world.tail_of_ER
        self.guess_R = guess_of_relation(world)
        ids_N = _code(np.column_stack([trained.head_N, trained.relation_NK]).astype(np.int64), self.relations)
        # -1 is no composition's number: a search in it finds nothing, however little was trained.
        self.trained_id_N = np.concatenate([[-1], np.sort(ids_N)])
        self.trained_X: NDArray[np.bool_] | None = None
        if (numbers := world.entities * world.relations**trained.hops) <= TABLED:
            self.trained_X = np.zeros(numbers, dtype=bool)
            self.trained_X[ids_N] = True
        every_N2 = joined(self.first_C3[:, 2], self.second_C3[:, 0], trained.hops).astype(np.int64)
        head_N, code_N, _ = self.first_C3[every_N2[:, 0]].T
        relation_N = self.second_C3[every_N2[:, 1], 1]
        trained_N = self._was_trained(head_N, code_N, relation_N)
        degenerate_N = queries_of(world, self._facts(every_N2)).degenerate()
        fresh_N2 = every_N2[~trained_N & ~degenerate_N]
        self.fresh_of_relation = _grouped(fresh_N2, self.second_C3[fresh_N2[:, 1], 1])
        self.fresh_of_first = _grouped(fresh_N2, fresh_N2[:, 0])
        self.every_of_relation = _grouped(every_N2, relation_N)
        self.of_relation = _grouped(np.arange(len(self.first_C3)), self.first_C3[:, 1])
        self.firsts_of_head = _grouped(np.arange(len(self.first_C3)), self.first_C3[:, 0])
        self.of_head = _grouped(np.arange(len(self.second_C3)), self.second_C3[:, 0])

    def draw(self, arm: Arm, base_PK: NDArray[Any], rng: np.random.Generator, most: int = 8) -> Donors:
        """Donors for every base, uniformly among those that the arm's rules allow.

        Args:
            arm: one of the table above.
            base_PK: facts of the base queries.
            rng: where the draws come from.
            most: donors of a centroid, and candidates of same_bridge; the other arms have one. A centroid of
                fewer than 2 is absent.
        """
        many = most if arm in ("centroid", "same_bridge") else 1
        source_PM2 = np.full((len(base_PK), many, 2), ABSENT, dtype=np.int64)
        natural_PM2 = source_PM2.copy()
        for p, (first, second) in enumerate(self._pairs_of(base_PK)):
            pairs = self._pairs(arm, first, second, rng, many)
            if len(pairs) < (2 if arm == "centroid" else 1):
                continue
            for m, (source, natural) in enumerate(pairs):
                source_PM2[p, m], natural_PM2[p, m] = source, natural
        expected_P = np.where(natural_PM2[:, 0, 1] == ABSENT, ABSENT, self.second_C3[natural_PM2[:, 0, 1], 2])
        return Donors(self._facts(source_PM2), self._facts(natural_PM2), expected_P)

    def _facts(self, pair_X2: Ints) -> Ints:
        """(.., K) the facts of firsts and seconds; `ABSENT` stays."""
        parts = (self.first.fact_CJ[pair_X2[..., 0]], self.second.fact_CJ[pair_X2[..., 1]])
        return np.where(pair_X2[..., :1] == ABSENT, ABSENT, np.concatenate(parts, axis=-1))

    def _pairs_of(self, fact_PK: NDArray[Any]) -> list[list[int]]:
        """(P, 2) first and second of some queries."""
        both = (self.first.find(fact_PK[:, : self.hop]), self.second.find(fact_PK[:, self.hop :]))
        pairs: list[list[int]] = np.stack(both, axis=1).tolist()
        return pairs

    def _was_trained(self, head: Any, relation1: Any, relation2: Any) -> NDArray[np.bool_]:
        """Whether these compositions were trained; relations as in `Chains`; arguments broadcast."""
        before, after = np.int64(self.relations**self.hop), np.int64(self.relations**self.after)
        id_X = (np.asarray(head, np.int64) * before + np.asarray(relation1, np.int64)) * after + relation2
        if self.trained_X is not None:
            among: NDArray[np.bool_] = self.trained_X[id_X]
            return among
        # A binary search: `isin` would sort all that was trained again for every probe.
        at_X = np.searchsorted(self.trained_id_N, id_X)
        found: NDArray[np.bool_] = self.trained_id_N[np.minimum(at_X, len(self.trained_id_N) - 1)] == id_X
        return found

    def of_same_relation2(self, base_PK: NDArray[Any], rng: np.random.Generator, most: int) -> Ints:
        """(P, most, K) compositions with the base's r2, another head and another bridge: what to average
        over.
        """
        out_PM2 = np.full((len(base_PK), most, 2), ABSENT, dtype=np.int64)
        for p, (first, second) in enumerate(self._pairs_of(base_PK)):
            (head, _, bridge), (_, relation, answer) = self.first_C3[first], self.second_C3[second]
            rows_N2 = self.every_of_relation[int(relation)]
            fine_N = (self.first_C3[rows_N2[:, 0], 0] != head) & (self.first_C3[rows_N2[:, 0], 2] != bridge)
            fine_N &= self.second_C3[rows_N2[:, 1], 2] != answer
            rows_N2 = rows_N2[fine_N]
            chosen = rng.permutation(len(rows_N2))[:most]
            out_PM2[p, : len(chosen)] = rows_N2[chosen]
        return self._facts(out_PM2)

    def of_same_relation1(self, base_PK: NDArray[Any], rng: np.random.Generator, most: int) -> Ints:
        """(P, most, K) compositions with the base's r1, another bridge and another r2: what to average
        over."""
        out_PM2 = np.full((len(base_PK), most, 2), ABSENT, dtype=np.int64)
        for p, (first, second) in enumerate(self._pairs_of(base_PK)):
            (_, relation1, bridge), relation2 = self.first_C3[first], self.second.relation_CJ[second, 0]
            others_C = self.of_relation[int(relation1)]
            others_C = others_C[self.first_C3[others_C, 2] != bridge]
            m = 0
            for other in rng.permutation(others_C):
                nexts_C = self.of_head[int(self.first_C3[other, 2])]
                chosen = _one_of(nexts_C[self.second.relation_CJ[nexts_C, 0] != relation2], rng)
                if chosen is not None and m < most:
                    out_PM2[p, m] = other, chosen
                    m += 1
        return self._facts(out_PM2)

    def _pairs(
        self, arm: Arm, first: int, second: int, rng: np.random.Generator, many: int
    ) -> list[tuple[Ints, Ints]]:
        """Up to `many` (source, natural) for one base, each a first and a second."""
        found: list[tuple[Ints, Ints]] = []
        shared: int | None = None
        candidates_N2 = self._naturals(arm, first, second)
        for natural in candidates_N2[rng.permutation(len(candidates_N2))]:
            bridge = int(self.first_C3[natural[0], 2])
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
        """Compositions that the base may become, (N, 2)."""
        (_, relation1, bridge), (_, relation2, answer) = (
            self.first_C3[first].tolist(), self.second_C3[second].tolist(),
        )  # fmt: skip
        rows_N2 = self.fresh_of_first[first] if arm == "relation2" else self.fresh_of_relation[relation2]
        one_N3, two_N3 = self.first_C3[rows_N2[:, 0]], self.second_C3[rows_N2[:, 1]]
        fine_N: NDArray[np.bool_] = two_N3[:, 2] == answer
        if arm != "same_bridge":
            last_N = self.second.relation_CJ[rows_N2[:, 1], -1]
            fine_N = ~fine_N & (two_N3[:, 2] != self.guess_R[last_N])
        if arm == "relation2":
            fine_N &= two_N3[:, 1] != relation2
        elif arm == "same_bridge":
            way_K, way_NK = self._ways(np.array([first]))[0], self._ways(rows_N2[:, 0])
            fine_N &= (one_N3[:, 2] == bridge) & (way_NK != way_K).all(axis=1)
        else:
            fine_N &= one_N3[:, 2] != bridge
        if arm in ("other_bridge", "head"):
            fine_N &= one_N3[:, 1] == relation1
        if arm in ("bridge", "centroid", "same_bridge"):
            relation_J, after_J = self.first.relation_CJ[first], self.second.relation_CJ[second]
            ends = [
                self._led(bridge_N, [*relation_J[hop:], *after_J])
                for hop, bridge_N in enumerate(self.first.path_CJ[rows_N2[:, 0], :-1].T, start=1)
            ]
            for head_N, relation_NJ in self._mixtures(first, rows_N2[:, 0]):
                fine_N &= ~self._was_trained(head_N, _code(relation_NJ, self.relations), relation2)
                if self.hop + self.after > 2:
                    ends.append(self._led(head_N, [*relation_NJ.T, *after_J]))
            for end_N in ends:
                fine_N &= (end_N != answer) & (end_N != two_N3[:, 2])
        return _where(rows_N2, fine_N)

    def _ways(self, first_N: Ints) -> Ints:
        """(N, 2 J) relations and entities on the way of some firsts, the bridge left out."""
        one = self.first
        entity_NJ = np.column_stack([self.first_C3[first_N, 0], one.path_CJ[first_N, :-1]])
        return np.concatenate([one.relation_CJ[first_N], entity_NJ], axis=1)

    def _mixtures(self, first: int, other_N: Ints) -> list[tuple[Ints, Ints]]:
        """Heads and relations (N, J) of every chimera of a first with others."""
        others = self.first_C3[other_N, 0]
        base = np.full_like(others, self.first_C3[first, 0])
        base_J, other_NJ = self.first.relation_CJ[first], self.first.relation_CJ[other_N]
        out = []
        for from_other in product((False, True), repeat=self.hop + 1):
            if any(from_other) and not all(from_other):
                relation_NJ = np.where(from_other[1:], other_NJ, base_J)
                out.append((others if from_other[0] else base, relation_NJ))
        return out

    def _source(
        self, arm: Arm, natural: Ints, first: int, second: int, rng: np.random.Generator
    ) -> Ints | None:
        """A source for one natural query, or None where the world has none."""
        head, relation1, bridge = self.first_C3[first].tolist()
        relation_CJ = self.second.relation_CJ
        if arm == "transport":
            return natural
        if arm == "relation2":
            rows_N2 = self.every_of_relation[int(self.second_C3[natural[1], 1])]
            one_N3 = self.first_C3[rows_N2[:, 0]]
            fine_N = (one_N3[:, 2] != bridge) & (one_N3[:, 0] != head)
            fine_N &= self._apart(rows_N2[:, 1], second, int(natural[1]))
            return _one_of(_where(rows_N2, fine_N), rng)
        firsts = [int(natural[0])]
        if arm == "head":
            others_C = self.firsts_of_head[int(self.first_C3[natural[0], 0])]
            others_C = others_C[self.first_C3[others_C, 1] != relation1]
            firsts = rng.permutation(others_C).tolist()
        for one in firsts:
            fresh_C = self.fresh_of_first[one][:, 1]
            seconds_C = fresh_C if arm == "same_bridge" else self.of_head[int(self.first_C3[one, 2])]
            fine_C = (relation_CJ[seconds_C] != relation_CJ[second]).all(axis=1)
            fine_C &= self._apart(seconds_C, second, int(natural[1]))
            chosen = _one_of(seconds_C[fine_C], rng)
            if chosen is not None:
                return np.array([one, int(chosen)])
        return None

    def _apart(self, second_C: Ints, base: int, natural: int) -> NDArray[np.bool_]:
        """(C,) whether these seconds pass no entity that the base's or the natural query's passes there, nor
        one that leads to where these end by the base's relations, nor lead there from one of theirs."""
        path_CJ, relation_CJ = self.second.path_CJ, self.second.relation_CJ
        # `isin` takes ten times as long for a dozen entities.
        met_CJ = (path_CJ[second_C] == path_CJ[base]) | (path_CJ[second_C] == path_CJ[natural])
        out_C: NDArray[np.bool_] = ~met_CJ.any(axis=1)
        for hop in range(1, self.after):
            own_C, others = path_CJ[second_C, hop - 1], (path_CJ[base, hop - 1], path_CJ[natural, hop - 1])
            ends = [self._led(own_C, relation_CJ[base, hop:])]
            relations = relation_CJ[second_C, hop:].T
            ends += [self._led(np.full_like(own_C, other), relations) for other in others]
            for end_C in ends:
                out_C &= (end_C != path_CJ[base, -1]) & (end_C != path_CJ[natural, -1])
        return out_C

    def _led(self, entity_N: Ints, relations: Sequence[Any] | Ints) -> Ints:
        """(N,) where these relations, one or one per entity each, lead; `ABSENT`: nowhere."""
        for relation in relations:
            entity_N = np.where(entity_N == ABSENT, ABSENT, self.tail_of_ER[entity_N, relation])
        return entity_N


def _code(number_NJ: Ints, radix: int) -> Ints:
    """(N,) one number for J, each below the radix but for the first."""
    out_N: Ints = number_NJ[:, 0]
    for number_N in number_NJ[:, 1:].T:
        out_N = out_N * radix + number_N
    return out_N


def _where(rows: Ints, mask_N: NDArray[np.bool_]) -> Ints:
    kept: Ints = rows[mask_N]
    return kept


def _one_of(rows: Ints, rng: np.random.Generator) -> Ints | None:
    return np.asarray(rows[int(rng.integers(len(rows)))]) if len(rows) else None


def _grouped(rows: Ints, key_N: NDArray[Any]) -> Mapping[int, Ints]:
    """Rows by key; none where there is no such key."""
    order_N = np.argsort(key_N, kind="stable")
    keys, starts = np.unique(key_N[order_N], return_index=True)
    groups = zip(keys.tolist(), np.split(rows[order_N], starts[1:]), strict=False)
    return defaultdict(lambda: rows[:0], groups)
