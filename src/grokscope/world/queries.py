"""Queries: a head, a chain of relations, and the entities on the way. One hop is an atomic fact.

Shape suffixes: N queries, K hops, F facts, E entities, R relations.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grokscope.errors import InputError
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.vocabulary import Vocabulary

if TYPE_CHECKING:
    from grokscope.world.graph import World


@dataclass(frozen=True, eq=False)
class Queries:
    """Many questions with the same number of hops, as a struct of arrays of entity and relation numbers."""

    head_N: IntArray
    """(N,) the entity asked about."""
    relation_NK: IntArray
    """(N, K) the relation of every hop."""
    path_NK: IntArray
    """(N, K) the entity after every hop; the last is the answer."""

    @property
    def hops(self) -> int:
        """Number of hops K."""
        return int(self.relation_NK.shape[1])

    def __len__(self) -> int:
        return len(self.head_N)

    def take(self, index: npt.NDArray[Any]) -> "Queries":
        """The queries at these indices (or under this mask)."""
        return Queries(self.head_N[index], self.relation_NK[index], self.path_NK[index])

    def fact_NK(self, world: "World") -> IntArray:
        """(N, K) int32 index of the fact each hop uses; -1 where there is none."""
        source_NK = np.concatenate([self.head_N[:, None], self.path_NK[:, :-1]], axis=1)
        found_NK: IntArray = world.fact_of_ER[source_NK, self.relation_NK]
        return found_NK

    @property
    def roles(self) -> tuple[str, ...]:
        """What stands at every position of `tokens`."""
        return ("head", *(f"relation{k + 1}" for k in range(self.hops)))

    @property
    def entity_NX(self) -> IntArray:
        """(N, X) every entity that is asked about or has to be found."""
        return np.concatenate([self.head_N[:, None], self.path_NK], axis=1)

    def tokens(self, vocabulary: Vocabulary) -> IntArray:
        """(N, L) int32 token ids of the question, without padding."""
        return np.column_stack(
            [vocabulary.entity_ids[self.head_N], vocabulary.relation_ids[self.relation_NK]]
        )

    def holds(self, world: "World") -> BoolArray:
        """(N,) whether it is true: every hop is a fact, with the tail that stands on the path."""
        source_NK = np.concatenate([self.head_N[:, None], self.path_NK[:, :-1]], axis=1)
        tail_NK = world.tail_of_ER[source_NK, self.relation_NK]
        out_N: BoolArray = ((tail_NK == self.path_NK) & (tail_NK >= 0)).all(axis=1)
        return out_N

    def columns(self) -> dict[str, IntArray]:
        """What is asked, as columns of a table: numbers of entities and relations."""
        relations = {f"relation{k + 1}": self.relation_NK[:, k] for k in range(self.relation_NK.shape[1])}
        return {"head": self.head_N, **relations}

    def latents(self) -> dict[str, IntArray]:
        """Named entities (numbers, not token ids) a solver may have to find.

        Atomic: {"answer"}; two hops: {"bridge", "answer"}; more: {"bridge1", "bridge2", .., "answer"}.
        """
        return {name: self.path_NK[:, k] for k, name in enumerate([*bridges(self.hops), "answer"])}

    def degenerate(self) -> BoolArray:
        """(N,) true where an entity stands twice on the path (b = h, t = b, t = h): a shortcut may do."""
        entity_NX = self.entity_NX
        out_N = np.zeros(len(self), dtype=bool)
        for i, j in itertools.combinations(range(entity_NX.shape[1]), 2):
            out_N |= entity_NX[:, i] == entity_NX[:, j]
        return out_N

    def stable_id(self, entities: int, relations: int) -> IntArray:
        """(N,) int64, a function of (head, relations), unique in a world over all numbers of hops.

        Mixed radix `head * R^K + relations`, after the `E * R + .. + E * R^(K-1)` ids of shorter queries.

        Raises:
            InputError: the world is so large that the ids would not fit 63 bits.
        """
        first = sum(entities * relations**k for k in range(1, self.hops))
        if first + entities * relations**self.hops >= 2**63:
            raise InputError(
                f"entities = {entities} and relations = {relations} are too many for {self.hops}-hop "
                f"queries; entities * relations^{self.hops} must be below 2^63."
            )
        id_N: IntArray = self.head_N.astype(np.int64)
        for k in range(self.hops):
            id_N = id_N * relations + self.relation_NK[:, k]
        id_N += first
        return id_N


def bridges(hops: int) -> list[str]:
    """Names of the entities between the hops: none, ["bridge"], ["bridge1", "bridge2"], .."""
    return ["bridge"] if hops == 2 else [f"bridge{k + 1}" for k in range(hops - 1)]


def queries_of(world: "World", fact_NK: IntArray) -> Queries:
    """The queries that chain these facts (indices); each must start where the last one ended."""
    return Queries(world.fact_F3[fact_NK[:, 0], 0], world.fact_F3[fact_NK, 1], world.fact_F3[fact_NK, 2])


def atoms(world: "World") -> Queries:
    """Every fact of the world as a one-hop query, in the order of `world.fact_F3`."""
    return queries_of(world, np.arange(len(world.fact_F3), dtype=np.int32)[:, None])
