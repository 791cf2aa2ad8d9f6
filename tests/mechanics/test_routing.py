"""Routing on wired models, whose edges are known, and against attention outputs patched by hand."""

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.judge.routing import _said, attention_patterns, carrying, routing
from grokscope.mechanics.patch.interchange import draw, interchange, source_of
from tests.mechanics.causal_cases import model_of, probes, setting_of, wired_case


@pytest.mark.parametrize("name", ["circuit", "rotated", "circuit_trm", "other_position"])
def test_the_wired_edge_is_found_and_no_other(name):
    """Every edge of every pass is asked, so that a wrong one has its chance."""
    wired, some, setting = wired_case(name, most=80)
    maps = interchange(wired.model, some, setting, ("bridge",))
    found = routing(wired.model, some, setting, maps, every=True)
    stage, holder = wired.reading
    (route,) = carrying(found)
    assert (route.stage, route.sender, route.receiver) == (stage + 1, str(holder), "2")
    assert (route.rate.value, route.n) == (1.0, int(found["n"]))
    rate = found["rate"].values.copy()
    rate[stage + 1, 2, holder] = 0
    # In a small world another head's own tail under r1 is the donor's bridge now and then.
    assert np.nanmax(rate) < 0.15
    assert carrying(routing(wired.model, some, setting, maps)) == (route,)


def test_an_answer_is_carried_on_and_looks_differ_from_use():
    wired, some, setting = wired_case("other_position", most=80)
    maps = interchange(wired.model, some, setting, ("transport",))
    found = routing(wired.model, some, setting, maps, arm="transport", every=True)
    edges = {(one.stage, one.sender, one.receiver) for one in carrying(found)}
    assert {(2, "0", "2"), (3, "2", "3")} <= edges
    # A head looks from h to r1 with all its weight in every pass; only in the first is anything there.
    looks = found["attention"].sel(receiver="0", sender="1").max("head").values
    assert (looks[1:] > 0.99).all()
    assert found["rate"].sel(receiver="0", sender="1").values[2] < 0.1


@pytest.mark.parametrize("name", ["memoriser", "pair_code"])
def test_a_memory_has_no_edge(name):
    wired, some, setting = wired_case(name, most=80)
    maps = interchange(wired.model, some, setting, ("bridge",))
    assert carrying(routing(wired.model, some, setting, maps, every=True)) == ()


def test_between_positions_an_edge_is_the_receivers_attention_read():
    """Against a tap that puts one row of another run's attention output into one pass."""
    model, setting, some = model_of("looped"), setting_of("looped"), probes(12)
    donors = draw(model, some, setting, ["bridge"]).donors["bridge"]
    own, lent = setting.encode(some.queries).tokens_NS.astype(np.int64), source_of(setting, donors)
    asked = np.ones((len(model.stages), own.shape[1]), dtype=bool)
    alone = tuple((p,) for p in range(own.shape[1]))
    said = _said(model, own, lent.tokens_PMS[:, 0], asked, alone, 2, setting.budget)
    stages = range(1, len(model.stages))
    for stage, sender, receiver in ((s, p, q) for s in stages for p in range(3) for q in range(p + 1, 3)):
        carries = [[model.start(torch.from_numpy(x))] for x in (own, lent.tokens_PMS[:, 0])]
        for each in carries:
            for s in stages:
                each.append(model.step(each[-1], s))
        base, other = (each[stage - 1] for each in carries)
        mixed = model.read(base, stage - 1).clone()
        mixed[:, sender] = model.read(other, stage - 1)[:, sender]
        seen = {}
        model.step(
            model.write(base, stage - 1, mixed),
            stage,
            lambda site, value, seen=seen: seen.setdefault(site, value),
        )
        attention = seen["block0.attention"]

        def put(site, value, attention=attention, receiver=receiver):
            if site == "block0.attention":
                value = value.clone()
                value[:, receiver] = attention[:, receiver]
            return value

        carry = model.step(base, stage, put)
        for later in range(stage + 1, len(model.stages)):
            carry = model.step(carry, later)
        logits = model.unembed(model.read(carry, len(model.stages) - 1))[:, 2]
        assert (logits.argmax(-1).numpy() == said[stage, receiver, sender]).all()


def test_nothing_travels_backwards_in_a_causal_model():
    model, setting, some = model_of("looped"), setting_of("looped"), probes(12)
    own = setting.encode(some.queries).tokens_NS.astype(np.int64)
    asked = np.ones((len(model.stages), own.shape[1]), dtype=bool)
    alone = tuple((p,) for p in range(own.shape[1]))
    said = _said(model, own, np.roll(own, 1, axis=0), asked, alone, 2, setting.budget)
    clean = said[0, 0, 0]
    for sender, receiver in ((1, 0), (2, 0), (2, 1)):
        assert (said[:, receiver, sender] == clean).all()


def test_patterns_are_weights_without_the_prefix():
    tokens = setting_of("attention").encode(probes(12).queries).tokens_NS
    coords = {"stage": range(4), "receiver": list("01234"), "sender": list("01234")}
    for kind in ("attention", "mixer"):
        model = model_of(kind)
        coords["stage"] = [stage.name for stage in model.stages]
        found = attention_patterns(model, tokens, coords)
        if kind == "mixer":
            assert not found
            continue
        weights = found["attention"].values
        assert np.isnan(weights[0]).all()
        assert (weights[1:].sum(axis=-1) < 1).all()
        assert (found["attention_low"] <= found["attention_high"]).values[1:].all()
        assert found.sizes["head"] == 2 * model.spec.layers


def test_an_arm_of_many_donors_has_no_edges():
    wired, some, setting = wired_case("circuit", most=80)
    maps = interchange(wired.model, some, setting, ("bridge",))
    for arm in ("centroid", "transport"):
        with pytest.raises(InputError, match=f"arm = '{arm}'"):
            routing(wired.model, some, setting, maps, arm=arm)
