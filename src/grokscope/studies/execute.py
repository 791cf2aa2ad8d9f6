"""Running a study on this machine: one worker process per run, as many at a time as there are cores.

A worker is `python -m grokscope.studies.worker RUN_DIRECTORY`. It is told nothing but the
directory: what it needs stands in `spec.json` there, so any other executor (a cluster queue, two shells) can
start the same.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from grokscope.errors import InputError
from grokscope.files import remove
from grokscope.studies.cost import disk_sentences
from grokscope.studies.directory import INTERRUPTED, LOG, PROGRESS
from grokscope.studies.plan import PlannedRun, plan, prepare, start_order
from grokscope.studies.progress import Display, display
from grokscope.studies.run import Study
from grokscope.studies.spec import RunSpec, StudySpec
from grokscope.studies.transfer_plan import check_transfers, plan_transfers, prepare_transfer, run_and_moment

POLL_SECONDS = 0.2


class RunsFailed(Exception):
    """Some runs of a study failed; the others are finished.

    Attributes:
        study: the study, with whatever finished.
        sentences: what happened, by run name.
    """

    def __init__(self, study: Study, sentences: dict[str, str]) -> None:
        self.study, self.sentences = study, sentences
        super().__init__("; ".join(f"run {name} failed: {text}" for name, text in sentences.items()))


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop and every worker has left; the message says how to go on."""


def usable_cores() -> int:
    """Cores this process may run on (respects CPU affinity where the system has it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_study(
    study: StudySpec,
    out: Path,
    workers: int | None = None,
    threads: int | None = None,
    console: Console | None = None,
    say: Callable[[str], None] = print,
) -> Study:
    """Run what is left to run of a study, and return it.

    Finished runs are skipped, interrupted ones resumed, those finished with fewer steps continued. Then the
    same for the study's transfers, of every base that there is; those of a run that failed are left out.

    Args:
        study: regimes x seeds and their settings.
        out: the study's directory; created if it is not there.
        workers: processes at a time; None: as many as usable cores, at most one per run of the study.
        threads: of PyTorch in each worker, for runs that are new; None: usable cores // workers, at least 1.
        console: where the live table goes; None: standard output.
        say: gets the plain sentences.

    Raises:
        InputError: nothing was started; the sentence says why.
        RunsFailed: some runs failed or diverged; the others are finished.
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    planned = plan(study, out)
    check_transfers(study)
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: allowed is at least 1.")
    for run in planned:
        say(_opening_line(run))
    prepare(study, out, planned)
    todo = start_order(planned)
    for sentence in disk_sentences(
        [run.spec for run in todo if run.steps_left and isinstance(run.spec, RunSpec)], out
    ):
        say(sentence)
    failed = _work(planned, workers, threads, console)
    done = Study.open(out)
    if study.transfer is not None:
        transfers, missing = plan_transfers(study, out, done.runs)
        for name, reason in missing.items():
            say(f"{name}: no transfer: {reason}")
        for name, transfer in transfers.items():
            say(_opening_line(transfer))
            prepare_transfer(transfer, *run_and_moment(name, study, done.runs))
        failed |= _work(list(transfers.values()), workers, threads, console)
    if failed:
        raise RunsFailed(done, failed)
    return done


def _work(
    planned: list[PlannedRun], workers: int | None, threads: int | None, console: Console | None
) -> dict[str, str]:
    """Do what is left of these; a sentence for each that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    todo = start_order(planned)
    if not todo:
        return {}
    cores = usable_cores()
    workers = min(workers or cores, len(planned))
    threads = threads or max(1, cores // workers)
    with display(todo, console) as table, _caught_signals() as caught:
        results = _supervise(todo, workers, threads, table, caught)
    if caught:
        left = [name for name, result in results.items() if result != "done"]
        raise Interrupted(f"stopped; {len(left)} of {len(planned)} runs unfinished: {', '.join(left)}.")
    return {name: result for name, result in results.items() if result != "done"}


def _opening_line(run: PlannedRun) -> str:
    what = {
        "start": f"new, {run.spec.training.steps} steps",
        "resume": f"resumes at step {run.step} of {run.spec.training.steps}",
        "extend": f"finished at step {run.step}, continues to {run.spec.training.steps}",
        "diagnose": "trained; diagnosed, and its causal verdict made",
        "skip": "done",
    }[run.action]
    return f"{run.name}: {what}" + (f"; {run.note}" if run.note else "")


@dataclass
class _Worker:
    run: PlannedRun
    process: subprocess.Popen[bytes]
    log_start: int


def _supervise(
    todo: list[PlannedRun], workers: int, threads: int, table: Display, caught: list[int]
) -> dict[str, str]:
    """Keep `workers` processes busy until nothing is left or a signal comes.

    Returns:
        Per run name "done", "interrupted", or a sentence on how it failed.
    """
    waiting = list(todo)
    active: list[_Worker] = []
    results = {run.name: "interrupted" for run in todo}
    forwarded = 0
    try:
        while active or (waiting and not caught):
            while waiting and len(active) < workers and not caught:
                active.append(_start(waiting.pop(0), threads))
                table.state(active[-1].run, "starting")
            if len(caught) > forwarded:
                # The first signal asks the workers to save and leave; a second one does not wait for that.
                for worker in active:
                    worker.process.send_signal(signal.SIGTERM if forwarded == 0 else signal.SIGKILL)
                forwarded = len(caught)
                table.say("stopping: waiting for the workers to save (once more to leave at once)")
            for worker in [worker for worker in active if worker.process.poll() is not None]:
                active.remove(worker)
                results[worker.run.name] = _result(worker, stopping=bool(caught))
                table.state(worker.run, results[worker.run.name])
            table.update()
            time.sleep(POLL_SECONDS)
    finally:
        for worker in active:
            worker.process.kill()
    return results


def _start(run: PlannedRun, threads: int) -> _Worker:
    log = run.directory / LOG
    remove(run.directory / PROGRESS)
    command = [sys.executable, "-m", "grokscope.studies.worker", str(run.directory)]
    with log.open("ab") as handle:
        start = handle.tell()
        # A session of its own: Ctrl-C in a terminal reaches the parent alone, which asks each worker once.
        process = subprocess.Popen(
            [*command, "--threads", str(threads), "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Worker(run, process, start)


def _result(worker: _Worker, stopping: bool) -> str:
    code = worker.process.returncode
    if code == 0:
        return "done"
    if stopping and code in (INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL):
        return "interrupted"
    with (worker.run.directory / LOG).open("rb") as handle:
        handle.seek(worker.log_start)
        lines = handle.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the worker was {end}" if code < 0 else f"the worker {end}; see {worker.run.directory / LOG}"


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them (they can be caught in the main thread only)."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
