"""One job in a process of its own: `python -m grokscope.runs.worker DIRECTORY`.

Everything it needs stands in the directory. Exit codes: 0 finished; 75 stopped by a signal, saved; 2 wrong
input; 3 diverged; 69 another worker has the run. What went wrong is one line `error: ...` on standard error.

Several directories are trained together, as a population. What went wrong with one of them stands in its own
log; the exit code is then that of the first such run, when the others have finished. Without a directory it
does the jobs that it is given, one after another: `grokscope.runs.processes`.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

from grokscope.errors import InputError, InUse
from grokscope.files import remove, whole, write_json
from grokscope.mechanics.judge.diagnosis import diagnose
from grokscope.models.protocol import Reasoner
from grokscope.runs.causal import keep_verdict
from grokscope.runs.directory import (
    BASE_WEIGHTS,
    CELLS,
    CORPUS,
    DIAGNOSIS,
    DONE,
    IN_USE,
    INTERRUPTED,
    LOG,
    RESULT,
    locked,
    standing,
    write_progress,
)
from grokscope.runs.open import Run, Transfer, open_job
from grokscope.runs.population import begun_among
from grokscope.runs.processes import serve
from grokscope.training.loop import train
from grokscope.training.manifest import read_manifest
from grokscope.training.member import Member
from grokscope.training.population import train_together
from grokscope.training.shared import SharedSteps
from grokscope.training.sinks import make_sinks
from grokscope.training.start import with_threads
from grokscope.training.stops import Diverged, Interrupted, saving
from grokscope.training.trainer import Outcome
from grokscope.transfer.outcome import outcome_of

LOCK_PATIENCE = 10.0
"""Seconds to wait for a worker that is just saving and leaving."""
PARENT_POLL_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Do the job of a directory, or one after another, and return the exit code."""
    parser = argparse.ArgumentParser(description="Train, trace and diagnose the run of a directory.")
    parser.add_argument("directories", type=Path, nargs="*", help="none: jobs come by standard input")
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch, for a run that is new")
    parser.add_argument("--parent", type=int, default=None, help="save and leave when this process is gone")
    options = parser.parse_args(argv)
    if options.parent is not None:
        signal.signal(signal.SIGTERM, leave)
        threading.Thread(target=_leave_with, args=(options.parent,), daemon=True).start()
    shared = SharedSteps()

    def work(directories: list[Path]) -> int:
        return _work(directories, options.threads, shared)

    return work(options.directories) if options.directories else serve(work)


def _work(together: list[Path], threads: int | None, shared: SharedSteps) -> int:
    """Do jobs together; the exit code. What went wrong is said."""
    failed: dict[Path, Exception]
    try:
        failed = do_jobs([open_job(one) for one in together], threads, shared)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    except (InputError, Diverged, OSError) as error:
        failed = dict.fromkeys(together, error)
    for directory, wrong in failed.items():
        with (directory / LOG).open("a") if len(together) > 1 else nullcontext(sys.stderr) as log:
            print(f"error: {_sentence(wrong)}", file=log, flush=True)
    return max((_code(wrong) for wrong in failed.values()), default=0)


def _code(wrong: Exception) -> int:
    return 3 if isinstance(wrong, Diverged) else IN_USE if isinstance(wrong, InUse) else 2


