"""Attention over few positions.

Queries here have 3 to 21 positions. At that size `scaled_dot_product_attention` is several times slower on a
CPU than the arithmetic itself, and batched products of tiny matrices cost more than they compute. So up to
`FEW` positions attention is elementwise products and sums, which a compiler fuses with what stands around
them: a training step at 5 positions and width 64 takes 0.7 of its time with products. Softmax is float32.

Shapes: B batch, T positions, H heads, K head width, D = H * K width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.models.blocks import Linear
from grokscope.models.init import Init
from grokscope.models.taps import Tap, tapped

FEW = 5
"""Most positions for which attention is elementwise; beyond, its T * T * D intermediate costs too much."""
ROTARY_BASE = 10_000.0


def attend(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(K)) v per head (B, T, H, K), over all positions or those up to its own."""
    form = by_sums if k_BTHK.shape[1] <= FEW else by_products
    return form(q_BTHK, k_BTHK, v_BTHK, causal)


def by_sums(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool) -> Tensor:
    """`attend` as elementwise products and sums, all in float32; the second T is the key's."""
    q, k, v = q_BTHK.float(), k_BTHK.float(), v_BTHK.float()
    scores_BTTH = (q[:, :, None] * k[:, None]).sum(-1) * q.shape[-1] ** -0.5
    if causal:
        scores_BTTH = scores_BTTH.masked_fill(_ahead(q.shape[1], q.device)[:, :, None], -torch.inf)
    weights_BTTH = torch.softmax(scores_BTTH, dim=2)
    return (weights_BTTH[..., None] * v[:, None]).sum(2).to(v_BTHK.dtype)


def by_products(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool, tap: Tap | None = None
) -> Tensor:
    """`attend` as two batched matrix products around a float32 softmax, whose result `tap` may see."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    scores_BHTT = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        scores_BHTT = scores_BHTT.masked_fill(_ahead(q.shape[2], q.device), -torch.inf)
    weights_BHTT = tapped(tap, "pattern", torch.softmax(scores_BHTT, dim=-1)).to(v.dtype)
    return (weights_BHTT @ v).transpose(1, 2)


def _ahead(positions: int, device: torch.device) -> Tensor:
    """(query, key) pairs in which the key comes later."""
    index = torch.arange(positions, device=device)
    return index[None, :] > index[:, None]


class Rotary(nn.Module):
    """Rotary position code, base 10,000, half-rotation: the second half of a head is the first's partner."""

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, positions: int, head_width: int) -> None:
        super().__init__()
        half = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        angle = torch.outer(torch.arange(positions, dtype=torch.float32), ROTARY_BASE**-half)
        angle_TK = torch.cat([angle, angle], dim=-1)
        self.register_buffer("cos_TK", angle_TK.cos(), persistent=False)
        self.register_buffer("sin_TK", angle_TK.sin(), persistent=False)

    def forward(self, x_BTHK: Tensor, first: int = 0) -> Tensor:
        """Turned heads, whose first position is `first`."""
        last = first + x_BTHK.shape[1]
        cos, sin = (table[first:last, None, :] for table in (self.cos_TK, self.sin_TK))
        wide = x_BTHK.float()
        low, high = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat([-high, low], dim=-1) * sin).to(x_BTHK.dtype)


class Attention(nn.Module):
    """Multi-head attention; one linear map makes q, k and v, viewed as (heads q, heads k, heads v)."""

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        init: Init,
        bias: bool = False,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = Linear(init.matrix(3 * width, width), bias)
        self.out = Linear(init.residual(width, width), bias)
        self.rotary = rotary

    def forward(self, x_BTD: Tensor, tap: Tap | None = None, at: int | None = None) -> Tensor:
        """What attention adds (B, T, D); with `at`, at that position alone (B, 1, D)."""
        if at is not None:
            return self._at(x_BTD, tap, at)
        batch, positions, width = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(batch, positions, 3, self.heads, width // self.heads).unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed_BTHK = attend(q, k, v, self.causal) if tap is None else by_products(q, k, v, self.causal, tap)
        out: Tensor = self.out(mixed_BTHK.reshape(batch, positions, width))
        return tapped(tap, "attention", out)

    def _at(self, x_BTD: Tensor, tap: Tap | None, at: int) -> Tensor:
        """One position asks, and sees all, or those up to its own: so no mask is needed."""
        if self.causal:
            x_BTD = x_BTD[:, : at + 1]
        batch, positions, width = x_BTD.shape
        weight = self.qkv.weight.to(x_BTD.dtype)
        bias = None if self.qkv.bias is None else self.qkv.bias.to(x_BTD.dtype)
        q_BD = F.linear(x_BTD[:, at], weight[:width], None if bias is None else bias[:width])
        q = q_BD.view(batch, 1, self.heads, width // self.heads)
        kv = F.linear(x_BTD, weight[width:], None if bias is None else bias[width:])
        k, v = kv.view(batch, positions, 2, self.heads, width // self.heads).unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(q, at), self.rotary(k)
        mixed_B1HK = attend(q, k, v, False) if tap is None else by_products(q, k, v, False, tap)
        out: Tensor = self.out(mixed_B1HK.reshape(batch, 1, width))
        return tapped(tap, "attention", out)
