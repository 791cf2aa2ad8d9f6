"""Many runs trained at once in one process: one step for all, and a directory of its own for each.

Every run has a lane of the stacked state. Its model, records and resume state are those of a run alone, on
views into its lane; it has its own data order, its own step number, and it ends, diverges or fails by itself.
A lane whose run has ended goes on with rates of 0: to leave it out would change the shapes, and so
perhaps the rounding, of what is left.

The bits of a run depend on how many lanes there are, and not on which is its own or on who is in the others.
So the number of lanes stands in its manifest, and it goes on among as many; lanes without a run are filled.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds
from grokscope.training.checkpoint import kept_steps, load_state
from grokscope.training.data import Batches, TrainingData
from grokscope.training.keeper import Keeper
from grokscope.training.loop import TrainingResult
from grokscope.training.loss import Objective
from grokscope.training.manifest import (
    Backend,
    Manifest,
    check_same,
    manifest_here,
    read_manifest,
    write_manifest,
)
from grokscope.training.metrics import write_table
from grokscope.training.observer import Observer
from grokscope.training.optim import Optimizer
from grokscope.training.progress import Report, choose_display
from grokscope.training.sinks import Sink
from grokscope.training.spec import TrainingSpec
from grokscope.training.stacked import (
    StackedBatches,
    hold,
    member,
    stack,
    stacked_buffers,
    stacked_step,
)
from grokscope.training.start import (
    Past,
    checked_device,
    keep_freed_memory,
    loss_at_first,
    past_of,
    repeatable,
    with_threads,
)
from grokscope.training.step import Gradient, Step, choose_step
from grokscope.training.stops import Diverged, Interrupted, watch_signals
from grokscope.world.format import Encoded

BACKENDS: dict[str, Backend] = {"compiled": "population", "eager": "population-eager"}


@dataclass(frozen=True, eq=False)
class Member:
    """One of the runs; the arguments of `train`."""

    model: Reasoner
    data: TrainingData
    probes: Mapping[str, Encoded]
    spec: TrainingSpec
    seeds: Seeds
    directory: Path
    observers: Sequence[Observer] = ()
    sinks: Sequence[Sink] = ()
    report: Report | None = None


Outcome = TrainingResult | Diverged | InputError | OSError
"""What became of a run: finished, or why it ended before."""


def train_together(
    members: Sequence[Member],
    lanes: int | None = None,
    *,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Train several runs up to the steps of each, from wherever their directories stand.

    Args:
        members: runs of one model, batch and recipe; numbers of steps, data and seeds may differ.
        lanes: how many runs the step has room for; None: as many as there are, or as there were when they
            began.
        threads: as for `train`.
        say: gets the plain sentences.

    Returns:
        Per member what became of it. One that diverges or cannot be written ends alone.

    Raises:
        InputError: the runs cannot be trained together, or one cannot be resumed as it was.
        Interrupted: SIGINT or SIGTERM; the states of all are saved.
    """
    pasts = [past_of(one.directory, one.spec) for one in members]
    count = _lanes(members, pasts, lanes)
    device = checked_device(members[0].model, members[0].spec)
    before = next((past.manifest for past in pasts if past.manifest), None)
    with ExitStack() as held:
        held.enter_context(with_threads(before.threads if before else threads))
        held.enter_context(repeatable(device))
        keep_freed_memory()
        population = _Population(members, count, device)
        for lane in population.lanes:
            held.callback(lane.keeper.close)
        manifest = population.choose_step(pasts[0], say)
        for lane, past in zip(population.lanes, pasts, strict=True):
            lane.alone(partial(lane.begin, past, manifest, say))
        with watch_signals() as watch, torch.no_grad():
            for lane in population.lanes:
                lane.alone(lane.first_checkpoint)
            while watch.caught is None and any(lane.running for lane in population.lanes):
                population.step()
            left = [lane for lane in population.lanes if lane.running]
            for lane in left:
                lane.alone(lane.save)
    if left:
        raise Interrupted(
            left[0].keeper.step,
            f"{watch.name}: stopped and saved {len(left)} runs, the first at step {left[0].keeper.step} of "
            f"{left[0].member.spec.steps}; run the same command again and they go on from there.",
        )
    return [lane.outcome for lane in population.lanes if lane.outcome is not None]


class _Lane:
    """A run and its place in the population; `outcome` is None while it goes on."""

    def __init__(self, member: Member, keeper: Keeper) -> None:
        self.member, self.keeper = member, keeper
        self.outcome: Outcome | None = None

    @property
    def running(self) -> bool:
        return self.outcome is None

    def alone(self, call: Callable[[], None]) -> None:
        """Do something for this run; what goes wrong ends this run only."""
        if self.running:
            try:
                call()
            except (Diverged, InputError, OSError) as error:
                self._end(error)

    def begin(self, past: Past, manifest: Manifest, say: Callable[[str], None]) -> None:
        if past.manifest:
            check_same(past.manifest, manifest, self.member.directory)
        else:
            with self.keeper.writing():
                write_manifest(self.member.directory, manifest)
        if past.progress:
            load_state(self.member.directory, past.progress, self.keeper.state, self.keeper.sums)
        self.keeper.begin(past.progress)
        self.keeper.display = choose_display(self.member.report, say)

    def first_checkpoint(self) -> None:
        self.keeper.first_checkpoint()
        self._finish_if_done()

    def stepped(self) -> None:
        self.keeper.stepped()
        self._finish_if_done()

    def save(self) -> None:
        self.keeper.save()
        self.keeper.finish()

    def _finish_if_done(self) -> None:
        if self.keeper.step >= self.member.spec.steps:
            self.keeper.finish()
            with self.keeper.writing():
                metrics = write_table(self.member.directory)
            directory = self.member.directory
            kept, manifest = kept_steps(directory), read_manifest(directory)
            self._end(TrainingResult(self.keeper.step, metrics, kept, manifest))

    def _end(self, outcome: Outcome) -> None:
        """The model keeps what it holds; the lane no longer is its own."""
        hold(self.member.model, {name: tensor.clone() for name, tensor in self.keeper.state.ema.items()})
        self.outcome = outcome


