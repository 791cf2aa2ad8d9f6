"""The share, its cells and the ablations on wired models, whose truth is known query by query."""

import numpy as np
import pytest
import xarray as xr

from grokscope.errors import InputError
from grokscope.mechanics.judge.ablation import ablate
from grokscope.mechanics.judge.share import (
    HALF,
    NEEDED,
    best_cell,
    settled,
    share,
    through_bridge,
    usable_for_share,
)
from grokscope.mechanics.patch.interchange import interchange
from tests.mechanics.causal_cases import wired_case

ARMS = ("bridge", *NEEDED)


@pytest.mark.parametrize("name", ["overridden_50", "deleted_50", "unreadable_50"])
def test_the_share_agrees_with_the_truth_query_by_query(name):
    wired, some, setting = wired_case(name)
    found = share(interchange(wired.model, some, setting, ARMS))
    truth_U = wired.through_circuit(some.queries)[found.probe_U]
    assert {(cell.stage, cell.column) for cell in found.cells} == {wired.reading}
    assert (found.through_U == truth_U).mean() >= 0.97
    assert found.rate.low <= truth_U.mean() <= found.rate.high


@pytest.mark.parametrize("name", ["memoriser", "pair_code", "unread"])
def test_a_memory_has_no_share_whatever_can_be_decoded(name):
    wired, some, setting = wired_case(name, most=120)
    found = share(interchange(wired.model, some, setting, ARMS))
    assert found.rate.value <= 0.05


def test_sufficient_and_necessary_for_a_circuit_alone():
    wired, some, setting = wired_case("circuit", most=80)
    maps = interchange(wired.model, some, setting, ARMS)
    found = share(maps)
    result = ablate(wired.model, some, setting, maps, found)
    assert found.rate.value == 1.0
    assert (result.sufficient.value, result.necessary.value) == (1.0, 1.0)
    assert (result.overlap, result.redundant, result.incomplete, result.agree) == (1.0, 0.0, 0.0, True)


def test_a_memory_over_an_intact_circuit_is_redundant_not_necessary():
    wired, some, setting = wired_case("overridden_50")
    maps = interchange(wired.model, some, setting, ARMS)
    result = ablate(wired.model, some, setting, maps, share(maps))
    truth = wired.through_circuit(some.queries)[share(maps).probe_U]
    assert abs(result.necessary.value - truth.mean()) < 0.05
    assert result.sufficient.value > 0.9
    assert result.redundant > 0.3
    assert not result.agree


def test_a_shared_position_needs_a_site_inside_the_pass():
    """Where bridge and r2 share a state no donor changes one alone; what the MLP adds is the bridge."""
    wired, some, setting = wired_case("own_position", most=80)
    state = interchange(wired.model, some, setting, NEEDED)
    inside = interchange(wired.model, some, setting, NEEDED, site="block0.mlp")
    assert share(state).rate.value < 0.2
    found = share(state, inside)
    assert found.rate.value == 1.0
    assert {cell.site for cell in found.cells} == {"block0.mlp"}


@pytest.mark.parametrize("name", ["deleted_50", "overridden_50"])
def test_a_site_inside_a_pass_does_not_stand_in_for_a_state(name):
    """What attention brings to r2 holds h beside b where a memory reads it: there everything is lost."""
    wired, some, setting = wired_case(name)
    state = interchange(wired.model, some, setting, ARMS)
    inside = interchange(wired.model, some, setting, NEEDED, site="block0.attention")
    found = share(state, inside)
    truth_U = wired.through_circuit(some.queries)[found.probe_U]
    assert {(cell.site, cell.stage, cell.column) for cell in found.cells} == {("state", *wired.reading)}
    assert ((found.through_U > HALF) == truth_U).mean() >= 0.97
    assert abs(found.rate.value - truth_U.mean()) < 0.02


