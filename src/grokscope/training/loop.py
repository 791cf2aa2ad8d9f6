"""The training loop: start or resume, step, and at every checkpoint evaluate, let observers look, and save.

Nothing in a run depends on when it was interrupted: the step number gives the data, the rates and the number
of loops, and all else that changes is in the resume state. At a checkpoint the order is: observers,
accuracies, weights, metrics line, resume state, and only then weights that `keep` no longer covers are
deleted. From the weights on this happens beside the next steps. A process killed anywhere in between resumes
from the state before and does it again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds
from grokscope.training.checkpoint import kept_steps, load_state
from grokscope.training.data import Batches, TrainingData, loops_at
from grokscope.training.keeper import Keeper
from grokscope.training.loss import Objective
from grokscope.training.manifest import Manifest, check_same, manifest_here, read_manifest, write_manifest
from grokscope.training.metrics import write_table
from grokscope.training.observer import Observer
from grokscope.training.optim import Optimizer, TrainState
from grokscope.training.progress import Report, choose_display
from grokscope.training.shared import SharedSteps, form_of
from grokscope.training.sinks import Sink
from grokscope.training.spec import TrainingSpec
from grokscope.training.start import (
    checked_device,
    keep_freed_memory,
    loss_at_first,
    past_of,
    repeatable,
    with_threads,
)
from grokscope.training.step import Step, make_step, to_compile
from grokscope.training.stops import Interrupted, watch_signals
from grokscope.world.format import Encoded


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves; the model itself holds the averaged weights of the last step."""

    step: int
    """Updates made in all."""
    metrics: pl.DataFrame
    """One row per checkpoint; also in `metrics.parquet`."""
    checkpoints: list[int]
    """Steps whose weights are kept."""
    manifest: Manifest
    """What the numbers depend on beside the spec."""


def train(
    model: Reasoner,
    data: TrainingData,
    probes: Mapping[str, Encoded],
    spec: TrainingSpec,
    seeds: Seeds,
    directory: Path,
    observers: Sequence[Observer] = (),
    sinks: Sequence[Sink] = (),
    *,
    threads: int | None = None,
    report: Report | None = None,
    say: Callable[[str], None] = print,
    shared: SharedSteps | None = None,
) -> TrainingResult:
    """Train a model up to `spec.steps`, from the start or from where its directory stands.

    Args:
        model: freshly built, with its initial weights, in the dtype of the spec. It holds the averaged (EMA)
            weights whenever someone else looks at it, and at the end.
        data: the examples of one epoch.
        probes: what is evaluated at checkpoints, by name; empty sets are left out.
        spec: the settings.
        seeds: `order` draws the order of the examples and random numbers of loops.
        directory: of the run; made if it is not there.
        observers: look at every checkpoint, in this order.
        sinks: get every metrics line, beside `metrics.jsonl`.
        threads: of PyTorch, for this training only; None: as they are. A resumed run has the threads it
            started with.
        report: called about once a second with the progress, instead of a display; see
            `grokscope.training.progress`.
        say: gets the plain sentences.
        shared: compiled steps of earlier trainings in this process, to which this one's is added; None: it
            compiles its own.

    Raises:
        InputError: a setting cannot be honoured, the run cannot be resumed as it was, a file is damaged, or
            the disk is full.
        Interrupted: SIGINT or SIGTERM; the state is saved.
        Diverged: the loss or a weight is not a usable number.
    """
    past = past_of(directory, spec)
    progress, before = past.progress, past.manifest
    device = checked_device(model, spec)
    with ExitStack() as stack:
        stack.enter_context(with_threads(before.threads if before else threads))
        stack.enter_context(repeatable(device))
        keep_freed_memory()
        model.to(device)
        batches = Batches(data, spec.batch, seeds.order, device)
        objective = Objective(model, batches.layout, spec.loss, spec.halt_weight)
        first_loss = loss_at_first(objective, batches(0), spec)
        optimizer = Optimizer(spec, model)
        state = optimizer.start(model)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        keeper = Keeper(model, probes, spec, directory, observers, sinks, state, sums, first_loss)
        stack.callback(keeper.close)
        step = None
        if before is None or (progress and progress.step < spec.steps):
            loops = loops_at(0, spec.loop_choices, seeds.order)
            example = (state, batches(0), optimizer.scalars(0).to(device), loops)
            wanted = past.wanted_compile(spec)
            form = None if wanted == "off" else form_of(to_compile(objective), optimizer, example[1])
            step, backend = (shared or SharedSteps()).take(
                form, lambda: make_step(objective, optimizer, wanted, example, say)
            )
            manifest = manifest_here(torch.get_num_threads(), backend, device, model.dtype)
            if before:
                check_same(before, manifest, directory)
            else:
                with keeper.writing():
                    write_manifest(directory, manifest)
        if progress:
            load_state(directory, progress, state, keeper.sums)
        keeper.begin(progress)
        keeper.display = choose_display(report, say)
        _run(step, state, batches, optimizer, spec, seeds, keeper)
        keeper.finish()
        with keeper.writing():
            metrics = write_table(directory)
    return TrainingResult(keeper.step, metrics, kept_steps(directory), read_manifest(directory))


def _run(
    step: Step | None,
    state: TrainState,
    batches: Batches,
    optimizer: Optimizer,
    spec: TrainingSpec,
    seeds: Seeds,
    keeper: Keeper,
) -> None:
    device = keeper.sums.device
    with watch_signals() as watch, torch.no_grad():
        keeper.first_checkpoint()
        while step is not None and keeper.step < spec.steps and watch.caught is None:
            now = keeper.step
            loops = loops_at(now, spec.loop_choices, seeds.order)
            scalars = optimizer.scalars(now).to(device, non_blocking=True)
            keeper.sums += step(state, batches(now), scalars, loops)
            keeper.stepped()
        if watch.caught is not None and keeper.step < spec.steps:
            keeper.save()
            keeper.finish()
            raise Interrupted(
                keeper.step,
                f"{watch.name}: stopped and saved at step {keeper.step} of {spec.steps}; run the same "
                "command again and it goes on from there.",
            )
