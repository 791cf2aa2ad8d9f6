"""The interchange map against plain loops, its donors against the rules, its controls on wired models."""

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.patch.donors import ABSENT, DONOR_ARMS, DonorTable
from grokscope.mechanics.patch.engine import Source
from grokscope.mechanics.patch.groups import columns_of
from grokscope.mechanics.patch.interchange import ARMS, Setting, accuracy, draw_donors, interchange, source_of
from grokscope.mechanics.patch.interventions import Intervention, forward, lower
from grokscope.mechanics.patch.maps import PatchMap
from tests.mechanics.causal_cases import MODELS, corpus, model_of, probes, setting_of, wired_case


def plain_loop(model, tokens_PS, source_PS, stage, site, place, answer_position):
    """One query and one intervention at a time."""
    logits = []
    with torch.no_grad():
        for own, other in zip(torch.from_numpy(tokens_PS), torch.from_numpy(source_PS), strict=True):
            seen = {}
            forward(model, other[None].long(), lambda s, n, v, seen=seen: seen.setdefault((s, n), v))
            part = seen[stage, site][:, list(place)]
            change = Intervention("replace", site, stage, place, part)
            lowered = lower([change], model, model.prefix + len(own))
            state = forward(model, own[None].long(), lowered)
            logits.append(model.unembed(state)[0, model.prefix + answer_position])
    return torch.stack(logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_map_equals_one_query_and_one_intervention_at_a_time(kind, dtype):
    model, setting, some = model_of(kind, dtype), setting_of(kind), probes(6)
    base = setting.encode(some.queries)
    tokens_PS = base.tokens_NS.astype(np.int64)
    source_PS = np.roll(tokens_PS, 1, axis=0)
    watch_P = np.arange(1, 7)
    places = columns_of(model, base, setting.format)
    source = Source(source_PS[:, None], np.ones((6, 1), dtype=bool))
    sites = ("state", *(["block0.mlp", model.stages[1].site] if dtype == "float32" else []))
    fast = PatchMap(
        model,
        tokens_PS,
        base.answer_position,
        watch_P,
        {"other": source},
        places,
        tuple(dict.fromkeys(sites)),
    ).fill()
    for site in fast.sites:
        for stage in model.stages:
            if not fast.cells()[site][stage.index].any():
                continue
            for column, place in enumerate(places.values()):
                logits = plain_loop(
                    model, tokens_PS, source_PS, stage.index, site, place, base.answer_position
                )
                own = logits[torch.arange(6), torch.from_numpy(watch_P)]
                rest = logits.scatter(1, torch.from_numpy(watch_P)[:, None], -torch.inf).amax(1)
                near = {"float32": 1e-4, "bfloat16": 0.1}[dtype]
                np.testing.assert_allclose(fast.margin[site][0, stage.index, column], own - rest, atol=near)
                if dtype == "float32":
                    assert (fast.said[site][0, stage.index, column] == logits.argmax(1).numpy()).all()


def test_chunks_and_company_change_nothing():
    """A smaller budget, other arms beside, or fewer stages: the same numbers where both were asked."""
    model, setting, some = model_of("mixer"), setting_of("mixer"), probes(24)
    whole = interchange(model, some, setting)
    parts = interchange(
        model,
        some,
        Setting(setting.world, setting.trained, setting.format, budget=9 * 2**20),
        arms=("same_bridge", "bridge", "random"),
        stages=[1, 2],
    )
    for arm in ("same_bridge", "bridge", "random"):
        for stage in (1, 2):
            one, two = (x["margin"].sel(arm=arm).isel(stage=stage).values for x in (whole, parts))
            # A chunk with one row left multiplies with a vector, which is added up in another order.
            np.testing.assert_allclose(one, two, atol=1e-4)
    last = parts["said"].sel(arm="bridge").isel(stage=-1)
    assert (last == parts["clean_said"]).all()


@pytest.mark.parametrize("tabled", [0, 2**28])
def test_donors_obey_their_rules(tabled, monkeypatch):
    """Every rule of the table, checked one by one against the world and the training set; in a large world
    what was trained is searched for, in others looked up."""
    monkeypatch.setattr("grokscope.mechanics.patch.donors.TABLED", tabled)
    world, trained = corpus().world, corpus().composition
    known = set(map(tuple, np.column_stack([trained.head_N, trained.relation_NK]).tolist()))
    table = DonorTable(world, trained)
    bases = probes(80).fact_PK
    guess = {}
    for _, r, t in world.fact_F3.tolist():
        guess.setdefault(r, []).append(t)
    modal = {r: max(sorted(set(ts)), key=ts.count) for r, ts in guess.items()}
    found = 0
    for arm in DONOR_ARMS:
        if arm == "transport":
            continue
        donors = table.draw(arm, bases, np.random.default_rng(0))
        for p, (f1, f2) in enumerate(bases):
            (h, r1, b), (_, r2, t) = world.fact_F3[f1].tolist(), world.fact_F3[f2].tolist()
            for source, natural in zip(donors.source_PMK[p], donors.natural_PMK[p], strict=True):
                if source[0] == ABSENT:
                    continue
                found += 1
                (h1, s1, sb), (mid, s2, st) = (world.fact_F3[f].tolist() for f in source)
                (nh, n1, nb), (nmid, n2, nt) = (world.fact_F3[f].tolist() for f in natural)
                assert sb == mid
                assert nb == nmid
                assert (nh, n1, n2) not in known
                assert nt == donors.expected_P[p]
                assert st not in (t, nt)
                assert len({nh, nb, nt}) == 3
                if arm == "same_bridge":
                    assert (nb, nt, n2) == (b, t, r2)
                    assert h1 != h
                    assert s1 != r1
                    assert (h1, s1, s2) not in known
                else:
                    assert nt not in (t, modal[n2])
                if arm in ("bridge", "centroid", "other_bridge", "same_bridge"):
                    assert (h1, s1) == (nh, n1)
                    assert n2 == r2
                    assert s2 != r2
                    assert (nb != b) == (arm != "same_bridge")
                if arm in ("bridge", "centroid", "same_bridge"):
                    assert (h, n1, r2) not in known
                    assert (nh, r1, r2) not in known
                if arm == "other_bridge":
                    assert s1 == r1
                if arm == "centroid":
                    assert nb == world.fact_F3[donors.natural_PMK[p, 0, 0], 2]
                if arm == "head":
                    assert (nh, n1, n2) == (h1, r1, r2)
                    assert r1 != s1
                    assert r2 != s2
                if arm == "relation2":
                    assert (nh, n1) == (h, r1)
                    assert s2 == n2 != r2
                    assert sb != b
                    assert h1 != h
    assert found > 200


def test_donors_are_found_wherever_the_rules_allow_one():
    """Against brute force over all compositions of the world, for the bridge arm."""
    world, trained = corpus().world, corpus().composition
    known = set(map(tuple, np.column_stack([trained.head_N, trained.relation_NK]).tolist()))
    facts = world.fact_F3.tolist()
    chains = [(a, c) for a in facts for c in facts if a[2] == c[0]]
    bases = probes(25).fact_PK
    donors = DonorTable(world, trained).draw("other_bridge", bases, np.random.default_rng(0))
    modal = DonorTable(world, trained).guess_R
    for p, (f1, f2) in enumerate(bases):
        (_, r1, b), (_, r2, t) = facts[f1], facts[f2]
        possible = any(
            x[1] == r1
            and y[1] == r2
            and x[2] != b
            and y[2] not in (t, modal[r2])
            and (x[0], r1, r2) not in known
            and len({x[0], x[2], y[2]}) == 3
            and any(z[0] == x[2] and z[1] != r2 and z[2] not in (t, y[2]) for z in facts)
            for x, y in chains
        )
        assert donors.present_PM[p, 0] == possible


def test_arms_have_their_own_draws():
    model, setting, some = model_of("looped"), setting_of("looped"), probes(20)
    alone = draw_donors(model, setting, some, ("head",))["head"]
    among = draw_donors(model, setting, some, ARMS)["head"]
    assert (alone.source_PMK == among.source_PMK).all()


def test_the_controls_of_a_wired_circuit():
    """The bridge moves the answer in the reading cell alone; the same bridge leaves it; noise destroys it."""
    wired, some, setting = wired_case("circuit")
    maps = interchange(wired.model, some, setting)
    here = dict(zip(("stage", "position"), wired.reading, strict=True))
    for arm, value in (("bridge", 1.0), ("centroid", 1.0), ("same_bridge", 1.0), ("transport", 1.0)):
        assert float(accuracy(maps, arm)["rate"].isel(here)) == value, arm
    assert float(accuracy(maps, "random")["rate"].isel(here)) < 0.3
    assert float(accuracy(maps, "bridge")["rate"].isel(stage=2, position=2)) < 0.1
    assert float(accuracy(maps, "transport")["rate"].isel(stage=-1, position=-1)) == 1.0


def test_a_memory_of_compositions_gives_no_usable_pair():
    wired, some, setting = wired_case("memoriser")
    maps = interchange(wired.model, some, setting, arms=("bridge",))
    given, free = accuracy(maps, "bridge"), accuracy(maps, "bridge", conditioned=False)
    assert not bool(given["enough"])
    assert np.isnan(given["rate"]).all()
    assert int(free["n"]) > 100
    assert float(free["rate"].max()) < 0.2


def test_noise_has_the_norm_of_what_it_replaces():
    model, setting, some = model_of("looped"), setting_of("looped"), probes(8)
    donors = draw_donors(model, setting, some, ("random",))["random"]
    source = source_of(setting, donors, seed=3)
    assert source.noise_seed == 3
    maps = [interchange(model, some, setting, arms=("random",))["margin"].values for _ in range(2)]
    assert (maps[0] == maps[1]).all()


def test_bad_input_is_one_sentence():
    model, setting = model_of("looped"), setting_of("looped")
    with pytest.raises(InputError, match="arm = 'tail'"):
        interchange(model, probes(4), setting, arms=("tail",))
    with pytest.raises(InputError, match="1-hop"):
        interchange(model, corpus().probes["id_atomic"], setting)
    with pytest.raises(InputError, match="block7"):
        interchange(model, probes(4), setting, arms=("bridge",), site="block7.mlp")
    with pytest.raises(InputError, match=r"site = 'block0.pattern': allowed are state, block0.attention, "):
        interchange(model, probes(4), setting, arms=("bridge",), site="block0.pattern")
    small = Setting(setting.world, setting.trained, setting.format, budget=1000)
    with pytest.raises(InputError, match="the map of one probe needs"):
        interchange(model, probes(4), small)
