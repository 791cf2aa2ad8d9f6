"""Times with censoring: textbook curves, the exact interval, and the common horizon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from grokscope.errors import InputError
from grokscope.statistics.times import Time, compare_times, horizon, kaplan_meier, log_rank, restricted

# Freireich et al. 1963, weeks of remission; True: relapse. The example of every textbook.
TREATED = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
RELAPSED = [True] * 9 + [False] * 12
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def times(weeks: list[float], happened: list[bool] | None = None, width: float = 0.5) -> list[Time]:
    happened = [True] * len(weeks) if happened is None else happened
    return [
        Time(max(0.0, week - width), week, 100.0) if event else Time(week, None, week)
        for week, event in zip(weeks, happened, strict=True)
    ]


def test_the_curve_is_the_textbooks() -> None:
    found = kaplan_meier(times(TREATED, RELAPSED))
    theirs = SurvfuncRight(TREATED, RELAPSED)
    ours = dict(zip(found.step_T, found.waiting_T, strict=True))
    for week, share in zip(theirs.surv_times, theirs.surv_prob, strict=True):
        assert ours[week] == pytest.approx(share)
    assert (found.n, found.events) == (21, 9)
    assert (found.median_after, found.median.value, found.median.high) == (22.5, 23, np.inf)
    assert (found.step_T[0], found.waiting_T[0]) == (0, 1)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_without_censoring_the_interval_is_clopper_and_pearsons(weeks: list[int]) -> None:
    found = kaplan_meier(times([float(week) for week in weeks]))
    for step, low, high in zip(found.step_T, found.low_T, found.high_T, strict=True):
        waiting = sum(week > step for week in weeks)
        exact = stats.binomtest(waiting, len(weeks)).proportion_ci(0.95, "exact")
        assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_log_rank_scores_are_observed_minus_expected() -> None:
    # At risk 4, 3, 2, 1: scores 1 - 1/4, 1 - 1/4 - 1/3, 1 - 1/4 - 1/3 - 1/2, 1 - 1/4 - 1/3 - 1/2 - 1.
    found = log_rank(times([1.0, 3.0]), times([2.0, 4.0]))
    assert found.value == pytest.approx((0.75 - 1 / 12) / 2 - (5 / 12 - 13 / 12) / 2)
    assert log_rank(times([2.0, 4.0]), times([1.0, 3.0])).value < 0  # the later group


def test_the_exact_log_rank_test_agrees_with_the_usual_one_where_that_holds() -> None:
    first, second = [3, 5, 6, 8, 9, 11, 13, 14, 16], [2, 2, 4, 5, 7, 7, 8, 10, 15]
    found = log_rank(times([float(week) for week in first]), times([float(week) for week in second]))
    assert found.exact
    _, p_value = survdiff([*first, *second], [True] * 18, [0] * 9 + [1] * 9)
    assert found.p_value == pytest.approx(p_value, abs=0.03)


def test_groups_are_compared_up_to_the_shortest_observation() -> None:
    long = [Time(11_000, 12_000, 15_000), Time(9_000, 10_000, 15_000)]
    short = [Time(2_000, 3_000, 8_000), Time(8_000, None, 8_000)]
    assert horizon(long, short) == 8_000
    assert restricted(long, 8_000).tolist() == [np.log2(8_000)] * 2
    assert compare_times(long, short).value == pytest.approx(np.log2(8 / 3) / 2)
    # A run that would have had the event later does not count as one that did.
    assert log_rank(long, short).value < 0


def test_the_median_lies_between_two_checkpoints_and_may_be_out_of_sight() -> None:
    found = kaplan_meier([Time(1_000, 2_000, 9_000), Time(2_000, 4_000, 9_000), Time(2_000, 4_000, 9_000)])
    assert (found.median_after, found.median.value) == (2_000, 4_000)
    assert found.median.high == np.inf  # three runs do not bound it
    never = kaplan_meier([Time(9_000, None, 9_000)] * 3)
    assert (never.median_after, never.median.value, never.events) == (9_000, np.inf, 0)


@pytest.mark.parametrize("bad", [Time(5, 5, 9), Time(5, 10, 9), Time(-1, None, 4), Time(5, None, 4)])
def test_an_impossible_time_is_one_sentence(bad: Time) -> None:
    with pytest.raises(InputError, match="after < by <= until"):
        kaplan_meier([bad])
    with pytest.raises(InputError, match="there is none"):
        kaplan_meier([])
