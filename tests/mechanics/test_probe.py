"""The bridge probe and the readouts side by side, on wired models whose bridge is known."""

from functools import cache

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.read.folds import MIXED, folds
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.probe import fitted, probe, shuffled_within
from grokscope.mechanics.read.readouts import Readouts, readouts
from grokscope.mechanics.zoo import Wired, wire
from grokscope.world.format import Encoded, encode
from grokscope.world.probes import ProbeSet
from tests.mechanics.tiny import corpus, encoded, model

R1, R2 = 1, 2


def case(name: str, most: int = 400) -> tuple[Wired, ProbeSet, Encoded]:
    wired = wire(name, 0)
    every = wired.corpus.probes["train_inferred"]
    tokens = encode(every.queries, wired.corpus.world.vocabulary, wired.format)
    return wired, *some_probes(every, tokens, most)


@cache
def read(name: str) -> Readouts:
    wired, probes, tokens = case(name)
    return readouts(wired.model, probes, tokens, wired.corpus.world.vocabulary)


def test_folds_share_no_fact_at_any_hop() -> None:
    fact_PK = np.random.default_rng(0).integers(0, 50, (400, 2))
    fold_P = folds(fact_PK)
    assert not set(fact_PK[fold_P == 0].ravel()) & set(fact_PK[fold_P == 1].ravel())
    assert 0.3 < (fold_P == MIXED).mean() < 0.7


def test_a_bridge_in_another_basis_is_seen_where_the_logit_lens_is_blind() -> None:
    found = read("rotated")
    rate = found.cells["rate"].sel(stage="loop0.layer0", position=R1)
    assert float(rate.sel(readout="logit lens")) == 0
    assert float(rate.sel(readout="probe")) == 1
    assert float(found.cells["control"].sel(readout="probe", stage="loop0.layer0", position=R1)) < 0.1
    here = [one for one in found.disagreements if one.startswith("loop0.layer0, relation1")]
    assert any("logit lens 0.00, probe 1.00" in one for one in here)


def test_a_bridge_that_nobody_reads_is_decoded_as_well_as_one_that_is_used() -> None:
    cell = {"stage": "loop0.layer0", "position": R1}
    unread, used = (read(name).cells["rate"].sel(readout="probe", **cell) for name in ("unread", "circuit"))
    assert float(unread) == float(used) == 1


def test_no_bridge_is_found_in_time_in_a_memoriser_though_the_probe_could_learn_facts_by_heart() -> None:
    wired, probes, tokens = case("memoriser")
    found = probe(wired.model, probes, tokens)
    before = found.isel(stage=slice(0, 2))
    assert float(before["rate"].max()) < 0.15
    assert (before["selectivity_low"] <= 0.05).all()
    # Scored on the facts it was fitted on, the same probe would have reported a bridge.
    assert float(before["capacity"].max()) > 0.3
    # In time for nobody: it stands there after the last pass.
    assert float(found["rate"].sel(stage="loop1.layer0", position=R1)) > 0.8
    assert 0 < float(found["chance"]) < 0.3


def test_the_control_keeps_what_the_relation_tells_and_gives_every_fact_one_label() -> None:
    rng = np.random.default_rng(1)
    fact_P = np.repeat(np.arange(60), 3)
    relation_P, entity_P = fact_P % 4, rng.integers(0, 10, 60)[fact_P]
    shuffled_P = shuffled_within(relation_P, fact_P, entity_P, seed=0)
    for relation in range(4):
        rows = relation_P == relation
        np.testing.assert_array_equal(np.sort(shuffled_P[rows]), np.sort(entity_P[rows]))
    assert len(np.unique(np.stack([fact_P, shuffled_P]), axis=1).T) == 60
    assert (shuffled_P != entity_P).any()


def test_a_state_that_is_the_same_for_all_probes_gives_the_commonest_label() -> None:
    said = fitted(torch.ones(6, 2, 3), np.array([[4, 4, 4, 9, 9, 9]]), np.array([1, 1, 1, 1, 1, 0], bool))
    assert (said == 4).all()


def test_too_few_probes_cannot_tell_and_wrong_input_is_refused() -> None:
    probes, tokens = some_probes(corpus().probes["train_inferred"], encoded("looped", "train_inferred"), 24)
    assert np.isnan(probe(model("looped"), probes, tokens)["rate"]).all()
    with pytest.raises(InputError, match="latent = 'bridge2'"):
        probe(model("looped"), probes, tokens, latent="bridge2")
    one = some_probes(corpus().probes["train_inferred"], encoded("looped", "train_inferred"), 1)
    with pytest.raises(InputError, match="share no fact"):
        probe(model("looped"), *one)


def test_positions_that_are_given_the_answer_are_left_out() -> None:
    probes, tokens = corpus().probes["id_atomic"], encoded("given", "id_atomic")
    found = readouts(model("given"), probes, tokens, corpus().world.vocabulary, latent="answer")
    given = [index for index, role in enumerate(tokens.roles) if index > tokens.answer_position]
    assert given
    assert np.isnan(found.cells["rate"].isel(position=given)).all()
    assert np.isfinite(found.cells["rate"].isel(position=0)).all()
