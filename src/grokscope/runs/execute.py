"""Running a study on this machine: worker processes, as many at a time as there are cores.

A worker is `python -m grokscope.runs.worker RUN_DIRECTORY`. It is told nothing but the
directory: what it needs stands in `spec.json` there, so any other executor (a cluster queue, two shells) can
start the same. Given several directories, it trains those runs together, as a population. Given none, it
takes one job after another, as `processes` says; every run that is trained has a process of its own,
transfers share one.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from grokscope.errors import InputError
from grokscope.files import check_folder, remove
from grokscope.runs.cost import disk_sentences
from grokscope.runs.directory import INTERRUPTED, LOG, PROGRESS
from grokscope.runs.job import UNTRAINED, TransferRunSpec
from grokscope.runs.open import Transfer
from grokscope.runs.plan import Planned, plan, prepare, start_order
from grokscope.runs.population import Population, groups
from grokscope.runs.processes import JobProcess
from grokscope.runs.progress import Display, display
from grokscope.runs.setup import RunSetup, TransferSetup
from grokscope.runs.spec import StudySpec
from grokscope.runs.study import Study
from grokscope.spec import digest
from grokscope.training.optim import frozen_names
from grokscope.world.source import pinned

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
    population: Population = "auto",
    console: Console | None = None,
    say: Callable[[str], None] = print,
) -> Study:
    """Run what is left to run of a study, and return it.

    Finished runs are skipped, interrupted ones resumed, those finished with fewer steps continued. Then the
    same for the study's transfers, of every base that there is; those of a run that failed are left out.

    Args:
        study: regimes x seeds and their settings.
        out: the study's directory; created if it is not there.
        workers: processes at a time; None: as many as usable cores, at most one per run of the study; one
            where populations share a GPU.
        threads: of PyTorch in each worker, for runs that are new; None: usable cores // workers, at least 1.
        population: how many new runs are trained together in one process. "auto": on a GPU many, on a CPU
            each alone; "off": each alone; or at most so many.
        console: where the live table goes; None: standard output.
        say: gets the plain sentences.

    Raises:
        InputError: nothing was started; the sentence says why.
        RunsFailed: some runs failed or diverged; the others are finished.
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    check_folder(out)
    study = study.with_world(pinned(study.world))
    asked = Study(out, study)
    planned = plan(asked.run_jobs)
    # Of the last seed; which regime makes no difference to the probes.
    sample = RunSetup(asked.run_jobs[-len(study.regimes)].spec)
    _check_transfers(study, sample)
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: allowed is at least 1.")
    together = groups(start_order(planned), population)
    _announce(planned, say)
    prepare(asked, planned)
    left = {run.name for run in planned if run.steps_left}
    specs = {name: spec for name, spec in study.expand().items() if name in left}
    for sentence in disk_sentences(specs, out, sample):
        say(sentence)
    failed = _work(planned, together, workers, threads, console)
    if study.transfer is not None:
        planned = plan(asked.transfer_jobs)
        for name, reason in asked.transfers_missing.items():
            say(f"{name}: no transfer: {reason}")
        _announce(planned, say)
        prepare(asked, planned)
        failed |= _work(planned, [[one] for one in start_order(planned)], workers, threads, console)
    if failed:
        raise RunsFailed(asked, failed)
    return asked


def _check_transfers(study: StudySpec, base: RunSetup) -> None:
    """Build the new facts of one run, so that what is impossible is refused before any work.

    Raises:
        InputError: the world has no room for the new facts, the base not so much old data, or a variant
            cannot be honoured.
    """
    if study.transfer is None or not study.transfer.bases:
        return
    setups = [
        TransferSetup(TransferRunSpec(base=base.spec, step=0, transfer=one, moment=UNTRAINED), base)
        for one in study.transfer.transfers().values()
    ]
    for setup in {digest(setup.spec.transfer.facts.tree()): setup for setup in setups}.values():
        _ = setup.corpus
    for setup in setups:
        frozen_names(setup.spec.training.freeze, setup.model())


