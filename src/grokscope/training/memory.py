"""Bytes that a training holds, counted from one and two real examples.

Shape suffixes: B batch, C columns of a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from grokscope.models.protocol import Reasoner
from grokscope.training.data import Batches, TrainingData
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.spec import TrainingSpec


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
    state = Optimizer(spec, model).start(model)
    held = sum(_bytes(t) for part in state for t in part.values()) + sum(
        _bytes(p) for p in model.parameters()
    )
    two_BC = batches.rows_NC[:1].expand(2, -1)
    choices = spec.loop_choices or (None,)
    each = max(_saved(objective, two_BC, loops) - _saved(objective, two_BC[:1], loops) for loops in choices)
    return Memory(held, max(0, each) * spec.batch, _bytes(batches.rows_NC))


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


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
