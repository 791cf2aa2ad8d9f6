"""A rate over runs: the spread between runs, the facts beneath it, and worlds that are shared."""

import numpy as np
import pytest
from scipy import stats

from grokscope.errors import InputError
from grokscope.statistics.clustered import Rate, clustered_rate
from grokscope.statistics.rates import over_runs, trials


def rate(value: float, n_effective: float = 100.0) -> Rate:
    return Rate(value, 0.0, 1.0, 250, (120, 120), n_effective)


def test_the_interval_is_as_wide_as_the_spread_between_runs() -> None:
    apart = over_runs([rate(0.4), rate(0.5), rate(0.6), rate(0.5)], ["a", "b", "c", "d"])
    t = stats.t.interval(0.95, 3, loc=0.5, scale=np.std([0.4, 0.5, 0.6, 0.5], ddof=1) / 2)
    assert (apart.low, apart.high) == pytest.approx(t, abs=0.01)
    assert apart.value == pytest.approx(0.5)
    assert (apart.clusters, apart.n) == ((4,), 1000)


def test_equal_runs_are_no_surer_than_their_facts() -> None:
    same = over_runs([rate(0.5, 60.0)] * 4, list("abcd"))
    assert same.n_effective == pytest.approx(240.0)
    perfect = over_runs([rate(1.0, 60.0)] * 4, list("abcd"))
    assert 0.9 < perfect.low < 1.0 == perfect.high


def test_runs_of_one_world_do_not_average_over_its_facts() -> None:
    values = [0.5, 0.52, 0.48, 0.5]
    own = over_runs([rate(value) for value in values], list("abcd"))
    shared = over_runs([rate(value) for value in values], ["a"] * 4)
    assert shared.n_effective <= 100 < own.n_effective
    assert shared.high - shared.low > own.high - own.low


def test_runs_of_the_same_of_several_worlds_count_as_one() -> None:
    found = over_runs([rate(0.2), rate(0.4), rate(0.6), rate(0.8)], ["a", "a", "b", "b"])
    alone = over_runs([rate(0.3), rate(0.7)], ["a", "b"])
    assert (found.low, found.high, found.clusters) == (alone.low, alone.high, (2,))


def test_one_run_is_about_itself() -> None:
    one = clustered_rate(np.arange(40) % 4 > 0, np.arange(40)[:, None])
    assert over_runs([one], ["a"]) == one


def test_a_published_rate_of_sixteen_probes_is_known_to_a_third() -> None:
    found = trials(1.0, 16)
    assert (found.low, found.high) == pytest.approx(
        stats.binomtest(16, 16).proportion_ci(0.95, "wilson"), abs=1e-9
    )
    with pytest.raises(InputError, match="n = 0"):
        trials(0.5, 0)
    with pytest.raises(InputError, match="2 rates and 1 worlds"):
        over_runs([rate(0.5)] * 2, ["a"])
