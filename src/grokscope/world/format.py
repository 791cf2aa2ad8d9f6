"""How a query becomes tokens and labels: the training formats of the reference, as one value.

Shape suffixes: N queries, S positions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from grokscope.spec import Spec
from grokscope.world.arrays import IntArray
from grokscope.world.queries import Queries
from grokscope.world.vocabulary import Vocabulary


class FormatSpec(Spec):
    """Attention and output decide the layout.

    full + sequence (the reference's TRM):  [h r1 r2 PAD PAD] -> [h r1 r2 t </a>]
    full + answer:                          [h r1 r2 PAD PAD] -> [_ _ _ t _]
    causal + answer:                        [h r1 r2]         -> [_ _ t]         (t read at relation 2)
    causal + sequence (GPT-2 style):        [h r1 r2 t]       -> [_ _ t </a>]

    A comparison stands there as [r e1 e2], and its answer as t.
    """

    attention: Literal["causal", "full"] = "full"
    """Causal, or full attention with the answer read at a PAD position."""
    output: Literal["sequence", "answer"] = "sequence"
    """Loss over the whole label, or over the answer token only."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Queries as a model sees them; every query of one `Encoded` has the same number of hops."""

    tokens_NS: IntArray
    """(N, S) int32 input token ids, PAD = 0."""
    labels_NS: IntArray
    """(N, S) int32 target token ids; 0 = no loss here (PAD is never a target)."""
    answer_position: int
    """Where the answer is read."""
    roles: tuple[str, ...]
    """What stands at every position: head, relation1, relation2, .., answer, end, pad."""
    answers_NA: IntArray | None = None
    """(N, A) int32 token ids that are right at `answer_position`, filled up with -1; None: the label is."""


def positions(fmt: FormatSpec, hops: int = 2) -> int:
    """Number of positions S for data whose longest query has `hops` hops."""
    if fmt.attention == "full":
        return hops + 3
    return hops + (2 if fmt.output == "sequence" else 1)


def encode(queries: Queries, vocabulary: Vocabulary, fmt: FormatSpec, hops: int = 2) -> Encoded:
    """Tokens and labels of queries, padded to the length of queries with `hops` hops.

    Raises:
        ValueError: the queries have more than `hops` hops.
    """
    question_NL = queries.tokens(vocabulary)
    own, size = question_NL.shape[1] - 1, positions(fmt, hops)
    if own > hops:
        raise ValueError(f"queries of {own} hops do not fit a format of {hops} hops")
    tokens_NS = np.zeros((len(queries), size), dtype=np.int32)
    labels_NS = np.zeros_like(tokens_NS)
    tokens_NS[:, : own + 1] = question_NL
    answer_N = vocabulary.entity_ids[queries.path_NK[:, -1]]
    whole = fmt.output == "sequence"
    roles = list(queries.roles)
    if fmt.attention == "full":
        read = own + 1
        if whole:
            labels_NS[:, :read] = tokens_NS[:, :read]
        roles += ["answer", "end"] if whole else ["answer"]
    else:
        read = own
        if whole:
            tokens_NS[:, own + 1] = answer_N
            roles += ["answer"]
    labels_NS[:, read] = answer_N
    if whole:
        labels_NS[:, read + 1] = vocabulary.end_id
    roles += ["pad"] * (size - len(roles))
    return Encoded(tokens_NS, labels_NS, read, tuple(roles))
