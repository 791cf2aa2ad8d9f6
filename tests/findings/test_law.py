"""The law of a sweep: what it recovers, what it predicts, and what it says where nothing can be said."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from grokscope import cli
from grokscope.errors import InputError
from grokscope.findings import cells as cells_module
from grokscope.findings.cells import Predictions, Ran, left_out, resampled, score
from grokscope.findings.law import DESCRIBED, FATES, Law, bounds_of, fate_of, fit, fit_both, log_chance
from grokscope.report.html import write_report
from grokscope.report.map_figures import Plane, fate_map
from grokscope.runs.files import load_study
from grokscope.runs.study import open_study
from grokscope.statistics.times import Time
from tests.runs.tiny import tiny_study, trained

GRID = np.round(100 * 1.15 ** np.arange(40))
BUDGET = float(GRID[-1])


def seen(time: float, budget: float = BUDGET) -> Time:
    """What a run shows that is looked at on the grid."""
    if time > budget:
        return Time(budget, None, budget)
    by = float(GRID[np.searchsorted(GRID, time)])
    return Time(float(GRID[by > GRID].max(initial=0)), by, budget)


def planted(runs: int, seed: int, noise: float = 0.2) -> tuple[list[dict[str, float]], list[Time]]:
    """Runs in which doubling "phi" halves the time, and nothing else matters."""
    rng = np.random.default_rng(seed)
    described = [{"phi": rng.uniform(1, 4), "width": rng.uniform(5, 8), "skew": 0.0} for _ in range(runs)]
    times = [seen(float(20_000 * 2.0 ** -one["phi"] * np.exp(noise * rng.normal()))) for one in described]
    return described, times


def test_what_was_planted_is_found_though_a_third_of_the_runs_never_gets_there() -> None:
    described, times = planted(120, 0)
    times = [seen(time.by or BUDGET + 1, 6000.0) for time in times]
    assert 0.2 < np.mean([time.by is None for time in times]) < 0.6
    law = fit(described, times, ("phi", "width", "skew"))
    assert law.names == ("phi", "width"), "skew does not vary"
    assert law.per_doubling("phi") == pytest.approx(0.5, abs=0.04)
    assert law.per_doubling("width") == pytest.approx(1.0, abs=0.05)
    assert law.per_doubling("skew") == 1.0
    assert law.noise == pytest.approx(0.2, abs=0.05)


def test_censored_runs_taken_as_ended_would_mislead() -> None:
    described, times = planted(120, 0)
    cut = [seen(time.by or BUDGET + 1, 6000.0) for time in times]
    as_ended = [Time(time.until / 1.15, time.until, time.until) if time.by is None else time for time in cut]
    assert fit(described, as_ended, ("phi",)).per_doubling("phi") > 0.56


@given(st.floats(4, 9), st.floats(0.05, 3), st.floats(1.01, 3), st.floats(20, 20_000))
def test_the_chance_of_what_was_seen_is_the_integral_of_the_density(mean, noise, ratio, after) -> None:
    by = after * ratio
    if abs(math.log(by) - mean) > 6 * noise:
        return
    density = stats.norm(mean, noise).pdf
    expected, _ = integrate.quad(density, math.log(after), math.log(by))
    never = stats.norm(mean, noise).logsf(math.log(after))
    bounds = bounds_of([Time(after, by, by), Time(after, None, after), Time(0.0, by, by)])
    early = stats.norm(mean, noise).logcdf(math.log(by))
    chances_U, slope_U2 = log_chance(*bounds, np.array(mean), noise)
    assert chances_U == pytest.approx([math.log(expected), never, early], rel=1e-5)
    step = 1e-5
    for place, (up, down) in enumerate([
        ((mean + step, noise), (mean - step, noise)),
        ((mean, noise * math.exp(step)), (mean, noise * math.exp(-step))),
    ]):  # fmt: skip
        ends = [log_chance(*bounds, np.array(at), spread)[0] for at, spread in (up, down)]
        assert slope_U2[:, place] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=1e-4)


BUDGET_OF_CELLS = 6000.0


def cells(count: int = 40, seed: int = 1) -> list[Ran]:
    """Cells of three runs whose OOD answers come twice as late with every halving of phi, trained ones alike
    everywhere."""
    rng, out = np.random.default_rng(seed), []
    for number in range(count):
        described = dict.fromkeys(("degree", "entities", "OOD share", "k first", "k second", "skew"), 0.0)
        described |= {"phi": rng.uniform(1, 4), "width": rng.uniform(5, 8)}
        described["bits per parameter"] = rng.normal()
        for run in range(3):
            first, late = np.exp(0.1 * rng.normal(size=2))
            one, two = (
                seen(800 * first, BUDGET_OF_CELLS),
                seen(20_000 * 2 ** -described["phi"] * late, BUDGET_OF_CELLS),
            )
            fate = fate_of(one, two, 2.0)
            out.append(
                Ran(
                    f"cell{number}",
                    "natural",
                    f"point{number}",
                    run,
                    described,
                    one,
                    two,
                    6000.0,
                    2.0,
                    fate,
                    None,
                )
            )
    return out


def test_cells_left_out_are_predicted_by_the_law_that_has_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_module, "AVERAGED", 2)
    runs = cells()
    assert len({one.fate for one in runs}) == 3
    table = {row["law"]: row for row in left_out(runs).to_dicts()}
    assert table["all"]["right"] > 0.85
    assert table["phi alone"]["log_score"] > table["bits per parameter"]["log_score"] + 0.3
    assert table["phi alone"]["log_score"] > table["none"]["log_score"] + 0.3
    law = fit_both([one.described for one in runs], *([getattr(one, name) for one in runs]
                   for name in ("saturation", "generalisation")))  # fmt: skip
    chances = law.fates(runs[0].described, 6000.0, 2.0)
    assert chances.shape == (len(FATES),)
    assert chances.sum() == pytest.approx(1.0)


def test_the_cells_of_a_point_are_left_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """They share what varies: a law that has seen one of them seems to know the others, and does not."""
    monkeypatch.setattr(cells_module, "AVERAGED", 2)
    rng, runs = np.random.default_rng(3), []
    what_P8, late_P = rng.normal(size=(12, len(DESCRIBED))), 3000 * np.exp(rng.normal(size=12))
    for number, one in enumerate(cells(36)):
        point = number // 9  # three cells of three runs
        late = seen(float(late_P[point]), BUDGET_OF_CELLS)
        described = one.described | dict(zip(DESCRIBED, what_P8[point].tolist(), strict=True))
        runs.append(replace(one, point=f"point{point}", described=described, generalisation=late,
                            fate=fate_of(one.saturation, late, 2.0)))  # fmt: skip
    as_if = [replace(one, point=one.cell) for one in runs]
    score_of = {
        together: dict(left_out(some).select("law", "log_score").iter_rows())
        for together, some in ((True, runs), (False, as_if))
    }
    assert score_of[True]["all"] < score_of[True]["none"], "nothing that is known decides"
    assert score_of[False]["all"] > score_of[True]["all"] + 0.3


def test_the_averaged_law_is_unsure_where_points_are_too_few_to_tell() -> None:
    """Six points, eight predictors that decide nothing: the law that fits best is sure all the same."""
    rng, runs, new = np.random.default_rng(4), [], []
    what_P8, late_P = rng.normal(size=(12, len(DESCRIBED))), 3000 * np.exp(rng.normal(size=12))
    for number, one in enumerate(cells(36)):
        point = number // 9
        late = seen(float(late_P[point]), BUDGET_OF_CELLS)
        described = one.described | dict(zip(DESCRIBED, what_P8[point].tolist(), strict=True))
        (runs if point < 6 else new).append(
            replace(one, point=f"point{point}", described=described, generalisation=late,
                    fate=fate_of(one.saturation, late, 2.0))
        )  # fmt: skip
    laws = cells_module.fitted(runs)
    said = {
        one.cell: {
            name: cells_module.chances(some, one.described, one.budget, one.delay)
            for name, some in laws.items()
        }
        for one in new
    }
    table = dict(score(Predictions("", 0, said), new).select("law", "log_score").iter_rows())
    assert table["all, averaged"] > table["all"] + 0.3


def test_a_point_is_drawn_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [replace(one, point=f"point{number // 9}") for number, one in enumerate(cells(12))]
    drawn: list[Counter[str]] = []

    def law_of(some: list[Ran]) -> Law:
        drawn.append(Counter(one.point for one in some))
        return real(some)

    real = cells_module.law_of
    monkeypatch.setattr(cells_module, "law_of", law_of)
    resampled(runs, 5)
    assert {count % 9 for one in drawn for count in one.values()} == {0}
    assert any(len(one) < 4 for one in drawn[1:])


def test_intervals_of_coefficients_hold_what_was_planted() -> None:
    rows = {(row["time"], row["predictor"]): row for row in resampled(cells(20)).coefficients().to_dicts()}
    late = rows["generalisation", "phi"]
    assert late["low"] < 0.5 < late["high"] < 0.7
    none = rows["saturation", "width"]
    assert none["low"] < 1 < none["high"]


def test_the_border_of_a_map_is_where_it_was_planted_and_unsure_only_beside_it() -> None:
    runs = cells()
    plane = Plane(runs, resampled(runs))
    assert plane.names[0] == "phi"
    region = plane.region("natural")
    composes_X = np.isin(region.likeliest_YX, [2, 3]).mean(axis=0)
    border = math.log2(20_000 / BUDGET_OF_CELLS)
    assert (composes_X[region.x_X > border + 0.3] == 1).all()
    assert (composes_X[region.x_X < border - 0.3] == 0).all()
    late = math.log2(20_000 / 1600)
    near_X = np.minimum(abs(region.x_X - border), abs(region.x_X - late)) < 0.45
    assert region.sure_YX[:, ~near_X].all()
    assert not region.sure_YX[:, near_X].all()


def test_a_dot_is_full_where_the_verdict_names_a_circuit_half_where_it_is_open_and_empty_elsewhere() -> None:
    verdicts = {"circuit without delay": "full", "grokked circuit": "full", "partial": "none",
                "memorised": "none", "undecided": "left", None: "left"}  # fmt: skip
    runs = [replace(one, verdict=list(verdicts)[number % 6]) for number, one in enumerate(cells(12))]
    figure = fate_map(Plane(runs, resampled(runs)))
    dots = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [line.get_fillstyle() for line in dots] == [verdicts[one.verdict] for one in runs]


def test_a_prediction_is_scored_by_what_happened() -> None:
    run = cells(1)[0]
    sure = {fate: float(fate == run.fate) for fate in FATES}
    wrong = {fate: float(fate != run.fate) / 3 for fate in FATES}
    table = score(Predictions("map", 1, {"cell0": {"sure": sure, "wrong": wrong}}), [run])
    assert table["log_score"].to_list() == pytest.approx([0.0, math.log(1e-3)])
    assert table["right"].to_list() == [1.0, 0.0]
    with pytest.raises(InputError, match="no finished run is of a cell"):
        score(Predictions("map", 1, {"other": {"sure": sure}}), [run])


def test_where_nothing_happened_or_varies_there_is_no_law() -> None:
    alike = [replace(one, described=dict.fromkeys(one.described, 1.0)) for one in cells(2)]
    with pytest.raises(InputError, match="the same in all 6 runs"):
        resampled(alike)
    never = [replace(one, generalisation=Time(6000.0, None, 6000.0)) for one in cells(2)]
    with pytest.raises(InputError, match="none of 6 runs has the event"):
        resampled(never)
    described, _ = planted(4, 0)
    with pytest.raises(InputError, match="none of 4 runs has the event"):
        fit(described, [Time(100.0, None, 100.0)] * 4, ("phi",))


def test_the_shipped_map_can_be_built_and_its_next_points_are_those_of_the_larger_family() -> None:
    small, large = load_study("map"), load_study("map", "predicted")
    runs = small.expand()
    assert len(runs) == 252
    assert set(runs) < set(large.expand())
    assert {run.identity for run in runs.values()} < {run.identity for run in large.expand().values()}


def test_a_sweep_is_fitted_and_its_next_points_are_foretold_by_one_command(tmp_path, capsys) -> None:
    sweep = {"by": "sobol", "points": 2, "vary": {"corpus.phi": {"low": 2, "high": 4}}}
    study = tiny_study(
        regimes=["natural", "both_hops_full"], sweep=sweep, causal={"enabled": False},
        diagnosis={"saturation": 0.001, "generalisation": 0.001, "window": 1},
        training={"steps": 24, "first_checkpoint": 24, "dense_every": 24, "optimizer": {"lr": 0.03}},
    )  # fmt: skip
    trained(study, tmp_path / "study")
    out, csv = tmp_path / "next.json", tmp_path / "runs.csv"
    line = ["law", str(tmp_path / "study"), "--next", "1", "--out", str(out), "--csv", str(csv)]
    assert cli.main(line) == 0
    foretold = json.loads(out.read_text())["cells"]
    assert set(foretold) == {"natural-phi3.5", "both_hops_full-phi3.5"}
    assert len(csv.read_text().splitlines()) == 5
    ends = capsys.readouterr().out.partition("Factor")[0]
    assert ends.count("natural") + ends.count("both_hops_full") >= 2, "what became of the runs, by regime"
    assert cli.main(["law", str(tmp_path / "study"), "--score", str(out)]) == 2
    assert "no finished run is of a cell" in capsys.readouterr().err
    out.write_text("[]")
    assert cli.main(["law", str(tmp_path / "study"), "--score", str(out)]) == 2
    assert cli.main(["law", str(tmp_path / "study"), "--next", "1"]) == 2
    page = write_report(open_study(tmp_path / "study"), tmp_path / "report").read_text()
    assert "figures/map.pdf" in page
    assert (tmp_path / "report/figures/factors.png").exists()
    assert page.count("<h2>natural") == 0, "a section for each of the regimes of a sweep"
