"""Members with registers: what is declared of them holds when states are exchanged, read and fitted."""

from functools import cache

import numpy as np
import pytest
import torch

from grokscope.mechanics.zoo import Wired, wire
from grokscope.mechanics.zoo.members import MEMBERS, PROBES
from grokscope.mechanics.zoo.registers import ANSWER, END, FIRST, HEAD, POSITIONS, PREFIX, REGISTER
from grokscope.mechanics.zoo.registers import pairs as halves
from grokscope.models.recursive import RecursiveModel
from grokscope.world.pool import compositions
from grokscope.world.queries import Queries, queries_of
from tests.mechanics.exchange import BOTH, Pairs, pairs, said, unrolled

VOTING = ("registers", "registers_dark", "registers_visible")
MIXED = ("overridden_50_registers", "deleted_50_registers", "unreadable_50_registers")
MEMORIES = ("memoriser_registers", "idle", "idle_dark")
EVERYWHERE = range(POSITIONS)


@cache
def case(name: str) -> tuple[Wired, Pairs]:
    wired = wire(name, seed=3)
    probes = wired.corpus.probes[PROBES].queries
    return wired, pairs(wired, probes.take(np.arange(0, len(probes), 16)))


@cache
def states(name: str) -> tuple[list, list, list]:
    """Every stage's carry of the base, of the lenders of another bridge, of those of the same."""
    wired, lent = case(name)
    return unrolled(wired, lent.base), unrolled(wired, lent.other), unrolled(wired, lent.same)


def stages(wired: Wired) -> dict[str, int]:
    return {stage.name: stage.index for stage in wired.model.stages}


def test_they_are_two_cycles_of_both_states_behind_a_prefix() -> None:
    names = [name for name, member in MEMBERS.items() if member.body == "registers"]
    assert {*VOTING, "spread", *MIXED, *MEMORIES} < set(names)
    for name in VOTING:
        model = case(name)[0].model
        assert isinstance(model, RecursiveModel)
        assert (model.prefix, model.spec.h_cycles, model.spec.l_cycles) == (PREFIX, 2, 3)


@pytest.mark.parametrize("name", [*VOTING, "spread", "spread_apart", *MIXED])
def test_the_answer_moves_with_the_bridge_where_it_is_held_and_nowhere_else(name: str) -> None:
    wired, lent = case(name)
    base, other, same = states(name)
    answer_N, moved_N = lent.base.path_NK[:, 1], lent.moved.path_NK[:, 1]
    through_N = wired.through_circuit(lent.base)
    goes_N = through_N & wired.through_circuit(lent.moved)
    held_N = wired.through_circuit(lent.same) | ~through_N
    assert goes_N.sum() >= 8
    assert [stages(wired)[stage] for stage, _ in wired.holds] == list(range(1, 7))
    for stage, group in ((stages(wired)[name], group) for name, group in wired.holds):
        rest = [position for position in EVERYWHERE if position not in group]
        said_N = said(wired, base[stage], stage, other[stage], group)
        np.testing.assert_array_equal(said_N[goes_N], moved_N[goes_N])
        np.testing.assert_array_equal(said_N[~through_N], answer_N[~through_N])
        kept_N = said(wired, base[stage], stage, same[stage], group)
        np.testing.assert_array_equal(kept_N[held_N], answer_N[held_N])
        outside_N = said(wired, base[stage], stage, other[stage], [i for i in rest if i != ANSWER])
        np.testing.assert_array_equal(outside_N, answer_N)
    for stage in (7, 8):  # the answer is there
        assert (said(wired, base[stage], stage, other[stage], EVERYWHERE)[goes_N] != moved_N[goes_N]).all()
        without = [position for position in EVERYWHERE if position != ANSWER]
        np.testing.assert_array_equal(said(wired, base[stage], stage, other[stage], without), answer_N)
        own_N = said(wired, base[stage], stage, other[stage], [ANSWER])
        known_N = wired.answers(lent.other)
        np.testing.assert_array_equal(own_N[known_N], lent.other.path_NK[known_N, 1])


@pytest.mark.parametrize(
    "name", ["circuit", "circuit_pre", "circuit_trm", "rotated", "other_position", "id_only"]
)
def test_so_it_does_in_members_without_registers(name: str) -> None:
    wired, lent = case(name)
    base, other, same = states(name)
    goes_N = wired.through_circuit(lent.base) & wired.through_circuit(lent.moved)
    ((stage_name, group),) = wired.holds
    stage = stages(wired)[stage_name]
    assert wired.reading == (stage, *group)
    said_N = said(wired, base[stage], stage, other[stage], group)
    np.testing.assert_array_equal(said_N[goes_N], lent.moved.path_NK[goes_N, 1])
    kept_N = said(wired, base[stage], stage, same[stage], group)
    held_N = wired.through_circuit(lent.base) & wired.through_circuit(lent.same)
    np.testing.assert_array_equal(kept_N[held_N], lent.base.path_NK[held_N, 1])


@pytest.mark.parametrize("name", [*VOTING, *MIXED])
def test_one_state_or_one_position_alone_changes_nothing(name: str) -> None:
    wired, lent = case(name)
    base, other, _ = states(name)
    answer_N = lent.base.path_NK[:, 1]
    for place in (HEAD, FIRST):
        np.testing.assert_array_equal(said(wired, base[1], 1, other[1], [place]), answer_N)
    place = wired.holds[-1][1]
    for stage in range(stages(wired)["cycle0.commit"], 7):
        for part in BOTH:
            np.testing.assert_array_equal(
                said(wired, base[stage], stage, other[stage], place, [part]), answer_N
            )


