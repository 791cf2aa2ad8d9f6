"""Intervals: right coverage where queries share facts, sane at the edges, honest about few facts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from grokscope.errors import InputError
from grokscope.statistics.clustered import _design_effect, clustered_rate, paired_difference


def shared_facts(rng, facts1, facts2, n):
    """n different queries over two sets of facts."""
    pairs = rng.choice(facts1 * facts2, size=n, replace=False)
    return np.stack([pairs // facts2, facts1 + pairs % facts2], axis=1)


@pytest.mark.parametrize(
    ("facts1", "facts2", "n", "share1", "share2", "noise"),
    [(40, 40, 300, 0.5, 0.5, 0.05), (100, 50, 300, 0.9, 0.8, 0.02), (60, 60, 300, 0.98, 0.98, 0.01)],
)
def test_coverage(facts1, facts2, n, share1, share2, noise):
    """A query is right when both facts are known, up to noise: intervals that ignore this cover 50 to 65
    %.
    """
    rng, worlds, covered, naive = np.random.default_rng(1), 250, 0, 0
    both = share1 * share2
    truth = both * (1 - noise) + (1 - both) * noise
    for _ in range(worlds):
        fact_PK = shared_facts(rng, facts1, facts2, n)
        known_F = np.concatenate([rng.random(facts1) < share1, rng.random(facts2) < share2])
        right_P = known_F[fact_PK].all(axis=1) ^ (rng.random(n) < noise)
        rate = clustered_rate(right_P, fact_PK)
        covered += rate.low <= truth <= rate.high
        naive += abs(rate.value - truth) <= 1.96 * np.sqrt(rate.value * (1 - rate.value) / n)
    assert 0.9 <= covered / worlds <= 0.99
    assert naive / worlds < 0.8


def test_coverage_of_a_difference_with_nothing_behind_it():
    """Two checkpoints that know different facts equally often: p below 0.05 on at most about 5 % of
    worlds.
    """
    rng, worlds, covered, rejected = np.random.default_rng(2), 250, 0, 0
    for _ in range(worlds):
        fact_PK = shared_facts(rng, 50, 40, 250)
        now_P, then_P = ((rng.random(90) < 0.7)[fact_PK].all(axis=1) for _ in range(2))
        change = paired_difference(now_P, then_P, fact_PK)
        covered += change.low <= 0 <= change.high
        rejected += change.p_value < 0.05
    assert 0.9 <= covered / worlds <= 0.995
    assert rejected / worlds <= 0.09


def test_independent_queries_give_wilson():
    """With a fact of its own for every query there is nothing to cluster: Wilson's interval, up to Student's
    t.
    """
    rng = np.random.default_rng(0)
    right_P, fact_PK = rng.random(2000) < 0.3, np.arange(4000).reshape(2000, 2)
    rate = clustered_rate(right_P, fact_PK)
    z, p, n = stats.norm.ppf(0.975), right_P.mean(), 2000
    centre, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + (z / 2 / n) ** 2),
    )
    assert rate.n_effective == pytest.approx(2000, rel=2e-3)
    assert (rate.low, rate.high) == pytest.approx((centre - half, centre + half), abs=2e-4)


def test_the_variance_counts_every_dependent_pair_once():
    """Against the double sum over all pairs of probes that share a fact, whichever hop it stands at."""
    rng = np.random.default_rng(3)
    fact_PK = rng.integers(0, 12, size=(80, 3))
    right_P = rng.random(80) < 0.5
    residual_P = right_P - right_P.mean()
    share_PP = (fact_PK[:, None, :, None] == fact_PK[None, :, None, :]).any(axis=(2, 3))
    fewest = min(len(np.unique(column)) for column in fact_PK.T)
    estimate = (share_PP * np.outer(residual_P, residual_P)).sum() * fewest / (fewest - 1)
    found = _design_effect(right_P.astype(float), fact_PK)
    assert found == pytest.approx(estimate / (residual_P**2).sum())


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_at_the_edges_only_facts_count(right):
    """20 queries on each of 15 facts, all alike: no narrower than 15 independent queries, and not of width
    0.
    """
    fact_PK = np.stack([np.arange(300) % 15, 100 + np.arange(300)], axis=1)
    rate = clustered_rate(np.full(300, right), fact_PK)
    assert rate.n_effective == pytest.approx(15)
    assert rate.high - rate.low > 0.2
    assert (rate.value, rate.clusters, rate.n) == (right, (15, 300), 300)
    almost = np.full(300, right)
    almost[0] = 1 - right
    step = clustered_rate(almost, fact_PK)
    assert abs((step.high - step.low) - (rate.high - rate.low)) < 0.05


def test_one_fact_tells_nothing():
    rate = clustered_rate([1, 1, 0, 1], [[5]] * 4)
    assert (rate.low, rate.high) == (0.0, 1.0)
    change = paired_difference([1, 1, 1, 1], [0, 0, 0, 0], [[5]] * 4)
    assert (change.low, change.high, change.p_value) == (-1.0, 1.0, 1.0)


def test_a_difference_has_the_sign_and_certainty_of_the_data():
    rng = np.random.default_rng(4)
    fact_PK = shared_facts(rng, 60, 60, 300)
    then_P = rng.random(300) < 0.1
    now_P = then_P | (rng.random(300) < 0.4)
    up, down = paired_difference(now_P, then_P, fact_PK), paired_difference(then_P, now_P, fact_PK)
    assert up.low > 0
    assert up.p_value < 1e-6
    assert (up.value, up.low, up.high) == pytest.approx((-down.value, -down.high, -down.low))
    same = paired_difference(now_P, now_P, fact_PK)
    assert (same.value, same.p_value) == (0, 1)
    assert same.low < 0 < same.high


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_interval_holds_its_value_and_order_does_not_matter(data):
    n = data.draw(st.integers(1, 40))
    small = st.integers(0, 6)
    fact_PK = np.array([[data.draw(small), data.draw(small)] for _ in range(n)])
    right_P, other_P = (np.array([data.draw(st.booleans()) for _ in range(n)]) for _ in range(2))
    level = data.draw(st.sampled_from([0.8, 0.95, 0.99]))
    rate = clustered_rate(right_P, fact_PK, level)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert 1 - 1e-9 <= rate.n_effective <= n + 1e-9
    change = paired_difference(right_P, other_P, fact_PK, level)
    assert -1 <= change.low <= change.value <= change.high <= 1
    assert 0 <= change.p_value <= 1
    order = np.array(data.draw(st.permutations(range(n))))
    again = clustered_rate(right_P[order], fact_PK[order], level)
    assert (again.low, again.high) == pytest.approx((rate.low, rate.high))
    assert clustered_rate(right_P, fact_PK[:, ::-1], level).low == pytest.approx(rate.low)


def test_bad_input_is_one_sentence():
    with pytest.raises(InputError, match="at least 1 probe"):
        clustered_rate([], np.empty((0, 2)))
    with pytest.raises(InputError, match="fact_PK has shape"):
        clustered_rate([1, 0], [[1], [2], [3]])
    with pytest.raises(InputError, match="confidence = 1"):
        clustered_rate([1, 0], [[1], [2]], 1)
