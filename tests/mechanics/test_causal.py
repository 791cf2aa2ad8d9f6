"""Verdicts, paths, centroids and causal tracing."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from grokscope.errors import InputError
from grokscope.mechanics.judge.causal import KNOWN, Examined, combine, examine, judge_share
from grokscope.mechanics.judge.paths import inference_path
from grokscope.mechanics.judge.share import Share
from grokscope.mechanics.patch.interchange import interchange
from grokscope.mechanics.patch.tracing import TOKENS, causal_trace, corrupt
from grokscope.mechanics.read.lens import lens
from grokscope.statistics.clustered import Rate, clustered_rate
from tests.mechanics.causal_cases import probes, setting_of, wired_case


def share_of(value: float, low: float, high: float, n: int = 200) -> Share:
    through = np.arange(n) < round(value * n)
    rate = Rate(value, low, high, n, (n, n), float(n))
    drops = through.astype(float)
    return Share(rate, rate, drops, 1 - drops, (), np.arange(n), through, np.arange(n) % 2)


@pytest.mark.parametrize(
    ("found", "possible"),
    [
        (share_of(1.0, 0.97, 1.0), ("circuit",)),
        (share_of(0.0, 0.0, 0.03), ("memorised",)),
        (share_of(0.5, 0.4, 0.6), ("partial",)),
        (share_of(0.9, 0.86, 0.93), ("partial",)),
        (share_of(0.95, 0.9, 0.98), ("circuit", "partial")),
        (share_of(0.06, 0.02, 0.1), ("memorised", "partial")),
        (share_of(1.0, 0.8, 1.0, n=20), KNOWN),
    ],
)
def test_the_rule_reads_intervals_not_values(found, possible):
    assert judge_share(found, False)[0] == possible


def test_an_open_share_names_the_answers_that_would_decide_it():
    """More than it says, at the same share, do decide; fewer do not (0.98 needs a multiple of 50)."""
    facts = np.arange(1000)[:, None]
    rates = {n: clustered_rate(np.arange(n) < 0.98 * n, facts[:n]) for n in (100, 150, 200, 250)}
    _, reason = judge_share(replace(share_of(0.98, 0, 1), rate=rates[100]), False)
    needed = int(re.search(r"about (\d+) such answers", reason).group(1))
    assert {n: rate.low >= 0.95 for n, rate in rates.items()} == {n: n > needed for n in rates}
    _, at_the_line = judge_share(share_of(0.95, 0.9, 0.98), False)
    assert "would decide" not in at_the_line


@pytest.mark.parametrize(
    ("behaviour", "inner", "outer", "verdict"),
    [
        ("memorised", "memorised", "undecided", "memorised"),
        ("memorised", "circuit", "undecided", "partial"),
        ("memorised", "undecided", "undecided", "undecided"),
        ("generalised without delay", "circuit", "circuit", "circuit without delay"),
        ("generalised after a delay", "circuit", "circuit", "grokked circuit"),
        ("generalised after a delay", "memorised", "memorised", "fake grokking"),
        ("delayed rise, incomplete", "partial", "memorised", "fake grokking"),
        ("generalised after a delay", "circuit", "undecided", "undecided"),
        ("generalised without delay", "circuit", "partial", "partial"),
        ("not saturated", "circuit", "circuit", "undecided"),
    ],
)
def test_behaviour_and_mechanism_make_the_verdict(behaviour, inner, outer, verdict):
    rate = Rate(1.0, 0.9, 1.0, 9, (9, 9), 9.0)
    one = Examined("x", "circuit", ("circuit",), "", rate, rate, None, share_of(1, 1, 1), None, {})
    inner, outer = (
        replace(one, mechanism=name, possible=KNOWN if name == "undecided" else (name,))
        for name in (inner, outer)
    )
    assert combine(behaviour, inner, outer)[0] == verdict


def test_what_is_open_is_decided_where_every_case_agrees_and_named_where_not():
    rate = Rate(1.0, 0.9, 1.0, 9, (9, 9), 9.0)
    one = Examined("x", "circuit", ("circuit",), "", rate, rate, None, share_of(1, 1, 1), None, {})
    either = replace(one, mechanism="undecided", possible=("circuit", "partial"))
    assert combine("memorised", either, None)[0] == "partial"
    verdict, reason = combine("generalised after a delay", one, either)
    assert verdict == "undecided"
    assert reason.startswith("grokked circuit or partial:")
    assert "fake grokking" not in reason


@pytest.mark.parametrize("name", ["circuit", "redundant_50"])
def test_the_verdict_on_wired_models(name):
    wired, some, setting = wired_case(name, most=160)
    said = examine(wired.model, some, setting, np.ones(len(some), dtype=bool))
    assert said.mechanism == wired.mechanism
    assert said.accuracy.value == 1.0
    assert said.atoms_known.value == 1.0
    if name == "redundant_50":
        assert abs(1 - said.share.rest_U.mean() - wired.share) < 0.05
    else:
        assert said.through_circuit == 1.0
        assert said.arms["bridge"].rate.value == 1.0
        assert said.arms["bridge"].n >= 30
        assert (said.cell.stage, said.cell.column) == wired.reading


def test_the_path_of_a_circuit_and_of_one_in_another_basis():
    paths = {}
    for name in ("circuit", "rotated"):
        wired, some, setting = wired_case(name)
        trace = lens(wired.model, some, setting.encode(some.queries), setting.world.vocabulary)
        paths[name] = inference_path(trace, interchange(wired.model, some, setting, ("bridge",)))
        assert (paths[name].read, paths[name].position) == (wired.reading[0], str(wired.reading[1]))
        assert paths[name].resolved <= paths[name].read
        assert paths[name].stages_left == len(wired.model.stages) - 1 - wired.reading[0]
    assert paths["circuit"].disagrees == ""
    assert "another basis" in paths["rotated"].disagrees


def test_a_memory_has_no_path():
    wired, some, setting = wired_case("memoriser")
    trace = lens(wired.model, some, setting.encode(some.queries), setting.world.vocabulary)
    path = inference_path(trace, interchange(wired.model, some, setting, ("bridge",)))
    assert (path.position, path.read, path.stages_left) == (None, None, None)
    with pytest.raises(InputError, match="one checkpoint"):
        inference_path(trace.expand_dims("step"), interchange(wired.model, some, setting, ("bridge",)))


def test_corrupted_inputs_are_questions_with_another_answer():
    setting, some = setting_of("looped"), probes(40)
    world, before = setting.world, some.queries
    for place, token in enumerate(TOKENS):
        after, there = corrupt(world, before, token, np.random.default_rng(0))
        own = np.column_stack([before.head_N, before.relation_NK])
        new = np.column_stack([after.head_N, after.relation_NK])
        assert there.any()
        assert ((own != new).sum(axis=1) == there).all()
        assert (own != new)[there, place].all()
        bridge = world.tail_of_ER[after.head_N, after.relation_NK[:, 0]]
        answer = world.tail_of_ER[bridge, after.relation_NK[:, 1]]
        assert (np.column_stack([bridge, answer]) == after.path_NK).all()
        assert (answer[there] != before.path_NK[there, 1]).all()


def test_tracing_follows_the_information_through_a_circuit():
    """A token matters at its own position until it has been read, and not after."""
    wired, some, setting = wired_case("circuit")
    trace = causal_trace(wired.model, some, setting, probes=60)
    effect = trace["effect"].values
    assert (effect[:, 0] == 1).all()
    assert effect[TOKENS.index("head"), wired.reading[0]] == 0
    assert effect[TOKENS.index("relation1"), wired.reading[0]] == 1
    assert effect[TOKENS.index("relation1"), -1] == 0
    assert effect[TOKENS.index("relation2"), -1] == 1
    assert trace.sizes["probe"] == 60
    assert torch.is_grad_enabled()
