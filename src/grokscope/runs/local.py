"""The executor that is there without installing anything: worker processes on this machine."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from grokscope.files import remove
from grokscope.runs.directory import INTERRUPTED, LOG, PROGRESS
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.executor import FINISHED, STARTING, STOPPED, Say
from grokscope.runs.open import Transfer
from grokscope.runs.plan import Planned
from grokscope.runs.processes import JobProcess


def usable_cores() -> int:
    """Cores this process may run on (respects CPU affinity where the system has it)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """So many processes at a time; the arguments are those of `executor.executor`."""

    left_to_others = False

    def __init__(
        self,
        spec: ExecutionSpec,
        study: Path,
        planned: list[Planned],
        together: list[list[Planned]],
        say: Say,
    ) -> None:
        share_gpu = any(len(runs) > 1 and runs[0].spec.training.device == "cuda" for runs in together)
        cores = usable_cores()
        # Those that are done count too: threads are the same however much of a study is left.
        processes = len(planned) - sum(map(len, together)) + len(together)
        workers = min(spec.workers or (1 if share_gpu else cores), processes)
        self.pool = Pool(workers, spec.threads or max(1, cores // workers))

    @property
    def busy(self) -> bool:
        return self.pool.busy

    def submit(self, groups: list[list[Planned]]) -> None:
        self.pool.take(groups)

    def watch(self) -> Iterator[tuple[Planned, str]]:
        for run, state, _ in self.pool.watch():
            yield run, state

    def stop(self, at_once: bool) -> None:
        self.pool.stop(at_once)

    def close(self) -> None:
        self.pool.close()


class Pool:
    """Worker processes, and the jobs that wait for one.

    Args:
        workers: processes at a time.
        threads: of PyTorch in each.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self.workers, self.threads = workers, threads
        self.active: list[_Worker] = []
        self.stopping = False
        self._waiting: Iterator[list[Planned]] | None = None

    @property
    def busy(self) -> bool:
        return bool(self.active or (self._waiting is not None and not self.stopping))

    def take(self, groups: Iterable[list[Planned]]) -> None:
        """Groups of jobs; each is asked for when there is a process for it."""
        self._waiting = iter(groups)

    def watch(self) -> Iterator[tuple[Planned, str, int | None]]:
        """As `Executor.watch`, with the exit code of the process where a job has ended."""
        for worker in list(self.active):
            code = worker.process.answer()
            if code is None:
                continue
            for run, state in worker.results(code, self.stopping):
                yield run, state, code
            following = self._next() if code == 0 else None
            if following is not None and _share(worker.runs, following):
                worker.give(following)
            else:
                self.active.remove(worker)
                worker.process.leave()
                if following is not None:
                    self.active.append(_Worker(following, self.threads))
            for run in following or ():
                yield run, STARTING, None
        while len(self.active) < self.workers and (following := self._next()) is not None:
            self.active.append(_Worker(following, self.threads))
            for run in following:
                yield run, STARTING, None

    def stop(self, at_once: bool) -> None:
        """Begin no job, and let those that are done save, or not even that."""
        self.stopping = True
        for worker in self.active:
            worker.process.send(signal.SIGKILL if at_once else signal.SIGTERM)

    def close(self) -> None:
        """End every process as it is."""
        for worker in self.active:
            worker.process.send(signal.SIGKILL)

    def _next(self) -> list[Planned] | None:
        if self.stopping or self._waiting is None:
            return None
        following = next(self._waiting, None)
        if following is None:
            self._waiting = None
        return following


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
            yield run, FINISHED if finished else end_of(code, run.directory, log_start, stopping)


def _share(done: list[Planned], following: list[Planned]) -> bool:
    """Whether a process that has done one job takes the other: transfers, and runs that are only to be
    diagnosed. There, starting a process is a good part of the work; a training gets a process of its own, and
    gives back all its memory. So does what comes after a failure."""
    return all(isinstance(run.job, Transfer) or not run.steps_left for run in (*done, *following))


def end_of(code: int, directory: Path, log_start: int, stopping: bool) -> str:
    """How a worker ended that did not finish: STOPPED, or a sentence.

    Args:
        code: its exit code; negative: the signal that killed it.
        directory: of the run.
        log_start: where its part of the log begins, in bytes.
        stopping: whether it had been asked to end.
    """
    if stopping and code in (INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL):
        return STOPPED
    log = directory / LOG
    with log.open("rb") as handle:
        handle.seek(log_start)
        lines = handle.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"the worker was {end}" if code < 0 else f"the worker {end}; see {log}"
