"""The identity relation: (e, identity) -> e for every entity, an option of the corpus.

It is the "identity bridge" of arXiv 2509.24653: a zero-hop task that asks for an entity where it is given, so
that what a bridge means as an answer and what it means as a head are tied to each other. It is no relation of
the world. Its token is one that the vocabulary has and no format uses, so that facts, splits, probes, token
ids and the shape of a model are the same with and without it, and runs pair.

Shape suffixes: N queries (one per entity), S positions.
"""

import numpy as np

from grokscope.errors import InputError
from grokscope.world.format import Encoded, FormatSpec, encode
from grokscope.world.queries import Queries
from grokscope.world.vocabulary import Vocabulary

IDENTITY = "<mask>"
"""The token that stands for the relation."""


def identity_token(vocabulary: Vocabulary) -> int:
    """Token id of the identity relation.

    Raises:
        InputError: the vocabulary has no such token to spare.
    """
    if IDENTITY not in vocabulary.tokens:
        raise InputError(
            f"identity_relation = true: the vocabulary has no token {IDENTITY!r} that could stand for it."
        )
    return vocabulary.tokens.index(IDENTITY)


def identity_examples(vocabulary: Vocabulary, fmt: FormatSpec, hops: int = 2) -> Encoded:
    """One example per entity, in the order of their numbers: [e identity] -> e, laid out as an atomic query.

    Args:
        vocabulary: of the world. fmt: the format. hops: as for `encode`.

    Raises:
        InputError: the vocabulary has no token to spare.
    """
    token = identity_token(vocabulary)
    entity_N = np.arange(len(vocabulary.entity_ids), dtype=np.int32)
    queries = Queries(entity_N, np.zeros((len(entity_N), 1), dtype=np.int32), entity_N[:, None])
    plain = encode(queries, vocabulary, fmt, hops)
    placeholder = vocabulary.relation_ids[0]
    tokens_NS, labels_NS = (
        np.where(part_NS == placeholder, np.int32(token), part_NS)
        for part_NS in (plain.tokens_NS, plain.labels_NS)
    )
    return Encoded(tokens_NS, labels_NS, plain.answer_position, plain.roles)
