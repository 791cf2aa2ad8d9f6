"""The passes of a token-mixer TRM for looking at its states on a CPU: the numbers of `Level`, no gradient.

What is computed, and where it is rounded to the dtype of the states, is what `recursive.MixerBlock` does;
only the order of the sums within a matrix product is the library's own. What is saved:

- weights are cast once, not in every pass;
- the mixer's maps multiply x (T, D) from the left: nothing is transposed, and what lies side by side in
  memory is always D numbers (T = 21 fills no vector register);
- rows go through in parts whose inner activations stay in the cache, in buffers that are used again: memory
  given back would come back page by page, filled with zeros.

Shapes: R rows of a batch, B rows of a part, T positions with the prefix, D width, K inner width of the
mixer, M of the MLP.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from grokscope.models.blocks import EPS

GATES_AT_ONCE = 3 * 2**18
"""Gates of the mixer (B K D) that a thread works on at a time: twelve rows of width 256."""


class MixerMatrices(NamedTuple):
    """The weights of one block, as they lie in it."""

    gate_up_2KT: Tensor
    down_TK: Tensor
    mlp_gate_up_2MD: Tensor
    mlp_down_DM: Tensor


class MixerPasses:
    """The passes of a level of mixer blocks, with the weights that they have now.

    Args:
        blocks: the weights.
        dtype: of the states.
    """

    def __init__(self, blocks: Sequence[MixerMatrices], dtype: torch.dtype) -> None:
        self.dtype = dtype
        # Buffers must be usable in every mode that forbids gradients, whichever one is entered first.
        with torch.inference_mode(False), torch.no_grad():
            self.blocks = [MixerMatrices(*(one.detach().to(dtype) for one in block)) for block in blocks]
            positions, inner = blocks[0].down_TK.shape
            width, mlp_inner = blocks[0].mlp_down_DM.shape
            self.most = most = max(1, torch.get_num_threads() * GATES_AT_ONCE // (inner * width))
            self.gate_BKD, self.up_BKD = (torch.empty(most, inner, width, dtype=dtype) for _ in range(2))
            self.mlp_gates_X2M = torch.empty(most * positions, 2 * mlp_inner, dtype=dtype)
            self.mlp_inner_XM = torch.empty(most * positions, mlp_inner, dtype=dtype)
            self.sum_BTD = torch.empty(most, positions, width, dtype=dtype)
            self.wide_BTD, self.square_BTD = (torch.empty(most, positions, width) for _ in range(2))

    def __call__(self, z_RTD: Tensor, *injected_RTD: Tensor) -> Tensor:
        """The level's output for z_RTD plus the sum of what is injected."""
        out_RTD = torch.empty(z_RTD.shape, dtype=self.dtype)
        for start in range(0, len(z_RTD), self.most):
            part = slice(start, start + self.most)
            x_BTD = out_RTD[part]
            x_BTD.copy_(injected_RTD[0][part])
            for other_RTD in (*injected_RTD[1:], z_RTD):
                x_BTD.add_(other_RTD[part])
            for block in self.blocks:
                self._mix(x_BTD, block)
                self._mlp(x_BTD, block)
        return out_RTD

    def _mix(self, x_BTD: Tensor, block: MixerMatrices) -> None:
        """x = rms over T of (x + down (silu(gate x) * up x))."""
        rows, inner = len(x_BTD), self.gate_BKD.shape[1]
        gate_BKD, up_BKD = self.gate_BKD[:rows], self.up_BKD[:rows]
        torch.bmm(block.gate_up_2KT[:inner].expand(rows, -1, -1), x_BTD, out=gate_BKD)
        torch.bmm(block.gate_up_2KT[inner:].expand(rows, -1, -1), x_BTD, out=up_BKD)
        F.silu(gate_BKD, inplace=True).mul_(up_BKD)
        sum_BTD = torch.bmm(block.down_TK.expand(rows, -1, -1), gate_BKD, out=self.sum_BTD[:rows])
        self._norm(sum_BTD.add_(x_BTD), -2, x_BTD)

    def _mlp(self, x_BTD: Tensor, block: MixerMatrices) -> None:
        """x = rms over D of (x + down (silu(gate x) * up x))."""
        rows, positions, width = x_BTD.shape
        gates_X2M, inner_XM = (b[: rows * positions] for b in (self.mlp_gates_X2M, self.mlp_inner_XM))
        sum_BTD = self.sum_BTD[:rows]
        torch.mm(x_BTD.view(-1, width), block.mlp_gate_up_2MD.t(), out=gates_X2M)
        gate_XM, up_XM = gates_X2M.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate_XM, out=inner_XM).mul_(up_XM)
        torch.mm(inner_XM, block.mlp_down_DM.t(), out=sum_BTD.view(-1, width))
        self._norm(sum_BTD.add_(x_BTD), -1, x_BTD)

    def _norm(self, sum_BTD: Tensor, axis: int, out_BTD: Tensor) -> None:
        """`blocks.rms` over an axis, into out_BTD."""
        rows = len(sum_BTD)
        wide_BTD = self.wide_BTD[:rows].copy_(sum_BTD) if self.dtype != torch.float32 else sum_BTD
        square_BTD = torch.mul(wide_BTD, wide_BTD, out=self.square_BTD[:rows])
        scale = square_BTD.mean(axis, keepdim=True).add_(EPS).rsqrt_()
        out_BTD.copy_(wide_BTD.mul_(scale))
