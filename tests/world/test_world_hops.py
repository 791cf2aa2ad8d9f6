"""Corpora of three and four hops against a derivation with plain loops, and what two hops alone can have."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.training.data import RowLayout, training_data
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import FormatSpec, encode
from grokscope.world.graph import build_world
from grokscope.world.newfacts import build_new_facts
from grokscope.world.newfacts_spec import NewFactsSpec
from grokscope.world.probes import patterns
from grokscope.world.spec import REGIMES, CorpusSpec, Regime, WorldSpec
from grokscope.world.storage import read_corpus, write_corpus
from tests.world import brute
from tests.world.test_world_corpus import ours

WORLD = WorldSpec(entities=20, relations=8, degree=5, ood_fraction=0.3)


def corpus_of(hops: int, regime: Regime, seed: int = 0, **fields) -> Corpus:
    streams = Seeds(world=seed, split=seed, corpus=seed)
    spec = CorpusSpec(**{"phi": 3.0, "iid_fraction": 0.05, "probe_cap": 60, "hops": hops} | fields)
    return build_corpus(build_world(WORLD, streams), spec, regime, streams)


def every(hops: int) -> Regime:
    injected = {f"hop{k}_ratio": 1.0 for k in range(1, hops + 1)} | {
        f"hop{k}_k": 2 for k in range(1, hops + 1)
    }
    return Regime(name="every", **injected)


def walked(facts, head, relations):
    """[((entity, relation), tail, ood), ..] along a query."""
    out = []
    for relation in relations:
        tail, ood = facts[head, relation]
        out.append(((head, relation), tail, ood))
        head = tail
    return out


@ours
@given(st.integers(3, 4), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 3))
def test_every_rule_of_more_hops_holds_by_brute_force(hops, seed, ratio, k):
    regime = Regime(name="drawn", hop1_ratio=1.0, hop1_k=k, hop3_ratio=ratio, hop3_k=k if ratio else 0)
    try:
        corpus = corpus_of(hops, regime, seed)
    except InputError:
        assume(False)
    facts = brute.facts_of(corpus.world)
    used, sampled = [Counter() for _ in range(hops)], 0
    trained = brute.triples(corpus.composition)
    for (head, *relations), path in trained.items():
        steps = walked(facts, head, relations)
        assert tuple(tail for _, tail, _ in steps) == path
        ood = [k for k, (_, _, is_ood) in enumerate(steps) if is_ood]
        assert len(ood) <= 1
        sampled += not ood
        for hop in range(hops):
            used[hop][steps[hop][0]] += 1
    assert sampled == round(3.0 * sum(not ood for _, ood in facts.values()))
    target = [set() for _ in range(hops)]
    for name, probes in corpus.probes.items():
        assert probes.pattern == patterns(hops)[name]
        table = probes.frame()
        for place, ((head, *relations), path) in enumerate(brute.triples(probes.queries).items()):
            row, steps = table.row(place, named=True), walked(facts, head, relations)
            assert tuple(tail for _, tail, _ in steps) == path
            assert "".join("IO"[ood] for _, _, ood in steps) == probes.pattern
            assert len({head, *path}) == 1 + len(path)
            if len(relations) > 1:
                assert ((head, *relations) in trained) == (name == "train_inferred")
                assert [f"bridge{k + 1}" in row for k in range(hops)] == [True] * (hops - 1) + [False]
                assert tuple(row[f"bridge{k + 1}"] for k in range(hops - 1)) == path[:-1]
            for hop, (fact, _, ood) in enumerate(steps):
                assert [row[f"trained{hop + 1}_hop{role + 1}"] for role in range(hops)] == [
                    used[role][fact] for role in range(hops)
                ]
                roles = [hop] if len(steps) > 1 else range(hops)
                assert row[f"injected{hop + 1}"] == (ood and any(used[role][fact] for role in roles))
                if name == "test_ood":
                    target[hop].add(fact)
    for hop, share in enumerate((1.0, 0.0, ratio, 0.0)[:hops]):
        injected = {fact: times for fact, times in used[hop].items() if facts[fact][1]}
        assert set(injected) <= target[hop]
        assert len(injected) <= round(share * len(target[hop]))
        assert all(times <= k for times in injected.values())
        assert sum(injected.values()) == corpus.injected[hop] == corpus.summary()[f"injected_hop{hop + 1}"]


@pytest.mark.parametrize("hops", [3, 4])
@pytest.mark.parametrize("fmt", [FormatSpec(), FormatSpec(attention="causal", output="answer")])
def test_the_answer_stands_behind_the_last_relation(hops, fmt):
    """A query of fewer hops is padded to the same length, and both are one set of examples."""
    corpus = corpus_of(hops, every(hops))
    vocabulary = corpus.world.vocabulary
    encoded = encode(corpus.composition, vocabulary, fmt, hops)
    assert encoded.roles[: hops + 1] == ("head", *(f"relation{k + 1}" for k in range(hops)))
    read = hops + (fmt.attention == "full")
    assert encoded.answer_position == read
    answers = vocabulary.entity_ids[corpus.composition.path_NK[:, -1]]
    np.testing.assert_array_equal(encoded.labels_NS[:, read], answers)
    data = training_data(corpus, fmt)
    assert data.rows()[1] == RowLayout.of(fmt, hops)
    assert len(data) == len(corpus.world.fact_F3) + len(corpus.composition)


@pytest.mark.parametrize("layout", ["grokscope", "parquet"])
def test_more_hops_are_kept_on_disk(layout, tmp_path):
    corpus = corpus_of(3, every(3))
    write_corpus(corpus, tmp_path / "kept", layout)
    again = read_corpus(tmp_path / "kept")
    assert again.summary() == corpus.summary()
    for name, probes in corpus.probes.items():
        assert again.probes[name].frame().equals(probes.frame())


def test_a_regime_adds_its_hops_alone_and_changes_no_probe():
    """All regimes are asked the same, so that runs pair; hop 3 is injected only if the regime says so."""
    two, three = corpus_of(3, every(2)), corpus_of(3, every(3))
    assert two.injected[2] == 0 < three.injected[2]
    assert two.injected[:2] == three.injected[:2]
    for name in ("test_iid", "test_ood", "first_hop_ood", "second_hop_ood", "third_hop_ood"):
        np.testing.assert_array_equal(two.probes[name].id_P, three.probes[name].id_P)


def test_what_is_of_two_hops_is_refused_with_a_sentence(tmp_path):
    three = corpus_of(3, REGIMES["natural"])
    with pytest.raises(InputError, match=r"injects as hop 3, but corpus\.hops = 2"):
        corpus_of(2, every(3))
    with pytest.raises(InputError, match=r"hops 3 must be 2"):
        CorpusSpec.parse({"as_in_file": True, "hops": 3})
    with pytest.raises(InputError, match=r"hops = 5: .*less than or equal to 4"):
        CorpusSpec.parse({"hops": 5})
    with pytest.raises(InputError, match=r"corpus\.hops = 3: the reference format"):
        write_corpus(three, tmp_path / "kept", "reference")
    with pytest.raises(InputError, match=r"corpus\.hops = 3: new facts"):
        build_new_facts(three, NewFactsSpec(count=2, probes=2), Seeds())
