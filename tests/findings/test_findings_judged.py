"""Findings on drawn studies: the true is supported, the false contradicted, and too little is said to be."""

import pytest

from grokscope.findings.claims import FAKE_GROKKING, SAME_CIRCUIT
from grokscope.findings.measured import Evidence, Measured
from grokscope.findings.rules import judge
from grokscope.findings.values import ClaimResult, FindingResult, number_text
from tests.findings.drawn import GRID, drawn, group, profile_of


def same_circuit(runs: list[Measured]) -> FindingResult:
    return judge(SAME_CIRCUIT, Evidence(runs))


def fake_grokking(runs: list[Measured]) -> FindingResult:
    return judge(FAKE_GROKKING, Evidence(runs))


def claim(found: FindingResult, key: str) -> ClaimResult:
    return next(one for one in found.claims if one.key.startswith(key))


def with_paths(seeds: int) -> list:
    """Natural and fully supervised runs that take one path, the natural ones later."""
    path = {"path": profile_of([0.02, 0.98, 1.0])}
    return [
        *group("natural", seeds, generalisation=9000, **path),
        *group("both_hops_full", seeds, generalisation=2500, **path),
    ]


def test_the_papers_first_finding_is_supported_where_it_is_true() -> None:
    found = same_circuit(with_paths(8))
    assert {one.key: one.result for one in found.claims} == {
        "1.1 early": "supported",
        "1.2 late": "supported",
        "1.3 inside": "supported",
        "1.4 across": "supported",
        "1.5 used": "supported",
    }
    assert found.result == "supported"
    late = claim(found, "1.2")
    assert late.effect is not None
    assert late.effect.value.value == pytest.approx(9000 / 2500, rel=0.1)
    assert late.p_value == pytest.approx(2 / 256)  # all eight pairs agree
    assert late.p_holm == pytest.approx(5 / 256)  # of five tests; the one-sided ones of sameness go first
    assert late.paper[0].label.startswith("target found")


def test_another_path_and_no_wait_contradict_it() -> None:
    other = group("both_hops_full", 8, generalisation=9000, path=profile_of([0.9, 0.1, 1.0]), share=0.4)
    one = group("natural", 8, generalisation=2500, path=profile_of([0.02, 0.98, 1.0]))
    found = same_circuit([*one, *other])
    assert found.result == "contradicted"
    assert [claim(found, key).result for key in ("1.2", "1.4", "1.5")] == ["contradicted"] * 3


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_fewer_than_six_seeds_are_descriptive(seeds: int) -> None:
    found = same_circuit(with_paths(seeds))
    assert found.result == "descriptive"
    assert {one.result for one in found.claims} == {"descriptive"}
    assert all(one.p_value is None and one.p_holm is None for one in found.claims)
    assert claim(found, "1.2").groups[0].value is not None  # the numbers stand
    assert f"{seeds} run" in claim(found, "1.2").reason


def test_six_seeds_cannot_pass_a_correction_and_say_so() -> None:
    found = fake_grokking(
        [
            *group("second_hop_full", 6, bridge=0.3, share=0.1),
            *group("both_hops_full", 6, generalisation=2500),
        ]
    )
    assert found.result == "cannot tell"
    assert "4 tests at this n cannot go below 0.125" in claim(found, "2.1").reason


def test_fake_grokking_is_supported_where_it_happens_and_contradicted_where_the_bridge_is_there() -> None:
    full = group("both_hops_full", 8, generalisation=2500)
    fake = fake_grokking([*group("second_hop_full", 8, bridge=0.3, share=0.1), *full])
    assert fake.result == "supported"
    real = fake_grokking([*group("second_hop_full", 8, bridge=1.0, share=1.0), *full])
    assert real.result == "contradicted"
    assert claim(real, "2.3").result == "cannot tell"  # equal rates: no difference either way
    assert claim(real, "2.4").result == "contradicted"


