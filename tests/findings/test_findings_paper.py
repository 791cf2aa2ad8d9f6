"""The published curves are read as published, with their doubts."""

import pytest

from grokscope.findings.paper import finetuning_curves, pretraining_curve


@pytest.mark.parametrize(
    ("regime", "train", "bridge", "target"),
    [
        ("natural", 106_050, 311_080, 395_920),
        ("both_hops_full", 59_984, 59_984, 37_490),
        ("first_hop_full", 94_770, 72_900, 743_580),
        ("second_hop_full", 80_025, None, 291_000),
    ],
)
def test_the_known_milestones(regime: str, train: int, bridge: int | None, target: int) -> None:
    curve = pretraining_curve(regime)
    assert curve is not None
    assert curve.saturation == train
    assert curve.first_step("bridge_found_rate", 0.9) == bridge
    assert curve.first_step("target_found_rate", 0.5) == target


def test_a_regime_the_paper_did_not_publish_has_no_curve() -> None:
    assert pretraining_curve("both_hops_half") is None


def test_the_labelling_doubt_goes_with_the_curve_it_is_about() -> None:
    first, natural = pretraining_curve("first_hop_full"), pretraining_curve("natural")
    assert first is not None
    assert first.doubt is not None
    assert "Both Hop Half" in first.doubt
    assert natural is not None
    assert natural.doubt is None


def test_finetuning_curves_are_rates() -> None:
    rates = finetuning_curves().select("exact_match", "bridge_found_rate", "new_fact_accuracy")
    assert min(rates.min().row(0)) >= 0
    assert max(rates.max().row(0)) <= 1
