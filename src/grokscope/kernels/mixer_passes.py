"""The passes of a token-mixer TRM that is read on a CPU: the numbers of `recursive.Level`, no gradient.

What is computed, and where it is rounded to the dtype of the states, is what `recursive.MixerBlock` does;
only the order of the sums within a matrix product is the library's own. What is saved:

- weights are cast once, not in every pass;
- the mixer's maps multiply x (T, D) from the left: nothing is transposed, and what lies side by side in
  memory is always D numbers (T = 21 fills no vector register). Where oneDNN's float32 product is used, which
  has no batches, the states of a part lie as (T, B, D), and one product serves all rows;
- rows go through in parts whose inner activations stay in the cache, in buffers that are used again: memory
  given back would come back page by page, filled with zeros.

Shapes: R rows of a batch, B rows of a part, T positions with the prefix, A of them that are wanted, D width,
K inner width of the
mixer, M of the MLP, X what else there is. Tensors of a part without a suffix are (B, T, D) or (T, B, D).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.kernels import mixing, pieces
from grokscope.kernels.products import by_onednn, linear
from grokscope.models.blocks import EPS

GATES_AT_ONCE = 3 * 2**18
"""Gates of the mixer (B K D) that a thread works on at a time: twelve rows of width 256."""


class MixerMatrices(NamedTuple):
    """The weights of one block, as they lie in it."""

    gate_up_2KT: Tensor
    down_TK: Tensor
    mlp_gate_up_2MD: Tensor
    mlp_down_DM: Tensor


def matrices_of(block: nn.Module) -> MixerMatrices:
    """The weights of a `MixerBlock`."""
    mixer, mlp = (block.get_submodule(name) for name in ("mixer", "mlp"))
    maps = [part.get_submodule(name) for part in (mixer, mlp) for name in ("gate_up", "down")]
    return MixerMatrices(*(one.get_parameter("weight") for one in maps))


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
            self.over = 0 if by_onednn(dtype) else 1  # the axis of positions
            self.most = most = max(1, torch.get_num_threads() * GATES_AT_ONCE // (inner * width))
            self.gate, self.up = (torch.empty(most * inner * width, dtype=dtype) for _ in range(2))
            self.mlp_gates = torch.empty(most * positions * 2 * mlp_inner, dtype=dtype)
            self.mlp_inner = torch.empty(most * positions * mlp_inner, dtype=dtype)
            self.state, self.sum = (torch.empty(most * positions * width, dtype=dtype) for _ in range(2))
            self.wide, self.square = (torch.empty(most * positions * width) for _ in range(2))

    def __call__(self, z_RTD: Tensor, injection_RTD: Tensor, at: range) -> Tensor:
        """The level's output for z_RTD plus what is injected, at neighbouring positions."""
        rows, positions, width = z_RTD.shape
        out_RAD = torch.empty(rows, len(at), width, dtype=self.dtype)
        for start in range(0, rows, self.most):
            part = slice(start, start + self.most)
            out, injection, z = (self._laid(one[part]) for one in (out_RAD, injection_RTD, z_RTD))
            x = _of(self.state, z.shape).copy_(injection).add_(z)
            for block in self.blocks[:-1]:
                self._mix(x, block)
                self._map(x, block, x)
            self._mix(x, self.blocks[-1])
            if len(at) < positions:
                x = x.narrow(self.over, at.start, len(at)).contiguous()
            self._map(x, self.blocks[-1], out)
        return out_RAD

    def _laid(self, state_BTD: Tensor) -> Tensor:
        """A view of states with the axis of positions where the passes have it."""
        return state_BTD.transpose(0, 1) if self.over == 0 else state_BTD

    def _mix(self, x: Tensor, block: MixerMatrices) -> None:
        """x = rms(x + down (silu(gate x) * up x)) over T, of (B, T, D) or (T, B, D)."""
        self._norm(self._mixed(x, block).add_(x), self.over, x)

    def _map(self, x: Tensor, block: MixerMatrices, out: Tensor) -> None:
        """out = rms(x + down (silu(gate x) * up x)) over D."""
        self._norm(self._mapped(x, block).add_(x), -1, out)

    def _mixed(self, x: Tensor, block: MixerMatrices) -> Tensor:
        inner = block.down_TK.shape[1]
        if self.over == 0:
            x_XT = x.flatten(1).t()
            gate_KX, up_KX = linear(block.gate_up_2KT, x_XT).chunk(2)
            return linear(block.down_TK, F.silu(gate_KX, inplace=True).mul_(up_KX).t()).view(x.shape)
        rows, _, width = x.shape
        gate_BKD, up_BKD = (_of(one, (rows, inner, width)) for one in (self.gate, self.up))
        torch.bmm(block.gate_up_2KT[:inner].expand(rows, -1, -1), x, out=gate_BKD)
        torch.bmm(block.gate_up_2KT[inner:].expand(rows, -1, -1), x, out=up_BKD)
        F.silu(gate_BKD, inplace=True).mul_(up_BKD)
        return torch.bmm(block.down_TK.expand(rows, -1, -1), gate_BKD, out=_of(self.sum, x.shape))

    def _mapped(self, x: Tensor, block: MixerMatrices) -> Tensor:
        x_XD = x.flatten(0, 1)
        rows, inner = len(x_XD), block.mlp_down_DM.shape[1]
        gates_X2M = linear(x_XD, block.mlp_gate_up_2MD, _of(self.mlp_gates, (rows, 2 * inner)))
        inner_XM = self._gated(gates_X2M, _of(self.mlp_inner, (rows, inner)))
        return linear(inner_XM, block.mlp_down_DM, _of(self.sum, x_XD.shape)).view(x.shape)

    def _gated(self, gates_X2M: Tensor, out_XM: Tensor) -> Tensor:
        """silu(gate) * up."""
        gate_XM, up_XM = gates_X2M.chunk(2, dim=-1)
        gated_XM: Tensor = torch.ops.aten.silu.out(gate_XM, out=out_XM).mul_(up_XM)
        return gated_XM

    def _norm(self, sum_: Tensor, axis: int, out: Tensor) -> None:
        """`blocks.rms` over an axis, into `out`."""
        shape = sum_.shape
        wide = _of(self.wide, shape).copy_(sum_) if self.dtype != torch.float32 else sum_
        square = torch.mul(wide, wide, out=_of(self.square, shape))
        scale = square.mean(axis, keepdim=True).add_(EPS).rsqrt_()
        out.copy_(wide.mul_(scale))


