"""Tokens: strings and ids. The order is the reference's: PAD (id 0), entities, relations, six special tokens.

Shape suffixes: E entities, R relations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grokscope.world.arrays import IntArray

PAD = "PAD"
END = "</a>"
SPECIALS = ("<mask>", "<sep>", "<a>", END, "<q>", "</q>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What every token id means."""

    tokens: tuple[str, ...]
    """Token id -> string; PAD is id 0."""
    entity_ids: IntArray
    """(E,) int32, token id of every entity."""
    relation_ids: IntArray
    """(R,) int32, token id of every relation."""
    end_id: int
    """Token id of "</a>"."""

    @property
    def size(self) -> int:
        """Number of token ids, PAD included."""
        return len(self.tokens)

    def entity(self, number: int) -> str:
        """The string of an entity number."""
        return self.tokens[int(self.entity_ids[number])]

    def relation(self, number: int) -> str:
        """The string of a relation number."""
        return self.tokens[int(self.relation_ids[number])]


def standard_vocabulary(entities: Sequence[str], relations: Sequence[str]) -> Vocabulary:
    """The reference's vocabulary over given token strings; 2,207 ids for 2,000 entities and 200 relations."""
    tokens = (PAD, *entities, *relations, *SPECIALS)
    first_relation = 1 + len(entities)
    return Vocabulary(
        tokens=tokens,
        entity_ids=np.arange(1, first_relation, dtype=np.int32),
        relation_ids=np.arange(first_relation, first_relation + len(relations), dtype=np.int32),
        end_id=first_relation + len(relations) + SPECIALS.index(END),
    )


def by_length(names: set[str]) -> list[str]:
    """A fixed order for names: shorter first, then by character, so that e_2 stands before e_10."""
    return sorted(names, key=lambda name: (len(name), name))
