"""What a computation is made of, seen by PyTorch on a copy of the model that has shapes and no numbers.

FLOPs are those of matrix products, 2 per multiply-add. Norms, activations, softmax and embedding look-ups are
left out (under a few per cent at usual widths). Attention counts all T x T pairs, causal or not, as a product
would compute them. Operations and the bytes that they touch are counted one by one, as if nothing were fused.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from grokscope.models.attention import Attention
from grokscope.models.protocol import Reasoner

VIEWS = frozenset(
    ("alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "lift_fresh",
     "new_empty", "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze",
     "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view")
)  # fmt: skip
"""Operations that compute nothing and move nothing."""


@dataclass(frozen=True)
class Operations:
    """What a computation is made of, whatever runs it."""

    calls: int
    """Operations that compute something: without a compiler, launches on a GPU."""
    products: tuple[tuple[int, int], ...]
    """FLOP of every matrix product, and the bytes that it reads and writes."""
    moved: int
    """Bytes that all other operations read and write, each by itself."""

    @property
    def flop(self) -> int:
        return sum(flop for flop, _ in self.products)

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.calls + other.calls, self.products + other.products, self.moved + other.moved)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls, self.moved = 0, 0
        self.products: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out, packet = func(*args, **kwargs), func._overloadpacket
        if packet.__name__ not in VIEWS:
            touched = [part for part in tree_leaves((args, kwargs, out)) if isinstance(part, Tensor)]
            size = sum(part.numel() * part.element_size() for part in touched)
            self.calls += 1
            if packet in flop_registry:
                self.products.append((int(flop_registry[packet](*args, **kwargs, out_val=out)), size))
            else:
                self.moved += size
        return out


def operations(call: Callable[[], object]) -> Operations:
    """What a call on tensors of the device "meta" does, its backward passes included."""
    with _Counter() as counter:
        call()
    return Operations(counter.calls, tuple(counter.products), counter.moved)


def evaluation(model: Reasoner, labelled: int, probes: int = 1) -> Operations:
    """The accuracy of probes: loops of inference, logits at the labelled positions."""
    shapes = without_numbers(model)

    def evaluate() -> Tensor:
        return shapes.unembed(shapes.hidden(_tokens(shapes, probes), shapes.inference_loops)[:, :labelled])

    return operations(torch.no_grad()(evaluate))


def reading(model: Reasoner, probes: int = 1) -> Operations:
    """The lens of probes: one unrolled pass, and logits at every stage and position."""
    shapes = without_numbers(model)

    def read() -> None:
        carry = shapes.start(_tokens(shapes, probes))
        for stage in shapes.stages:
            carry = shapes.step(carry, stage.index) if stage.index else carry
            shapes.unembed(shapes.read(carry, stage.index))

    return operations(torch.no_grad()(read))


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


def _tokens(shapes: Reasoner, probes: int) -> Tensor:
    return torch.empty(probes, shapes.positions, dtype=torch.int64, device="meta")
