"""Tokens and labels against the layouts written out by hand."""

import numpy as np
import pytest

from grokscope.seeds import Seeds
from grokscope.world import FormatSpec, Queries, WorldSpec, build_world, encode, positions

WORLD = build_world(WorldSpec(entities=4, relations=3, degree=2, ood_fraction=0.25), Seeds())
TWO = Queries(np.array([0]), np.array([[1, 2]]), np.array([[3, 2]]))
ONE = Queries(np.array([0]), np.array([[1]]), np.array([[3]]))
# ids: PAD 0, entities 1..4, relations 5..7, then <mask> <sep> <a> </a> <q> </q>
H, B, T, R1, R2, END = 1, 4, 3, 6, 7, 11

LAYOUTS = [
    (
        "full",
        "sequence",
        TWO,
        [H, R1, R2, 0, 0],
        [H, R1, R2, T, END],
        3,
        "head relation1 relation2 answer end",
    ),
    ("full", "sequence", ONE, [H, R1, 0, 0, 0], [H, R1, B, END, 0], 2, "head relation1 answer end pad"),
    ("full", "answer", TWO, [H, R1, R2, 0, 0], [0, 0, 0, T, 0], 3, "head relation1 relation2 answer pad"),
    ("full", "answer", ONE, [H, R1, 0, 0, 0], [0, 0, B, 0, 0], 2, "head relation1 answer pad pad"),
    ("causal", "answer", TWO, [H, R1, R2], [0, 0, T], 2, "head relation1 relation2"),
    ("causal", "answer", ONE, [H, R1, 0], [0, B, 0], 1, "head relation1 pad"),
    ("causal", "sequence", TWO, [H, R1, R2, T], [0, 0, T, END], 2, "head relation1 relation2 answer"),
    ("causal", "sequence", ONE, [H, R1, B, 0], [0, B, END, 0], 1, "head relation1 answer pad"),
]


@pytest.mark.parametrize(("attention", "output", "queries", "tokens", "labels", "read", "roles"), LAYOUTS)
def test_layout(attention, output, queries, tokens, labels, read, roles):
    fmt = FormatSpec(attention=attention, output=output)
    encoded = encode(queries, WORLD.vocabulary, fmt)
    assert encoded.tokens_NS.tolist() == [tokens]
    assert encoded.labels_NS.tolist() == [labels]
    assert encoded.tokens_NS.dtype == encoded.labels_NS.dtype == np.int32
    assert encoded.answer_position == read
    assert encoded.roles == tuple(roles.split())
    assert positions(fmt) == len(tokens)
    assert len(encoded.roles) == len(tokens)


def test_vocabulary_is_the_references():
    vocabulary = build_world(WorldSpec(), Seeds()).vocabulary
    assert vocabulary.size == 2207
    assert vocabulary.tokens[:2] == ("PAD", "<e_0>")
    assert vocabulary.tokens[2001] == "<r_0>"
    assert vocabulary.tokens[2201:] == ("<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>")
    assert vocabulary.tokens[vocabulary.end_id] == "</a>"
    assert vocabulary.entity(5) == "<e_5>"
    assert vocabulary.relation(5) == "<r_5>"


def test_longer_queries_need_a_longer_format():
    three = Queries(np.array([0]), np.array([[1, 2, 0]]), np.array([[3, 2, 1]]))
    with pytest.raises(ValueError, match="3 hops"):
        encode(three, WORLD.vocabulary, FormatSpec())
    encoded = encode(three, WORLD.vocabulary, FormatSpec(), hops=3)
    assert encoded.tokens_NS.shape == (1, 6)
    assert list(three.latents()) == ["bridge1", "bridge2", "answer"]
    assert encoded.roles == ("head", "relation1", "relation2", "relation3", "answer", "end")


def test_degenerate_queries_are_marked():
    path = [[0, 1], [1, 1], [1, 0], [1, 2]]
    queries = Queries(np.zeros(4, dtype=int), np.zeros((4, 2), dtype=int), np.array(path))
    assert queries.degenerate().tolist() == [True, True, True, False]
