"""A real, tiny study, measured and reported: the tables agree with the run and with its diagnosis."""

import json

import numpy as np
import polars as pl
import pytest

from grokscope.files import remove
from grokscope.findings.values import Findings
from grokscope.mechanics.judge.diagnosis import Diagnosis
from grokscope.mechanics.read.rates import found_anywhere, found_in_cell
from grokscope.report import write_report
from grokscope.report.gather import command_of, gather, moments
from grokscope.report.tables import StudyView, select
from grokscope.runs.files import load_study
from grokscope.runs.study import Study
from tests.runs.tiny import tiny_study, trained

SPEC = tiny_study(
    corpus={"probe_cap": 60}, training={"steps": 12}, regimes=["natural", "both_hops_half"], seeds=[3]
)
RUN = "both_hops_half-s3"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, StudyView]:
    """Two runs wanted, one of them made."""
    out = tmp_path_factory.mktemp("tiny")
    trained(SPEC, out, RUN)
    study = Study.open(out)
    return study, gather(study)


def test_every_checkpoint_is_in_the_curves_with_its_recorded_accuracy(tiny: tuple[Study, StudyView]) -> None:
    study, view = tiny
    metrics = study.runs[RUN].metrics
    for probes in study.runs[RUN].corpus.probes:
        rows = select(view.curves, "accuracy", probes=probes)
        assert rows["step"].to_list() == metrics["step"].to_list()
        assert rows["value"].to_numpy() == pytest.approx(metrics[f"accuracy.{probes}"].to_numpy())


def test_decoding_rates_are_those_of_the_mechanics(tiny: tuple[Study, StudyView]) -> None:
    study, view = tiny
    traces = study.runs[RUN].traces
    found, cell = found_anywhere(traces, "bridge"), found_in_cell(traces, "bridge", before_last=True)
    expected = {"anywhere": found["rate"], "chance": found["chance"], "cell_before_last": cell["rate"]}
    for measure, rate in expected.items():
        rows = select(view.curves, measure, "bridge", "test_ood")
        assert rows["value"].to_list() == pytest.approx(rate.sel(set="test_ood").values.tolist(), nan_ok=True)
        assert (rows["low"] <= rows["value"]).all()
        assert (rows["value"] <= rows["high"]).all()


def test_events_and_numbers_are_the_diagnosed_ones(tiny: tuple[Study, StudyView]) -> None:
    study, view = tiny
    diagnosis = Diagnosis.parse(study.runs[RUN].diagnosis)
    assert dict(view.events.select("event", "step").iter_rows()) == {
        name: event.step for name, event in diagnosis.events.items()
    }
    (run,) = view.runs
    assert (run.behaviour, run.reason) == (diagnosis.behaviour, diagnosis.reason)
    last = select(view.curves, "accuracy", probes="test_ood").row(-1, named=True)
    exact = diagnosis.sets["test_ood"].exact
    assert (last["value"], last["low"], last["high"]) == pytest.approx((exact.value, exact.low, exact.high))
    assert set(run.by_injection) == set(diagnosis.sets["test_ood"].by_injection)


def test_maps_are_rates_of_every_cell(tiny: tuple[Study, StudyView]) -> None:
    study, view = tiny
    traces = study.runs[RUN].traces
    end = view.emergence.filter((pl.col("moment") == "end") & (pl.col("variable") == "bridge"))
    assert end["stage"].unique().sort().to_list() == sorted(traces["stage"].values.tolist())
    assert end["rate"].is_between(0, 1).all()
    anywhere = select(view.curves, "anywhere", "bridge", "test_ood")["value"].to_list()[-1]
    assert end["rate"].max() <= anywhere + 1e-9  # type: ignore[operator]


def test_the_report_of_a_half_finished_study_says_what_it_lacks(tiny: tuple[Study, StudyView]) -> None:
    study, _ = tiny
    text = write_report(study, study.directory).read_text()
    assert "Not started yet: natural-s3." in text
    assert "the study has no finished transfer." in text
    judged = Findings.parse(json.loads((study.directory / "findings.json").read_text()))
    assert {one.result for one in judged.findings} == {"not run"}  # neither contrast has both its regimes
    assert "grokscope run study.yaml" in text
    assert load_study(str(study.directory / "study.yaml")).replace(name="tiny") == study.spec


def test_a_run_without_traces_or_end_is_reported_as_far_as_it_went(tiny: tuple[Study, StudyView]) -> None:
    study, _ = tiny
    directory = study.runs[RUN].directory
    kept = {path: path.read_bytes() for path in (directory / "done.json", directory / "manifest.json")}
    for path in kept:
        path.unlink()
    (unfinished,) = gather(study).runs
    assert any("unfinished" in note for note in unfinished.notes)
    assert any("manifest" in note for note in unfinished.notes)
    assert unfinished.behaviour != "not diagnosed"
    remove(directory / "traces")
    view = gather(study)
    assert view.runs[0].behaviour == "not diagnosed"
    assert any("trace" in note for note in view.runs[0].notes)
    assert len(select(view.curves, "accuracy", probes="test_ood")) == len(study.runs[RUN].metrics)
    assert not len(view.emergence)
    (directory / "metrics.jsonl").unlink()
    (directory / "metrics.parquet").unlink(missing_ok=True)
    bare = gather(study)
    assert not len(bare.curves)
    assert any("metrics" in note for note in bare.runs[0].notes)


def test_the_command_of_a_shipped_study_is_the_short_one() -> None:
    demo = load_study("demo")
    assert command_of(demo) == "grokscope run demo"
    assert command_of(load_study("pocket", "trm")) == "grokscope run pocket --family trm"
    assert command_of(demo.replace(seeds=[7])) == "grokscope run study.yaml"


@pytest.mark.parametrize(("steps", "saturation", "expected"), [
    ([0, 10, 100, 1000, 4000], 1000, {"early": 100, "saturation": 1000, "end": 4000}),
    ([0, 10, 100, 1000, 4000], None, {"early": 1000, "end": 4000}),
    ([0, 10, 100, 1200], 1000, {"early": 100, "saturation": 1200, "end": 1200}),
    ([0], None, {"end": 0}),
    ([], None, {}),
])  # fmt: skip
def test_the_three_moments(steps: list[int], saturation: int | None, expected: dict[str, int]) -> None:
    assert moments(steps, saturation) == expected
    assert all(isinstance(np.asarray(step).item(), int) for step in moments(steps, saturation).values())
