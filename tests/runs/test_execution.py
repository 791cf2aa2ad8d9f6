"""Whole studies, small: what is on disk at the end does not depend on what happened on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import grokscope
from grokscope import cli
from grokscope.cli import app
from grokscope.errors import InputError
from grokscope.report.printed import summary_rows
from grokscope.runs.directory import DONE, SPEC, locked
from grokscope.runs.execute import run_study
from grokscope.runs.files import load_study
from grokscope.runs.open import Run
from grokscope.runs.plan import start_order
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.seeds import Seeds
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.graph import World
from grokscope.world.spec import CorpusSpec, Regime
from tests.runs.tiny import begun, do_here, plan_runs

TINY = """
regimes: [natural, both_hops_full]
world: {entities: 12, relations: 8, degree: 5, ood_fraction: 0.15}
corpus: {phi: 2, iid_fraction: 0.1}
format: {attention: causal, output: answer}
model: {kind: looped, width: 16, heads: 2, layers: 1, loops: 2}
training:
  {steps: 30, batch: 16, warmup: 2, loss: softmax, dtype: float32, compile: "off", first_checkpoint: 10,
   dense_every: 5, resume_every: 7, optimizer: {kind: muon, lr: 0.003, weight_decay: 0.1}}
"""
CLOCKED = {"progress.json", "worker.log", "lock", "state.json"}
"""Files that hold clock times or process ids; from metrics `seconds` alone is taken out."""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def study(study_file: Path) -> StudySpec:
    return load_study(str(study_file))


@pytest.fixture(scope="module")
def whole(study: StudySpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "tiny"
    run_here(study, out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The finished study in a place of its own."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def contents(out: Path) -> dict[str, object]:
    """Everything that must not depend on interruptions, by relative path."""
    found: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name in CLOCKED or path.suffix == ".parquet":
            continue
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        else:
            found[name] = path.read_bytes()
    return found


def run_here(study: StudySpec, out: Path) -> Study:
    """An executor of another kind: every run in this process, one after another."""
    planned = begun(study, out)
    for run in start_order(planned):
        do_here(run.directory)
    return Study.open(out)


def worker(directory: Path) -> subprocess.Popen[bytes]:
    """Start the worker of a run directory."""
    return subprocess.Popen(
        [sys.executable, "-m", "grokscope.runs.worker", str(directory), "--threads", "1"],
        stderr=subprocess.PIPE,
    )


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.002)


def test_a_study_ends_with_every_run_finished_and_diagnosed(study: StudySpec, whole: Path) -> None:
    done = Study.open(whole)
    assert list(done.runs) == ["natural-s0", "both_hops_full-s0"]
    for name, run in done.runs.items():
        assert run.finished
        assert run.spec == study.expand()[name]
        assert run.diagnosis is not None
        assert run.metrics["step"].to_list() == [0, 5, 10, 12, 14, 17, 20, 24, 28, 30]
        assert run.traces["step"].values.tolist() == run.steps == run.metrics["step"].to_list()
    assert [row[0] for row in summary_rows(done)] == list(done.runs)


def test_a_process_builds_a_corpus_once(
    study: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker for training, diagnosis and verdict; the parent of a study for all that it says."""
    built: list[str] = []

    def build(world: World, spec: CorpusSpec, regime: Regime, seeds: Seeds) -> Corpus:
        built.append(regime.name)
        return build_corpus(world, spec, regime, seeds)

    monkeypatch.setattr("grokscope.runs.setup.build_corpus", build)
    (first, _) = begun(study, tmp_path)
    do_here(first.directory)
    assert built == ["natural"]
    built.clear()
    run_study(study, tmp_path, workers=1, threads=1, say=lambda _: None)
    assert built == ["natural"]


def test_a_killed_study_ends_with_the_same_bytes(study: StudySpec, whole: Path, tmp_path: Path) -> None:
    """Workers are killed (-9) at other moments of every run; then the study is simply run again."""
    out = tmp_path / "killed"
    planned = begun(study, out)
    for run, marks in zip(planned, (("corpus.json", "step_00000005"), ("step_00000014",)), strict=True):
        for mark in marks:
            place = run.directory / mark
            if mark.startswith("step"):
                place = run.directory / "checkpoints" / f"{mark}.safetensors"
            process = worker(run.directory)
            wait_for(place, process)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    said: list[str] = []
    run_study(study, out, workers=2, threads=1, say=said.append)
    assert any("resumes at step" in line for line in said)
    assert contents(out) == contents(whole)


