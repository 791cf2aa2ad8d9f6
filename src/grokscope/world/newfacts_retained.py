"""Which old data stay in the fine-tuning data: the two ways in which the source describes it.

Shape suffixes: F facts, N compositions.
"""

import numpy as np

from grokscope.errors import InputError
from grokscope.world.arrays import BoolArray, IntArray
from grokscope.world.corpus import Corpus
from grokscope.world.newfacts_spec import RetentionSpec


def retained(corpus: Corpus, spec: RetentionSpec, rng: np.random.Generator) -> tuple[BoolArray, IntArray]:
    """(F,) retained facts, and (N, 2) facts of the retained compositions, sorted.

    With "code", ID facts and compositions are `spec.items` together; of the last fact's compositions a random
    part fits. A larger retention of the same kind holds the facts of a smaller one. OOD facts come on top.

    Raises:
        InputError: the base was trained on fewer items.
    """
    world = corpus.world
    id_F = ~world.ood_F
    fact_N2 = corpus.composition.fact_NK(world)
    fact_N2 = fact_N2[id_F[fact_N2].all(axis=1)]
    order_F = rng.permutation(np.flatnonzero(id_F))
    whole = len(order_F) + (0 if spec.kind == "paper" else len(fact_N2))
    items = whole if spec.items == "all" else spec.items
    if items > whole:
        what = "ID facts" if spec.kind == "paper" else "ID facts and trained compositions of them"
        raise InputError(
            f"retention.items = {items}: the base has {whole} {what}; allowed is at most that number, or "
            "'all'."
        )
    if spec.kind == "paper":
        kept_F = np.zeros(len(id_F), dtype=bool)
        kept_F[order_F[:items]] = True
        kept_N2 = fact_N2[kept_F[fact_N2].all(axis=1)]
    else:
        kept_F, kept_N2 = _closed(order_F, fact_N2, len(id_F), items, rng)
    return kept_F | (world.ood_F & spec.ood), kept_N2


def _closed(
    order_F: IntArray, fact_N2: IntArray, facts: int, items: int, rng: np.random.Generator
) -> tuple[BoolArray, IntArray]:
    """Facts in a random order, each with its compositions that no earlier one brought, up to `items`."""
    turn_F = np.full(facts, facts)
    turn_F[order_F] = np.arange(len(order_F))
    brought_N = turn_F[fact_N2].min(axis=1)
    # The number of items once each fact has had its turn.
    size_F = np.cumsum(1 + np.bincount(brought_N, minlength=len(order_F)))
    last = int(np.searchsorted(size_F, items))
    kept_F = np.zeros(facts, dtype=bool)
    if items == 0:
        return kept_F, fact_N2[:0]
    kept_F[order_F[: last + 1]] = True
    rows = np.flatnonzero(brought_N < last)
    room = items - (last + 1) - len(rows)
    partly = rng.permutation(np.flatnonzero(brought_N == last))[:room]
    return kept_F, fact_N2[np.sort(np.concatenate([rows, partly]))]
