"""Rates on planted traces: what is planted is found, what is chosen on one half is scored on the other."""

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.read.layout import select
from grokscope.mechanics.read.rates import (
    anywhere,
    emergence_map,
    found_anywhere,
    found_in_cell,
    halves,
    in_cell,
)

from .tiny import corpus, planted, read, rows_of


def column(trace, variable):
    return trace["variable"].values.tolist().index(variable)


def plant(trace, step, name, variable, stage, position, share=1.0, which=None):
    rows = rows_of(trace, name) if which is None else rows_of(trace, name)[which]
    rows = rows[: round(share * len(rows))]
    trace["rank"].values[step, rows, column(trace, variable), stage, position] = 0


def test_one_right_cell_is_found_in_both_rates():
    trace = planted([0, 10])
    plant(trace, 1, "test_ood", "bridge", 2, 1)
    for rates in (found_anywhere(trace, "bridge"), found_in_cell(trace, "bridge")):
        assert rates["rate"].sel(set="test_ood").values.tolist() == [0, 1]
        assert (rates["chance"].sel(set="test_ood").values == 0).all()
        assert rates["rate"].sel(set="id_atomic").isnull().all()
        assert (rates["rate"].sel(set="test_iid") == 0).all()
    cells = found_in_cell(trace, "bridge").sel(set="test_ood", step=10)
    assert cells["stage_index"].values.tolist() == [2, 2]
    assert cells["position_index"].values.tolist() == [1, 1]


def test_a_cell_per_query_counts_anywhere_but_not_in_one_cell():
    """The any-stage-any-position rate is 1 although no cell says the bridge on more than a few queries."""
    trace = planted([0])
    rows = rows_of(trace, "train_inferred")
    stages, positions = trace.sizes["stage"], trace.sizes["position"]
    cell = np.random.default_rng(0).integers(stages * positions, size=len(rows))
    trace["rank"].values[0, rows, column(trace, "bridge"), cell // positions, cell % positions] = 0
    assert found_anywhere(trace, "bridge")["rate"].sel(set="train_inferred").item() == 1
    assert found_in_cell(trace, "bridge")["rate"].sel(set="train_inferred").item() < 0.2


def test_the_cell_is_chosen_on_the_other_half():
    """Half A decodes in one cell, half B in another: each half's cell is useless for the other."""
    trace = planted([0])
    half_P = halves(select(trace, "test_ood")["fact"].values[:, 0])
    plant(trace, 0, "test_ood", "bridge", 1, 0, which=half_P == 0)
    plant(trace, 0, "test_ood", "bridge", 3, 2, which=half_P == 1)
    rates = found_in_cell(trace, "bridge").sel(set="test_ood", step=0)
    assert rates["rate"].item() == 0
    assert rates["stage_index"].values.tolist() == [3, 1]
    assert found_anywhere(trace, "bridge")["rate"].sel(set="test_ood").item() == 1


def test_facts_are_halved_whole_and_evenly():
    fact_P = np.repeat(np.arange(31), 4)
    half_P = halves(fact_P)
    assert (half_P.reshape(31, 4) == half_P.reshape(31, 4)[:, :1]).all()
    assert half_P.reshape(31, 4)[:, 0].sum() == 15
    assert (halves(fact_P[::-1]) == half_P[::-1]).all()
    assert not (half_P.reshape(31, 4)[:, 0] == np.arange(31) % 2).all()


def test_the_answer_is_halved_by_the_last_hop():
    trace = planted([0])
    part = select(trace, "train_inferred")
    cells = in_cell(part, "answer")
    assert (cells.half_P == halves(part["fact"].values[:, 1])).all()
    assert not (cells.half_P == halves(part["fact"].values[:, 0])).all()


def test_the_last_stage_proves_nothing():
    trace = planted([0])
    plant(trace, 0, "test_ood", "bridge", -1, 1)
    for rates, early in (
        (found_anywhere(trace, "bridge"), found_anywhere(trace, "bridge", before_last=True)),
        (found_in_cell(trace, "bridge"), found_in_cell(trace, "bridge", before_last=True)),
    ):
        assert rates["rate"].sel(set="test_ood").item() == 1
        assert early["rate"].sel(set="test_ood").item() == 0


def test_positions_given_the_answer_do_not_count():
    trace = planted([0], "given")
    plant(trace, 0, "test_ood", "answer", 1, 3)
    assert found_anywhere(trace, "answer")["rate"].sel(set="test_ood").item() == 0
    assert found_in_cell(trace, "answer")["rate"].sel(set="test_ood").item() == 0
    shares = emergence_map(trace, "answer", "test_ood", 0)
    assert shares.isel(position=3).isnull().all()
    assert (shares.isel(position=slice(0, 3)) == 0).all()


def test_an_untrained_model_finds_the_bridge_as_often_as_its_control():
    """Both rates are a few standard errors apart at most, and far from nothing: the baseline is needed."""
    rates = (
        found_anywhere(read("recursive", "train_inferred"), "bridge").isel(step=0).sel(set="train_inferred")
    )
    n = len(corpus().probes["train_inferred"])
    error = np.sqrt(2 * 0.25 / n)
    assert abs(rates["rate"].item() - rates["chance"].item()) < 4 * error
    assert 0 < rates["chance"].item() < 0.8


def test_a_map_is_the_mean_of_hits():
    trace = planted([0, 5])
    plant(trace, 1, "test_iid", "answer", 2, 3, share=0.5)
    shares = emergence_map(trace, "answer", "test_iid", 5)
    rows = rows_of(trace, "test_iid")
    assert shares.dims == ("stage", "position")
    assert shares.values[2, 3] == round(0.5 * len(rows)) / len(rows)
    assert shares.values.sum() == shares.values[2, 3]
    assert shares["role"].sel(position=3) == "answer"
    assert emergence_map(trace, "answer", "test_iid", 0).values.sum() == 0


def test_bad_names_are_one_sentence():
    trace = planted([0])
    with pytest.raises(InputError, match="'brdige' is not in this trace"):
        found_anywhere(trace, "brdige")
    with pytest.raises(InputError, match="not on the path"):
        in_cell(select(trace, "id_atomic"), "control_answer")
    with pytest.raises(InputError, match="'bridge' is not in this trace"):
        anywhere(select(trace, "id_atomic"), "bridge")
    with pytest.raises(InputError, match="step = 3"):
        emergence_map(trace, "bridge", "test_ood", 3)
