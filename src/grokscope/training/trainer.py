"""A training, assembled from its parts in one place: model, data, optimiser, step and records.

`assembled` lets everything stand ready, from the start or from where the directories stand. What is left is
to make updates, which `loop.run` does to the end of all runs, and `grokscope plan` a few times with a clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import polars as pl
import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.files import write_json
from grokscope.models.protocol import Reasoner
from grokscope.training.checkpoint import find_state, kept_steps, load_state
from grokscope.training.data import Batches, loops_at
from grokscope.training.keeper import Keeper
from grokscope.training.loss import Objective
from grokscope.training.manifest import MANIFEST, Manifest, check_same, manifest_here, read_manifest
from grokscope.training.member import Member
from grokscope.training.metrics import write_table
from grokscope.training.optim import Optimizer, TrainState
from grokscope.training.progress import choose_display
from grokscope.training.shared import SharedSteps, form_of
from grokscope.training.start import keep_freed_memory, repeatable, with_threads
from grokscope.training.step import Switch, choose_step, to_compile
from grokscope.training.stops import Diverged


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


Outcome = TrainingResult | Diverged | InputError | OSError
"""What became of a run: finished, or why it ended before."""


class Lane:
    """A run in training: where it stands, its parts, its records, and what became of it.

    Raises:
        InputError: its directory has more steps than are wanted, cannot be continued, or is damaged.

    Attributes:
        progress: the state it goes on from; None: it begins.
        before: what the bits so far depend on; None: there are none.
        keeper: its records; there is one as soon as the trainer has a state for it.
        outcome: None while it goes on.
    """

    keeper: Keeper

    def __init__(self, member: Member) -> None:
        self.member, directory, spec = member, member.directory, member.spec
        self.progress = find_state(directory)
        if self.progress and self.progress.step > spec.steps:
            raise InputError(
                f"training.steps = {spec.steps}: the run in {directory} already has {self.progress.step} "
                f"steps; allowed is at least {self.progress.step}."
            )
        if not self.progress and (orphans := [step for step in kept_steps(directory) if step > 0]):
            raise InputError(
                f"{directory} has checkpoints up to step {orphans[-1]} but no resume state, so it cannot "
                "be continued; start in another directory."
            )
        self.before = read_manifest(directory) if self.progress else None
        self.outcome: Outcome | None = None

    def build(self) -> None:
        """Make the parts that it has however it is trained.

        Raises:
            InputError: a setting cannot be honoured.
        """
        spec, dtype = self.member.spec, str(self.member.model.dtype).removeprefix("torch.")
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise InputError("training.device = 'cuda': PyTorch sees no GPU here; allowed is 'cpu'.")
        if dtype != spec.dtype:
            raise InputError(
                f"training.dtype = {spec.dtype!r}: the model was built for {dtype!r}; both must agree."
            )
        model = self.member.model.to(self.device)
        self.batches = Batches(self.member.data, spec.batch, self.member.seeds.order, self.device)
        self.objective = Objective(model, self.batches.layout, spec.loss, spec.halt_weight)
        first_BC = self.batches(0)
        for loops in spec.loop_choices or ():
            self.objective(first_BC[:1], loops)  # A number that the model cannot have is refused now.
        self.first_loss = float(self.objective(first_BC))
        self.optimizer = Optimizer(spec, model)

    @property
    def device(self) -> torch.device:
        return torch.device(self.member.spec.device)

    @property
    def wanted_compile(self) -> Switch:
        """A run that began without a compiler goes on without."""
        eager, wanted = self.before and self.before.backend.endswith("eager"), self.member.spec.compile
        return "off" if eager and wanted == "auto" else wanted

    def records(self, state: TrainState, sums: Tensor) -> None:
        """Keep records of a state, and of the sums of the loss, which the trainer changes in place."""
        self.keeper = Keeper(self.member, state, sums, self.first_loss)

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

    def begin(self, manifest: Manifest | None, say: Callable[[str], None]) -> None:
        """Go on from the past, under the same manifest (None: nothing is to be done)."""
        directory = self.member.directory
        if manifest and self.before:
            check_same(self.before, manifest, directory)
        elif manifest:
            with self.keeper.writing():
                write_json(directory / MANIFEST, manifest.tree())
        if self.progress:
            load_state(directory, self.progress, self.keeper.state, self.keeper.sums)
        self.keeper.begin(self.progress)
        self.keeper.display = choose_display(self.member.report, say)

    def first_checkpoint(self) -> None:
        """The checkpoint that is due before the first update."""
        self.keeper.first_checkpoint()
        self._finish_if_done()

    def stepped(self) -> None:
        """An update was made."""
        self.keeper.stepped()
        self._finish_if_done()

    def save(self) -> None:
        """Write the state that the run is resumed from."""
        self.keeper.save()
        self.keeper.finish()

    def _finish_if_done(self) -> None:
        if self.keeper.done:
            self.keeper.finish()
            directory = self.member.directory
            with self.keeper.writing():
                metrics = write_table(directory)
            manifest = read_manifest(directory)
            self._end(TrainingResult(self.keeper.step, metrics, kept_steps(directory), manifest))

    def _end(self, outcome: Outcome) -> None:
        """The model keeps what it holds; the state is no longer its own."""
        hold(self.member.model, {name: tensor.clone() for name, tensor in self.keeper.state.ema.items()})
        self.outcome = outcome


class Trainer(ABC):
    """Runs that stand ready, and the step that updates them together."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes

    @abstractmethod
    def choose_step(self, say: Callable[[str], None]) -> Manifest:
        """Choose what runs the step, and say what the bits then depend on."""

    @abstractmethod
    def update(self) -> None:
        """One update of every run that goes on; its records are not told yet."""