def test_half_a_bridge_moves_no_answer_unless_it_is_all_that_differs() -> None:
    wired, lent = case("spread")
    base, other, same = states("spread")
    answer_N, moved_N = lent.base.path_NK[:, 1], lent.moved.path_NK[:, 1]
    shared_2N = [
        pair_E[lent.base.path_NK[:, 0]] == pair_E[lent.other.path_NK[:, 0]]
        for pair_E in halves(wired.corpus.world)
    ]
    for stage in range(1, 7):
        for place, shared_N in ((HEAD, shared_2N[1]), (FIRST, shared_2N[0])):
            said_N = said(wired, base[stage], stage, other[stage], [place])
            assert (said_N == moved_N)[shared_N].all()
            assert (said_N == moved_N)[~shared_N].mean() < 0.05
            # What two questions alone would take for the bridge: lost with another one, kept with the same.
            assert (said_N == answer_N).mean() < 0.1
            np.testing.assert_array_equal(said(wired, base[stage], stage, same[stage], [place]), answer_N)
    for stage in range(stages(wired)["cycle0.commit"], 7):
        for part in BOTH:
            assert (said(wired, base[stage], stage, other[stage], (HEAD, FIRST), [part]) != moved_N).all()


@pytest.mark.parametrize("name", [*VOTING, "spread", *MIXED])
def test_without_the_bridge_exactly_the_circuits_answers_are_lost(name: str) -> None:
    wired, lent = case(name)
    base, *_ = states(name)
    stage, group = stages(wired)[wired.holds[-1][0]], wired.holds[-1][1]
    mean = base[stage]._replace(
        **{
            part: getattr(base[stage], part).mean(0, keepdim=True).expand_as(getattr(base[stage], part))
            for part in BOTH
        }
    )
    lost_N = said(wired, base[stage], stage, mean, group) != lent.base.path_NK[:, 1]
    np.testing.assert_array_equal(lost_N, wired.through_circuit(lent.base))


@pytest.mark.parametrize("name", MEMORIES)
def test_no_exchange_moves_a_memorised_answer(name: str) -> None:
    wired, lent = case(name)
    base, other, same = states(name)
    answer_N, moved_N = lent.base.path_NK[:, 1], lent.moved.path_NK[:, 1]
    assert not wired.holds
    assert not wired.through_circuit(lent.base).any()
    groups = ([REGISTER], [HEAD, FIRST], range(ANSWER), EVERYWHERE)
    for stage in range(1, 9):
        for group in groups:
            said_N = said(wired, base[stage], stage, other[stage], group)
            assert (said_N != moved_N).all()
            if group == [REGISTER]:
                # Where the register keeps the memory's key, exchanging it takes the answer away, b or not.
                lost = name != "memoriser_registers" and 2 <= stage <= 6
                assert ((said_N != answer_N) == lost).all()
                kept_N = said(wired, base[stage], stage, same[stage], group)
                assert ((kept_N != answer_N) == lost).all()


def read(wired: Wired, queries: Queries) -> np.ndarray:
    """(stage, position) part of the queries whose bridge is the most likely token there."""
    carries = unrolled(wired, queries)
    bridge_N = torch.from_numpy(wired.corpus.world.vocabulary.entity_ids[queries.path_NK[:, 0]])
    found = []
    for stage, carry in enumerate(carries):
        token_BT = wired.model.unembed(wired.model.read(carry, stage)).argmax(-1)
        found.append((token_BT == bridge_N[:, None]).float().mean(0).numpy())
    return np.array(found)


@pytest.mark.parametrize("name", [*VOTING, "spread", *MIXED[:2], *MEMORIES])
def test_the_output_head_reads_what_is_said(name: str) -> None:
    wired, lent = case(name)
    found = read(wired, lent.base)
    places = {"visible": [END], "in registers": [REGISTER], "idle": [REGISTER]}.get(wired.reading_kind, [])
    assert (found[2:, places] == 1).all()
    assert found[:, [position for position in EVERYWHERE if position not in places]].max() < 0.1


@pytest.mark.parametrize(
    ("name", "places", "linear"),
    [
        ("registers_dark", [REGISTER], True),
        ("spread", [HEAD, FIRST], True),
        ("spread", [HEAD], False),
        ("idle_dark", [REGISTER], True),
        ("memoriser_registers", list(EVERYWHERE), False),
    ],
)
def test_a_dark_bridge_is_linear(name: str, places: list[int], linear: bool) -> None:
    """Least squares from the states after the third pass, asked about pairs (h, r1) it has not seen."""
    wired, _ = case(name)
    world = wired.corpus.world
    every = queries_of(world, compositions(world).fact_NK[::3])
    state_ND = unrolled(wired, every)[3].z_L_BTD[:, places].flatten(1).double()
    bridge_N = torch.from_numpy(every.path_NK[:, 0]).long()
    asked_N = torch.from_numpy(every.fact_NK(world)[:, 0] % 4 == 0)
    target_NE = torch.nn.functional.one_hot(bridge_N, world.entities).double()
    known_MD = state_ND[~asked_N]
    gram_DD = known_MD.T @ known_MD + 1e-3 * torch.eye(known_MD.shape[1], dtype=torch.float64)
    weight_DE = torch.linalg.solve(gram_DD, known_MD.T @ target_NE[~asked_N])
    right = ((state_ND[asked_N] @ weight_DE).argmax(-1) == bridge_N[asked_N]).double().mean()
    assert right > 0.95 if linear else right < 0.6
