"""The parts of a block: linear maps with an explicit cast, norms in float32, MLPs.

Shapes: `x_..N` has any leading axes and N features; D is the width, M the inner width of an MLP.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.models.init import Init

EPS = 1e-5

At = slice | Tensor
"""K positions of the T axis: the same of all examples (a slice), or (B, K) of each its own."""


def only(x: Tensor, at: At | None) -> Tensor:
    """(B, T, ...) at all positions, or some of them as (B, K, ...)."""
    if at is None:
        return x
    if isinstance(at, slice):
        # Put together: of rows that lie apart PyTorch's bfloat16 product takes one at a time.
        return x[:, at].contiguous()
    index = at.view(*at.shape, *(1 for _ in x.shape[2:]))
    return x.gather(1, index.expand(*at.shape, *x.shape[2:]))


class Linear(nn.Module):
    """x W^T + b; the float32 weight (outputs, inputs) is cast to the dtype of x at use, without autocast."""

    def __init__(self, weight: nn.Parameter, bias: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(weight.shape[0])) if bias else None

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        """All outputs, or a range of them."""
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if outputs is not None:
            weight, bias = weight[outputs], None if bias is None else bias[outputs]
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{inputs} -> {outputs}" + ("" if self.bias is None else ", bias")


class NarrowLinear(Linear):
    """A map of few inputs and very many rows, as in a token mixer (21 and 65,536), without a bias.

    The gradient of W is g^T x for W^T as a view of W, and (x^T g)^T for W^T as a matrix of its own: the same
    sums, but the second takes half the time there on a CPU.
    """

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        return x @ self.weight.to(x.dtype).t().contiguous()


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2 over an axis) + 1e-5), computed in float32, no gain; dtype of x."""

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(self.axis, keepdim=True) + EPS)).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis with gain and bias, computed in float32; dtype of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.gain.shape, self.gain, self.bias, EPS).to(x.dtype)


class Mlp(nn.Module):
    """down(act(up(x))), inner width M; GELU in its tanh form (Hendrycks and Gimpel 2016)."""

    def __init__(
        self, width: int, inner: int, activation: Literal["gelu", "relu"], init: Init, bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(init.matrix(inner, width), bias)
        self.down = Linear(init.residual(width, inner), bias)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.up(x)
        out: Tensor = self.down(self.gelu(inner) if self.activation == "gelu" else F.relu(inner))
        return out

    def gelu(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


class SwiGlu(nn.Module):
    """down(silu(gate) * up); gate and up are the halves, in this order, of one map to 2 M."""

    def __init__(self, width: int, inner: int, init: Init, bias: bool = False, narrow: bool = False) -> None:
        super().__init__()
        weight = init.matrix(2 * inner, width)
        self.gate_up = NarrowLinear(weight) if narrow else Linear(weight, bias)
        self.down = Linear(init.residual(width, inner), bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out