class Alone(Trainer):
    """One run with a state of its own.

    Args:
        lane: the run.
        shared: compiled steps of earlier trainings in this process, to which this one's is added.
    """

    def __init__(self, lane: Lane, shared: SharedSteps) -> None:
        super().__init__([lane])
        self.lane, self.shared = lane, shared
        self.state = lane.optimizer.start(lane.member.model)
        self.sums = torch.zeros(2, dtype=torch.float64, device=lane.device)
        lane.records(self.state, self.sums)

    def choose_step(self, say: Callable[[str], None]) -> Manifest:
        lane, wanted = self.lane, self.lane.wanted_compile
        example = (self.state, *self._arguments(0))
        form = None
        if wanted != "off":
            form = form_of(to_compile(lane.objective), lane.optimizer, example[1])
        self._step, backend = self.shared.take(
            form, lambda: choose_step(lane.objective, lane.optimizer, wanted, example, say)
        )
        return manifest_here(torch.get_num_threads(), backend, lane.device, lane.member.model.dtype)

    def update(self) -> None:
        self.sums += self._step(self.state, *self._arguments(self.lane.keeper.step))

    def _arguments(self, step: int) -> tuple[Tensor, Tensor, int | None]:
        """Batch, rates and number of loops of a step."""
        one = self.lane.member
        scalars = self.lane.optimizer.scalars(step).to(self.lane.device, non_blocking=True)
        return self.lane.batches(step), scalars, loops_at(step, one.spec.loop_choices, one.seeds.order)


@contextmanager
def assembled(
    make: Callable[[Sequence[Lane]], Trainer],
    members: Sequence[Member],
    threads: int | None,
    say: Callable[[str], None],
) -> Iterator[Trainer]:
    """Runs that stand ready to be updated. Afterwards all files are written, and threads and displays gone.

    Args:
        make: the trainer of the runs, `Alone` for one.
        members: the runs.
        threads: of PyTorch, for this training only; None: as they are. A resumed run has the threads it
            started with.
        say: gets the plain sentences.

    Raises:
        InputError: a setting cannot be honoured, or a run cannot be resumed as it was.
    """
    lanes = [Lane(one) for one in members]
    before = next((lane.before for lane in lanes if lane.before), None)
    with ExitStack() as held:
        held.enter_context(with_threads(before.threads if before else threads))
        held.enter_context(repeatable(lanes[0].device))
        held.enter_context(torch.no_grad())
        keep_freed_memory()
        for lane in lanes:
            lane.build()
        trainer = make(lanes)
        for lane in lanes:
            held.callback(lane.keeper.close)
        done = all(lane.progress and lane.progress.step == lane.member.spec.steps for lane in lanes)
        manifest = None if done else trainer.choose_step(say)
        for lane in lanes:
            lane.alone(partial(lane.begin, manifest, say))
        yield trainer


def hold(model: Reasoner, weights: Mapping[str, Tensor]) -> None:
    """Let the parameters of a model be these tensors."""
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]
