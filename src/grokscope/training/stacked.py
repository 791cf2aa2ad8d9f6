"""The state and the batches of many models at once: every tensor has a leading member axis.

The members have one architecture and one recipe, and nothing else in common: each has its own weights,
moments and average, its own batch, rates and buffers. No number of one depends on a number of another.

Shape suffixes: M members, N examples of all members, B batch, C columns of a row.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from grokscope.models.protocol import Reasoner
from grokscope.training.data import Batches
from grokscope.training.optim import Tensors, TrainState


def stack(states: Sequence[TrainState]) -> TrainState:
    """One state with a leading member axis, in tensors of its own."""
    return TrainState(*(_stack_part(parts) for parts in zip(*states, strict=True)))


def member(state: TrainState, index: int) -> TrainState:
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
