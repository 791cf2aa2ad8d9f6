"""Events on planted curves: the first of a stable window, or censored; atoms matched by fact."""

import numpy as np
import polars as pl
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.read.atoms import atoms_known
from grokscope.mechanics.read.phases import Event, first_stable, phases
from grokscope.mechanics.spec import DiagnosisSpec

from .tiny import corpus, metrics_of, planted, rows_of

STEPS = [0, 10, 20, 40, 80, 160]


def setting(right):
    """Trace and metrics in which `right[set][i]` is the share of the set that is right at STEPS[i]."""
    trace = planted(STEPS)
    for name, shares in right.items():
        rows = rows_of(trace, name)
        for index, share in enumerate(shares):
            trace["exact"].values[index, rows[: round(share * len(rows))]] = True
    return metrics_of(trace), trace


@pytest.mark.parametrize(
    ("values", "window", "step"),
    [
        ([0, 1, 1, 1, 0, 0], 3, 10),
        ([0, 1, 1, 0, 1, 1], 3, None),
        ([1, 0, 0, 1, 1, 1], 3, 40),
        ([0, 0, 0, 0, 0, 1], 1, 160),
        ([0, 0, 0, 0, 1, 1], 3, None),
        ([0.5, 0.9, 0.9, None, 0.9, 0.9], 2, 10),
        ([0, float("nan"), 0.9, 0.9, 1, 1], 3, 20),
        ([1, 1, 1, 1, 1, 1], 7, None),
    ],
)
def test_first_stable(values, window, step):
    event = first_stable(STEPS, values, 0.9, window)
    assert event == Event(step, None if step is not None else 160, 0.9)
    assert event.reached == (step is not None)


def test_saturation_needs_all_three():
    metrics, trace = setting(
        {
            "train_inferred": [0, 1, 1, 1, 1, 1],
            "id_atomic": [1, 1, 1, 1, 1, 1],
            "ood_atomic": [0, 0, 0.9, 1, 1, 1],
        }
    )
    events = phases(metrics, trace, corpus().probes, DiagnosisSpec()).events
    assert [events[f"saturation.{name}"].step for name in ("train_inferred", "id_atomic", "ood_atomic")] == [
        10,
        0,
        40,
    ]
    assert events["saturation"].step == 40
    assert events["generalisation.test_ood"] == Event(None, 160, 0.9)
    never = metrics.with_columns(pl.lit(0.98).alias("accuracy.ood_atomic"))
    assert phases(never, trace, corpus().probes, DiagnosisSpec()).events["saturation"] == Event(
        None, 160, 0.99
    )
    gap = metrics.with_columns(pl.lit(None, dtype=pl.Float64).alias("accuracy.ood_atomic"))
    assert not phases(gap, trace, corpus().probes, DiagnosisSpec()).events["saturation"].reached


def test_exact_accuracy_and_target_found_are_apart():
    metrics, trace = setting({"test_ood": [0, 0, 0, 0.6, 0.6, 0.6]})
    trace["rank"].values[1:, rows_of(trace, "test_ood"), 1, 2, 0] = 0
    assert trace["variable"].values[1] == "answer"
    found = phases(metrics, trace, corpus().probes, DiagnosisSpec())
    assert found.events["target_found.test_ood"].step == 10
    assert found.events["half.test_ood"].step == 40
    assert not found.events["generalisation.test_ood"].reached
    assert found.curves["anywhere.answer.test_ood"].to_list() == [0, 1, 1, 1, 1, 1]


def test_the_bridge_event_is_of_one_cell_and_before_the_last_stage_apart():
    metrics, trace = setting({})
    rows = rows_of(trace, "test_ood")
    trace["rank"].values[1:, rows, 0, -1, 1] = 0
    trace["rank"].values[3:, rows, 0, 2, 1] = 0
    events = phases(metrics, trace, corpus().probes, DiagnosisSpec()).events
    assert events["bridge.test_ood"].step == 10
    assert events["bridge_before_last.test_ood"].step == 40
    assert events["half_bridge.test_ood"].step == 10
    assert not events["bridge.first_hop_ood"].reached