def test_a_regime_that_never_saturates_is_a_sentence_not_a_number() -> None:
    found = fake_grokking(
        [*group("second_hop_full", 8, saturation=None), *group("both_hops_full", 8, saturation=None)]
    )
    curve = claim(found, "2.2")
    assert (curve.result, curve.effect) == ("cannot tell", None)
    assert curve.reason == "8 of 8 runs never saturated: there is nothing to be late against."
    first = claim(same_circuit(group("natural", 8, saturation=None)), "1.1")
    assert number_text(first.groups[0]).startswith("> ")


def test_a_run_that_ended_before_a_delay_could_show_does_not_contradict_one() -> None:
    short = tuple(step for step in GRID if step < 5000)
    found = fake_grokking(group("second_hop_full", 8, saturation=3000, generalisation=None, grid=short))
    curve = claim(found, "2.2")
    assert (curve.result, curve.effect) == ("cannot tell", None)
    assert curve.reason == "8 of 8 runs were not looked at for 2 times saturation."
    long = fake_grokking(group("second_hop_full", 8, saturation=3000, generalisation=None))
    assert claim(long, "2.2").result == "supported"  # more than twice as late, whenever it may come
    assert claim(long, "2.2").effect.note == "at least"  # type: ignore[union-attr]


def test_a_bridge_that_never_comes_leaves_nothing_to_be_late_against() -> None:
    found = claim(same_circuit(group("natural", 8, early_bridge=None)), "1.1")
    assert (found.result, found.effect) == ("cannot tell", None)
    assert "nothing to be late against" in found.reason


def test_runs_that_never_get_there_are_censored_not_missing() -> None:
    late = [*group("natural", 6, generalisation=9000), drawn("natural", 6, generalisation=None),
            drawn("natural", 7, generalisation=None)]  # fmt: skip
    found = claim(same_circuit([*late, *group("both_hops_full", 8, generalisation=2500)]), "1.2")
    assert found.runs == (8, 8)
    assert found.effect is not None
    assert found.effect.note == "at least"
    assert "2 of 8 and 0 of 8" in found.reason


def test_observation_ends_where_an_event_could_still_be_seen() -> None:
    run = drawn("natural", 0, generalisation=None)
    time = run.time("generalisation.test_ood")
    assert (time.by, time.after) == (None, float(GRID[-3]))  # the event is the first of three checkpoints
    seen = drawn("natural", 0, generalisation=GRID[20]).time("generalisation.test_ood")
    assert (seen.after, seen.by) == (GRID[19], GRID[20])


def test_runs_without_probes_verdicts_traces_or_regimes_are_named() -> None:
    without = same_circuit([*group("natural", 8, probes=False), *group("both_hops_full", 8)])
    assert "no probes for it in natural-s0" in claim(without, "1.2").reason
    untested = fake_grokking([*group("second_hop_full", 8, share=None), *group("both_hops_full", 8)])
    assert "no share through the bridge for second_hop_full-s0" in claim(untested, "2.4").reason
    untraced = same_circuit(group("natural", 8))
    assert "16 of 16 traces hold no test_iid or test_ood" in claim(untraced, "1.3").reason
    assert claim(untraced, "1.4").result == "not run"
    assert fake_grokking(group("natural", 8)).result == "not run"


def test_worlds_that_do_not_pair_are_compared_as_groups() -> None:
    path = profile_of([0.0, 1.0])
    late = [drawn("natural", seed, path=path) for seed in range(8)]
    early = [drawn("both_hops_full", seed + 8, generalisation=2500, path=path) for seed in range(8)]
    found = same_circuit([*late, *early])
    assert claim(found, "1.2").test == "exact exchange of runs"
    assert claim(found, "1.2").result == "supported"
    assert "do not pair by world" in claim(found, "1.4").reason


def test_a_distance_that_does_not_exist_is_a_sentence_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grokscope.findings.comparisons._in_margins", lambda first, second: float("nan"))
    found = same_circuit(with_paths(seeds=3))
    assert any("distances do not exist" in one.reason for one in found.claims)
