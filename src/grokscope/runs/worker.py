"""One run in a process of its own: `python -m grokscope.runs.worker RUN_DIRECTORY`.

Everything it needs stands in `RUN_DIRECTORY/spec.json`. Exit codes: 0 finished; 75 stopped by a signal,
saved; 2 wrong input; 3 diverged. What went wrong is one line `error: ...` on standard error.

Several directories are trained together, as a population. What went wrong with one of them stands in its own
log; the exit code is then that of the first such run, when the others have finished. Without a directory it
does the jobs that it is given, one after another: `grokscope.runs.jobs`.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokscope.errors import InputError
from grokscope.files import write_json
from grokscope.mechanics.judge.diagnosis import diagnose
from grokscope.mechanics.read.traces import TraceWriter
from grokscope.models.build import build_model
from grokscope.runs.causal import keep_verdict
from grokscope.runs.directory import (
    CORPUS,
    DIAGNOSIS,
    DONE,
    INTERRUPTED,
    LOG,
    TRACES,
    locked,
    read_spec,
    standing,
    write_progress,
)
from grokscope.runs.end_mark import EndMark
from grokscope.runs.jobs import serve
from grokscope.runs.population import begun_among
from grokscope.runs.run import Run, check_fingerprint
from grokscope.runs.spec import RunSpec
from grokscope.runs.transfer import is_transfer
from grokscope.runs.transfer_worker import do_transfer
from grokscope.training.data import training_data
from grokscope.training.loop import train
from grokscope.training.member import Member
from grokscope.training.population import train_together
from grokscope.training.shared import SharedSteps
from grokscope.training.sinks import make_sinks
from grokscope.training.stops import Diverged, Interrupted
from grokscope.training.trainer import Outcome
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import encode, positions
from grokscope.world.graph import build_world

LOCK_PATIENCE = 10.0
"""Seconds to wait for a worker that is just saving and leaving."""
PARENT_POLL_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Do the run or the transfer, or one job after another, and return the exit code."""
    parser = argparse.ArgumentParser(description="Train, trace and diagnose the run of a directory.")
    parser.add_argument("directories", type=Path, nargs="*", help="none: jobs come by standard input")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch, for a run that is new")
    parser.add_argument("--parent", type=int, default=None, help="save and leave when this process is gone")
    options = parser.parse_args(argv)
    if options.parent is not None:
        threading.Thread(target=_leave_with, args=(options.parent,), daemon=True).start()
    shared = SharedSteps()

    def work(directories: list[Path]) -> int:
        return _work(directories, options.threads, shared)

    return work(options.directories) if options.directories else serve(work)


def _work(together: list[Path], threads: int | None, shared: SharedSteps) -> int:
    """Do a transfer, a run, or several runs together; the exit code. What went wrong is said."""
    failed: dict[Path, Exception]
    try:
        if len(together) == 1 and is_transfer(together[0]):
            do_transfer(together[0], threads, LOCK_PATIENCE, shared)
            return 0
        failed = do_runs(together, threads)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    except (InputError, Diverged, OSError) as error:
        failed = dict.fromkeys(together, error)
    for directory, wrong in failed.items():
        with (directory / LOG).open("a") if len(together) > 1 else nullcontext(sys.stderr) as log:
            print(f"error: {_sentence(wrong)}", file=log, flush=True)
    return max((3 if isinstance(wrong, Diverged) else 2 for wrong in failed.values()), default=0)


