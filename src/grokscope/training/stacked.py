"""The training step of many models at once: every tensor of the state has a leading member axis.

The members have one architecture and one recipe, and nothing else in common: each has its own weights,
moments and average, its own batch, rates and buffers. No number of one depends on a number of another.

Shape suffixes: M members, N examples of all members, B batch, C columns of a row.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from grokscope.models.protocol import Reasoner
from grokscope.training.data import Batches
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer, Tensors, TrainState
from grokscope.training.step import Gradient, Step, trained, write_back


def stack(states: Sequence[TrainState]) -> TrainState:
    """One state with a leading member axis, in tensors of its own."""
    return TrainState(*(_stack_part(parts) for parts in zip(*states, strict=True)))


def member(state: TrainState, index: int) -> TrainState:
    """A member's state, as views into the stack."""
    return TrainState(*({name: tensor[index] for name, tensor in part.items()} for part in state))


def hold(model: Reasoner, weights: Tensors) -> None:
    """Let the parameters of a model be these tensors."""
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]


def stacked_buffers(models: Sequence[Reasoner]) -> Tensors:
    """Buffers by name, of all models: a TRM's initial states, for example, depend on its seed."""
    return _stack_part([dict(model.named_buffers()) for model in models])


def stacked_step(objective: Objective, optimizer: Optimizer, buffers: Tensors, gradient: Gradient) -> Step:
    """A step of all members, which writes its result back into the state it was given.

    Args:
        objective: of any one of them; its model's weights and buffers are not used.
        optimizer: the update.
        buffers: of the members.
        gradient: how gradients are taken.

    Returns:
        (state, rows_MBC, scalars of the members, loops) -> loss_M
    """

    def run(state: TrainState, rows_MBC: Tensor, scalars: Tensor, loops: int | None) -> Tensor:
        def one(params: Tensors, fixed: Tensors, rows_BC: Tensor) -> Tensor:
            tensors = {f"model.{name}": tensor for name, tensor in {**fixed, **params}.items()}
            loss: Tensor = functional_call(objective, tensors, (rows_BC, loops))
            return loss

        frozen = {name: p for name, p in state.params.items() if name in optimizer.frozen}

        def summed(params: Tensors) -> tuple[Tensor, Tensor]:
            loss_M = vmap(one)(params, {**buffers, **frozen}, rows_MBC)
            return loss_M.sum(), loss_M

        # A member's parameters are in its own loss only, so the gradient of the sum holds everyone's own.
        grads, loss_M = gradient(summed, trained(state, optimizer))
        write_back(state, vmap(optimizer.update)(state, grads, scalars))
        return loss_M

    return run


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
