"""New facts against a brute-force derivation: nothing leaks, and all that is asked can be answered."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.seeds import Seeds
from grokscope.world import (
    REGIMES,
    CorpusSpec,
    WorldSpec,
    build_corpus,
    build_world,
    read_corpus,
    write_corpus,
)
from grokscope.world.newfacts import build_new_facts
from grokscope.world.newfacts_check import check_new_facts
from grokscope.world.newfacts_spec import NewFactsSpec, RetentionSpec
from grokscope.world.probes import MIXES, NEW_PATTERNS
from tests.world import brute

slow = [HealthCheck.filter_too_much, HealthCheck.too_slow]
WORLD = WorldSpec(entities=40, relations=12, degree=8, ood_fraction=0.1)
CORPUS = CorpusSpec(phi=4.0, iid_fraction=0.05, probe_cap=200)


def corpus_of(regime="natural", world_spec=WORLD, spec=CORPUS, **seeds):
    streams = Seeds(**seeds)
    return build_corpus(build_world(world_spec, streams), spec, REGIMES[regime], streams)


RETENTION = {"kind": "paper", "items": 120, "ood": False}


def spec_of(**changes):
    retention = RetentionSpec(**{name: changes.pop(name, default) for name, default in RETENTION.items()})
    return NewFactsSpec(**{"count": 40, "probes": 60, "retention": retention, **changes})


@st.composite
def cases(draw):
    relations = draw(st.integers(3, 10))
    world = WorldSpec(
        entities=draw(st.integers(6, 40)),
        relations=relations,
        degree=draw(st.integers(1, relations - 1)),
        ood_fraction=draw(st.sampled_from([0.1, 0.3])),
    )
    corpus = CorpusSpec(
        phi=draw(st.sampled_from([1.0, 2.0])), iid_fraction=0.1, probe_cap=draw(st.integers(1, 60))
    )
    k = draw(st.integers(0, 4))
    spec = spec_of(
        count=2 * draw(st.integers(1, 12)),
        probes=draw(st.integers(1, 40)),
        k=k,
        roles=draw(st.sampled_from(["both", "first", "second"])) if k else "both",
        kind=draw(st.sampled_from(["paper", "code"])),
        items=draw(st.one_of(st.integers(0, 60), st.just("all"))),
        ood=draw(st.booleans()),
        seed=draw(st.integers(0, 5)),
    )
    return world, corpus, draw(st.sampled_from(sorted(REGIMES))), spec, draw(st.integers(0, 10**6))


@settings(deadline=None, max_examples=30, suppress_health_check=slow)
@given(cases())
def test_every_rule_of_new_facts_holds_by_brute_force(case):
    world_spec, corpus_spec, regime, spec, seed = case
    streams = dict.fromkeys(("world", "split", "corpus"), seed)
    try:
        corpus = corpus_of(regime, world_spec, corpus_spec, **streams)
        new = build_new_facts(corpus, spec, Seeds(**streams))
    except InputError:
        assume(False)
    old_tail = {(h, r): t for h, r, t in corpus.world.fact_F3.tolist()}
    tail = {(h, r): t for h, r, t in new.world.fact_F3.tolist()}
    fresh = set(tail) - set(old_tail)
    assert old_tail.items() <= tail.items()
    assert len(fresh) == spec.count == int(new.new_F.sum())
    # The data: atoms and compositions, as (head, relations) keys.
    atoms = set(brute.triples_any(new.new_atoms) | brute.triples_any(new.retained_atoms))
    assert fresh <= atoms
    trained = brute.triples_any(new.retained) | brute.triples_any(new.taught)
    assert len(trained) == len(new.retained) + len(new.taught)
    assert brute.triples_any(new.retained) <= brute.triples_any(corpus.composition)
    assert brute.triples_any(new.composed) == brute.triples_any(corpus.composition) | brute.triples_any(
        new.taught
    )
    ood = {tuple(fact[:2]) for fact in corpus.world.fact_F3[corpus.world.ood_F].tolist()}
    uses_new = {"new": True, "old": False}
    for name, probe_set in new.probes.items():
        for head, relations, path in brute.rows(probe_set.queries):
            at, keys = head, []
            for relation, entity in zip(relations, path, strict=True):
                keys.append((at, relation))
                at = tail[at, relation]
                assert at == entity
            if name in MIXES:
                assert (head, *relations) not in trained
                assert set(keys) <= atoms
                assert [key in fresh for key in keys] == [uses_new[word] for word in name.split("_then_")]
                assert len({head, *path}) == 3
            elif len(relations) == 2 and name != "train_inferred":
                assert (head, *relations) not in trained
    # Every query a mix could ask is asked, unless there are more than `probes`.
    for name in MIXES:
        words = name.split("_then_")
        could = {
            (h, r1, r2)
            for (h, r1), b in tail.items()
            for (e, r2), t in tail.items()
            if e == b
            and len({h, b, t}) == 3
            and {(h, r1), (b, r2)} <= atoms - ood
            and [(h, r1) in fresh, (b, r2) in fresh] == [uses_new[word] for word in words]
        }
        asked = brute.triples_any(new.probes[name].queries) if name in new.probes else set()
        assert asked <= could
        assert len(asked) == min(len(could), spec.probes)
        short = [one for one in new.shortages if one.mix == name]
        assert [one.n for one in short] == ([len(asked)] if len(asked) < spec.probes else [])


@settings(deadline=None, max_examples=20, suppress_health_check=slow)
@given(cases())
def test_retention_holds_what_it_says(case):
    world_spec, corpus_spec, regime, spec, seed = case
    try:
        corpus = corpus_of(regime, world_spec, corpus_spec, world=seed, split=seed)
        new = build_new_facts(corpus, spec, Seeds(world=seed, split=seed))
    except InputError:
        assume(False)
    ood = {tuple(fact[:2]) for fact in corpus.world.fact_F3[corpus.world.ood_F].tolist()}
    kept = brute.triples_any(new.retained_atoms)
    composed = brute.facts_used(new.retained)
    everything = {pair for pair in brute.facts_used(corpus.composition) if not ood & set(pair)}
    assert ood & kept == (ood if spec.retention.ood else set())
    kept -= ood
    if spec.retention.items == "all":
        assert len(kept) == len(corpus.world.fact_F3) - len(ood)
        assert composed == everything
    elif spec.retention.kind == "paper":
        assert len(kept) == spec.retention.items
        assert composed == {pair for pair in everything if set(pair) <= kept}
    else:
        assert len(kept) + len(composed) == spec.retention.items
        assert composed <= {pair for pair in everything if set(pair) & kept}
        left_out = {pair for pair in everything if set(pair) & kept} - composed
        # Only one fact, the last, may lack some of its compositions.
        assert not left_out or set.intersection(*(set(pair) & kept for pair in left_out))


def test_full_size_code_retention_has_the_reference_counts():
    """Section 6 of the study: 220 facts + 7,780 compositions; 459 probes of the two mixed kinds; the cap of
    3,000 on new_then_new. How many facts make 8,000 items varies with the draw: each brings 36 +- 6."""
    corpus = corpus_of(world_spec=WorldSpec(), spec=CorpusSpec())
    spec = NewFactsSpec(probes=3000, retention=RetentionSpec(kind="code"))
    counts = build_new_facts(corpus, spec, Seeds()).summary()
    assert counts["retained_atoms"] + counts["retained_compositions"] == 8000
    assert abs(counts["retained_atoms"] - 220) < 3 * 220**0.5 * 6 / 36
    assert abs(counts["probes"]["new_then_old"] + counts["probes"]["old_then_new"] - 459) < 3 * 459**0.5
    assert counts["probes"]["new_then_new"] > 2800
    assert counts["probes"]["new_atomic"] == 2000


def test_a_data_set_in_the_reference_files_retains_the_same(tmp_path):
    corpus = corpus_of()
    write_corpus(corpus, tmp_path / "data", "reference")
    read = read_corpus(tmp_path / "data")
    for kind in ("paper", "code"):
        made, again = (build_new_facts(one, spec_of(kind=kind), Seeds()) for one in (corpus, read))
        assert brute.triples_any(made.retained) == brute.triples_any(again.retained)
        assert brute.triples_any(made.retained_atoms) == brute.triples_any(again.retained_atoms)
        for name in NEW_PATTERNS:
            assert (made.probes[name].id_P == again.probes[name].id_P).all()


def test_bases_of_one_world_get_the_same_new_facts():
    """Else natural and both_hops_full could not be compared query by query."""
    natural, full = (
        build_new_facts(corpus_of(name), spec_of(), Seeds()) for name in ("natural", "both_hops_full")
    )
    assert natural.world.fingerprint == full.world.fingerprint
    for name in (*NEW_PATTERNS, "test_ood"):
        assert (natural.probes[name].id_P == full.probes[name].id_P).all()
    assert brute.triples_any(natural.retained) == brute.triples_any(full.retained)
    assert (
        build_new_facts(corpus_of(), spec_of(), Seeds(init=5, order=7)).fingerprint
    ) == natural.fingerprint
    assert build_new_facts(corpus_of(), spec_of(seed=1), Seeds()).fingerprint != natural.fingerprint


def test_more_compositions_hold_the_fewer_and_leave_the_probes_alone():
    made = {k: build_new_facts(corpus_of(), spec_of(k=k), Seeds()) for k in (0, 1, 4)}
    taught = {k: brute.triples_any(new.taught) for k, new in made.items()}
    assert not taught[0]
    assert taught[1] < taught[4]
    assert len(taught[1]) <= 2 * 40
    for name in NEW_PATTERNS:
        assert (made[0].probes[name].id_P == made[4].probes[name].id_P).all()
    first = build_new_facts(corpus_of(), spec_of(k=4, roles="first"), Seeds())
    second = build_new_facts(corpus_of(), spec_of(k=4, roles="second"), Seeds())
    new_N2 = first.new_F[first.taught.fact_NK(first.world)]
    assert (new_N2 == [True, False]).all()
    assert new_N2[:, 0].sum() > 0
    assert (second.new_F[second.taught.fact_NK(second.world)] == [False, True]).all()
    assert brute.triples_any(first.taught) | brute.triples_any(second.taught) == taught[4]
    exposed = made[4].probes["old_then_new"].exposure_PK3
    assert exposed[:, 1, 2].max() == 4, "a new second hop is shown in k compositions"
    assert made[0].probes["old_then_new"].exposure_PK3[:, 1, 1:].max() == 0


def test_new_entities_are_the_bridges(tmp_path):
    """Only a vocabulary with unused entity tokens has room; the base's token ids stay what they are."""
    with pytest.raises(InputError, match="new_entities = 3: the base's vocabulary has 0 entities"):
        build_new_facts(corpus_of(), spec_of(new_entities=3), Seeds())
    write_corpus(corpus_of(), tmp_path / "data", "reference")
    tokens = json.loads((tmp_path / "data" / "vocab.json").read_text())
    names = tokens if isinstance(tokens, list) else list(tokens)
    (tmp_path / "data" / "vocab.json").write_text(json.dumps([*names, "<e_900>", "<e_901>", "<e_902>"]))
    corpus = read_corpus(tmp_path / "data")
    plain = build_new_facts(corpus, spec_of(), Seeds())
    new = build_new_facts(corpus, spec_of(new_entities=2), Seeds())
    assert new.world.vocabulary is corpus.world.vocabulary
    spare = set(range(40, 43))
    mentioned = {
        name: set(one.world.fact_F3[one.new_F][:, [0, 2]].ravel().tolist())
        for name, one in (("plain", plain), ("new", new))
    }
    assert not spare & mentioned["plain"]
    assert len(spare & mentioned["new"]) == 2
    assert spare & set(new.probes["new_then_new"].queries.path_NK[:, 0].tolist())
    with pytest.raises(InputError, match="count = 60: 2 new entities have 24 pairs"):
        build_new_facts(corpus, spec_of(count=60, new_entities=2), Seeds())


