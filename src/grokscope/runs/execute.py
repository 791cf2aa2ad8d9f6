"""Running a study: what is left of it is given to an executor (`runs.executor`) and watched.

Whichever it is, a worker is `python -m grokscope.runs.worker RUN_DIRECTORY`. It is told nothing but the
directory: what it needs stands in `spec.json` there, so anyone else (two shells) can start the same. Given
several directories, it trains those runs together, as a population. Given none, it takes one job after
another, as `processes` says; every run that is trained has a process of its own, transfers share one.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from grokscope.errors import InputError
from grokscope.files import check_folder
from grokscope.runs.cost import disk_sentences
from grokscope.runs.execution import ExecutionSpec, Name
from grokscope.runs.executor import FINISHED, STARTING, STOPPED, Executor, executor
from grokscope.runs.job import UNTRAINED, TransferRunSpec
from grokscope.runs.open import Run, Transfer
from grokscope.runs.plan import Planned, plan, prepare, start_order
from grokscope.runs.population import Population, groups
from grokscope.runs.progress import Display, display
from grokscope.runs.setup import RunSetup, TransferSetup
from grokscope.runs.spec import StudySpec
from grokscope.runs.store import Keeper, Store
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


def run_study(
    study: StudySpec,
    out: Path,
    workers: int | None = None,
    threads: int | None = None,
    population: Population = "auto",
    console: Console | None = None,
    say: Callable[[str], None] = print,
    on: Name | None = None,
    leave: bool = False,
) -> Study:
    """Run what is left to run of a study, and return it.

    Finished runs are skipped, interrupted ones resumed, those finished with fewer steps continued. Then the
    same for the study's transfers, of every base that there is; those of a run that failed are left out.

    Args:
        study: regimes x seeds and their settings.
        out: the study's directory; created if it is not there.
        workers: processes at a time; None: as the study says, or as many as usable cores, at most one per
            run of the study; one where populations share a GPU.
        threads: of PyTorch in each worker, for runs that are new; None: as the study says, or usable cores //
            workers, at least 1.
        population: how many new runs are trained together in one process. "auto": on a GPU many, on a CPU
            each alone; "off": each alone; or at most so many.
        console: where the live table goes; None: standard output.
        say: gets the plain sentences.
        on: the executor; None: as the study says.
        leave: return as soon as a queue has what is left of the runs; asked again, the study goes on from
            there. Only a queue can be left.

    Raises:
        InputError: nothing was started; the sentence says why.
        RunsFailed: some runs failed or diverged; the others are finished.
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    check_folder(out)
    for name, count in (("workers", workers), ("threads", threads)):
        if count is not None and count < 1:
            raise InputError(f"{name} = {count}: allowed is at least 1.")
    given = {"executor": on, "workers": workers, "threads": threads}
    execution = study.execution.replace(**{name: value for name, value in given.items() if value is not None})
    queued = execution.executor == "slurm"
    if leave and not queued:
        raise InputError(
            f"leave: executor {execution.executor!r} ends with this process; allowed with slurm."
        )
    study = study.with_world(pinned(study.world))
    asked = Study(out, study)
    store = None if execution.store is None else Store(execution.store, out, say)
    _fetch(store, asked.run_jobs, say)
    planned = plan(asked.run_jobs, queued)
    # Of the last seed; which regime makes no difference to the probes.
    sample = RunSetup(asked.run_jobs[-len(study.regimes)].spec)
    _check_transfers(study, sample)
    together = groups(start_order(planned), population)
    _announce(planned, say)
    prepare(asked, planned)
    left = {run.name for run in planned if run.steps_left}
    specs = {name: spec for name, spec in study.expand().items() if name in left}
    for sentence in disk_sentences(specs, out, sample):
        say(sentence)
    failed = _work(asked, planned, together, execution, console, leave, store)
    if study.transfer is not None and not (leave and together):
        _fetch(store, asked.transfer_jobs, say)
        planned = plan(asked.transfer_jobs, queued)
        for name, reason in asked.transfers_missing.items():
            say(f"{name}: no transfer: {reason}")
        _announce(planned, say)
        prepare(asked, planned)
        alone = [[one] for one in start_order(planned)]
        failed |= _work(asked, planned, alone, execution, console, leave, store)
    if failed:
        raise RunsFailed(asked, failed)
    return asked


def _fetch(store: Store | None, jobs: Sequence[Run | Transfer], say: Callable[[str], None]) -> None:
    if store is not None and (found := store.fetch([job.directory for job in jobs])):
        say(f"from the store: {len(found)} of {len(jobs)} jobs")


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
    study: Study,
    planned: list[Planned],
    together: list[list[Planned]],
    execution: ExecutionSpec,
    console: Console | None,
    leave: bool,
    store: Store | None,
) -> dict[str, str]:
    """Do what is left of these, one process for each group; a sentence for each run that failed.

    Raises:
        Interrupted: SIGINT or SIGTERM; the running workers have saved.
    """
    todo = [run for runs in together for run in runs]
    keeper = None if store is None else Keeper(store, [run.directory for run in planned])
    if not todo:
        if keeper is not None:
            keeper.look(last=True)
        return {}
    with display(todo, console) as table, _caught_signals() as caught:
        one = executor(execution, study.directory, planned, together, table.say)
        results = supervise(one, together, table, caught, leave, keeper)
    left = [name for name, result in results.items() if result != FINISHED]
    if caught:
        raise Interrupted(f"stopped; {len(left)} of {len(planned)} runs unfinished: {', '.join(left)}.")
    return {name: results[name] for name in left if results[name] != STOPPED}


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


def supervise(
    one: Executor,
    together: list[list[Planned]],
    table: Display,
    caught: list[int],
    leave: bool,
    keeper: Keeper | None = None,
) -> dict[str, str]:
    """Let an executor do jobs until nothing is left, or a signal came and what was begun has saved.

    Returns:
        Per run name FINISHED, STOPPED, or a sentence on how it failed.
    """
    results = {run.name: STOPPED for runs in together for run in runs}
    forwarded = 0
    try:
        one.submit(together)
        while one.busy and not (leave and one.left_to_others):
            if len(caught) > forwarded:
                # The first signal asks the workers to save and leave; a second one does not wait for that.
                one.stop(at_once=forwarded > 0)
                forwarded = len(caught)
                table.say("stopping: waiting for the workers to save (once more to leave at once)")
            for run, state in one.watch():
                if state != STARTING:
                    results[run.name] = state
                table.state(run, state)
            table.update()
            if keeper is not None:
                keeper.look()
            time.sleep(POLL_SECONDS)
    finally:
        one.close()
        if keeper is not None:
            keeper.look(last=True)
    return results


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
