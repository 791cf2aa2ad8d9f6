"""Questions with several right answers: a world whose relations may have several tails.

A pair of head and relation keeps the first of its tails as its fact, by which questions are chained, traced
and intervened on; the others are further tails. All of them are trained as atoms, and any of them is a right
answer; of two hops, whatever some way through the tails leads to.

Shape suffixes: N queries, K hops, A answers, F facts, G further tails, W ways.
"""

from dataclasses import replace

import numpy as np

from grokscope.world.arrays import IntArray
from grokscope.world.format import Encoded, FormatSpec, encode
from grokscope.world.graph import World
from grokscope.world.queries import Queries


def further_atoms(world: World) -> Queries:
    """The further tails as one-hop queries, sorted."""
    head_G, relation_G, tail_G = world.further_G3.T
    return Queries(head_G, relation_G[:, None], tail_G[:, None])


def asked(queries: Queries, world: World, fmt: FormatSpec, hops: int = 2) -> Encoded:
    """`encode`, with every answer that is right where there may be several."""
    encoded = encode(queries, world.vocabulary, fmt, hops)
    if not len(world.further_G3):
        return encoded
    answer_NA = answers(queries, world)
    token_NA = world.vocabulary.entity_ids[answer_NA]
    return replace(encoded, answers_NA=np.where(answer_NA < 0, -1, token_NA).astype(np.int32))


def answers(queries: Queries, world: World) -> IntArray:
    """(N, A) int32 the entities that answer each query, ascending, filled up with -1."""
    cell_F = np.concatenate([world.fact_F3, world.further_G3]).astype(np.int64)
    cell_F = cell_F[np.lexsort((cell_F[:, 1], cell_F[:, 0]))]
    key_F, tail_F = cell_F[:, 0] * world.relations + cell_F[:, 1], cell_F[:, 2]
    number_W, at_W = np.arange(len(queries)), queries.head_N.astype(np.int64)
    for k in range(queries.hops):
        key_W = at_W * world.relations + queries.relation_NK[number_W, k]
        low_W, high_W = np.searchsorted(key_F, key_W), np.searchsorted(key_F, key_W, side="right")
        count_W = high_W - low_W
        row = np.repeat(low_W - np.concatenate([[0], np.cumsum(count_W)[:-1]]), count_W) + np.arange(
            count_W.sum()
        )
        pair_W2 = np.unique(np.stack([np.repeat(number_W, count_W), tail_F[row]], axis=1), axis=0)
        number_W, at_W = pair_W2.T
    count_N = np.bincount(number_W, minlength=len(queries))
    out_NA = np.full((len(queries), max(1, count_N.max(initial=1))), -1, dtype=np.int32)
    out_NA[np.arange(out_NA.shape[1]) < count_N[:, None]] = at_W
    return out_NA
