"""Several transfers in one worker process: the files are those of a process for each."""

import gc
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from grokscope.models.protocol import Reasoner
from grokscope.runs import worker as worker_module
from grokscope.runs.directory import BASE_WEIGHTS, INTERRUPTED, LOG, PROGRESS
from grokscope.runs.execute import RunsFailed, run_study
from grokscope.runs.files import parse_study
from grokscope.runs.open import open_job
from grokscope.runs.processes import JobProcess
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.runs.worker import do_job
from grokscope.training import step as step_module
from grokscope.training.shared import SharedSteps
from grokscope.training.stops import saving, watch_signals
from tests.runs.test_execution import TINY, contents, run_here, wait_for, worker
from tests.runs.test_transfers import prepared
from tests.runs.tiny import do_here

COMPILING = "compiling the training step"


def study_of(bases: list[str], steps: int, compiling: str) -> StudySpec:
    tree = yaml.safe_load(TINY)
    tree["training"]["compile"] = compiling
    if compiling != "off":  # what is compiled is shared or not; Muon's products would only make it long
        tree["training"]["optimizer"] = {"kind": "adamw", "lr": 0.003}
    transfer = {
        "bases": bases,
        "facts": {"count": 12, "probes": 20, "retention": {"items": 20}},
        "tuning": {"steps": steps, "first_checkpoint": 4, "dense_every": 4, "checkpoints_per_doubling": 1},
        "examine": {"probes": 20, "window": 1},
    }
    changed = {"regimes": ["natural"], "causal": {"enabled": False}, "transfer": transfer}
    return parse_study({**tree, **changed}, Path("tiny.yaml"), None)


def test_a_worker_that_saves_because_of_a_signal_is_not_ended_by_the_next() -> None:
    """A queue signals all processes of a job, and the worker's parent passes its own on."""
    before = signal.signal(signal.SIGTERM, worker_module.leave)
    try:
        with watch_signals() as watch:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
        assert watch.name == "SIGTERM"
        assert not saving()
    finally:
        signal.signal(signal.SIGTERM, before)


def pid_of(directory: Path) -> int:
    return int(json.loads((directory / PROGRESS).read_text())["pid"])


def answer_of(process: JobProcess) -> int:
    while (code := process.answer()) is None:
        time.sleep(0.01)
    return code


@pytest.fixture(scope="module")
def study() -> StudySpec:
    return study_of(["natural@end", "natural@17", "untrained"], 60, "off")


@pytest.fixture(scope="module")
def trained(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "tiny"
    run_here(study, out)
    return out


@pytest.mark.skipif(step_module.compiler() is None, reason="there is no C++ compiler")
def test_one_process_for_all_writes_what_a_process_for_each_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With compiled steps: the second transfer runs what was compiled for the first, of other weights."""
    study = study_of(["natural@end", "untrained"], 14, "auto")
    with monkeypatch.context() as without:
        without.setattr(step_module, "compiler", lambda: None)
        run_here(study, tmp_path / "each")
    shutil.copytree(tmp_path / "each", tmp_path / "all")
    each = prepared(study, tmp_path / "each")
    for directory in each:
        process = worker(directory)
        said = process.communicate()[1].decode()
        assert process.returncode == 0, said
    run_study(study, tmp_path / "all", workers=1, threads=1, say=lambda _: None)
    together = [tmp_path / "all" / directory.relative_to(tmp_path / "each") for directory in each]
    assert len({pid_of(directory) for directory in each}) == 2
    assert len({pid_of(directory) for directory in together}) == 1
    assert sorted(COMPILING in (directory / LOG).read_text() for directory in together) == [False, True]
    assert all(json.loads((one / "manifest.json").read_text())["backend"] == "compiled" for one in together)
    assert contents(tmp_path / "all") == contents(tmp_path / "each")


def test_a_transfer_that_fails_takes_no_other_with_it(
    study: StudySpec, trained: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "out"))
    first, *others = prepared(study, out)
    (first / BASE_WEIGHTS).write_bytes(b"no")
    with pytest.raises(RunsFailed) as failed:
        run_study(study, out, workers=1, threads=1, say=lambda _: None)
    assert list(failed.value.sentences) == ["natural-s0-end"]
    assert BASE_WEIGHTS in failed.value.sentences["natural-s0-end"]
    assert "Traceback" not in (first / LOG).read_text()
    done = Study.open(out).transfers
    assert [name for name, one in done.items() if one.finished] == ["natural-s0-17", "untrained-s0"]
    # What failed may have left its process in any state.
    assert pid_of(first) != pid_of(others[0]) == pid_of(others[1])


def test_a_stopped_or_killed_process_loses_nothing(study: StudySpec, trained: Path, tmp_path: Path) -> None:
    """In its second job: the first is whole, the second goes on from where it was."""
    whole, out = (Path(shutil.copytree(trained, tmp_path / name)) for name in ("whole", "stopped"))
    for directory in prepared(study, whole):
        do_here(directory)
    first, second, third = prepared(study, out)
    for directory, number, code in (
        (second, signal.SIGTERM, INTERRUPTED),
        (third, signal.SIGKILL, -signal.SIGKILL),
    ):
        process = JobProcess(first / LOG, threads=1)
        process.give([first])
        assert answer_of(process) == 0
        process.give([directory])
        wait_for(directory / "checkpoints" / "step_00000008.safetensors", process._process)
        process.send(number)
        assert answer_of(process) == code
        process.leave()
        assert not process.alive
        assert not (directory / "done.json").exists()
    said: list[str] = []
    run_study(study, out, workers=2, threads=1, say=said.append)
    assert sum("resumes at step" in line for line in said) == 2
    assert contents(out) == contents(whole)


def test_nothing_of_a_transfer_is_held_when_the_next_begins(
    study: StudySpec, trained: Path, tmp_path: Path
) -> None:
    """Else the memory of a process would grow with every model that went through it."""
    out = Path(shutil.copytree(trained, tmp_path / "out"))
    shared = SharedSteps()
    gc.collect()
    before = sum(isinstance(one, Reasoner) for one in gc.get_objects())
    for directory in prepared(study, out):
        do_job(open_job(directory), 1, shared)
        gc.collect()
        assert sum(isinstance(one, Reasoner) for one in gc.get_objects()) == before
