"""A study that version 0.1.0 finished, a run and a transfer, is read as it was written, and goes on.

`study.tar.xz` stands for what lies on people's disks, so it is never made anew. It was run with one thread
and no compiler; files that only a running study has were left out.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import grokscope
from grokscope.files import write_json
from grokscope.runs.plan import differences, plan, prepare
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.runs.worker import do_job
from grokscope.training.evaluate import correct
from grokscope.training.manifest import MANIFEST, manifest_here, read_manifest
from grokscope.world.format import encode

RUN, TRANSFER = "both_hops_full-s0", "both_hops_full-s0-end"


def unpacked(folder: Path) -> Study:
    with tarfile.open(Path(__file__).parent / "study.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    study = grokscope.open(folder / "tiny")
    assert isinstance(study, Study)
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study, to be read."""
    return unpacked(tmp_path_factory.mktemp("read"))


@pytest.fixture
def copy(tmp_path: Path) -> Study:
    """The study, to be gone on with, as if this machine had made it."""
    study = unpacked(tmp_path)
    for one in (study.runs[RUN], study.transfers[TRANSFER]):
        made = read_manifest(one.directory)
        here = manifest_here(made.threads, made.backend, torch.device("cpu"), getattr(torch, made.dtype))
        write_json(one.directory / MANIFEST, here.replace(members=made.members).tree())
    return study


def written(directory: Path, name: str) -> Any:
    return json.loads((directory / name).read_text())


def only_added(old: Any, new: Any) -> bool:
    """Whether all that stood there still does; fields may have come."""
    return all(before is None for before, _ in differences(old, new).values())


def assert_only_unknown_added(old: Any, new: Any) -> None:
    """What was written is read as it stands; what an older verdict does not say is None, or nothing."""
    if isinstance(old, list):
        assert len(old) == len(new)
        for before, now in zip(old, new, strict=True):
            assert_only_unknown_added(before, now)
    elif isinstance(old, dict) and isinstance(new, dict):
        for name, now in new.items():
            if name in old:
                assert_only_unknown_added(old[name], now)
            else:
                assert now in (None, [], ())
    else:
        assert old == new


def test_everything_of_a_run_is_read_as_it_was_written(study: Study) -> None:
    run = study.runs[RUN]
    assert (run.name, run.finished, run.steps) == (RUN, True, [0, 240, 480])
    assert only_added(written(run.directory, "spec.json"), run.spec.tree())
    assert run.diagnosis is not None
    assert run.diagnosis.tree() == written(run.directory, "diagnosis.json")
    assert run.verdict is not None
    assert_only_unknown_added(written(run.directory, "verdict.json"), run.verdict.tree())
    assert run.causal.equals(pl.read_csv(run.directory / "causal.csv", schema=run.causal.schema))
    assert run.corpus.summary() == written(run.directory, "corpus.json")


def test_a_model_answers_as_it_did_when_it_was_traced(study: Study) -> None:
    """Up to one probe: other machines round otherwise."""
    run = study.runs[RUN]
    for name, probes in run.corpus.probes.items():
        exact = run.traces["exact"].sel(probe=run.traces["probe_set"] == name).mean("probe")
        assert exact.values.tolist() == pytest.approx(run.metrics[f"accuracy.{name}"].to_list())
        encoded = encode(probes.queries, run.world.vocabulary, run.spec.format)
        now = correct(run.model(step=240), encoded).sum()
        assert abs(now - len(probes) * float(exact.sel(step=240))) < 1.5


def test_everything_of_a_transfer_is_read_as_it_was_written(study: Study) -> None:
    made = study.transfers[TRANSFER]
    assert (made.name, made.finished, made.steps) == (TRANSFER, True, [0, 40])
    assert only_added(written(made.directory, "spec.json"), made.spec.tree())
    assert made.base.tree() == written(made.directory, "base.json")
    assert made.result is not None
    assert made.result.tree() == written(made.directory, "transfer.json")
    assert made.new.summary() == written(made.directory, "corpus.json")
    assert made.cells.height == len((made.directory / "transfer_cells.csv").read_text().splitlines()) - 1
    assert made.traces["step"].values.tolist() == made.metrics["step"].to_list() == made.steps
    for name, tensor in made.model(step=0).named_parameters():
        assert tensor.equal(study.runs[RUN].model(step=480).get_parameter(name)), name


def longer(study: Study, steps: int, tuning: int) -> Study:
    tree = study.spec.tree()
    tree["training"]["steps"], tree["transfer"]["tuning"]["steps"] = steps, tuning
    return Study(study.directory, StudySpec.parse(tree))


def test_nothing_is_left_to_do_but_a_verdict_by_todays_rule(copy: Study) -> None:
    assert [one.action for one in plan(copy.run_jobs)] == ["diagnose"]
    assert [one.action for one in plan(copy.transfer_jobs)] == ["skip"]
    assert not copy.transfers_missing


@pytest.mark.parametrize("action", ["extend", "resume"])
def test_a_run_goes_on(copy: Study, action: str) -> None:
    more, run = longer(copy, 486, 40), copy.runs[RUN]
    if action == "resume":
        (run.directory / "done.json").unlink()
    (planned,) = plan(more.run_jobs)
    assert (planned.action, planned.step, planned.directory) == (action, 480, run.directory)
    prepare(more, [planned])
    do_job(planned.job)
    run = Study.open(copy.directory).runs[RUN]
    assert run.finished
    assert run.metrics["step"].to_list() == run.steps == [0, 240, 480, 486]
    assert run.traces["step"].values.tolist() == run.steps
    assert run.diagnosis is not None
    assert run.verdict is not None
    assert run.verdict.step == 486


def test_a_transfer_goes_on(copy: Study) -> None:
    more, made = longer(copy, 480, 44), copy.transfers[TRANSFER]
    (planned,) = plan(more.transfer_jobs)
    assert (planned.action, planned.step, planned.directory) == ("extend", 40, made.directory)
    prepare(more, [planned])
    do_job(planned.job)
    again = type(made).open(made.directory)
    assert again.finished
    assert again.steps == again.metrics["step"].to_list() == [0, 40, 44]
    assert again.result is not None
