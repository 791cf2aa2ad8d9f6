"""Exact tests and intervals: scipy's p values, and intervals that are the tests turned round."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from grokscope.errors import InputError
from grokscope.statistics.exact import difference, equivalence, holm, location

# Whole numbers bring ties, which are where a permutation test goes wrong.
group = st.lists(st.integers(-6, 6).map(float), min_size=2, max_size=5)


def mean_gap(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


@settings(deadline=None, max_examples=60)
@given(group, group)
def test_p_values_of_groups_are_scipys(first: list[float], second: list[float]) -> None:
    theirs = stats.permutation_test((first, second), mean_gap, n_resamples=np.inf)
    assert difference(first, second).p_value == pytest.approx(min(1.0, theirs.pvalue))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-6, 6).map(float), min_size=2, max_size=8))
def test_p_values_of_pairs_are_scipys(values: list[float]) -> None:
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert location(values).p_value == pytest.approx(min(1.0, theirs.pvalue))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.booleans(), st.floats(-4, 4), st.sampled_from([0.6, 0.8, 0.95]))
def test_an_interval_holds_exactly_the_shifts_that_are_not_rejected(
    data: st.DataObject, paired: bool, shift: float, level: float
) -> None:
    first = np.array(data.draw(group))
    second = np.array(data.draw(st.lists(st.floats(-6, 6), min_size=len(first), max_size=len(first))))
    found = difference(first, second, paired=paired, confidence=level)
    low, high = found.low, found.high
    assume(min(abs(shift - low), abs(shift - high)) > 1e-6)
    p_value = difference(first - shift, second, paired=paired).p_value
    assert (p_value > 1 - level + 1e-12) == (low < shift < high)
    assert low <= found.value <= high


def test_too_few_runs_have_no_interval_and_say_what_the_smallest_p_is() -> None:
    found = difference([1.0, 2.0, 3.0], [11.0, 12.0, 13.0])
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert found.p_value == found.smallest_p == pytest.approx(0.1)
    eight = location(np.arange(1.0, 9.0))
    assert eight.p_value == eight.smallest_p == pytest.approx(2 / 256)
    assert np.isfinite(eight.low)


def test_every_exchange_is_looked_at_for_groups_up_to_ten_and_drawn_beyond() -> None:
    rng = np.random.default_rng(0)
    ten = difference(rng.normal(size=10), rng.normal(size=10))
    assert ten.exact
    assert ten.smallest_p == pytest.approx(2 / 184_756)
    first, second = rng.normal(0.8, 1, 14), rng.normal(0, 1, 14)
    drawn = difference(first, second)
    assert not drawn.exact
    assert drawn == difference(first, second)
    assert drawn.p_value == pytest.approx(stats.ttest_ind(first, second).pvalue, abs=0.01)
    pairs = location(rng.normal(0.5, 1, 20))
    assert not pairs.exact


def test_equivalence_is_two_one_sided_tests() -> None:
    near = equivalence([0.1, -0.1, 0.05, -0.05, 0.0, 0.02], np.zeros(6), 0.3, paired=True)
    assert near.answer == "equivalent"
    assert near.confidence == pytest.approx(0.9)
    assert -0.3 < near.low < near.high < 0.3
    far = equivalence([2.1, 1.9, 2.05, 1.95, 2.0, 2.02], np.zeros(6), 0.3, paired=True)
    assert far.answer == "different"
    few = equivalence([0.0, 0.0, 0.0], np.zeros(3), 0.3, paired=True)
    assert few.answer == "cannot tell"  # three agreeing pairs: p = 1/8


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.03, 0.02, 0.02, 0.9], [0.2]])
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    theirs = multipletests(p_values, method="holm")[1]
    ours = holm({f"test {k}": p_value for k, p_value in enumerate(p_values)})
    assert list(ours.values()) == pytest.approx(theirs.tolist())
    assert list(ours) == [f"test {k}" for k in range(len(p_values))]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: difference([], [1.0]), "first_U"),
        (lambda: difference([1.0], [np.nan]), "second_V"),
        (lambda: difference([1.0, 2.0], [1.0], paired=True), "pairs"),
        (lambda: difference([1.0], [2.0], confidence=1.0), "confidence"),
        (lambda: equivalence([1.0], [2.0], 0.0), "margin"),
    ],
)
def test_impossible_input_is_one_sentence(call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