def test_known_atoms_are_those_answered_right_at_that_checkpoint():
    _, trace = setting({"ood_atomic": [0, 0.5, 1, 1, 1, 1]})
    found = atoms_known(trace, "test_ood")
    fact_PK = corpus().probes["test_ood"].fact_PK
    covered_F = set(corpus().probes["ood_atomic"].fact_PK[:, 0].tolist())
    for index in range(3):
        rows = rows_of(trace, "ood_atomic")
        right = rows[trace["exact"].values[index, rows]]
        known_F = set(trace["fact"].values[right, 0].tolist())
        expected = [all(int(fact) in known_F for fact in pair) for pair in fact_PK]
        assert found.known_NP[index].tolist() == expected
    assert 0 < found.known_NP[1].sum() < found.known_NP[2].sum()
    assert found.covered_P.tolist() == [all(int(fact) in covered_F for fact in pair) for pair in fact_PK]


def test_facts_without_an_atomic_probe_are_unknown_and_said_to_be():
    """The cap on probes leaves some ID facts without an atomic probe."""
    _, trace = setting({"ood_atomic": [1] * 6, "id_atomic": [1] * 6})
    probes = corpus().probes
    covered_F = np.concatenate([probes["id_atomic"].fact_PK, probes["ood_atomic"].fact_PK])[:, 0]
    assert len(covered_F) < len(corpus().world.fact_F3)
    found = atoms_known(trace, "test_iid")
    assert (found.covered_P == np.isin(probes["test_iid"].fact_PK, covered_F).all(axis=1)).all()
    assert not found.covered_P.all()
    assert (found.known_NP == found.covered_P).all()


def test_accuracy_among_known_atoms():
    """Every query whose atoms are known is right, but the atoms come late: a delay of the atoms, not of
    reasoning.
    """
    _, trace = setting({"ood_atomic": [0.6, 0.6, 0.6, 1, 1, 1]})
    rows = rows_of(trace, "test_ood")
    trace["exact"].values[:, rows] = atoms_known(trace, "test_ood").known_NP
    found = phases(metrics_of(trace), trace, corpus().probes, DiagnosisSpec(known_minimum=2))
    assert found.events["generalisation.test_ood"].step == 40
    assert found.events["generalisation_atoms_known.test_ood"].step == 0
    shares = found.curves["atoms_known.test_ood"].to_list()
    assert 0 < shares[0] < shares[3]
    few = phases(metrics_of(trace), trace, corpus().probes, DiagnosisSpec(known_minimum=10_000))
    assert few.curves["exact_atoms_known.test_ood"].null_count() == len(STEPS)
    assert not few.events["generalisation_atoms_known.test_ood"].reached


def test_metrics_between_traced_checkpoints_count():
    metrics, trace = setting({"test_ood": [0, 0, 0, 1, 1, 1]})
    found = phases(metrics, trace.isel(step=[0, 3, 5]), corpus().probes, DiagnosisSpec())
    assert found.events["generalisation.test_ood"].step == 40
    assert found.curves["cell.bridge.test_ood"].to_list() == [0, None, None, 0, None, 0]


def test_missing_columns_are_one_sentence():
    metrics, trace = setting({})
    with pytest.raises(InputError, match="no accuracy of test_ood"):
        phases(metrics.drop("accuracy.test_ood"), trace, corpus().probes, DiagnosisSpec())
    with pytest.raises(InputError, match="0 rows"):
        phases(metrics.head(0), trace, corpus().probes, DiagnosisSpec())
    only = {"test_ood": corpus().probes["test_ood"]}
    with pytest.raises(InputError, match="saturation needs"):
        phases(metrics, trace, only, DiagnosisSpec())
