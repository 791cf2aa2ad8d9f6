"""The rule on planted courses, one per behaviour, and the numbers that go with it."""

import json

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import Diagnosis, diagnose
from grokscope.mechanics.read.atoms import atoms_known
from grokscope.mechanics.spec import DiagnosisSpec

from .tiny import corpus, metrics_of, planted, rows_of

STEPS = [0, 10, 20, 30, 50, 100, 200, 400, 800]
TRAINED = ("train_inferred", "id_atomic", "ood_atomic")
SATURATED = [0, 0, 1, 1, 1, 1, 1, 1, 1]


def course(ood, trained=SATURATED):
    """A run whose test_ood accuracy takes the given course; which queries are right is random but nested."""
    trace, rng = planted(STEPS), np.random.default_rng(5)
    for name, shares in {"test_ood": ood, **dict.fromkeys(TRAINED, trained)}.items():
        rows = rng.permutation(rows_of(trace, name))
        for index, share in enumerate(shares):
            trace["exact"].values[index, rows[: round(share * len(rows))]] = True
    return trace


def verdict(trace, **spec):
    return diagnose(metrics_of(trace), trace, corpus().probes, DiagnosisSpec(**spec))


@pytest.mark.parametrize(
    ("ood", "trained", "expected"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0], SATURATED, "memorised"),
        ([0, 0.5, 0.9, 1, 1, 1, 1, 1, 1], SATURATED, "generalised without delay"),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1], SATURATED, "generalised without delay"),
        ([0, 0, 0.2, 0.9, 1, 1, 1, 1, 1], SATURATED, "generalised without delay"),
        ([0, 0, 0.1, 0.1, 0.2, 0.5, 1, 1, 1], SATURATED, "generalised after a delay"),
        ([0, 0, 0, 0, 0, 0.2, 0.3, 0.5, 0.7], SATURATED, "delayed rise, incomplete"),
        ([0, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], SATURATED, "partial"),
        ([0, 0, 0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6], SATURATED, "partial"),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0], [0.5] * 9, "not saturated"),
        ([0, 0, 0, 1, 1, 1, 1, 1, 1], [0, 0] + [0.95] * 7, "generalised without delay"),
        ([0, 0, 0, 0, 0, 1, 1, 1, 1], [0] + [0.95] * 8, "undecided"),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1], [0.5] * 9, "undecided"),
    ],
)  # fmt: skip
def test_behaviour(ood, trained, expected):
    found = verdict(course(ood, trained))
    assert found.behaviour == expected, found.reason
    assert found.mechanism == "not tested"


def test_the_last_checkpoints_dip_does_not_undo_a_stable_window():
    found = verdict(course([0, 0, 0.1, 0.1, 0.2, 1, 1, 1, 0.5]))
    assert found.behaviour == "generalised after a delay"
    assert found.sets["test_ood"].exact.value == pytest.approx(0.5, abs=0.02)


def test_numbers_are_those_of_the_course():
    found = verdict(course([0, 0, 0.2, 0.2, 0.2, 0.5, 1, 1, 1]))
    assert (found.events["saturation"].step, found.events["generalisation.test_ood"].step) == (20, 200)
    assert (found.delay, found.delay_at_least, found.last_step) == (10, None, 800)
    numbers = found.sets["test_ood"]
    assert numbers.exact.value == 1
    assert numbers.exact_at_saturation.value == pytest.approx(0.2, abs=0.02)
    assert numbers.rise.value == pytest.approx(0.8, abs=0.02)
    assert numbers.late_rise.value == pytest.approx(0.5, abs=0.4)
    probes = corpus().probes["test_ood"]
    guess = (probes.guess_P == probes.queries.latents()["answer"]).mean()
    assert numbers.guess.value == pytest.approx(guess)
    assert numbers.over_guess.value == pytest.approx(1 - guess)
    assert numbers.exact.clusters == tuple(len(np.unique(column)) for column in probes.fact_PK.T)
    censored = verdict(course([0] * 9))
    assert (censored.delay, censored.delay_at_least) == (None, 40)


