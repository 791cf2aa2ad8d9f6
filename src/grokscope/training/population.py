"""Many runs trained at once in one process: one step for all, and a directory of its own for each.

Every run has a lane of the stacked state. Its model, records and resume state are those of a run alone, on
views into its lane; it has its own data order, its own step number, and it ends, diverges or fails by itself.
A lane whose run has ended goes on with rates of 0: to leave it out would change the shapes, and so
perhaps the rounding, of what is left.

The bits of a run depend on how many lanes there are, and not on which is its own or on who is in the others.
So the number of lanes stands in its manifest, and it goes on among as many; lanes without a run are filled.

Every tensor of the stacked state and of its batches has a leading member axis. Shape suffixes: M members, N
examples of all members, B batch, C columns of a row.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.training.data import Batches
from grokscope.training.loop import run
from grokscope.training.manifest import Backend, Manifest, manifest_here
from grokscope.training.member import Member
from grokscope.training.optim import Tensors, TrainState
from grokscope.training.step import choose_step
from grokscope.training.trainer import Lane, Outcome, Trainer, assembled, hold

BACKENDS: dict[str, Backend] = {"compiled": "population", "eager": "population-eager"}


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
        threads, say: as for `train`.

    Returns:
        Per member what became of it. One that diverges or cannot be written ends alone.

    Raises:
        InputError: the runs cannot be trained together, or one cannot be resumed as it was.
        Interrupted: SIGINT or SIGTERM; the states of all are saved.
    """
    _check(members)
    with assembled(lambda own: Population(own, lanes), members, threads, say) as trainer:
        return run(trainer)


class Population(Trainer):
    """The stacked state, and the runs in it.

    Args:
        lanes: the runs.
        wanted: how many the step has room for; None: as many as there are or were.

    Raises:
        InputError: the runs cannot be trained together, or not among so many.
    """

    def __init__(self, lanes: Sequence[Lane], wanted: int | None) -> None:
        super().__init__(lanes)
        count = _room(lanes, wanted)
        if len({(lane.batches.layout, _form(lane.member.model)) for lane in lanes}) > 1:
            raise InputError("members: runs of different models or formats cannot be trained together.")
        self.fill = [0] * (count - len(lanes))
        order = [*range(len(lanes)), *self.fill]
        models = [lane.member.model for lane in lanes]
        starts = [lane.optimizer.start(model) for lane, model in zip(lanes, models, strict=True)]
        self.state = stack([starts[index] for index in order])
        self.buffers = stacked_buffers([models[index] for index in order])
        self.batches = StackedBatches([lanes[index].batches for index in order])
        self.sums_M2 = torch.zeros(count, 2, dtype=torch.float64, device=lanes[0].device)
        for index, lane in enumerate(lanes):
            own = lane_of(self.state, index)
            hold(lane.member.model, own.ema)
            lane.records(own, self.sums_M2[index])

    def choose_step(self, say: Callable[[str], None]) -> Manifest:
        first = self.lanes[0]
        example = (self.state, self.batches(self._steps()), self._scalars(), None)
        self._step, backend = choose_step(
            first.objective, first.optimizer, first.wanted_compile, example, say, self.buffers
        )
        dtype, count = first.member.model.dtype, len(self.sums_M2)
        return manifest_here(torch.get_num_threads(), BACKENDS[backend], first.device, dtype, count)

    def update(self) -> None:
        loss_M = self._step(self.state, self.batches(self._steps()), self._scalars(), None)
        self.sums_M2 += loss_M[:, None]

    def _steps(self) -> list[int]:
        """Per lane the step of its data; a filled one looks at those of the first."""
        steps = [lane.keeper.step for lane in self.lanes]
        return [*steps, *(steps[index] for index in self.fill)]

    def _scalars(self) -> Tensor:
        """Per lane what changes from step to step; runs at the same step share the arithmetic."""
        running = [lane.keeper.step if lane.running else None for lane in self.lanes]
        steps = [*running, *(None for _ in self.fill)]
        known = {step: self._rates(step) for step in set(steps)}
        return torch.stack([known[step] for step in steps]).to(self.lanes[0].device, non_blocking=True)

    def _rates(self, step: int | None) -> Tensor:
        optimizer = self.lanes[0].optimizer
        return optimizer.standstill() if step is None else optimizer.scalars(step)


def _check(members: Sequence[Member]) -> None:
    """Refuse runs that differ in what one step cannot do twice.

    Raises:
        InputError: they do, or there is none.
    """
    if not members:
        raise InputError("members = 0: a population needs at least 1 run.")
    if any(one.spec.replace(steps=1) != members[0].spec.replace(steps=1) for one in members):
        raise InputError("training: runs that are trained together may differ in nothing but `steps`.")
    if members[0].spec.loop_choices is not None:
        raise InputError(
            "training.loop_choices: every run draws its own number of loops, so they cannot be trained "
            "together; allowed is None."
        )


def _room(lanes: Sequence[Lane], wanted: int | None) -> int:
    """How many lanes there are.

    Raises:
        InputError: the runs were begun among another number.
    """
    before = sorted({lane.before.members for lane in lanes if lane.before})
    counts = before or [wanted or len(lanes)]
    if len(counts) > 1 or counts[0] < len(lanes) or (wanted or counts[0]) != counts[0]:
        raise InputError(
            f"lanes = {wanted or len(lanes)}: the {len(lanes)} runs were begun among {before or counts} "
            "at once and go on among as many."
        )
    return counts[0]


def _form(model: Reasoner) -> tuple[object, ...]:
    """What must be the same for two models to be computed by one call."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return type(model), model.spec, tuple((name, t.shape) for name, t in tensors)


def stack(states: Sequence[TrainState]) -> TrainState:
    """One state with a leading member axis, in tensors of its own."""
    return TrainState(*(_stack_part(parts) for parts in zip(*states, strict=True)))


def lane_of(state: TrainState, index: int) -> TrainState:
    """A member's state, as views into the stack."""
    return TrainState(*({name: tensor[index] for name, tensor in part.items()} for part in state))


def stacked_buffers(models: Sequence[Reasoner]) -> Tensors:
    """Buffers by name, of all models: a TRM's initial states, for example, depend on its seed."""
    return _stack_part([dict(model.named_buffers()) for model in models])


class StackedBatches:
    """The batches of all members, by one gather.

    Args:
        batches: of each; members may share one. They give up their rows, which are put one after another.
    """

    def __init__(self, batches: Sequence[Batches]) -> None:
        self.batches = batches
        own = list(dict.fromkeys(batches))
        starts = dict(zip(own, accumulate((one.examples for one in own), initial=0), strict=False))
        self.rows_NC = torch.cat([one.rows_NC for one in own])
        first_M = torch.tensor([starts[one] for one in batches])
        self.first_M1 = first_M[:, None].to(self.rows_NC.device)
        for one in own:
            one.rows_NC = self.rows_NC[:0]

    def __call__(self, steps: Sequence[int]) -> Tensor:
        """rows_MBC for the updates that take each member from its step to the next."""
        index_MB = torch.stack([one.index(step) for one, step in zip(self.batches, steps, strict=True)])
        flat = self.rows_NC.index_select(0, (index_MB + self.first_M1).view(-1))
        return flat.view(*index_MB.shape, -1)


def _stack_part(parts: Sequence[Mapping[str, Tensor]]) -> Tensors:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