def _work(
    planned: list[Planned],
    together: list[list[Planned]],
    workers: int | None,
    threads: int | None,
    console: Console | None,
) -> dict[str, str]:
    """Do what is left of these, one process for each group; a sentence for each run that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    todo = [run for runs in together for run in runs]
    if not todo:
        return {}
    cores = usable_cores()
    share_gpu = any(len(runs) > 1 and runs[0].spec.training.device == "cuda" for runs in together)
    processes = len(planned) - len(todo) + len(together)
    workers = min(workers or (1 if share_gpu else cores), processes)
    threads = threads or max(1, cores // workers)
    with display(todo, console) as table, _caught_signals() as caught:
        results = _supervise(together, workers, threads, table, caught)
    if caught:
        left = [name for name, result in results.items() if result != "done"]
        raise Interrupted(f"stopped; {len(left)} of {len(planned)} runs unfinished: {', '.join(left)}.")
    return {name: result for name, result in results.items() if result != "done"}


def _announce(planned: list[Planned], say: Callable[[str], None]) -> None:
    for one in planned:
        steps = one.spec.training.steps
        what = {
            "start": f"new, {steps} steps",
            "resume": f"resumes at step {one.step} of {steps}",
            "extend": f"finished at step {one.step}, continues to {steps}",
            "diagnose": "trained; diagnosed, and its causal verdict made",
            "skip": "done",
        }[one.action]
        say(f"{one.name}: {what}" + (f"; {one.note}" if one.note else ""))


class _Worker:
    """A process, and the runs it is working on."""

    def __init__(self, runs: list[Planned], threads: int) -> None:
        for run in runs:
            (run.directory / LOG).touch()
        self.process = JobProcess(runs[0].directory / LOG, threads)
        self.give(runs)

    def give(self, runs: list[Planned]) -> None:
        for run in runs:
            remove(run.directory / PROGRESS)
            (run.directory / LOG).touch()
        self.runs = runs
        self.log_starts = [(run.directory / LOG).stat().st_size for run in runs]
        self.process.give([run.directory for run in runs])

    def results(self, code: int, stopping: bool) -> Iterator[tuple[Planned, str]]:
        """What became of the runs, from the exit code; in a population, each has an end of its own."""
        for run, log_start in zip(self.runs, self.log_starts, strict=True):
            finished = code == 0 or (len(self.runs) > 1 and run.job.finished)
            yield run, "done" if finished else _end(code, run, log_start, stopping)


def _supervise(
    todo: list[list[Planned]], workers: int, threads: int, table: Display, caught: list[int]
) -> dict[str, str]:
    """Keep `workers` processes busy until nothing is left or a signal comes.

    Returns:
        Per run name "done", "interrupted", or a sentence on how it failed.
    """
    waiting = list(todo)
    active: list[_Worker] = []
    results = {run.name: "interrupted" for runs in todo for run in runs}
    forwarded = 0

    def starting(runs: list[Planned]) -> None:
        for run in runs:
            table.state(run, "starting")

    try:
        while active or (waiting and not caught):
            while waiting and len(active) < workers and not caught:
                active.append(_Worker(waiting.pop(0), threads))
                starting(active[-1].runs)
            if len(caught) > forwarded:
                # The first signal asks the workers to save and leave; a second one does not wait for that.
                for worker in active:
                    worker.process.send(signal.SIGTERM if forwarded == 0 else signal.SIGKILL)
                forwarded = len(caught)
                table.say("stopping: waiting for the workers to save (once more to leave at once)")
            for worker in list(active):
                code = worker.process.answer()
                if code is None:
                    continue
                for run, result in worker.results(code, stopping=bool(caught)):
                    results[run.name] = result
                    table.state(run, result)
                if waiting and not caught and code == 0 and _share(worker.runs, waiting[0]):
                    worker.give(waiting.pop(0))
                    starting(worker.runs)
                else:
                    active.remove(worker)
                    worker.process.leave()
            table.update()
            time.sleep(POLL_SECONDS)
    finally:
        for worker in active:
            worker.process.send(signal.SIGKILL)
    return results


def _share(done: list[Planned], following: list[Planned]) -> bool:
    """Whether a process that has done one job takes the other: transfers, and runs that are only to be
    diagnosed. There, starting a process is a good part of the work; a training gets a process of its own, and
    gives back all its memory. So does what comes after a failure."""
    return all(isinstance(run.job, Transfer) or not run.steps_left for run in (*done, *following))


def _end(code: int, run: Planned, log_start: int, stopping: bool) -> str:
    if stopping and code in (INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL):
        return "interrupted"
    log = run.directory / LOG
    with log.open("rb") as handle:
        handle.seek(log_start)
        lines = handle.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the worker was {end}" if code < 0 else f"the worker {end}; see {log}"


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
