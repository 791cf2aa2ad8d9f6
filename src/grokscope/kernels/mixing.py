"""The token mixer of a TRM as one operation with a gradient.

Products from a library write the mixer's inner activations, 12 times the state in the paper's model, to
memory and read them again, and find no width in its few positions: of a training step they were the greater
part. The numbers are those of PyTorch's operations one after the other, rounded to bfloat16 where they round;
gradients of the weights are rounded once less.

Shapes: B batch, T positions with the prefix, D width, K inner width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grokscope.kernels.library import LANES, available, call

MOST_POSITIONS, INNER = 64, 64
"""At most so many positions; a divisor of the inner width."""

_OPS = torch.library.Library("grokscope", "DEF")  # type: ignore[no-untyped-call]
_OPS.define(  # type: ignore[no-untyped-call]
    "mixed(Tensor x, Tensor gate_up, Tensor down) -> Tensor"
)
_OPS.define(  # type: ignore[no-untyped-call]
    "mixed_backward(Tensor g, Tensor x, Tensor gate_up, Tensor down) -> (Tensor, Tensor, Tensor)"
)


def fits(x_BTD: Tensor, gate_up_2KT: Tensor, down_TK: Tensor) -> bool:
    """Whether `mixed` can be asked for these states and weights."""
    if x_BTD.ndim != 3 or x_BTD.dtype != torch.bfloat16 or x_BTD.device.type != "cpu":
        return False
    positions, inner = x_BTD.shape[1], down_TK.shape[-1]
    weights = (gate_up_2KT.dtype, down_TK.dtype) == (torch.float32, torch.float32)
    shapes = gate_up_2KT.shape == (2 * inner, positions) and down_TK.shape == (positions, inner)
    return weights and shapes and fits_sizes(positions, x_BTD.shape[2], inner)


def fits_sizes(positions: int, width: int, *inner: int) -> bool:
    """Whether what is here can be asked for bfloat16 states of this size on this machine's CPU."""
    widths = width % LANES == 0 and all(one % INNER == 0 for one in inner)
    return positions <= MOST_POSITIONS and widths and available()


def mixed(x_BTD: Tensor, gate_up_2KT: Tensor, down_TK: Tensor) -> Tensor:
    """down (silu(gate x) * up x) over the positions of each example, (B, T, D).

    Args:
        x_BTD: bfloat16, of sizes that `fits`.
        gate_up_2KT: float32; gate and up are the halves, in this order.
        down_TK: float32.
    """
    y_BTD: Tensor = applied(x_BTD, gate_up_2KT, down_TK)
    return y_BTD


def mix_(x_BTD: Tensor, gate_up_2KT: Tensor, down_TK: Tensor) -> None:
    """x = rms(x + mixed(x)) in place, the norm over the positions; no gradient. x is contiguous."""
    if not x_BTD.is_contiguous():
        raise ValueError("x must be contiguous.")
    _mixing(x_BTD, gate_up_2KT, down_TK, x_BTD, normed=True)


class _Mixed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        y: Tensor = torch.ops.grokscope.mixed(x, gate_up, down)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grads: tuple[Tensor, Tensor, Tensor] = _Gradient.apply(g, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return grads


class _Gradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grads: tuple[Tensor, Tensor, Tensor] = torch.ops.grokscope.mixed_backward(g, x, gate_up, down)
        return grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(
            "the token mixer in C++ has no second derivative; within library.plainly() it has."
        )


def applied(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The map with its gradient. A graph must hold this call as it is (`accelerated`): looked into, within a
    function transform, it would lose its gradient."""
    y: Tensor = _Mixed.apply(x, gate_up, down)  # type: ignore[no-untyped-call]
    return y


def _mixing(x: Tensor, gate_up: Tensor, down: Tensor, out: Tensor, normed: bool) -> None:
    x, gate_up, down = _checked(x, gate_up, down)
    call("mixed", (x, gate_up, down, out), (*x.shape, down.shape[1]), normed)


def _forward(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    _mixing(x, gate_up, down, y, normed=False)
    return y


def _backward(g: Tensor, x: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    given = _checked(x, gate_up, down)
    if g.shape != x.shape or g.dtype != x.dtype:
        raise ValueError(f"the gradient must be like x, {tuple(x.shape)} in {x.dtype}.")
    grads = [torch.empty_like(one) for one in given]
    call("mixed_backward", (g.contiguous(), *given, *grads), (*x.shape, down.shape[1]))
    return grads[0], grads[1], grads[2]


def _checked(x: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three as they are read from memory, in order."""
    if not fits(x, gate_up, down):
        what = ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in (x, gate_up, down))
        raise ValueError(f"states and weights that cannot be mixed: {what}.")
    return x.contiguous(), gate_up.contiguous(), down.contiguous()


def _like(*given: Tensor) -> Any:
    """What an operation returns: something of the shape of each of these."""
    made = tuple(torch.empty_like(one, memory_format=torch.contiguous_format) for one in given)
    return made if len(made) > 1 else made[0]


def _each(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operation for a further axis of members: one after the other."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *given: Tensor) -> tuple[Any, Any]:
        axes = list(zip(given, in_dims, strict=True))
        results = [
            operation(*(one if axis is None else one.select(axis, member) for one, axis in axes))
            for member in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])

    return rule


_OPS.impl("mixed", _forward, "CPU")  # type: ignore[no-untyped-call]
_OPS.impl("mixed_backward", _backward, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("grokscope::mixed", lambda x, gate_up, down: _like(x), lib=_OPS)
torch.library.register_fake("grokscope::mixed_backward", lambda g, *inputs: _like(*inputs), lib=_OPS)
torch.library.register_vmap("grokscope::mixed", _each(torch.ops.grokscope.mixed), lib=_OPS)
torch.library.register_vmap("grokscope::mixed_backward", _each(torch.ops.grokscope.mixed_backward), lib=_OPS)