class NativePasses(MixerPasses):
    """The same in bfloat16, where there are kernels: what stands between the MLP's products is in C++."""

    def __init__(self, blocks: Sequence[MixerMatrices], dtype: torch.dtype) -> None:
        super().__init__(blocks, dtype)
        # `mixing` rounds these itself. Copies, as the others are: what changes meanwhile is not seen.
        self.blocks = [
            cast._replace(
                gate_up_2KT=one.gate_up_2KT.detach().to(torch.float32, copy=True).contiguous(),
                down_TK=one.down_TK.detach().to(torch.float32, copy=True).contiguous(),
            )
            for cast, one in zip(self.blocks, blocks, strict=True)
        ]

    def _mix(self, x: Tensor, block: MixerMatrices) -> None:
        mixing.mix_(x, block.gate_up_2KT, block.down_TK)

    def _map(self, x: Tensor, block: MixerMatrices, out: Tensor) -> None:
        pieces.normed(x, self._mapped(x, block), out)

    def _gated(self, gates_X2M: Tensor, out_XM: Tensor) -> Tensor:
        return pieces.gated(gates_X2M, out_XM)


def mixer_passes(blocks: Sequence[MixerMatrices], dtype: torch.dtype) -> MixerPasses:
    """The passes of a level of mixer blocks, by the fastest way there is.

    Args:
        blocks: the weights.
        dtype: of the states.
    """
    positions, inner = blocks[0].down_TK.shape
    width, mlp_inner = blocks[0].mlp_down_DM.shape
    native = dtype == torch.bfloat16 and mixing.fits_sizes(positions, width, inner, mlp_inner)
    return NativePasses(blocks, dtype) if native else MixerPasses(blocks, dtype)


def _of(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of a buffer, as a tensor of some shape."""
    return memory[: math.prod(shape)].view(*shape)