def test_late_atoms_are_not_grokking():
    """Right exactly where both atoms are known, and half of the atoms are unknown until step 100."""
    trace = course([0] * 9)
    metrics = metrics_of(trace)
    atoms, rows = rows_of(trace, "ood_atomic"), rows_of(trace, "test_ood")
    trace["exact"].values[2:5, atoms[: len(atoms) // 2]] = False
    trace["exact"].values[:, rows] = atoms_known(trace, "test_ood").known_NP
    # The metrics still say that the atoms are known, so that saturation stands at step 20.
    metrics = metrics.with_columns(metrics_of(trace)["accuracy.test_ood"])
    found = diagnose(metrics, trace, corpus().probes, DiagnosisSpec(window=1, known_minimum=2))
    assert found.events["generalisation.test_ood"].step == 100
    assert found.behaviour == "generalised without delay"
    assert "what was late are the atoms" in found.reason
    trace["exact"].values[2:5, rows] = False
    found = diagnose(metrics, trace, corpus().probes, DiagnosisSpec(window=1, known_minimum=2))
    assert found.behaviour == "generalised after a delay"


def test_the_split_by_injection_is_a_partition():
    trace = course([0, 0, 0.2, 0.2, 0.2, 0.5, 1, 1, 1])
    probes = corpus().probes["test_ood"]
    rows = rows_of(trace, "test_ood")
    trace["exact"].values[-1, rows] = probes.injected_PK.all(axis=1)
    groups = verdict(trace).sets["test_ood"].by_injection
    assert set(groups) == {"none", "hop 1", "hop 2", "hop 1 + hop 2"}
    assert {label for label, rate in groups.items() if rate.value == 1} == {"hop 1 + hop 2"}
    assert sum(rate.n for rate in groups.values()) == len(probes)
    assert verdict(trace).sets["test_iid"].by_injection == {}


def test_the_control_rate_reads_the_output_alone():
    trace = course([0] * 9)
    rows, control = rows_of(trace, "test_ood"), trace["variable"].values.tolist().index("control_answer")
    read = trace["position"].values.tolist().index(3)
    trace["rank"].values[-1, rows, control, 1, read] = 0
    assert verdict(trace).sets["test_ood"].control.value == 0
    trace["rank"].values[-1, rows, control, -1, read] = 0
    assert verdict(trace).sets["test_ood"].control.value == 1


def test_decoding_stands_beside_its_chance_level():
    trace = course([0] * 9)
    register = trace["position"].values.tolist().index(-1)
    trace["rank"].values[-1, rows_of(trace, "test_ood"), 0, 2, register] = 0
    decoded = verdict(trace).sets["test_ood"].decoded
    assert {kind: rate.value for kind, rate in decoded["bridge"].items()} == {
        "anywhere": 1,
        "chance_anywhere": 0,
        "tokens": 0,
        "chance_tokens": 0,
        "cell": 1,
        "chance_cell": 0,
        "cell_before_last": 1,
        "chance_cell_before_last": 0,
    }


def test_json_round_trip():
    for ood in ([0] * 9, [0, 0, 0.1, 0.1, 0.2, 0.5, 1, 1, 1]):
        for trained in (SATURATED, [0.5] * 9):
            found = verdict(course(ood, trained), known_minimum=10_000)
            text = json.dumps(found.tree(), allow_nan=False)
            assert Diagnosis.parse(json.loads(text)) == found
    broken = {**found.tree(), "behaviour": "grokked"}
    with pytest.raises(InputError, match="behaviour"):
        Diagnosis.parse(broken)


def test_without_ood_queries_nothing_is_said():
    trace = course([0] * 9)
    probes = {name: probe_set for name, probe_set in corpus().probes.items() if "ood" not in name}
    found = diagnose(metrics_of(trace), trace, probes, DiagnosisSpec())
    assert found.behaviour == "undecided"
    assert found.delay is None