class _Population:
    """The stacked state, and the runs in it."""

    def __init__(self, members: Sequence[Member], lanes: int, device: torch.device) -> None:
        spec = members[0].spec
        models = [one.model.to(device) for one in members]
        batches = [Batches(one.data, spec.batch, one.seeds.order, device) for one in members]
        objectives = [
            Objective(model, own.layout, spec.loss, spec.halt_weight)
            for model, own in zip(models, batches, strict=True)
        ]
        if len({(own.layout, _form(model)) for model, own in zip(models, batches, strict=True)}) > 1:
            raise InputError("members: runs of different models or formats cannot be trained together.")
        losses = [loss_at_first(loss, own(0), spec) for loss, own in zip(objectives, batches, strict=True)]
        self.optimizer, self.spec, self.device = Optimizer(spec, models[0]), spec, device
        fill = [0] * (lanes - len(members))
        order = [*range(len(members)), *fill]
        starts = [self.optimizer.start(model) for model in models]
        self.state = stack([starts[index] for index in order])
        self.buffers = stacked_buffers([models[index] for index in order])
        self.batches = StackedBatches([batches[index] for index in order])
        self.sums_M2 = torch.zeros(lanes, 2, dtype=torch.float64, device=device)
        self.objective, self.fill = objectives[0], fill
        self.lanes = []
        for index, (one, model, loss) in enumerate(zip(members, models, losses, strict=True)):
            own = member(self.state, index)
            hold(model, own.ema)
            sums = self.sums_M2[index]
            keeper = Keeper(
                model, one.probes, one.spec, one.directory, one.observers, one.sinks, own, sums, loss
            )
            self.lanes.append(_Lane(one, keeper))

    def choose_step(self, past: Past, say: Callable[[str], None]) -> Manifest:
        """Choose what runs the step, and say what the bits then depend on."""

        def make(objective: Objective, gradient: Gradient) -> Step:
            return stacked_step(objective, self.optimizer, self.buffers, gradient)

        example = (self.state, self.batches(self._steps()), self._scalars(), None)
        self._step, backend = choose_step(make, self.objective, past.wanted_compile(self.spec), example, say)
        dtype = self.lanes[0].member.model.dtype
        return manifest_here(
            torch.get_num_threads(), BACKENDS[backend], self.device, dtype, len(self.sums_M2)
        )

    def step(self) -> None:
        """One update of every run that goes on."""
        loss_M = self._step(self.state, self.batches(self._steps()), self._scalars(), None)
        self.sums_M2 += loss_M[:, None]
        for lane in self.lanes:
            lane.alone(lane.stepped)

    def _steps(self) -> list[int]:
        """Per lane the step of its data; a filled one looks at those of the first."""
        steps = [lane.keeper.step for lane in self.lanes]
        return [*steps, *(steps[index] for index in self.fill)]

    def _scalars(self) -> Tensor:
        """Per lane what changes from step to step; runs at the same step share the arithmetic."""
        running = [lane.keeper.step if lane.running else None for lane in self.lanes]
        steps = [*running, *(None for _ in self.fill)]
        known = {step: self._rates(step) for step in set(steps)}
        return torch.stack([known[step] for step in steps]).to(self.device, non_blocking=True)

    def _rates(self, step: int | None) -> Tensor:
        if step is not None:
            return self.optimizer.scalars(step)
        return self.optimizer.standstill()


def _lanes(members: Sequence[Member], pasts: Sequence[Past], wanted: int | None) -> int:
    """How many lanes, if these runs can be trained together."""
    if not members:
        raise InputError("members = 0: a population needs at least 1 run.")
    if any(one.spec.replace(steps=1) != members[0].spec.replace(steps=1) for one in members):
        raise InputError("training: runs that are trained together may differ in nothing but `steps`.")
    if members[0].spec.loop_choices is not None:
        raise InputError(
            "training.loop_choices: every run draws its own number of loops, so they cannot be trained "
            "together; allowed is None."
        )
    before = sorted({past.manifest.members for past in pasts if past.manifest})
    counts = before or [wanted or len(members)]
    if len(counts) > 1 or counts[0] < len(members) or (wanted or counts[0]) != counts[0]:
        raise InputError(
            f"lanes = {wanted or len(members)}: the {len(members)} runs were begun among {before or counts} "
            "at once and go on among as many."
        )
    return counts[0]


def _form(model: Reasoner) -> tuple[object, ...]:
    """What must be the same for two models to be computed by one call."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return type(model), getattr(model, "spec", None), tuple((name, t.shape) for name, t in tensors)
