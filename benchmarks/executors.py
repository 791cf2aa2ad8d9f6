"""What executors cost: python -m benchmarks.executors [--runs 1000] [--real 12] [--on NAME ...]

Runs that take a second and do nothing are given to each executor, twenty at a time: processes of the shell
here, a scheduler that is made up, tasks of a Ray of twenty idle cores on this machine. Printed per executor
are the CPU seconds of the controller (its children and Ray's not counted) per run, what share of a core that
is at a hundred runs a minute, and by how much its memory grew between the first tenth of the runs and the
last.

Then `--real` runs of 8 steps are really made, two at a time on one thread each: here, by a real SLURM and by
a real Ray of two nodes each on this machine. What a run takes of its worker's time, from the command to its
end (the report not counted), stands beside what the same run takes in a process that has made one already:
the difference is what an executor, a new process and its imports cost a run.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from rich.console import Console
from tests.runs.slurm_nodes import two_nodes
from tests.runs.tiny import tiny_study, trained

from benchmarks.kills import two_ray_nodes
from grokscope.runs import on_ray, processes, slurm
from grokscope.runs.batch import Batch, ends, write_end
from grokscope.runs.execute import supervise
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.executor import FINISHED, executor
from grokscope.runs.plan import Planned, plan, prepare
from grokscope.runs.progress import Lines
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study

AT_A_TIME = 20
STAND_IN = "while read line; do sleep 1; echo 0; done"
POPEN = subprocess.Popen
RUN = """
import sys
from pathlib import Path
from grokscope.runs.execute import run_study
from grokscope.runs.files import load_study
run_study(load_study(sys.argv[1]), Path(sys.argv[2]), on=sys.argv[3])
"""
"""`grokscope run`, but for its report."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--on", nargs="+", default=["local", "slurm", "ray"])
    parser.add_argument("--real", type=int, default=12)
    options = parser.parse_args()
    print("| executor | runs | CPU s per run | of a core at 100 runs a minute | memory grew by |")
    print("|---|---|---|---|---|")
    for name in options.on:
        with tempfile.TemporaryDirectory() as folder:
            cpu, grown = WAYS[name](Path(folder), options.runs)
        share = cpu / options.runs * 100 / 60
        print(
            f"| {name} | {options.runs} | {cpu / options.runs:.4f} | {share:.2%} | {grown:.1f} MB |",
            flush=True,
        )
    print("\n| executor | runs | worker seconds per run | in a warm process |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        warm = _warm(Path(folder))
    for name in options.on:
        with tempfile.TemporaryDirectory() as folder, SITES[name](Path(folder)):
            each = _really(name, Path(folder) / "study", options.real)
        print(f"| {name} | {options.real} | {each:.1f} | {warm:.1f} |", flush=True)


def _warm(folder: Path) -> float:
    """Seconds of a run in this process, the second it makes."""
    for seed in range(2):
        before = time.perf_counter()
        trained(tiny_study(regimes=["natural"], seeds=[seed]), folder / str(seed))
    return time.perf_counter() - before


def _really(name: str, out: Path, count: int) -> float:
    """Seconds per run of one of two workers."""
    study = tiny_study(regimes=["natural"], seeds=list(range(count)), execution={"workers": 2, "threads": 1})
    out.mkdir()
    (out / "mine.yaml").write_text(yaml.safe_dump(study.tree()))
    command = [sys.executable, "-c", RUN, str(out / "mine.yaml"), str(out / "runs"), name]
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 2 * (time.perf_counter() - before) / count


def _runs(folder: Path, count: int) -> tuple[list[Planned], list[list[Planned]]]:
    study = Study(folder, StudySpec.parse({"regimes": ["natural"], "seeds": list(range(count))}))
    planned = plan(study.run_jobs)
    prepare(study, planned)
    return planned, [[one] for one in planned]


def _watched(folder: Path, count: int, **spec: object) -> tuple[float, float]:
    """CPU seconds of this process while an executor works, and MB by which it grew."""
    planned, together = _runs(folder, count)
    peaks: list[float] = []

    class Quiet(Lines):
        def state(self, run: Planned, state: str) -> None:
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    table = Quiet(Console(quiet=True))
    one = executor(ExecutionSpec.parse({"workers": AT_A_TIME, **spec}), folder, planned, together, print)
    before = time.process_time()
    results = supervise(one, together, table, [], leave=False)
    spent = time.process_time() - before
    assert set(results.values()) == {FINISHED}, set(results.values())
    return spent, peaks[-1] - peaks[len(peaks) // 10]


def _local(folder: Path, count: int) -> tuple[float, float]:
    def popen(command: list[str], **rest: Any) -> subprocess.Popen[bytes]:
        return POPEN(["sh", "-c", STAND_IN], **rest)

    with mock.patch.object(processes.subprocess, "Popen", popen):
        return _watched(folder, count)


def _slurm(folder: Path, count: int) -> tuple[float, float]:
    """The jobs are a thread that writes how runs end; its CPU time counts as the controller's."""
    jobs: list[threading.Thread] = []

    def ask(*command: str, text: str | None = None) -> str:
        if command[0] == "sbatch":
            place = Path(
                next(part for part in command if part.startswith("--output=")).partition("=")[2]
            ).parent
            jobs.append(threading.Thread(target=_end_all, args=[place]))
            jobs[-1].start()
        return "7" if command[0] == "squeue" and any(job.is_alive() for job in jobs) else ""

    which: Callable[[str], str] = lambda name: name  # noqa: E731
    with mock.patch.object(slurm, "ask", ask), mock.patch.object(slurm.shutil, "which", which):
        return _watched(folder, count, executor="slurm")


def _end_all(place: Path) -> None:
    for (name,) in Batch.read(place).groups:
        time.sleep(1 / AT_A_TIME)
        write_end(place, Path(name), FINISHED)
    assert ends(place)


def _ray(folder: Path, count: int) -> tuple[float, float]:
    import ray

    ray.init(num_cpus=AT_A_TIME, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        with mock.patch.object(on_ray, "_work", _second):
            return _watched(folder, count, executor="ray")
    finally:
        ray.shutdown()


def _second(board: Any, task: int, files: dict[str, Any], threads: int) -> dict[str, str]:
    """In place of the work: one report, and a second."""
    import ray

    ray.get(board.tell.remote(task, {name: ({"step": 1}, None, []) for name in files}))
    time.sleep(1)
    return dict.fromkeys(files, FINISHED)


WAYS = {"local": _local, "slurm": _slurm, "ray": _ray}
SITES: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "local": lambda folder: nullcontext(),
    "slurm": lambda folder: two_nodes(folder / "slurm"),
    "ray": lambda folder: two_ray_nodes(),
}

if __name__ == "__main__":
    main()