def test_what_is_impossible_is_one_sentence():
    full = corpus_of(world_spec=WORLD.replace(degree=12))
    for corpus, changes, message in (
        (full, {}, "count = 40: the base's world has 0 unused"),
        (corpus_of(), {"count": 400}, "count = 400: the base's world has 160 unused .* at most 160"),
        (corpus_of(), {"items": 5000}, "retention.items = 5000: the base has 288 ID facts"),
        (
            corpus_of(),
            {"items": 5000, "kind": "code"},
            "retention.items = 5000: the base has 1440 ID facts and trained",
        ),
    ):
        with pytest.raises(InputError, match=message):
            build_new_facts(corpus, spec_of(**changes), Seeds())
    for tree, message in (
        ({"count": 3}, "count 3 must be even"),
        ({"roles": "first"}, "roles 'first' says how k compositions"),
        ({"new_entities": 9, "count": 4}, "new_entities 9 must be at most the 2"),
    ):
        with pytest.raises(InputError, match=message):
            NewFactsSpec.parse(tree)


def test_without_old_data_two_mixes_are_missing_and_said_to_be():
    new = build_new_facts(corpus_of(), spec_of(items=0), Seeds())
    assert [one.mix for one in new.shortages if one.n == 0] == ["new_then_old", "old_then_new"]
    assert "nothing can be said" in new.shortages[0].sentence()
    assert {"new_then_old", "old_then_new"}.isdisjoint(new.probes)


def test_a_leak_is_noticed():
    new = build_new_facts(corpus_of(), spec_of(), Seeds())
    leaked = new.probes["new_then_old"].queries.take(np.array([0]))
    with pytest.raises(RuntimeError, match="a probe of new_then_old is trained"):
        check_new_facts(new.world, new.new_F, new.retained_F, new.retained, leaked, new.probes)
    none_F = np.zeros_like(new.retained_F)
    with pytest.raises(RuntimeError, match="a fact of new_then_old is not in the fine-tuning data"):
        check_new_facts(new.world, new.new_F, none_F, new.retained, new.taught, new.probes)
