"""The executor of SLURM with a scheduler that is made up: away, full, forgetful, watched by two."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grokscope.errors import InputError
from grokscope.files import write_json
from grokscope.runs import scheduler, slurm
from grokscope.runs.batch import Batch, BatchWorker, read_end, write_end
from grokscope.runs.directory import DONE, SPEC, locked
from grokscope.runs.execute import run_study
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.executor import FINISHED, STOPPED
from grokscope.runs.plan import Planned
from grokscope.runs.scheduler import Away
from grokscope.runs.slurm import Slurm
from tests.runs.tiny import begun, tiny_study


class Scheduler:
    """Answers as SLURM does."""

    def __init__(self) -> None:
        self.queued: set[str] = set()
        self.arrays: list[tuple[str, str]] = []
        self.cancelled: list[tuple[str, ...]] = []
        self.away = False

    def ask(self, *command: str, text: str | None = None) -> str:
        if self.away:
            raise Away("no contact")
        options = dict(part.partition("=")[::2] for part in command[1:])
        if command[0] == "squeue":
            return "7\n" if options["--name"] in self.queued else ""
        if command[0] == "sbatch":
            assert text is not None
            self.arrays.append((options["--array"], text))
            self.queued.add(options["--job-name"])
        elif command[0] == "scancel":
            self.cancelled.append(command[2:])
        return "MaxArraySize            = 4\n"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """The scheduler is asked at every look, and lost jobs are queued again at once."""
    made = Scheduler()
    monkeypatch.setattr(slurm, "ask", made.ask)
    monkeypatch.setattr(slurm, "GLANCE_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    return made


@pytest.fixture
def runs(tmp_path: Path) -> list[Planned]:
    return begun(tiny_study(regimes=["natural", "both_hops_full"], seeds=[0, 1, 2]), tmp_path)


class Watched:
    """An executor of its own, that was given the runs."""

    def __init__(self, runs: list[Planned], **spec: object) -> None:
        self.said: list[str] = []
        together = [[run] for run in runs]
        self.one = Slurm(
            ExecutionSpec.parse(spec), runs[0].directory.parent, runs, together, self.said.append
        )
        self.one.submit(together)
        self.ends: dict[str, str] = {}

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.ends |= {run.name: state for run, state in self.one.watch()}

    @property
    def place(self) -> Path:
        return next(iter(self.one.batches))


def test_arrays_are_as_long_as_the_site_allows(site: Scheduler, runs: list[Planned]) -> None:
    """And tell of nothing but where the batch is: not what variables hold."""
    Watched(runs, workers=5).look()
    assert [array for array, _ in site.arrays] == ["0-3%2", "0-1%2"]
    assert ["TASK_ID + 0)) 6\n" in site.arrays[0][1], "TASK_ID + 4)) 6\n" in site.arrays[1][1]] == [
        True,
        True,
    ]


def test_several_runs_share_a_job_and_no_variable_is_written(
    site: Scheduler, runs: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t")
    Watched(runs, runs_per_job=4, activate="source here", python="box lab.sif python").look()
    ((array, script),) = site.arrays
    assert array == "0-1"
    assert script.startswith("#!/bin/bash\nsource here\nexec box lab.sif python -m grokscope.runs.batch ")
    written = [path.read_bytes() for path in runs[0].directory.parent.rglob("*") if path.is_file()]
    assert not any(b"s3cr3t" in text for text in (script.encode(), *written))


def test_while_the_scheduler_is_away_nothing_is_lost_or_queued_twice(
    site: Scheduler, runs: list[Planned]
) -> None:
    site.away = True
    watched = Watched(runs)
    watched.look(5)
    assert watched.said == ["the scheduler does not answer (no contact); waiting, running jobs go on"]
    assert watched.one.busy
    assert not watched.one.left_to_others
    site.away = False
    watched.look(3)
    assert watched.said[1:] == ["the scheduler answers again"]
    assert len(site.arrays) == 2  # One batch, cut in two.
    assert watched.one.left_to_others


def test_a_second_controller_watches_the_same_jobs(site: Scheduler, runs: list[Planned]) -> None:
    first, second = Watched(runs), Watched(runs)
    first.look()
    second.look()
    assert len(site.arrays) == 2
    assert second.said == ["6 runs are queued or at work from before"]
    for place, run in enumerate(runs):
        write_end(first.place, run.directory, FINISHED if place else "it went wrong.")
    for one in (first, second):
        one.look()
        assert one.ends == {run.name: FINISHED for run in runs} | {runs[0].name: "it went wrong."}
        assert not one.one.busy
    assert third_begins_anew(site, runs)


def third_begins_anew(site: Scheduler, runs: list[Planned]) -> bool:
    """When the jobs have left the queue, what is asked for again is queued again."""
    site.queued.clear()
    Watched(runs).look()
    return len(site.arrays) == 4


def test_lost_jobs_are_queued_again_but_not_for_ever(site: Scheduler, runs: list[Planned]) -> None:
    watched = Watched(runs[:1])
    for _ in range(9):
        watched.look()
        site.queued.clear()
    assert len(site.arrays) == 1 + slurm.TRIES
    assert watched.said == ["1 runs have lost their jobs and are queued again"] * slurm.TRIES
    assert watched.ends[runs[0].name].startswith("its job ended 4 times without a word; see ")
    assert not watched.one.busy


def test_a_run_that_someone_else_has_is_told_so(
    site: Scheduler, runs: list[Planned], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "TRIES", 0)
    watched = Watched(runs[:1])
    with locked(runs[0].directory):
        watched.look()
        site.queued.clear()
        watched.look()
    assert watched.ends[runs[0].name].startswith(f"it is in use by another process (pid {os.getpid()} on ")


def test_stopping_lets_jobs_save_and_takes_others_out(site: Scheduler, runs: list[Planned]) -> None:
    watched = Watched(runs)
    watched.look()
    site.away = True
    watched.one.stop(at_once=False)
    watched.look(2)
    site.away = False
    watched.look()
    assert site.cancelled == [("--state=PENDING",), ("--batch", "--signal=TERM")]
    assert watched.one.busy
    site.queued.clear()
    watched.look()
    assert watched.ends == {run.name: STOPPED for run in runs}


def test_without_an_answer_the_second_signal_ends_it(site: Scheduler, runs: list[Planned]) -> None:
    """What was asked for last may have come through, so the first one waits to take it back."""
    site.away = True
    watched = Watched(runs)
    watched.look()
    watched.one.stop(at_once=False)
    watched.look(3)
    assert watched.one.busy
    watched.one.stop(at_once=True)
    watched.look()
    assert watched.ends == {run.name: STOPPED for run in runs}
    assert not watched.one.busy


@pytest.mark.parametrize(
    ("command", "said", "kind"),
    [
        ("sbatch", "sbatch: error: invalid partition specified: gp", InputError),
        ("sbatch", "sbatch: error: Unable to contact slurm controller (connect failure)", Away),
        ("squeue", "slurm_load_jobs error: Socket timed out on send/recv operation", Away),
    ],
)
def test_a_refusal_is_no_absence(
    monkeypatch: pytest.MonkeyPatch, command: str, said: str, kind: type[Exception]
) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, "", said)

    monkeypatch.setattr(scheduler.subprocess, "run", run)
    with pytest.raises(kind, match=r"^[^\n]+$"):
        scheduler.ask(command)


def test_of_an_array_only_the_own_task_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last task's own number is that of the whole array."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(scheduler, "ask", lambda *command: asked.append(command))
    scheduler.queue_again({"SLURM_JOB_ID": "3", "SLURM_ARRAY_JOB_ID": "3", "SLURM_ARRAY_TASK_ID": "1"})
    assert asked == [("scontrol", "requeue", "3_1")]


@pytest.mark.parametrize(
    ("on", "said"),
    [
        ("slurm", "executor = 'slurm': there is no sbatch on this machine; allowed are"),
        ("ray", r"executor = 'ray': Ray is not installed: pip install 'grokscope\[ray\]'"),
        ("local", "leave: executor 'local' ends with this process; allowed with slurm"),
    ],
)
def test_what_is_not_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, said: str
) -> None:
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=said):
        run_study(tiny_study(regimes=["natural"]), tmp_path, on=on, leave=on == "local", say=lambda _: None)


def test_a_worker_takes_what_is_left_and_what_nobody_has(runs: list[Planned]) -> None:
    """Its own share first; not what has ended, is done, cannot be read, or is held."""
    study = runs[0].directory.parent
    place = study / "batches" / "one"
    Batch(tuple((run.directory.name,) for run in runs), 1).write(place)
    write_end(place, runs[0].directory, "it went wrong.")
    (runs[2].directory / SPEC).write_text("{")
    end = {"step": 8, "diagnosis": runs[3].job.spec.tree()["diagnosis"]}
    write_json(runs[3].directory / DONE, end)
    worker = BatchWorker(place, 1, 2)
    groups: Callable[[], list[str]] = lambda: [one.name for runs in worker._groups() for one in runs]  # noqa: E731
    with locked(runs[1].directory):
        assert groups()[:2] == [runs[3].name, runs[5].name]
        assert runs[1].name not in groups()
    assert groups()[0] == runs[1].name
    said = read_end(place, runs[2].directory)
    assert said is not None
    assert "spec" in said
