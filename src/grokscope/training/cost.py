"""What a training will take: FLOPs, bytes of memory, bytes on the disk.

FLOPs are those of matrix products (see `models.flops`), the examples' and the optimiser's; the latter do not
grow with the batch. AdamW, sign-SGD and the EMA are elementwise and, as everywhere in these counts, left out.

Shape suffixes: B batch, C columns of a row.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from grokscope.models.flops import Operations, operations, without_numbers
from grokscope.models.protocol import Reasoner
from grokscope.training.checkpoint import model_tensors
from grokscope.training.data import Batches, RowLayout, TrainingData
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.schedule import checkpoint_steps, thin
from grokscope.training.spec import TrainingSpec


def examples(model: Reasoner, spec: TrainingSpec, layout: RowLayout) -> tuple[Operations, ...]:
    """Forward and backward over one batch, for every number of loops that a step may draw."""
    objective = Objective(without_numbers(model), layout, spec.loss, spec.halt_weight)
    rows_BC = torch.empty(spec.batch, layout.columns, dtype=torch.int64, device="meta")

    def forward_and_backward(loops: int | None) -> None:
        with torch.enable_grad():
            objective(rows_BC, loops).backward()

    return tuple(operations(partial(forward_and_backward, loops)) for loops in spec.loop_choices or (None,))


def examples_flops(model: Reasoner, spec: TrainingSpec, layout: RowLayout) -> float:
    """FLOPs of forward and backward over one batch; with random numbers of loops, of the mean step."""
    each = [one.flop for one in examples(model, spec, layout)]
    return sum(each) / len(each)


def update(model: Reasoner, spec: TrainingSpec) -> Operations:
    """One update of the optimiser, with Muon's Newton-Schulz iterations."""
    optimizer = Optimizer(spec, shapes := without_numbers(model))
    state, scalars = optimizer.start(shapes), optimizer.scalars(0).to("meta")
    return operations(torch.no_grad()(lambda: optimizer.update(state, state.params, scalars)))


def disk_estimate(model: Reasoner, spec: TrainingSpec) -> int:
    """Bytes that checkpoints and resume state take at most (two states while one replaces the other)."""
    weights = sum(t.nbytes for t in model_tensors(model).values())
    checkpoints = len(thin(checkpoint_steps(spec), spec.keep)) + 1
    return checkpoints * weights + 2 * _state(model, spec)


@dataclass(frozen=True)
class Memory:
    """Bytes of one training, without what PyTorch itself takes."""

    state: int
    """Weights, moments, average and gradients."""
    activations: int
    """What an uncompiled step keeps for its backward pass at the full batch; a compiled one keeps less."""
    data: int
    """All examples, which stay on the device."""

    @property
    def total(self) -> int:
        return self.state + self.activations + self.data


def training_memory(model: Reasoner, data: TrainingData, spec: TrainingSpec) -> Memory:
    """Count the bytes of a training of this model, without taking a step.

    Activations are what autograd saves for one more example, times the batch; with random numbers of loops,
    of the largest.

    Raises:
        InputError: the batch is larger than the data, or a number of loops cannot be had.
    """
    batches = Batches(data, spec.batch, 0)
    objective = Objective(model, batches.layout, spec.loss, spec.halt_weight)
    gradients = sum(p.nbytes for p in model.parameters())
    two_BC = batches.rows_NC[:1].expand(2, -1)
    each = max(
        _saved(objective, two_BC, loops) - _saved(objective, two_BC[:1], loops)
        for loops in spec.loop_choices or (None,)
    )
    return Memory(_state(model, spec) + gradients, max(0, each) * spec.batch, batches.rows_NC.nbytes)


def _state(model: Reasoner, spec: TrainingSpec) -> int:
    """Bytes of weights, moments and averages."""
    shapes = without_numbers(model)
    return sum(t.nbytes for part in Optimizer(spec, shapes).start(shapes) for t in part.values())


def _saved(objective: Objective, rows_BC: Tensor, loops: int | None) -> int:
    """Bytes of the tensors that the backward pass of these examples needs, each storage once."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        # What is let go may give its address to the next one.
        alive.append(tensor)
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        objective(rows_BC, loops)
    return sum(kept.values())
