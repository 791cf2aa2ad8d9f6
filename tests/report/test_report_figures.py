"""The parts of the figures that can be wrong without looking wrong."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.report import figures, style
from grokscope.report.tables import CURVES, select, table
from tests.report.factory import study

heights = st.lists(st.floats(0, 1), min_size=1, max_size=10)


@settings(max_examples=100, deadline=None)
@given(heights)
def test_labels_never_overlap_keep_their_order_and_stay_in_range(values: list[float]) -> None:
    gap = 0.07
    places = style.spread(values, gap)
    ordered = sorted(places)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(ordered))
    assert min(places) >= -1e-9
    assert max(places) <= 1 + 1e-9
    assert [values[i] for i in np.argsort(places)] == sorted(values)


def test_labels_that_have_room_stand_at_their_lines() -> None:
    assert style.spread([0.1, 0.9, 0.5], 0.07) == pytest.approx([0.1, 0.9, 0.5])


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 1e6), st.floats(1.0, 1e5))
def test_ticks_lie_in_range_and_are_few(first: float, ratio: float) -> None:
    ticks = style.log_ticks(first, first * ratio)
    assert all(first * 0.99 <= tick <= first * ratio * 1.01 for tick in ticks)
    assert 1 <= len(ticks) <= 8


def test_step_zero_has_a_place_on_the_log_axis() -> None:
    with style.styled():
        axes = figures.course_panel(study(("natural",), (0,)).curves, "natural").axes[0]
    assert axes.get_xlim()[0] == 0
    low, first, last = (axes.transData.transform((step, 0))[0] for step in (0, 100, 8000))
    assert 0.05 < (first - low) / (last - low) < 0.35


def rows_of(values: dict[str, dict[int, float]]) -> pl.DataFrame:
    shared = {"regime": "r", "probes": "test_ood", "measure": "accuracy", "variable": ""}
    empty = {"low": None, "high": None, "n": 1, "facts": 1}
    return table(
        (
            {"run": run, "seed": number, "step": step, "value": value, **shared, **empty}
            for number, (run, course) in enumerate(values.items())
            for step, value in course.items()
        ),
        CURVES,
    )


def test_the_median_is_taken_only_where_all_seeds_have_a_value() -> None:
    rows = rows_of({"a": {0: 0.0, 100: 0.2, 200: 1.0}, "b": {0: 0.2, 100: 0.4}, "c": {0: 0.9, 100: 0.3}})
    steps, values = figures.median_over_seeds(rows)
    assert steps.tolist() == [0, 100]
    assert values.tolist() == pytest.approx([0.2, 0.3])


def test_a_quantity_keeps_its_colour_in_every_figure() -> None:
    view = study(("natural", "both_hops_full"), (0,))
    natural = view.curves.filter(pl.col("regime") == "natural")
    with style.styled():
        one, all_of_them = figures.course_panel(natural, "natural").axes[0], figures.overview(view).axes[0]
    drawn = select(natural, "accuracy", probes="test_ood")["value"].to_list()
    for axes in (one, all_of_them):
        (line,) = [line for line in axes.lines if list(line.get_ydata()) == drawn]
        assert line.get_color() == style.OOD.color


def test_ours_is_scaled_by_its_own_saturation() -> None:
    view = study(("natural",), (0,))
    with style.styled():
        axes = figures.paper_panel(view.curves, {"natural-s0": 2000}, None, "scaled").axes[0]
    train = next(line for line in axes.lines if line.get_color() == style.TRAIN.color)
    assert max(train.get_xdata()) == pytest.approx(8000 / 2000)


def test_what_does_not_exist_is_said_in_the_figure() -> None:
    nothing = table((), CURVES)
    with style.styled():
        for figure in (
            figures.course_panel(nothing, "t"),
            figures.split_panel(nothing, "t"),
            figures.learning_panel(nothing, "t", 0.99),
            figures.paper_panel(nothing, {}, None, "t"),
            figures.emergence_maps(study(seeds=(0,)).emergence.clear(), "bridge", "t"),
        ):
            assert any(len(text.get_text()) > 10 for text in figure.axes[0].texts)


def test_positions_that_are_not_counted_leave_no_column() -> None:
    emergence = study(("natural",), (0,)).emergence.filter(pl.col("position_index") != 1)
    with style.styled():
        axes = figures.emergence_maps(emergence, "bridge", "t").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["head", "r2"]


def test_a_row_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="row has columns"):
        table([{"step": 1}], CURVES)