def test_a_donor_that_is_not_answered_counts_as_the_answered_ones_do():
    """As missing values: a quarter of the answered donors do not hold, so a lost answer counts 3/4."""
    wired, some, setting = wired_case("circuit", most=80)
    maps = interchange(wired.model, some, setting, NEEDED)
    rows = np.flatnonzero(usable_for_share(maps))
    unknown, fails = rows[:20], rows[20:35]
    same = maps["arm"].values.tolist().index("same_bridge")
    known, margin = maps["source_right"].values.copy(), maps["margin"].values.copy()
    known[same, unknown] = False
    margin[same][:, :, fails] = -1.0
    maps = maps.assign(source_right=(maps["source_right"].dims, known), margin=(maps["margin"].dims, margin))
    through = through_bridge(maps)[0][*wired.reading]
    held = 1 - 15 / (len(rows) - 20)
    np.testing.assert_allclose(through[unknown], held)
    assert (through[fails] == 0).all()
    # Where most answered donors do not hold, the cell carries something else, and being lost is no evidence.
    margin[same][:, :, rows[20:]] = -1.0
    maps = maps.assign(margin=(maps["margin"].dims, margin))
    assert (through_bridge(maps)[0][*wired.reading] == 0).all()


@pytest.mark.parametrize(("lost", "stage"), [(0.0, 2), (0.2, 1)])
def test_of_stages_that_carry_alike_the_last_counts(lost, stage):
    """Taken away earlier, a bridge may be resolved once more, and then looks unnecessary."""
    wired, some, setting = wired_case("circuit")
    maps = interchange(wired.model, some, setting, ARMS)
    reading, column = wired.reading
    margin = maps["margin"].values.copy()
    margin[:, 2, column] = margin[:, reading, column]
    unlike = np.random.default_rng(0).random(margin.shape[-1]) < lost
    margin[:, 2, column, unlike] = maps["clean_margin"].values[unlike]
    found = share(maps.assign(margin=(maps["margin"].dims, margin)))
    assert {(cell.stage, cell.column) for cell in found.cells} == {(stage, column)}


@pytest.mark.parametrize(("name", "is_settled"), [("circuit", True), ("memoriser", False)])
def test_inside_is_left_out_only_where_it_could_not_be_chosen(name, is_settled):
    wired, some, setting = wired_case(name, most=80)
    assert settled(interchange(wired.model, some, setting, ARMS)) == is_settled


def test_the_cell_is_never_the_embedding_and_ties_go_to_the_earliest():
    through = np.zeros((3, 2, 4), dtype=bool)
    through[0, 0] = True
    moved = np.zeros_like(through)
    moved[2, 1, 0] = True
    alone = np.ones(2, dtype=int)
    assert best_cell(through, moved, alone) == (2, 1)
    through[1:, 1] = True
    assert best_cell(through, moved, alone) == (1, 1)


def test_a_larger_group_counts_only_where_it_is_better():
    """Two answers in a hundred more are chance among the cells; three are a carrier that was left out."""
    through = np.zeros((2, 3, 100), dtype=bool)
    moved, sizes = np.zeros_like(through), np.array([1, 4, 2])
    through[1, 0, :90] = through[1, 2, :92] = through[1, 1, :94] = True
    assert best_cell(through, moved, sizes) == (1, 1)
    through[1, 1, 92:] = False
    assert best_cell(through, moved, sizes) == (1, 0)
    through[1, 2, :93] = True
    assert best_cell(through, moved, sizes) == (1, 2)


def test_what_is_not_right_or_has_no_donor_does_not_count():
    wired, some, setting = wired_case("circuit", most=40)
    maps = interchange(wired.model, some, setting, NEEDED)
    everyone = usable_for_share(maps)
    wrong = maps.assign(clean_said=maps["clean_said"].copy(data=maps["clean_said"].values + 1))
    assert everyone.any()
    assert not usable_for_share(wrong).any()
    nothing = share(wrong)
    assert nothing.rate is None
    assert nothing.cells == ()
    assert ablate(wired.model, some, setting, maps, nothing) is None


def test_a_missing_arm_is_one_sentence():
    wired, some, setting = wired_case("circuit", most=20)
    maps: xr.Dataset = interchange(wired.model, some, setting, ("bridge",))
    with pytest.raises(InputError, match="needs the arms other_bridge and same_bridge"):
        share(maps)