def do_run(directory: Path, threads: int | None = None) -> None:
    """Train the run of a directory to its end, from wherever it stands, and diagnose it.

    Raises:
        InputError: the spec cannot be honoured, another process has the run, or a file is damaged.
        Diverged: the loss or a weight is not a usable number.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    for error in do_runs([directory], threads).values():
        raise error


def do_runs(directories: Sequence[Path], threads: int | None = None) -> dict[Path, Exception]:
    """The same for several runs, which are trained together.

    Returns:
        What went wrong with which: an InputError, an OSError or Diverged. The others are finished.

    Raises:
        InputError: they cannot be trained together, or one cannot be worked on at all.
        Interrupted: SIGINT or SIGTERM; the states of all are saved.
    """
    failed: dict[Path, Exception] = {}
    with ExitStack() as held:
        jobs = []
        for directory in directories:
            spec = read_spec(directory)
            held.enter_context(locked(directory, LOCK_PATIENCE))
            jobs.append(_job(directory, spec))
        wanted = [job for job in jobs if job.steps_left]
        among = max((begun_among(job.directory) or len(wanted) for job in wanted), default=0)
        outcomes = _train_together(wanted, threads) if among > 1 else [_train(job, threads) for job in wanted]
        for job, outcome in zip(wanted, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failed[job.directory] = outcome
        for job in jobs:
            if job.directory not in failed:
                try:
                    _conclude(job)
                except (InputError, OSError) as error:
                    failed[job.directory] = error
    return failed


@dataclass(frozen=True, eq=False)
class _Job:
    directory: Path
    spec: RunSpec
    corpus: Corpus

    @property
    def steps_left(self) -> bool:
        now = standing(self.directory)
        return now.state != "done" or now.step < self.spec.training.steps


def _job(directory: Path, spec: RunSpec) -> _Job:
    write_progress(directory, {"pid": os.getpid(), "doing": "building", **_seen(directory)})
    return _Job(directory, spec, _corpus(directory, spec))


def _conclude(job: _Job) -> None:
    """Diagnose a trained run, and mark its end."""
    directory, spec = job.directory, job.spec
    run = Run.open(directory)
    diagnosis = diagnose(run.metrics, run.traces, job.corpus.probes, spec.diagnosis)
    write_json(directory / DIAGNOSIS, diagnosis.tree())
    if spec.causal.enabled:
        write_progress(directory, {"pid": os.getpid(), "doing": "intervening", **_seen(directory)})
        keep_verdict(run, diagnosis)
    end = {
        "step": spec.training.steps,
        "diagnosis": spec.diagnosis.tree(),
        "fingerprint": job.corpus.fingerprint,
    }
    write_json(directory / DONE, end)


def _train(job: _Job, threads: int | None) -> Outcome:
    one = _member(job)
    try:
        return train(
            one.model, one.data, one.probes, one.spec, one.seeds, one.directory, one.observers, one.sinks,
            threads=threads, report=one.report, say=_say,
        )  # fmt: skip
    except (Diverged, InputError) as error:
        return error


def _train_together(jobs: Sequence[_Job], threads: int | None) -> list[Outcome]:
    return train_together([_member(job) for job in jobs], threads=threads, say=_say)


def _member(job: _Job) -> Member:
    """Model, examples, probes and observers of a run."""
    directory, spec, corpus = job.directory, job.spec, job.corpus
    vocabulary = corpus.world.vocabulary
    encoded = {
        name: encode(probes.queries, vocabulary, spec.format) for name, probes in corpus.probes.items()
    }
    size, dtype = positions(spec.format), spec.training.dtype
    return Member(
        model=build_model(spec.model, vocabulary.size, size, spec.format, spec.seeds.init, dtype),
        data=training_data(corpus, spec.format, spec.training.atom_repetition),
        probes=encoded,
        spec=spec.training,
        seeds=spec.seeds,
        directory=directory,
        observers=[
            EndMark(directory),
            TraceWriter(directory / TRACES, corpus.probes, encoded, vocabulary, spec.lens),
        ],
        sinks=make_sinks(spec.sinks, directory),
        report=lambda news: write_progress(directory, {"pid": os.getpid(), "doing": "training", **news}),
    )


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _corpus(directory: Path, spec: RunSpec) -> Corpus:
    """Build the corpus, and note at the first start what every later one must find again."""
    corpus = build_corpus(build_world(spec.world, spec.seeds), spec.corpus, spec.regime, spec.seeds)
    if (directory / CORPUS).exists():
        check_fingerprint(directory, corpus.fingerprint)
    else:
        write_json(directory / CORPUS, corpus.summary())
    return corpus


def _seen(directory: Path) -> dict[str, Any]:
    """Where the run stands before training reports it."""
    return {"step": standing(directory).step}


def _leave_with(parent: int) -> None:
    """Nobody watches a worker whose parent was killed, and while it works nobody can go on with the run."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} could not be written or read: {error.strerror}."
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
