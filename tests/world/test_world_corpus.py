"""Worlds and corpora against a brute-force derivation, and what may and may not depend on what."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world import (
    PATTERNS,
    REGIMES,
    CorpusSpec,
    Regime,
    WorldSpec,
    build_corpus,
    build_world,
)
from grokscope.world.pool import weighted
from tests.world import brute

SMALL = WorldSpec(entities=40, relations=12, degree=8, ood_fraction=0.1)
SPEC = CorpusSpec(phi=4.0, iid_fraction=0.05, probe_cap=200)
slow = [HealthCheck.filter_too_much, HealthCheck.too_slow]
ours = settings(deadline=None, max_examples=40, suppress_health_check=slow)


def corpus_of(regime="both_hops_full", world_spec=SMALL, spec=SPEC, **seeds):
    streams = Seeds(**seeds)
    regime = REGIMES[regime] if isinstance(regime, str) else regime
    return build_corpus(build_world(world_spec, streams), spec, regime, streams)


@st.composite
def settings_of(draw):
    relations = draw(st.integers(2, 12))
    world = WorldSpec(
        entities=draw(st.integers(5, 50)),
        relations=relations,
        degree=draw(st.integers(1, relations)),
        ood_fraction=draw(st.sampled_from([0.05, 0.1, 0.3])),
    )
    spec = CorpusSpec(
        phi=draw(st.sampled_from([1.0, 2.0, 3.7])),
        iid_fraction=draw(st.sampled_from([0.005, 0.1])),
        probe_cap=draw(st.integers(1, 60)),
        partners=draw(st.integers(1, 3)),
        skew=draw(st.sampled_from([0.0, 1.5])),
    )
    ratio1, ratio2 = draw(st.sampled_from([0.0, 0.5, 1.0])), draw(st.sampled_from([0.0, 0.3, 1.0]))
    k = st.one_of(st.integers(1, 9), st.just("full"))
    regime = Regime(
        name="drawn",
        hop1_ratio=ratio1,
        hop1_k=draw(k) if ratio1 else 0,
        hop2_ratio=ratio2,
        hop2_k=draw(k) if ratio2 else 0,
    )
    return world, spec, regime, draw(st.integers(0, 10**6))


@ours
@given(settings_of())
def test_every_protocol_rule_holds_by_brute_force(drawn):
    world_spec, spec, regime, seed = drawn
    streams = dict.fromkeys(("world", "split", "corpus"), seed)
    try:
        corpus = corpus_of(regime, world_spec, spec, **streams)
    except InputError:
        assume(False)
    world = corpus.world
    facts = brute.facts_of(world)
    per_head = [sum(head == entity for head, _ in facts) for entity in range(world.entities)]
    assert per_head == [world_spec.degree] * world.entities
    assert sum(ood for _, ood in facts.values()) == round(world_spec.ood_fraction * len(facts))
    every = brute.all_compositions(facts)
    trained = brute.triples(corpus.composition)
    sampled = {key for key in trained if not every[key][2] and not every[key][3]}
    assert len(sampled) == round(spec.phi * sum(not ood for _, ood in facts.values()))
    assert all(every[key][:2] == path for key, path in trained.items())
    assert not any(every[key][2] and every[key][3] for key in trained)
    assert set(brute.triples(corpus.atomic)) == set(facts)

    hop1, hop2 = brute.trained_as(facts, every, trained)
    test = brute.triples(corpus.probes["test_ood"].queries)
    held = [
        name for name in ("test_iid", "test_ood", "first_hop_ood", "second_hop_ood") if name in corpus.probes
    ]
    reserved = {key for name in held for key in brute.triples(corpus.probes[name].queries)}
    assert not reserved & set(trained)
    for hop, (used, ratio, k) in enumerate(
        ((hop1, regime.hop1_ratio, regime.hop1_k), (hop2, regime.hop2_ratio, regime.hop2_k))
    ):
        k = round(spec.phi) if k == "full" else k
        keys = {key: (key[0], key[1]) if hop == 0 else (every[key][0], key[2]) for key in every}
        target = {keys[key] for key in test}
        injected = {fact: times for fact, times in used.items() if facts[fact][1]}
        assert set(injected) <= target
        assert len(injected) <= round(ratio * len(target))
        available = dict.fromkeys(target, 0)
        for key, value in every.items():
            if value[2 + hop] and not value[3 - hop] and key not in reserved and keys[key] in available:
                available[keys[key]] += 1
        assert all(times == min(k, available[fact]) for fact, times in injected.items())
        if ratio == 1.0:
            assert set(injected) == {fact for fact, count in available.items() if count}
        assert sum(injected.values()) == corpus.injected[hop]


@ours
@given(settings_of())
def test_every_probe_knows_what_is_true_of_it(drawn):
    world_spec, spec, regime, seed = drawn
    try:
        corpus = corpus_of(regime, world_spec, spec, world=seed, split=seed, corpus=seed)
    except InputError:
        assume(False)
    world = corpus.world
    facts = brute.facts_of(world)
    every = brute.all_compositions(facts)
    hop1, hop2 = brute.trained_as(facts, every, brute.triples(corpus.composition))
    indegree = [sum(tail == entity for tail, _ in facts.values()) for entity in range(world.entities)]
    ids = []
    for name, probes in corpus.probes.items():
        assert 0 < len(probes) <= spec.probe_cap
        assert (np.diff(probes.id_P) > 0).all()
        ids += probes.id_P.tolist()
        table = probes.frame()
        for place, (key, path) in enumerate(brute.triples(probes.queries).items()):
            row = table.row(place, named=True)
            chain = [(key[0], key[1]), (path[0], key[2])] if len(key) == 3 else [(key[0], key[1])]
            assert [facts[fact][0] for fact in chain] == list(path)
            assert len({key[0], *path}) == 1 + len(path), "a degenerate probe"
            assert "".join("IO"[facts[fact][1]] for fact in chain) == PATTERNS[name] == probes.pattern
            for k, fact in enumerate(chain):
                assert tuple(world.fact_F3[row[f"fact{k + 1}"], :2]) == fact
                assert row[f"trained{k + 1}_atom"] == 1
                assert row[f"trained{k + 1}_hop1"] == hop1[fact]
                assert row[f"trained{k + 1}_hop2"] == hop2[fact]
                role = (hop1, hop2)[k][fact] if len(chain) == 2 else hop1[fact] + hop2[fact]
                assert row[f"injected{k + 1}"] == (facts[fact][1] and role > 0)
            assert row["guess"] == brute.guess(facts, key[-1])
            for latent, true in zip(["bridge", "answer"][-len(path) :], path, strict=True):
                control = row[f"control_{latent}"]
                others = [e for e in range(world.entities) if e not in (key[0], *path)]
                nearest = min(abs(indegree[e] - indegree[true]) for e in others)
                assert control in others
                assert abs(indegree[control] - indegree[true]) == nearest
    assert len(set(ids)) == len(ids)


def test_probe_sets_are_as_large_as_they_can_be():
    corpus = corpus_of(spec=SPEC.replace(probe_cap=10_000, partners=2))
    facts = brute.facts_of(corpus.world)
    every = brute.all_compositions(facts)
    clean = {key: value for key, value in every.items() if len({key[0], value[0], value[1]}) == 3}
    assert set(brute.triples(corpus.probes["test_ood"].queries)) == {
        k for k, v in clean.items() if v[2] and v[3]
    }
    pool = sum(not v[2] and not v[3] for v in every.values())
    assert len(corpus.probes["test_iid"]) == round(SPEC.iid_fraction * pool)
    for name, first in (("first_hop_ood", True), ("second_hop_ood", False)):
        can, got = {}, {}
        for key, (bridge, _, ood1, ood2) in clean.items():
            if (ood1, ood2) == (first, not first):
                fact = (key[0], key[1]) if first else (bridge, key[2])
                can[fact] = can.get(fact, 0) + 1
                got.setdefault(fact, 0)
        for key in brute.triples(corpus.probes[name].queries):
            got[(key[0], key[1]) if first else (clean[key][0], key[2])] += 1
        assert got == {fact: min(2, count) for fact, count in can.items()}


def test_regimes_pair():
    corpora = {name: corpus_of(name) for name in REGIMES}
    natural = corpora["natural"]
    for corpus in corpora.values():
        assert corpus.world.fingerprint == natural.world.fingerprint
        assert list(corpus.probes) == list(PATTERNS)
        for name, probes in corpus.probes.items():
            changing = ["injected", "trained"]
            keep = [c for c in probes.frame().columns if not c.startswith(tuple(changing))]
            assert probes.frame().select(keep).equals(natural.probes[name].frame().select(keep))
    trained = {name: set(brute.triples(corpus.composition)) for name, corpus in corpora.items()}
    assert set(brute.triples(natural.probes["train_inferred"].queries)) < trained["natural"]
    assert trained["natural"] < trained["both_hops_half"]
    assert trained["natural"] < trained["first_hop_full"] < trained["both_hops_full"]
    assert trained["first_hop_full"] | trained["second_hop_full"] == trained["both_hops_full"]


def held_out(corpus):
    return {name: probes.id_P.tolist() for name, probes in corpus.probes.items() if name != "train_inferred"}


def test_what_each_seed_changes():
    base = corpus_of()
    assert corpus_of().fingerprint == base.fingerprint
    assert corpus_of(init=5, order=6).fingerprint == base.fingerprint
    assert corpus_of(world=1).world.fingerprint != base.world.fingerprint
    other_split, other_corpus = corpus_of(split=1), corpus_of(corpus=1)
    assert (other_split.world.fact_F3 == base.world.fact_F3).all()
    assert (other_split.world.ood_F != base.world.ood_F).any()
    assert other_corpus.fingerprint != base.fingerprint
    assert other_corpus.world.fingerprint == base.world.fingerprint
    assert held_out(other_corpus) == held_out(base)
    for name, probes in held_out(corpus_of(spec=SPEC.replace(phi=2.0))).items():
        assert probes == held_out(base)[name]


def test_the_same_seed_gives_the_same_bytes():
    one, two = corpus_of(), corpus_of()
    assert one.composition.head_N.tobytes() == two.composition.head_N.tobytes()
    for name, probes in one.probes.items():
        assert probes.frame().equals(two.probes[name].frame())


def test_fingerprints_do_not_move_between_versions():
    """A change of any stream would silently unpair new runs from old ones."""
    assert corpus_of().world.fingerprint == "44071cf5fa00a7e4"
    assert corpus_of().fingerprint == "f47fe1ea463abe22"


def test_controls_are_uniform_among_equals():
    """All entities have in-degree 1 here, so every one off the path must be drawn about equally often."""
    from grokscope.world.controls import draw_controls

    true = np.zeros(6000, dtype=np.int32)
    path = np.tile(np.array([0, 1, 2]), (6000, 1))
    drawn = draw_controls(true, path, np.ones(8, dtype=np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=8)
    assert counts[:3].tolist() == [0, 0, 0]
    assert (np.abs(counts[3:] - 1200) < 200).all()


def test_tails_are_uniform_and_relations_too():
    world = build_world(WorldSpec(entities=200, relations=20, degree=10), Seeds())
    tails = np.bincount(world.fact_F3[:, 2], minlength=200)
    relations = np.bincount(world.fact_F3[:, 1], minlength=20)
    assert abs(tails.var() / tails.mean() - 1) < 0.35
    assert (np.abs(relations - 100) < 40).all()


@pytest.mark.parametrize(
    ("world", "spec", "regime", "words"),
    [
        ({}, {"phi": 500.0}, "natural", "phi = 500.0"),
        (
            {"entities": 3, "relations": 30, "degree": 30, "ood_fraction": 0.4},
            {"phi": 0.1},
            "natural",
            "entities = 3",
        ),
        ({"ood_fraction": 0.001}, {}, "natural", "ood_fraction = 0.001"),
        ({"ood_fraction": 0.004}, {}, "natural", "test_ood"),
        ({"ood_fraction": 0.0}, {}, "both_hops_full", "ood_fraction = 0"),
        ({"ood_fraction": 0.99}, {}, "natural", "ID facts make no two-hop query"),
        ({"entities": 10**6, "relations": 1000, "degree": 1}, {}, "natural", "entities = 1000000"),
        ({}, {"phi": 0.2}, "both_hops_full", "injects nothing"),
        ({}, {"as_in_file": True}, "natural", "as_in_file"),
    ],
)
def test_impossible_sizes_are_one_sentence(world, spec, regime, words):
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        corpus_of(regime, SMALL.replace(**world), SPEC.replace(**spec))
    assert words in str(caught.value)


def test_an_injection_that_finds_no_free_partner_is_refused():
    world = WorldSpec(entities=40, relations=10, degree=5, ood_fraction=0.1)
    spec = CorpusSpec(phi=1.0, partners=10**5)
    corpus_of("natural", world, spec)
    with pytest.raises(InputError, match="finds nothing to inject as hop 1"):
        corpus_of("both_hops_full", world, spec)


def test_the_largest_phi_that_is_named_is_possible():
    with pytest.raises(InputError) as caught:
        corpus_of(spec=SPEC.replace(phi=500.0))
    largest = float(str(caught.value).split("at most ")[1].split(" ")[0])
    assert len(corpus_of(spec=SPEC.replace(phi=largest)).composition) > 0
    with pytest.raises(InputError):
        corpus_of(spec=SPEC.replace(phi=largest + 0.01))


def test_a_world_without_ood_facts_has_the_id_sets_alone():
    corpus = corpus_of("natural", SMALL.replace(ood_fraction=0.0))
    assert list(corpus.probes) == ["id_atomic", "train_inferred", "test_iid"]


@pytest.mark.parametrize(
    "fields", [{"hop1_ratio": 0.5}, {"hop2_k": 3}, {"hop1_ratio": 1.0, "hop1_k": -1}, {"name": "../x"}]
)
def test_a_regime_that_cannot_be_honoured_is_refused(fields):
    with pytest.raises(InputError):
        Regime.parse({"name": "mine", **fields})


def test_ood_atomic_holds_the_facts_of_test_ood_when_the_cap_binds():
    corpus = corpus_of(spec=SPEC.replace(probe_cap=25))
    probes = corpus.probes
    used = set(probes["test_ood"].fact_PK.ravel().tolist())
    listed = set(probes["ood_atomic"].fact_PK.ravel().tolist())
    assert used <= listed if len(used) <= 25 else listed <= used


def test_ids_differ_between_numbers_of_hops():
    corpus = corpus_of()
    world = corpus.world
    atomic = corpus.atomic.stable_id(world.entities, world.relations)
    composed = corpus.composition.stable_id(world.entities, world.relations)
    assert atomic.min() >= 0
    assert atomic.max() < world.entities * world.relations <= composed.min()


def test_paper_size_has_the_published_counts():
    """40,000 facts, 684,000 compositions, about 2,000 OOD queries; injection near 22,697 + 21,492, less the
    reserved probes (one partner of every OOD fact and role); within 1 GiB."""
    tracemalloc.start()
    corpus = corpus_of("both_hops_full", WorldSpec(), CorpusSpec())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    summary = corpus.summary()
    assert (summary["facts"], summary["id_facts"], summary["ood_facts"]) == (40_000, 38_000, 2_000)
    sampled = summary["train_compositions"] - summary["injected_hop1"] - summary["injected_hop2"]
    assert sampled == 684_000
    assert 1_850 < summary["probes"]["test_ood"] < 2_150
    assert summary["probes"]["test_iid"] == 3_000
    assert 20_500 < summary["injected_hop1"] < 22_697
    assert 19_500 < summary["injected_hop2"] < 21_492
    assert peak < 2**30


def test_with_skew_some_facts_take_part_more_than_others_in_both_roles():
    spec = WorldSpec(entities=40, relations=40, degree=40, ood_fraction=0.1)
    shared_A, fewest_A = [], []
    for skew in (0.0, 1.0):
        corpus = corpus_of("natural", spec, CorpusSpec(phi=4.0, iid_fraction=0.01, probe_cap=50, skew=skew))
        id_F = ~corpus.world.ood_F
        assert len(corpus.composition) == 4 * id_F.sum()
        count_KF = np.array(
            [
                np.bincount(fact_N, minlength=1600)[id_F]
                for fact_N in corpus.composition.fact_NK(corpus.world).T
            ]
        )
        shared_A.append(np.corrcoef(count_KF)[0, 1])
        fewest_A.append((count_KF.sum(axis=0) <= 2).mean())
    assert abs(shared_A[0]) < 0.1 < 0.6 < shared_A[1]
    assert fewest_A[0] < 0.02 < 0.1 < fewest_A[1]


def test_weighted_rows_are_drawn_as_their_weights_say():
    rng = np.random.default_rng(0)
    draws_D = [int(weighted(np.arange(3), np.log([1.0, 2.0, 5.0]), 1, rng)[0]) for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(draws_D) / 4000, [1 / 8, 2 / 8, 5 / 8], atol=0.03)