def do_job(job: Run | Transfer, threads: int | None = None, shared: SharedSteps | None = None) -> None:
    """Do a job to its end, from wherever its directory stands: train the run and diagnose it, or fine-tune
    the transfer's base and examine it.

    Args:
        job: what is to be done; its spec stands in its directory.
        threads: of PyTorch, for a job that is new.
        shared: compiled steps of this process; what is computed does not depend on them.

    Raises:
        InputError: the spec cannot be honoured, another process has the job, or a file is damaged.
        Diverged: the loss or a weight is not a usable number.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    for error in do_jobs([job], threads, shared).values():
        raise error


def do_jobs(
    jobs: Sequence[Run | Transfer], threads: int | None = None, shared: SharedSteps | None = None
) -> dict[Path, Exception]:
    """The same for several runs, which are trained together.

    Returns:
        What went wrong with which: an InputError, an OSError or Diverged. The others are finished.

    Raises:
        InputError: they cannot be trained together, or one cannot be worked on at all.
        Interrupted: SIGINT or SIGTERM; the states of all are saved.
    """
    failed: dict[Path, Exception] = {}
    with ExitStack() as held:
        for job in jobs:
            held.enter_context(locked(job.directory, LOCK_PATIENCE))
            _doing(job, "building")
            note_corpus(job)
        left = [job for job in jobs if not job.finished]
        for job, outcome in zip(left, _train(left, threads, shared), strict=True):
            if isinstance(outcome, Exception):
                failed[job.directory] = outcome
        for job in jobs:
            if job.directory not in failed:
                try:
                    conclude(job)
                except (InputError, OSError) as error:
                    failed[job.directory] = error
    return failed


def note_corpus(job: Run | Transfer) -> None:
    """Note at the first start what every later one must find again."""
    if (job.directory / CORPUS).exists():
        _ = job.checked
    else:
        world = {"world": job.setup.world.fingerprint}
        write_json(job.directory / CORPUS, job.setup.corpus.summary() | world)


def _train(jobs: Sequence[Run | Transfer], threads: int | None, shared: SharedSteps | None) -> list[Outcome]:
    """Train jobs to the end, together if they are many or were begun among many."""
    members = [_member(job) for job in jobs]
    if max((begun_among(job.directory) or len(jobs) for job in jobs), default=0) > 1:
        return train_together(members, threads=threads, say=_say)
    outcomes: list[Outcome] = []
    for job, one in zip(jobs, members, strict=True):
        try:
            step = shared if isinstance(job, Transfer) else None
            outcomes.append(train(one, threads=threads, say=_say, shared=step))
        except (Diverged, InputError) as error:
            outcomes.append(error)
    return outcomes


def _member(job: Run | Transfer) -> Member:
    tuned, directory = isinstance(job, Transfer), job.directory
    return job.setup.member(
        directory,
        directory / BASE_WEIGHTS if tuned else None,
        [EndMark(directory)],
        make_sinks(job.spec.sinks, directory),
        lambda news: _doing(job, "fine-tuning" if tuned else "training", **news),
    )


class EndMark:
    """Takes the end mark of a finished job away once its continuation has begun, and not if it cannot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def at_checkpoint(self, step: int, model: Reasoner) -> None:
        """Nothing to look at."""

    def forget_after(self, step: int) -> None:
        """The state is read and the training goes on."""
        remove(self.directory / DONE)


def conclude(job: Run | Transfer) -> None:
    """Say what came of a trained job, and mark its end."""
    said = _examine(job) if isinstance(job, Transfer) else _diagnose(job)
    end = {"step": job.steps[-1], **said, "fingerprint": job.setup.corpus.fingerprint}
    write_json(job.directory / DONE, end)


def _diagnose(run: Run) -> dict[str, Any]:
    spec = run.spec
    diagnosis = diagnose(run.metrics, run.traces, run.corpus.probes, spec.diagnosis)
    write_json(run.directory / DIAGNOSIS, diagnosis.tree())
    if spec.judged:
        _doing(run, "intervening")
        keep_verdict(run, diagnosis)
    return {"diagnosis": spec.diagnosis.tree()}


def _examine(transfer: Transfer) -> dict[str, Any]:
    spec, examine = transfer.spec, transfer.spec.transfer.examine
    _doing(transfer, "examining")
    # With the transfer's own threads, as for verdicts: `runs.causal.keep_verdict` says why.
    with with_threads(read_manifest(transfer.directory).threads):
        outcome = outcome_of(
            transfer.base, transfer.new, spec.format, examine, transfer.traces, transfer.model, transfer.steps
        )
    with whole(transfer.directory / CELLS) as draft:
        outcome.cells.write_csv(draft)
    write_json(transfer.directory / RESULT, outcome.result.tree())
    return {"examine": examine.tree()}


def _doing(job: Run | Transfer, what: str, **news: object) -> None:
    """Tell whoever watches; where training does not say at which step, it is the last one saved."""
    step = {} if "step" in news else {"step": standing(job.directory).step}
    about = {"pid": os.getpid(), "host": socket.gethostname(), "doing": what}
    write_progress(job.directory, {**about, **step, **news})


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def leave(number: int, frame: FrameType | None) -> None:
    """End by a signal, but not while the state is being saved because of one before: queues signal every
    process of a job, and the parent then does so too. It has another signal for what must not wait."""
    if not saving():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


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
