"""A study that version 0.1.0 finished, a run and a transfer, is read as it was written, and goes on.

`study.tar.xz` stands for what lies on people's disks, so it is never made anew. It was run with one thread
and no compiler; files that only a running study has were left out.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from grokscope.studies.plan import plan, prepare
from grokscope.studies.run import Study
from grokscope.studies.spec import StudySpec
from grokscope.studies.transfer_plan import plan_transfers, prepare_transfer, run_and_moment
from grokscope.studies.transfer_worker import do_transfer
from grokscope.studies.worker import do_run

import grokscope
from grokscope.training.evaluate import correct
from grokscope.training.manifest import manifest_here, read_manifest, write_manifest
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
        write_manifest(one.directory, replace(here, members=made.members))
    return study


def written(directory: Path, name: str) -> Any:
    return json.loads((directory / name).read_text())


def test_everything_of_a_run_is_read_as_it_was_written(study: Study) -> None:
    run = study.runs[RUN]
    assert (run.name, run.finished, run.steps) == (RUN, True, [0, 240, 480])
    assert run.spec.tree() == written(run.directory, "spec.json")
    assert run.diagnosis is not None
    assert run.diagnosis.tree() == written(run.directory, "diagnosis.json")
    assert run.verdict is not None
    assert run.verdict.tree().items() <= written(run.directory, "verdict.json").items()
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
    assert made.spec.tree() == written(made.directory, "spec.json")
    assert made.base.tree() == written(made.directory, "base.json")
    assert made.result is not None
    assert made.result.tree() == written(made.directory, "transfer.json")
    assert made.new.summary() == written(made.directory, "corpus.json")
    assert made.cells.height == len((made.directory / "transfer_cells.csv").read_text().splitlines()) - 1
    assert made.traces["step"].values.tolist() == made.metrics["step"].to_list() == made.steps
    for name, tensor in made.model(step=0).named_parameters():
        assert tensor.equal(study.runs[RUN].model(step=480).get_parameter(name)), name


def longer(study: Study, steps: int, tuning: int) -> StudySpec:
    tree = study.spec.tree()
    tree["training"]["steps"], tree["transfer"]["tuning"]["steps"] = steps, tuning
    return StudySpec.parse(tree)


def test_nothing_is_left_to_do(copy: Study) -> None:
    assert [one.action for one in plan(copy.spec, copy.directory)] == ["skip"]
    transfers, missing = plan_transfers(copy.spec, copy.directory, copy.runs)
    assert [one.action for one in transfers.values()] == ["skip"]
    assert not missing


@pytest.mark.parametrize("action", ["extend", "resume"])
def test_a_run_goes_on(copy: Study, action: str) -> None:
    more, run = longer(copy, 486, 40), copy.runs[RUN]
    if action == "resume":
        (run.directory / "done.json").unlink()
    (planned,) = plan(more, copy.directory)
    assert (planned.action, planned.step, planned.directory) == (action, 480, run.directory)
    prepare(more, copy.directory, [planned])
    do_run(planned.directory)
    run = Study.open(copy.directory).runs[RUN]
    assert run.finished
    assert run.metrics["step"].to_list() == run.steps == [0, 240, 480, 486]
    assert run.traces["step"].values.tolist() == run.steps
    assert run.diagnosis is not None
    assert run.verdict is not None
    assert run.verdict.step == 486


def test_a_transfer_goes_on(copy: Study) -> None:
    more, made = longer(copy, 480, 44), copy.transfers[TRANSFER]
    (planned,) = plan_transfers(more, copy.directory, copy.runs)[0].values()
    assert (planned.action, planned.step, planned.directory) == ("extend", 40, made.directory)
    prepare_transfer(planned, *run_and_moment(TRANSFER, more, copy.runs))
    do_transfer(planned.directory)
    again = type(made).open(made.directory)
    assert again.finished
    assert again.steps == again.metrics["step"].to_list() == [0, 40, 44]
    assert again.result is not None
