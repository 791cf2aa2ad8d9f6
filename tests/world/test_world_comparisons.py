"""Comparisons against a derivation with plain loops, and what is refused of them."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, encode
from grokscope.world.graph import build_world
from grokscope.world.newfacts import build_new_facts
from grokscope.world.newfacts_spec import NewFactsSpec
from grokscope.world.spec import REGIMES, CorpusSpec, Regime, WorldSpec
from grokscope.world.storage import read_corpus, write_corpus
from tests.world import brute
from tests.world.test_world_corpus import ours

WORLD = WorldSpec(entities=24, relations=6, degree=5, ood_fraction=0.3, values=8)
CORPUS = CorpusSpec(phi=3.0, iid_fraction=0.05, probe_cap=60, task="comparison")
PAIRS = {"id": "II", "train_inferred": "II", "test_iid": "II", "test_ood": "OO", "first_hop_ood": "OI",
         "second_hop_ood": "IO"}  # fmt: skip


def corpus_of(regime: Regime, seed: int = 0, world: WorldSpec = WORLD) -> Corpus:
    streams = Seeds(world=seed, split=seed, corpus=seed)
    return build_corpus(build_world(world, streams), CORPUS, regime, streams)


def asked(queries):
    """[(attribute, entity, other, values, answer)] in plain numbers."""
    return list(
        zip(
            queries.relation_NK[:, 0].tolist(),
            queries.head_N.tolist(),
            queries.other_N.tolist(),
            queries.path_NK[:, :2].tolist(),
            queries.path_NK[:, 2].tolist(),
            strict=True,
        )
    )


@ours
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 3))
def test_every_rule_of_comparisons_holds_by_brute_force(seed, ratio, k):
    regime = Regime(name="drawn", hop2_ratio=1.0, hop2_k=k, hop1_ratio=ratio, hop1_k=k if ratio else 0)
    try:
        corpus = corpus_of(regime, seed)
    except InputError:
        assume(False)
    facts = brute.facts_of(corpus.world)
    assert {tail for tail, _ in facts.values()} <= set(range(8))
    trained = set()
    for attribute, entity, other, values, answer in asked(corpus.composition):
        (first, ood1), (second, ood2) = facts[entity, attribute], facts[other, attribute]
        assert values == [first, second]
        assert first != second
        assert answer == (entity if first > second else other)
        assert not (ood1 and ood2)
        trained.add((attribute, entity, other))
    assert len(trained) == len(corpus.composition)
    pool = [
        (r, e, o)
        for (e, r), (first, _) in facts.items()
        for (o, s), (second, _) in facts.items()
        if r == s and first != second
    ]
    of_id = sum(not facts[e, r][1] and not facts[o, r][1] for r, e, o in pool)
    assert len(corpus.probes["test_iid"]) <= max(1, round(0.05 * of_id))
    sampled = sum(not facts[e, r][1] and not facts[o, r][1] for r, e, o in trained)
    assert sampled == round(3.0 * sum(not ood for _, ood in facts.values()))
    for name, pattern in PAIRS.items():
        for place, (attribute, entity, other, values, answer) in enumerate(
            asked(corpus.probes[name].queries) if name in corpus.probes else []
        ):
            (first, ood1), (second, ood2) = facts[entity, attribute], facts[other, attribute]
            assert "IO"[ood1] + "IO"[ood2] == pattern
            assert answer == (entity if first > second else other)
            assert len({entity, other, *values}) == 4
            assert ((attribute, entity, other) in trained) == (name == "train_inferred")
            control = {key: int(each[place]) for key, each in corpus.probes[name].control_PL.items()}
            assert set(control) == {"value1", "value2", "answer"}
            assert not {entity, other, *values} & set(control.values())


@pytest.mark.parametrize("layout", ["grokscope", "parquet"])
def test_a_corpus_of_comparisons_comes_back_from_disk(layout, tmp_path):
    corpus = corpus_of(REGIMES["natural"])
    write_corpus(corpus, tmp_path / "c", layout)
    again = read_corpus(tmp_path / "c")
    assert again.fingerprint == corpus.fingerprint
    assert asked(again.composition) == asked(corpus.composition)
    for name, probes in corpus.probes.items():
        assert again.probes[name].frame().equals(probes.frame())


def test_it_is_asked_in_the_order_of_its_source():
    queries = corpus_of(REGIMES["natural"]).probes["test_ood"].queries
    world = corpus_of(REGIMES["natural"]).world
    encoded = encode(queries, world.vocabulary, FormatSpec(attention="causal", output="answer"))
    assert encoded.roles == ("relation1", "head", "other")
    attribute, entity, other, _, answer = asked(queries)[0]
    tokens = world.vocabulary.tokens
    assert [tokens[i] for i in encoded.tokens_NS[0]] == [f"<r_{attribute}>", f"<e_{entity}>", f"<e_{other}>"]
    assert tokens[encoded.labels_NS[0, encoded.answer_position]] == f"<e_{answer}>"


def test_values_of_a_file_are_compared_as_numbers(tmp_path):
    """By name, or by the order in which names stand there, -3 and 9 would win against 12.5."""
    rows = [f"e{i},height,{value}" for i, value in enumerate(["-3", "9", "12.5", "0.5", "100", "7"] * 4)]
    (tmp_path / "facts.csv").write_text("head,relation,tail\n" + "\n".join(rows) + "\n")
    world = WorldSpec(facts_file=str(tmp_path / "facts.csv"), ood_fraction=0.3)
    corpus = corpus_of(REGIMES["natural"], world=world)

    def number(entity: int) -> float:
        return float(corpus.world.vocabulary.entity(entity).removeprefix("<e_").removesuffix(">"))

    assert len(corpus.composition)
    for _, entity, other, (first, second), answer in asked(corpus.composition):
        assert answer == (entity if number(first) > number(second) else other)
    rows[3] = "e3,height,tall"
    (tmp_path / "facts.csv").write_text("head,relation,tail\n" + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match=r"the tail 'tall' in .* is not a number"):
        corpus_of(REGIMES["natural"], world=world)


def test_what_comparisons_cannot_have_is_said(tmp_path):
    corpus = corpus_of(REGIMES["natural"])
    with pytest.raises(InputError, match=r"corpus\.task = 'comparison': the reference format holds chains"):
        write_corpus(corpus, tmp_path / "c", "reference")
    with pytest.raises(InputError, match=r"corpus\.task = 'comparison': new facts are asked in chains"):
        build_new_facts(corpus, NewFactsSpec(count=4), Seeds())
    with pytest.raises(InputError, match="task 'comparison' compares two facts"):
        CORPUS.replace(hops=3)
    with pytest.raises(InputError, match="values 25 needs drawn facts and at most"):
        WORLD.replace(values=25)
    (tmp_path / "facts.csv").write_text("a,r,1\na,r,2\nb,r,3\nc,r,4\n")
    world = WorldSpec(facts_file=str(tmp_path / "facts.csv"), several_tails="all", ood_fraction=0)
    with pytest.raises(InputError, match="several_tails = 'all': comparisons need one value"):
        corpus_of(REGIMES["natural"], world=world)


def test_two_regimes_of_comparisons_share_their_questions():
    one, two = corpus_of(REGIMES["natural"]), corpus_of(REGIMES["second_hop_full"].replace(hop2_k=1))
    for name in one.probes:
        assert np.array_equal(one.probes[name].id_P, two.probes[name].id_P)
    assert two.injected[0] == 0 < two.injected[1]