def test_running_again_does_nothing(study: StudySpec, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*/**/*")}
    said: list[str] = []
    run_study(study, copy, say=said.append)
    assert said == ["natural-s0: done", "both_hops_full-s0: done"]
    assert {path: path.stat().st_mtime_ns for path in copy.glob("*/**/*")} == before


def test_more_steps_continue_a_finished_run_as_if_it_had_been_longer(
    study: StudySpec, copy: Path, tmp_path: Path
) -> None:
    longer = study.replace(regimes=["natural"], training={**study.training.tree(), "steps": 40})
    continued = run_here(longer, copy).runs["natural-s0"]
    at_once = run_here(longer, tmp_path / "longer").runs["natural-s0"]
    assert continued.finished
    # The shorter run's last step is off the schedule: it stays behind as an extra checkpoint.
    assert set(continued.steps) == {*at_once.steps, 30}
    last = "checkpoints/step_00000040.safetensors"
    assert (continued.directory / last).read_bytes() == (at_once.directory / last).read_bytes()


def test_a_run_opened_in_python_answers(whole: Path) -> None:
    study = grokscope.open(whole)
    assert isinstance(study, Study)
    run = grokscope.open(study.runs["natural-s0"].directory)
    assert isinstance(run, Run)
    assert run.name == "natural-s0"
    assert run.corpus.probes["test_ood"].pattern == "OO"
    assert run.manifest["threads"] >= 1
    model = run.model(step=10)
    assert not model.training
    with pytest.raises(InputError, match=r"step = 11: .* 0, 5, 10, 12"):
        run.model(step=11)


def test_the_model_of_a_checkpoint_is_the_one_that_was_evaluated(whole: Path) -> None:
    from grokscope.training.evaluate import correct
    from grokscope.world.format import encode

    run = Study.open(whole).runs["natural-s0"]
    probes = run.corpus.probes["train_inferred"]
    encoded = encode(probes.queries, run.world.vocabulary, run.spec.format)
    for step, accuracy in run.metrics.select("step", "accuracy.train_inferred").iter_rows():
        assert correct(run.model(step), encoded).mean() == accuracy


def test_other_thresholds_diagnose_again_without_training(study: StudySpec, copy: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in copy.glob("*/checkpoints/*")}
    run_here(study.replace(diagnosis={"window": 2}), copy)
    for run in Study.open(copy).runs.values():
        assert run.diagnosis is not None
        assert run.diagnosis.spec.window == 2
    assert {path: path.stat().st_mtime_ns for path in copy.glob("*/checkpoints/*")} == weights


def test_a_run_that_fails_is_named_and_does_not_stop_the_others(
    study_file: Path, copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_report", lambda directory: 0)
    natural = Study.open(copy).runs["natural-s0"].directory
    for directory in copy.glob("*-s0-*"):
        (directory / DONE).unlink()
    corpus = json.loads((natural / "corpus.json").read_text())
    (natural / "corpus.json").write_text(json.dumps({**corpus, "fingerprint": "other"}))
    assert cli.main(["run", str(study_file), "--out", str(copy), "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: run natural-s0 failed: the corpus of natural-s0-")
    assert "fingerprint other is now" in said
    assert Study.open(copy).runs["both_hops_full-s0"].finished
    with pytest.raises(InputError, match="fingerprint other is now"):
        _ = Run.open(natural).corpus


def test_two_processes_do_not_train_one_run(study: StudySpec, copy: Path) -> None:
    directory = next(copy.glob("natural-s0-*"))
    (directory / DONE).unlink()
    with locked(directory), pytest.raises(InputError, match=f"in use by another process .pid {os.getpid()}"):
        run_study(study, copy, workers=1, threads=1)


def test_a_signal_stops_the_study_and_running_it_again_ends_it(
    study: StudySpec, study_file: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["run", str(study_file), "--out", str(out), "--workers", "1", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "grokscope", *command], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(out.glob("*/metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith(f"Go on with: grokscope {' '.join(command)}\n")
    assert "Traceback" not in said
    run_study(study, out, workers=2, threads=1)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("file", "named"),
    [(SPEC, "run spec"), ("metrics.jsonl", "metrics"), ("manifest.json", "manifest")],
)
def test_a_missing_file_of_a_run_is_a_sentence(copy: Path, file: str, named: str) -> None:
    directory = next(copy.glob("natural-s0-*"))
    (directory / file).unlink()

    def read() -> object:
        run = Run.open(directory)
        return run.manifest, run.metrics

    with pytest.raises(InputError, match=named):
        read()


def test_a_corrupt_checkpoint_is_a_sentence_and_the_others_still_open(copy: Path) -> None:
    run = Study.open(copy).runs["natural-s0"]
    (run.directory / "checkpoints" / "step_00000010.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="step_00000010"):
        run.model(10)
    run.model(12)


@pytest.mark.parametrize(("what", "named"), [("none", "there is no directory"), (".", "neither a run")])
def test_what_is_no_study_is_a_sentence(tmp_path: Path, what: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        grokscope.open(tmp_path / what)


@pytest.mark.parametrize(
    ("damage", "said"),
    [("resume/step_*.safetensors", "resume state"), ("metrics.jsonl", "has no line for step 0")],
)
def test_a_run_that_cannot_be_continued_stays_finished(
    study: StudySpec, copy: Path, damage: str, said: str
) -> None:
    longer = study.replace(training={**study.training.tree(), "steps": 40})
    planned = begun(longer, copy)
    directory = planned[0].directory
    for path in directory.glob(damage):
        path.write_bytes(b"")
    before = (directory / DONE).read_bytes()
    with pytest.raises(InputError, match=said):
        do_here(directory)
    assert (directory / DONE).read_bytes() == before
    assert {run.action for run in plan_runs(study, copy)} == {"skip"}


def test_a_run_that_has_saved_nothing_yet_is_not_started_twice(study: StudySpec, tmp_path: Path) -> None:
    planned = begun(study, tmp_path)
    with locked(planned[0].directory), pytest.raises(InputError, match="in use by another process"):
        plan_runs(study, tmp_path)


@pytest.mark.parametrize("name", ["corpus.json", "manifest.json", "resume/state.json"])
@pytest.mark.parametrize("text", ["[]", '{"step": Infinity, "seconds": 1}'])
def test_a_foreign_file_is_one_sentence(study: StudySpec, copy: Path, name: str, text: str) -> None:
    longer = study.replace(training={**study.training.tree(), "steps": 40})
    planned = begun(longer, copy)
    (planned[0].directory / name).write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        do_here(planned[0].directory)
