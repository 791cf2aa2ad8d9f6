"""FLOPs of one example, counted by PyTorch on a copy of the model that has shapes and no numbers.

Matrix products only, 2 FLOPs per multiply-add. Norms, activations, softmax and embedding look-ups are left
out (under a few per cent at usual widths). Attention counts all T x T pairs, causal or not, as a product
would compute them.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from grokscope.models.attention import Attention
from grokscope.models.protocol import Reasoner


def evaluation_flops(model: Reasoner, labelled: int) -> int:
    """FLOPs of one probe's accuracy: loops of inference, logits at the labelled positions."""
    shapes = without_numbers(model)

    def evaluate() -> Tensor:
        return shapes.unembed(shapes.hidden(_tokens(shapes), shapes.inference_loops)[:, :labelled])

    return counted(evaluate)


def lens_flops(model: Reasoner) -> int:
    """FLOPs of one probe's lens: one unrolled pass, and logits at every stage and input position."""
    shapes = without_numbers(model)

    def read() -> None:
        carry = shapes.start(_tokens(shapes))
        for stage in shapes.stages:
            carry = shapes.step(carry, stage.index) if stage.index else carry
            shapes.unembed(shapes.read(carry, stage.index)[:, shapes.prefix :])

    return counted(read)


def without_numbers(model: Reasoner) -> Reasoner:
    """A copy on the device "meta", in training mode. Attention over few positions, written without products,
    is made to use them: they are what is counted."""
    memo: dict[int, Tensor] = {id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()}
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    shapes = copy.deepcopy(model, memo).train()
    for part in shapes.modules():
        if isinstance(part, Attention):
            part.few = 0
    return shapes


@torch.no_grad()
def counted(call: Callable[[], object]) -> int:
    """FLOPs of the matrix products that a call makes."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def _tokens(shapes: Reasoner) -> Tensor:
    return torch.empty(1, shapes.positions, dtype=torch.int64, device="meta")
