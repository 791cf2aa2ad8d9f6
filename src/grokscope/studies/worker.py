"""One run in a process of its own: `python -m grokscope.studies.worker RUN_DIRECTORY`.

Everything it needs stands in `RUN_DIRECTORY/spec.json`. Exit codes: 0 finished; 75 stopped by a signal,
saved; 2 wrong input; 3 diverged. What went wrong is one line `error: ...` on standard error.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grokscope.errors import InputError
from grokscope.files import remove, write_json
from grokscope.mechanics.diagnosis import diagnose
from grokscope.mechanics.traces import TraceWriter
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.studies.causal import keep_verdict
from grokscope.studies.directory import (
    CORPUS,
    DIAGNOSIS,
    DONE,
    INTERRUPTED,
    TRACES,
    locked,
    read_spec,
    standing,
    write_progress,
)
from grokscope.studies.run import Run, check_fingerprint
from grokscope.studies.spec import RunSpec
from grokscope.studies.transfer import is_transfer
from grokscope.studies.transfer_worker import do_transfer
from grokscope.training.data import training_data
from grokscope.training.loop import train
from grokscope.training.sinks import make_sinks
from grokscope.training.stops import Diverged, Interrupted
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import encode, positions
from grokscope.world.graph import build_world

LOCK_PATIENCE = 10.0
"""Seconds to wait for a worker that is just saving and leaving."""
PARENT_POLL_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Do the run or the transfer and return the exit code."""
    parser = argparse.ArgumentParser(description="Train, trace and diagnose the run of a directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=None, help="of PyTorch, for a run that is new")
    parser.add_argument("--parent", type=int, default=None, help="save and leave when this process is gone")
    options = parser.parse_args(argv)
    if options.parent is not None:
        threading.Thread(target=_leave_with, args=(options.parent,), daemon=True).start()
    try:
        if is_transfer(options.directory):
            do_transfer(options.directory, options.threads, LOCK_PATIENCE)
        else:
            do_run(options.directory, options.threads)
    except InputError as error:
        return _fail(error, 2)
    except Diverged as error:
        return _fail(error, 3)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        return _fail(f"{error.filename or 'a file'} could not be written or read: {error.strerror}.", 2)
    return 0


def do_run(directory: Path, threads: int | None = None) -> None:
    """Train the run of a directory to its end, from wherever it stands, and diagnose it.

    Raises:
        InputError: the spec cannot be honoured, another process has the run, or a file is damaged.
        Diverged: the loss or a weight is not a usable number.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    spec = read_spec(directory)
    with locked(directory, LOCK_PATIENCE):
        write_progress(directory, {"pid": os.getpid(), "doing": "building", **_seen(directory)})
        corpus = _corpus(directory, spec)
        now = standing(directory)
        if now.state != "done" or now.step < spec.training.steps:
            _train(directory, spec, corpus, threads)
        run = Run.open(directory)
        diagnosis = diagnose(run.metrics, run.traces, corpus.probes, spec.diagnosis)
        write_json(directory / DIAGNOSIS, diagnosis.tree())
        if spec.causal.enabled:
            write_progress(directory, {"pid": os.getpid(), "doing": "intervening", **_seen(directory)})
            keep_verdict(run, diagnosis)
        end = {
            "step": spec.training.steps,
            "diagnosis": spec.diagnosis.tree(),
            "fingerprint": corpus.fingerprint,
        }
        write_json(directory / DONE, end)


class _EndMark:
    """Takes the end mark of a finished run away once its continuation has begun, and not if it cannot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def at_checkpoint(self, step: int, model: Reasoner) -> None:
        """Nothing to look at."""

    def forget_after(self, step: int) -> None:
        """The state is read and the training goes on."""
        remove(self.directory / DONE)


def _train(directory: Path, spec: RunSpec, corpus: Corpus, threads: int | None) -> None:
    vocabulary = corpus.world.vocabulary
    encoded = {
        name: encode(probes.queries, vocabulary, spec.format) for name, probes in corpus.probes.items()
    }
    size, dtype = positions(spec.format), spec.training.dtype
    model = build_model(spec.model, vocabulary.size, size, spec.format, spec.seeds.init, dtype)
    train(
        model,
        training_data(corpus, spec.format, spec.training.atom_repetition),
        encoded,
        spec.training,
        spec.seeds,
        directory,
        observers=[
            _EndMark(directory),
            TraceWriter(directory / TRACES, corpus.probes, encoded, vocabulary, spec.lens),
        ],
        sinks=make_sinks(spec.sinks, directory),
        threads=threads,
        report=lambda news: write_progress(directory, {"pid": os.getpid(), "doing": "training", **news}),
        say=lambda sentence: print(sentence, flush=True),
    )


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


def _fail(what: object, code: int) -> int:
    print(f"error: {what}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
