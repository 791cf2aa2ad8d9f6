"""Runs too short for anything to happen, and studies with holes: all is drawn or said, nothing fails."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grokscope import cli
from grokscope.report import figures, style
from grokscope.report.context import own_saturation, page_context, regime_context
from grokscope.report.finding_figures import courses, plane, waiting
from grokscope.report.tables import MOMENTS
from grokscope.runs.study import Study
from grokscope.statistics.times import Time
from tests.report.factory import STEPS, study
from tests.runs.tiny import tiny_study, trained

WHOLE = study(("natural", "both_hops_half"), (0, 1))
PROBES = WHOLE.curves["probes"].unique().sort().to_list()
MEASURES = WHOLE.curves["measure"].unique().sort().to_list()
NEVER = Time(0, None, 0)
"""Of a run with fewer checkpoints than the window: it was not looked at beyond step 0."""


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.sets(st.sampled_from(STEPS), min_size=1, max_size=3),
    level=st.sampled_from([None, 0.0, 1.0]),
    event=st.sampled_from([None, 0, 100, 8000]),
    lacking=st.sets(st.sampled_from([*PROBES, *MEASURES])),
    runs=st.sets(st.sampled_from(["natural-s0", "both_hops_half-s1"]), min_size=1),
)
def test_any_study_is_drawn_and_told(
    steps: set[int], level: float | None, event: int | None, lacking: set[str], runs: set[str]
) -> None:
    kept = ~pl.col("probes").is_in(lacking) & pl.col("run").is_in(runs)
    curves = WHOLE.curves.filter(kept & pl.col("step").is_in(steps) & ~pl.col("measure").is_in(lacking))
    if level is not None:
        curves = curves.with_columns(pl.lit(level).alias(name) for name in ("value", "low", "high"))
    happened = {"step": pl.lit(event, pl.Int64), "last_step": pl.lit(max(steps))}
    view = replace(
        WHOLE,
        curves=curves,
        events=WHOLE.events.filter(pl.col("run").is_in(runs)).with_columns(**happened),
        emergence=WHOLE.emergence.filter(kept & (pl.col("moment") == MOMENTS[len(steps) - 1])),
    )
    with style.styled():
        drawn = [figures.overview(view), courses(curves), plane(curves, view.regimes)]
        for regime in view.regimes:
            here = curves.filter(pl.col("regime") == regime)
            drawn += [
                figures.course_panel(here, "t"),
                figures.split_panel(here, "t"),
                figures.learning_panel(here, "t", 0.99),
                figures.paper_panel(here, own_saturation(view, regime), None, "t"),
                figures.emergence_maps(view.emergence, "bridge", "t"),
            ]
        for figure in drawn:
            figure.draw_without_rendering()
    assert page_context(view, None, [regime_context(view, regime, []) for regime in view.regimes])


@pytest.mark.parametrize(
    ("times", "drawn"),
    [
        ([NEVER, NEVER], False),
        ([NEVER, Time(100, 200, 400)], True),
        ([NEVER, Time(400, None, 400)], True),
        ([Time(0, 1, 1)], True),
    ],
)
def test_waiting_has_room_for_runs_that_were_not_looked_at(times: list[Time], drawn: bool) -> None:
    with style.styled():
        figure = waiting({"natural": times, "both_hops_full": []}, "t")
        figure.draw_without_rendering()
    ax = figure.axes[0]
    if not drawn:
        assert "too short to have an event" in ax.texts[0].get_text()
        return
    left, right = ax.get_xlim()
    marks = [x for line in ax.lines if line.get_marker() == "|" for x in line.get_xdata()]
    assert len(marks) == sum(time.by is None for time in times)
    assert all(left <= x <= right for x in marks)


def test_every_command_meets_a_run_of_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tiny_study(world={"ood_fraction": 0.0}, training={"steps": 1}, regimes=["natural"], seeds=[0])
    (run,) = trained(spec, tmp_path / "out")
    out = str(tmp_path / "out")

    def done(*command: str) -> Any:
        assert cli.main(list(command)) == 0
        return capsys.readouterr().out

    done("report", out, "--out", str(tmp_path / "elsewhere"))
    page = (tmp_path / "elsewhere" / "report.html").read_text()
    assert not (tmp_path / "out" / "report.html").exists()
    assert "too short to have an event: it has 2 of the 3 checkpoints" in page
    assert json.loads(done("findings", out, "--json"))["findings"]
    done("findings", out, "--page", str(tmp_path / "page.md"))
    done("worthwhile", out, "--probe-set", "test_iid", "--out", str(tmp_path / "worth"))
    worth = pl.read_csv(tmp_path / "worth" / "worthwhile_runs.csv")
    assert worth["added_per_ood_fact"].to_list() == [0.0, 0.0]  # there is no OOD fact to add to
    shutil.copytree(run, tmp_path / "again")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "spec.json", tmp_path / "begun")
    for command in ("trace", "patch"):  # of several, as a pattern of the shell names them
        runs = (str(run), str(tmp_path / "begun"), str(tmp_path / "again"))
        said = done(command, *runs, "--probe-set", "test_iid")
        assert said.count("natural-s0, step 1, test_iid") == 2
        assert f"{tmp_path / 'begun'}: no checkpoint yet, left out" in said
    assert cli.main(["trace", str(run), str(run), "--out", "one.png"]) == 2
    assert "is the picture of one run, 2 were given" in capsys.readouterr().err
    done("diagnose", str(run), "--steps", "all")
    done("compare", str(run), str(run), "--probe-set", "test_iid", "--second-step", "0")
    assert Study.open(tmp_path / "out").runs["natural-s0"].diagnosis is not None
