"""Sentences say what the tables hold, and no more."""

from math import inf

import polars as pl
import pytest

from grokscope.findings.paper import pretraining_curve
from grokscope.report.context import own_saturation, paper_note, run_table
from grokscope.report.summary import event_over_seeds, event_text, over_seeds, sentences, value_at
from grokscope.report.tables import StudyView
from grokscope.statistics.estimate import Estimate, rate_text
from tests.report.factory import study


def changed(view: StudyView, probes: str, value: float) -> StudyView:
    """The view with every accuracy of a set replaced."""
    here = (pl.col("probes") == probes) & (pl.col("measure") == "accuracy")
    rates = {"value": value, "low": value - 0.02, "high": value + 0.02}
    columns = [pl.when(here).then(rate).otherwise(name).alias(name) for name, rate in rates.items()]
    return StudyView(**{**vars(view), "curves": view.curves.with_columns(columns)})


def test_censored_events_are_bounds_not_numbers() -> None:
    assert event_text(None, 8000) == "> 8,000"
    assert event_text(0, 8000) == "0"


@pytest.mark.parametrize(("rate", "text"), [(0.996, "0.996"), (1.0, "1.00"), (0.984, "0.98"), (0.0, "0.00")])
def test_a_rate_near_one_does_not_read_as_one(rate: float, text: str) -> None:
    assert rate_text(rate) == text


def test_one_seed_has_its_interval_and_several_their_range() -> None:
    assert over_seeds([Estimate(0.5, 0.4, 0.6)]) == "0.50 [0.40, 0.60]"
    assert (
        over_seeds([Estimate(0.5, 0.4, 0.6), Estimate(0.7, -inf, inf), Estimate(0.2, -inf, inf)])
        == "0.50 (0.20–0.70)"
    )
    assert over_seeds([None, None]) == "not measured"


def test_runs_without_the_event_are_counted_not_dropped() -> None:
    view = study(("natural",), (0, 1, 2))
    late = (pl.col("event") == "saturation") & (pl.col("run") == "natural-s2")
    censored = view.events.with_columns(step=pl.when(late).then(None).otherwise("step"))
    text = event_over_seeds(StudyView(**{**vars(view), "events": censored}), "natural", "saturation")
    assert text.endswith("; 2 of 3 runs")


def test_the_value_at_saturation_is_taken_at_that_step() -> None:
    view = study(("natural",), (0,))
    here = (pl.col("probes") == "test_ood") & (pl.col("measure") == "accuracy") & (pl.col("step") == 1000)
    expected = view.curves.filter(here)["value"].item()
    found = value_at(view.curves, "natural-s0", "accuracy", step=1000)
    assert found is not None
    assert found.value == expected


@pytest.mark.parametrize(("first", "second", "said"), [
    (0.9, 0.4, "the second hop is the bottleneck"),
    (0.4, 0.9, "the first hop is the bottleneck"),
    (0.9, 0.9, "which hop is the bottleneck is not clear"),
])  # fmt: skip
def test_the_bottleneck_is_the_hop_that_stays_low(first: float, second: float, said: str) -> None:
    view = changed(changed(study(("natural",), (0,)), "first_hop_ood", first), "second_hop_ood", second)
    assert said in " ".join(sentences(view, "natural"))


def test_right_answers_without_the_bridge_are_pointed_out_and_not_named_a_mechanism() -> None:
    fake, real = (" ".join(sentences(study((r,), (0,)), r)) for r in ("second_hop_full", "both_hops_full"))
    assert "only a causal test can say what it is" in fake
    assert "fake grokking" not in real


def test_a_regime_without_curves_says_so() -> None:
    view = study(("natural",), (0,))
    assert sentences(StudyView(**{**vars(view), "curves": view.curves.clear()}), "natural") == [
        "No checkpoint of this regime was evaluated."
    ]


def test_our_time_is_scaled_by_the_trained_compositions_alone_as_the_papers_is() -> None:
    view = study(("natural",), (0,))
    alone = view.events.filter(pl.col("event") == "saturation.train_inferred")["step"].item()
    together = pl.when(pl.col("event") == "saturation").then(pl.lit(None)).otherwise("step")
    view = StudyView(**{**vars(view), "events": view.events.with_columns(step=together)})
    assert own_saturation(view, "natural") == {"natural-s0": alone}


def test_the_doubt_about_a_published_curve_stands_beside_it() -> None:
    view = study(("first_hop_full",), (0,))
    assert "Both Hop Half Aug." in paper_note(view, "first_hop_full", pretraining_curve("first_hop_full"))


def test_the_table_has_one_cell_per_run() -> None:
    view = study(("natural",), (0, 1), unsaturated=("natural",))
    rows = [row for _, group in run_table(view, "natural") for row in group]
    assert all(len(cells) == 2 for _, cells in rows)
    assert dict(rows)["accuracy at saturation"] == ["no saturation", "no saturation"]
    assert dict(rows)["all three: saturation, at 0.99"] == ["> 8,000", "> 8,000"]
