"""Comparison of paths: wired pairs whose sameness is known, and the noise floor on drawn profiles."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from grokscope.errors import InputError
from grokscope.mechanics.judge.compare import Comparison, Distance, _facts_apart, compare
from grokscope.mechanics.judge.profile import Profile, align, divergence, profile, taken
from grokscope.mechanics.judge.yardstick import mixture_margin
from grokscope.mechanics.patch.interchange import Setting, interchange
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.zoo import wire

ARM = ("other_bridge",)


@cache
def wired_profile(name: str, seed: int = 1, causal: bool = False, most: int = 240) -> Profile:
    """The profile of a member, always on the same probes of world 7."""
    wired, asked = wire(name, seed, world=7), wire("circuit", 1, world=7)
    every = asked.corpus.probes["train_inferred"]
    setting = Setting(wired.corpus.world, asked.corpus.composition, wired.format)
    probes, tokens = some_probes(every, setting.encode(every.queries), most)
    trace = lens(wired.model, probes, tokens, wired.corpus.world.vocabulary)
    return profile(trace, interchange(wired.model, probes, setting, ARM) if causal else None)


def one_of(found: Comparison, kind: str, measure: str) -> Distance:
    return next(one for one in found.distances if (one.kind, one.measure) == (kind, measure))


def drawn(rng: np.random.Generator, rate_L: list[float], probes: int = 200) -> Profile:
    """A profile whose one position shows the bridge at the given rates, on facts from `rng`."""
    fact_PK = rng.integers(0, 40, (probes, 2))
    said_PL = np.where(rng.random((probes, len(rate_L))) < rate_L, 0, 2).astype(np.int8)
    return Profile(
        id_P=np.arange(probes),
        fact_PK=fact_PK,
        said={"emergence": said_PL[:, :, None, None]},
        categories={"emergence": 3, "causal": 3},
        labels={"emergence": ("",)},
        stages=tuple(f"stage{index}" for index in range(len(rate_L))),
        places=("relation1",),
    )


def test_two_seeds_of_a_circuit_are_equivalent_and_a_memoriser_is_different() -> None:
    same = compare([wired_profile("circuit", 1)], [wired_profile("circuit", 2)])
    assert same.answer == "equivalent"
    assert same.scope == "these runs"
    assert "was not compared" in same.reason
    other = compare([wired_profile("circuit", 1)], [wired_profile("memoriser", 1)])
    assert other.answer == "different"


def test_two_memories_are_different_by_their_queries_where_the_mean_profile_is_blind() -> None:
    found = compare([wired_profile("memoriser", 3)], [wired_profile("memoriser", 4)])
    assert one_of(found, "emergence", "profile").answer == "equivalent"
    assert one_of(found, "emergence", "queries").answer == "different"
    assert found.answer == "different"


def test_the_difference_between_seeds_of_a_regime_is_not_a_difference_of_regimes() -> None:
    first, second = ([wired_profile("memoriser", seed) for seed in seeds] for seeds in ((3, 4, 5), (6, 7, 8)))
    found = compare(first, second)
    assert found.answer != "different"
    assert found.scope == "regimes"
    queries = one_of(found, "emergence", "queries")
    assert queries.estimate.low < 0 < queries.estimate.high


def test_few_probes_cannot_tell() -> None:
    few = np.arange(3)
    circuit, again, memoriser = (
        wired_profile(*who) for who in (("circuit", 1), ("circuit", 2), ("memoriser",))
    )
    assert compare([taken(circuit, few)], [taken(again, few)]).answer == "cannot tell"
    assert compare([taken(circuit, few)], [taken(memoriser, few)]).answer == "cannot tell"
    assert compare([taken(circuit, np.arange(12))], [taken(again, np.arange(12))]).answer == "cannot tell"


def test_an_unread_bridge_is_equivalent_to_the_eye_and_different_in_use() -> None:
    circuit, unread = (wired_profile(name, 1, True, 60) for name in ("circuit", "unread"))
    found = compare([circuit], [unread])
    assert one_of(found, "emergence", "queries").estimate.value == 0
    assert one_of(found, "causal", "queries").answer == "different"
    assert found.answer == "different"


def test_the_noise_floor_falls_out_at_any_n() -> None:
    rng = np.random.default_rng(0)
    values, raw = [], []
    for _ in range(40):
        one, two = drawn(rng, [0.5, 0.2], 60), drawn(rng, [0.5, 0.2], 120)
        values.append(one_of(compare([one], [two], replicates=20), "emergence", "profile").estimate.value)
        p, q = (
            np.stack([(x.said["emergence"][:, :, 0, 0] == c).mean(0) for c in range(3)], 1)
            for x in (one, two)
        )
        raw.append(divergence(p, q).mean())
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    # Without the floor, the very same profiles are never at distance zero.
    assert np.mean(raw) > 3 * np.std(raw, ddof=1) / np.sqrt(len(raw))


def test_probe_sets_without_common_probes_are_compared_by_profile_alone() -> None:
    rng = np.random.default_rng(1)
    found = compare([drawn(rng, [0.9], 300)], [drawn(rng, [0.2], 200)])
    assert [one.measure for one in found.distances] == ["profile"]
    assert found.answer == "different"


def test_equal_numbers_in_two_worlds_are_not_the_same_facts_or_probes() -> None:
    """Numbers alone would pair strangers, and let facts of one world vouch for those of another."""
    rng = np.random.default_rng(5)
    one, two = (replace(drawn(rng, [0.5]), world=name) for name in ("a", "b"))
    found = compare([one], [two])
    assert [each.measure for each in found.distances] == ["profile"]
    assert "queries" in {each.measure for each in compare([one], [replace(two, world="a")]).distances}
    apart = [set(facts) for facts in _facts_apart([one, two, one])]
    assert not apart[0] & apart[1]
    assert apart[0] == apart[2]


def test_stages_are_aligned_by_depth_or_by_what_they_do() -> None:
    rng = np.random.default_rng(2)
    short, long = drawn(rng, [0, 1, 0]), drawn(rng, [0, 0, 0, 1, 1, 0])
    with pytest.raises(InputError, match="align = 'stage'"):
        align([short], [long], "stage")
    depth = align([short], [long], "depth")
    assert len(depth[0].stages) == 6
    assert (depth[0].stages[0], depth[0].stages[-1]) == ("stage0|stage0", "stage2|stage5")
    warped = align([short], [long], "profile")
    np.testing.assert_array_equal(*(one.said["emergence"][0, :, 0, 0] for one in warped))
    assert compare([short], [long], "profile").answer != "different"
    assert compare([short], [long], "depth").answer == "different"


def test_the_margin_is_that_of_a_tenth_and_grows_with_the_share() -> None:
    tenth, half = mixture_margin(), mixture_margin(share=0.5)
    # Circuit and memoriser differ in one cell of nine before the end: the bridge at r1.
    assert tenth["queries"] == pytest.approx(0.1 / 9, abs=0.001)
    assert half["queries"] == pytest.approx(5 * tenth["queries"])
    assert 0 < tenth["profile"] < half["profile"]
    with pytest.raises(InputError, match="share = 2"):
        mixture_margin(share=2)


def test_divergence_is_lins() -> None:
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert divergence(p, q) == 1
    assert divergence(p, p) == 0
    assert divergence(p, np.array([0.5, 0.5])) == pytest.approx(0.3112781, abs=1e-6)


def test_wrong_input_is_refused() -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(InputError, match="at least one"):
        compare([], [drawn(rng, [0.5])])
    with pytest.raises(InputError, match="replicates = 3"):
        compare([drawn(rng, [0.5])], [drawn(rng, [0.5])], replicates=3)
