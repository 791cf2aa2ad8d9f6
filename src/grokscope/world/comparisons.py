"""Comparisons: of two entities, which has the larger value of an attribute? The second task of Wang et al.
2024 (arXiv 2405.15071), asked in their order: attribute, entity, entity.

A fact (entity, attribute, value) is an atom like any other; its value is an entity too, and values have an
order. A comparison uses two facts side by side, where a chain uses them one after the other; which of the two
is OOD is its pattern, and hop 1 and hop 2 of a regime are the facts of the first and of the second entity.

Shape suffixes: N queries, F facts, E entities.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from grokscope.errors import InputError, quoted
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.queries import Queries, queries_of
from grokscope.world.spec import Task
from grokscope.world.vocabulary import Vocabulary

if TYPE_CHECKING:
    from grokscope.world.graph import World


@dataclass(frozen=True, eq=False)
class Comparisons(Queries):
    """Many questions (attribute, entity, other); answered by the entity with the larger value.

    `relation_NK` is (N, 1), the attribute; `path_NK` (N, 3): the value of either, and the answer.
    """

    other_N: IntArray
    """(N,) the second entity; `head_N` is the first."""

    @property
    def hops(self) -> int:
        """Facts that are used: 2."""
        return 2

    @property
    def roles(self) -> tuple[str, ...]:
        return ("relation1", "head", "other")

    @property
    def entity_NX(self) -> IntArray:
        return np.column_stack([self.head_N, self.other_N, self.path_NK[:, :2]])

    def take(self, index: npt.NDArray[Any]) -> "Comparisons":
        return Comparisons(
            self.head_N[index], self.relation_NK[index], self.path_NK[index], self.other_N[index]
        )

    def tokens(self, vocabulary: Vocabulary) -> IntArray:
        entity_N2 = np.column_stack([self.head_N, self.other_N])
        return np.column_stack([vocabulary.relation_ids[self.relation_NK], vocabulary.entity_ids[entity_N2]])

    def fact_NK(self, world: "World") -> IntArray:
        entity_N2 = np.column_stack([self.head_N, self.other_N])
        found_N2: IntArray = world.fact_of_ER[entity_N2, self.relation_NK]
        return found_N2

    def holds(self, world: "World") -> BoolArray:
        entity_N2 = np.column_stack([self.head_N, self.other_N])
        rank_E = ranks(world)
        first_N, second_N = rank_E[self.path_NK[:, :2]].T
        right_N = np.where(first_N > second_N, self.head_N, self.other_N)
        known_N2 = world.tail_of_ER[entity_N2, self.relation_NK] == self.path_NK[:, :2]
        out_N: BoolArray = known_N2.all(axis=1) & (right_N == self.path_NK[:, 2]) & (first_N != second_N)
        return out_N

    def latents(self) -> dict[str, IntArray]:
        """{"value1", "value2", "answer"}."""
        return dict(zip(("value1", "value2", "answer"), self.path_NK.T, strict=True))

    def columns(self) -> dict[str, IntArray]:
        return {**super().columns(), "other": self.other_N}

    def stable_id(self, entities: int, relations: int) -> IntArray:
        """(N,) int64, unique in a world beside the ids of its atoms: (entity, attribute, other), mixed radix.

        Raises:
            InputError: the world is so large that the ids would not fit 63 bits.
        """
        if entities * relations * (entities + 1) >= 2**63:
            raise InputError(
                f"entities = {entities} and relations = {relations} are too many for comparisons; "
                "entities^2 * relations must be below 2^63."
            )
        cell_N = self.head_N.astype(np.int64) * relations + self.relation_NK[:, 0]
        id_N: IntArray = entities * relations + cell_N * entities + self.other_N
        return id_N


def comparisons_of(world: "World", fact_N2: IntArray) -> Comparisons:
    """The comparisons of these pairs of facts (indices), of one attribute each and of different values."""
    first_N3, second_N3 = world.fact_F3[fact_N2[:, 0]], world.fact_F3[fact_N2[:, 1]]
    value_N2 = np.column_stack([first_N3[:, 2], second_N3[:, 2]])
    rank_N2 = ranks(world)[value_N2]
    answer_N = np.where(rank_N2[:, 0] > rank_N2[:, 1], first_N3[:, 0], second_N3[:, 0])
    return Comparisons(
        first_N3[:, 0], first_N3[:, 1:2], np.column_stack([value_N2, answer_N]), second_N3[:, 0]
    )


def queries_about(world: "World", fact_NK: IntArray, task: Task) -> Queries:
    """What a task asks of these facts (indices, (N, K)); of one fact alone, its tail."""
    if task == "comparison" and fact_NK.shape[1] > 1:
        return comparisons_of(world, fact_NK)
    return queries_of(world, fact_NK)


def ranks(world: "World") -> npt.NDArray[np.float64]:
    """(E,) what values are compared by: an entity's number; where facts come from a file, the number that a
    value's name says (NaN of entities that are no value).

    Raises:
        InputError: the name of a value is no number, or there are several values of one attribute.
    """
    if len(world.further_G3):
        raise InputError(
            "world.several_tails = 'all': comparisons need one value per entity and attribute; allowed: "
            "refuse, drop, first."
        )
    if world.source is None:
        return np.arange(world.entities, dtype=np.float64)
    rank_E = np.full(world.entities, np.nan)
    for value in np.unique(world.fact_F3[:, 2]).tolist():
        name = world.vocabulary.entity(value).removeprefix("<e_").removesuffix(">")
        rank_E[value] = number_in(name)
        if not np.isfinite(rank_E[value]):
            raise InputError(
                f"corpus.task = 'comparison': the tail {quoted(name)} in {world.source} is not a number; "
                "the tails of compared facts must be."
            )
    return rank_E


def number_in(name: str) -> float:
    """The number that a name says; NaN if it says none."""
    try:
        return float(name)
    except ValueError:
        return float("nan")
