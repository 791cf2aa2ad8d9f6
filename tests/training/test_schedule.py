"""Rates and checkpoints depend on the step alone."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.errors import InputError
from grokscope.training.schedule import checkpoint_steps, rate, scheduled_steps, thin
from grokscope.training.spec import TrainingSpec

schedules = st.fixed_dictionaries(
    {
        "first_checkpoint": st.integers(1, 300),
        "dense_every": st.integers(1, 400),
        "checkpoints_per_doubling": st.integers(1, 9),
    }
)


@settings(max_examples=150, deadline=None)
@given(schedules, st.integers(1, 5000), st.integers(0, 5000))
def test_a_longer_run_has_the_same_checkpoints_and_more(choice, steps, more):
    short = checkpoint_steps(TrainingSpec(steps=steps, **choice))
    long = checkpoint_steps(TrainingSpec(steps=steps + more, **choice))
    assert short[0] == 0
    assert short[-1] == steps
    assert short == sorted(set(short))
    assert [s for s in long if s < steps] == [s for s in short if s < steps]


@settings(max_examples=100, deadline=None)
@given(schedules, st.integers(1, 100_000))
def test_dense_then_log_spaced(choice, steps):
    spec = TrainingSpec(steps=steps, **choice)
    marks = checkpoint_steps(spec)
    first, every = spec.first_checkpoint, spec.dense_every
    expected = {*range(0, first + 1, every), first}
    assert {s for s in marks if s <= first} - {steps} == {s for s in expected if s <= steps} - {steps}
    late = [s for s in scheduled_steps(spec, steps) if s >= first]
    for a, b in pairwise(late):
        assert b / a <= 2 ** (1 / spec.checkpoints_per_doubling) + 1.5 / a
    assert len(marks) <= first // every + spec.checkpoints_per_doubling * max(0, math.log2(steps / first)) + 4


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=60), st.integers(2, 20))
def test_thinning_depends_on_the_past_alone(steps, most):
    steps = sorted(steps)
    kept = thin(steps, most)
    assert len(kept) == min(most, len(steps))
    assert {steps[0], steps[-1]} <= set(kept) <= set(steps)
    assert thin(steps, None) == steps
    # A process that deletes as it goes, from what is still there, ends with the same.
    there: list[int] = []
    for step in steps:
        there = thin([*there, step], most)
    assert there == kept


def test_thinning_is_even_in_log_step():
    spec = TrainingSpec(steps=100_000, first_checkpoint=100, dense_every=10, checkpoints_per_doubling=16)
    kept = thin(checkpoint_steps(spec), 21)
    inner = [math.log(b / a) for a, b in pairwise(kept[1:])]
    assert max(inner) < 3 * math.log(100_000 / kept[1]) / len(inner)


def test_warm_up_then_shapes():
    flat = TrainingSpec(warmup=10)
    assert [rate(flat, step) for step in (0, 4, 9, 10, 10**6)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert rate(TrainingSpec(warmup=0), 0) == 1.0
    line = TrainingSpec(warmup=10, schedule="linear", schedule_steps=110, final_lr=0.2)
    assert [rate(line, step) for step in (10, 60, 110, 500)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    bend = TrainingSpec(warmup=10, schedule="cosine", schedule_steps=110, final_lr=0.0)
    assert [rate(bend, step) for step in (10, 35, 60, 110, 500)] == pytest.approx(
        [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.0, 0.0]
    )


@given(st.sampled_from(["constant", "cosine", "linear"]), st.integers(0, 300), st.integers(1, 1000))
def test_the_rate_does_not_know_the_length_of_the_run(schedule, step, steps):
    settings_ = {"warmup": 10, "schedule": schedule, "schedule_steps": 200}
    assert rate(TrainingSpec(steps=steps, **settings_), step) == rate(TrainingSpec(**settings_), step)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"schedule": "cosine"}, "schedule_steps"),
        ({"schedule": "linear", "schedule_steps": 10, "warmup": 10}, "greater than warmup"),
        ({"loop_choices": []}, "loop_choices"),
        ({"loop_choices": [0, 2]}, "loop_choices"),
        ({"keep": 1}, "keep"),
        ({"steps": 10**9, "first_checkpoint": 10**9, "dense_every": 1}, "checkpoints; allowed are"),
        ({"checkpoints_per_doubling": 10**9}, "checkpoints; allowed are"),
    ],
)
def test_impossible_settings_are_named(tree, words):
    with pytest.raises(InputError, match=words):
        TrainingSpec.parse(tree)
