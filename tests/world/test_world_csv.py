"""A user's own facts."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world import (
    CorpusSpec,
    Regime,
    WorldSpec,
    build_corpus,
    build_world,
    inspect,
    read_corpus,
    write_corpus,
)
from tests.world import brute

FAMILY = """head,relation,tail
Ada,mother,Bea
Ada,boss,Cy
Bea,mother,Dot
"Cy, the younger",mother,Bea
 Dot ,boss,Ada

Cy,mother,a
"""


def world_of(tmp_path, text, **spec):
    (tmp_path / "facts.csv").write_text(text)
    return build_world(WorldSpec(facts_file=str(tmp_path / "facts.csv"), **spec), Seeds())


def named(world):
    e, r = world.vocabulary.entity, world.vocabulary.relation
    return {(e(h), r(x), e(t)) for h, x, t in world.fact_F3}


def test_facts_are_read(tmp_path):
    world = world_of(tmp_path, FAMILY, ood_fraction=0.3)
    assert named(world) == {
        ("<e_Ada>", "<r_mother>", "<e_Bea>"),
        ("<e_Ada>", "<r_boss>", "<e_Cy>"),
        ("<e_Bea>", "<r_mother>", "<e_Dot>"),
        ("<e_Cy, the younger>", "<r_mother>", "<e_Bea>"),
        ("<e_Dot>", "<r_boss>", "<e_Ada>"),
        ("<e_Cy>", "<r_mother>", "<e_a>"),
    }
    assert int(world.ood_F.sum()) == 2
    assert world.vocabulary.tokens.count("<a>") == 1
    summary = inspect(tmp_path / "facts.csv")
    assert (summary["entities"], summary["relations"], summary["facts"]) == (6, 2, 6)


def test_the_order_of_the_lines_does_not_matter(tmp_path):
    lines = FAMILY.splitlines()
    other = "\n".join([lines[0], *reversed(lines[1:])])
    assert (
        world_of(tmp_path, FAMILY, ood_fraction=0.3).fingerprint
        == world_of(tmp_path, other, ood_fraction=0.3).fingerprint
    )


def test_a_corpus_of_own_facts_goes_through_every_layout(tmp_path):
    """Unequal degrees, names with blanks, commas and quotes."""
    lines = ["head,relation,tail"]
    for i in range(40):
        lines += [f'"node ""{i}"", x",rel {j},"node ""{(i * 7 + j * j) % 40}"", x"' for j in range(1 + i % 7)]
    world = world_of(tmp_path, "\n".join(lines), ood_fraction=0.2)
    corpus = build_corpus(world, CorpusSpec(phi=1.0), Regime(name="mine", hop1_ratio=1.0, hop1_k=2), Seeds())
    facts = brute.facts_of(world)
    assert {len([1 for head, _ in facts if head == entity]) for entity in range(40)} == set(range(1, 8))
    for layout in ("grokscope", "parquet", "reference"):
        write_corpus(corpus, tmp_path / layout, layout)
        read = read_corpus(tmp_path / layout)
        assert read.fingerprint == corpus.fingerprint
        assert named(read.world) == named(world)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the header"),
        ("h,r,t\na,b,c\n", "line 1: the header"),
        ("head,relation,tail\n", "no facts"),
        ("head,relation,tail\na,b,c\na,b\n", "line 3"),
        ("head,relation,tail\na,b,c\na,,c\n", "line 3"),
        ("head,relation,tail\na,b,c\nd,b,c\na,b,d\n", "line 4: (a, b) has the tail 'd', but 'c' in line 2"),
        ("head,relation,tail\na,<b>,c\n", "line 2"),
        ('head,relation,tail\na,"b,c\n', "line 2"),
    ],
)
def test_errors_name_the_line(tmp_path, text, words):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        world_of(tmp_path, text)
    assert words in str(caught.value)


def test_a_line_that_repeats_a_fact_counts_once(tmp_path):
    world = world_of(tmp_path, FAMILY + "Ada,mother,Bea\n", ood_fraction=0.0)
    assert len(world.fact_F3) == 6


field = st.text(alphabet='ab,"<\n\x00é ', max_size=3)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.just("head,relation,tail\n") | field,
    rows=st.lists(st.lists(field, max_size=4).map(",".join), max_size=8).map("\n".join),
    tail=st.binary(max_size=4),
)
def test_fuzzed_csv_is_read_or_refused(tmp_path, header, rows, tail):
    (tmp_path / "facts.csv").write_bytes((header + rows).encode() + tail)
    with contextlib.suppress(InputError):
        world = build_world(WorldSpec(facts_file=str(tmp_path / "facts.csv"), ood_fraction=0.0), Seeds())
        assert len(world.fact_F3) > 0
