"""Attention over few positions.

Queries here have 3 to 21 positions. At that size `scaled_dot_product_attention` is several times slower on a
CPU than the arithmetic itself, and batched products of tiny matrices are little better, so up to
`WRITTEN_OUT` positions the sums are written out as pointwise operations, which a compiler fuses into one pass
over q, k and v. Softmax is float32.

Shapes: B batch, T positions, H heads, K head width, D = H * K width.
"""

import torch
from torch import Tensor, nn

from grokscope.models.blocks import Linear
from grokscope.models.init import Init
from grokscope.models.taps import Tap, tapped

WRITTEN_OUT = 4
"""Most positions for which attention is written out."""
ROTARY_BASE = 10_000.0


def attend(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(K)) v per head (B, T, H, K), over all positions or those up to its own."""
    form = written_out if q_BTHK.shape[1] <= WRITTEN_OUT else by_products
    return form(q_BTHK, k_BTHK, v_BTHK, causal)


def written_out(q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool) -> Tensor:
    """`attend` as T * T pointwise products and sums, in float32 throughout."""
    positions, scale = q_BTHK.shape[1], q_BTHK.shape[-1] ** -0.5
    q, k, v = (list(x.float().unbind(1)) for x in (q_BTHK, k_BTHK, v_BTHK))
    out = []
    for i in range(positions):
        seen = i + 1 if causal else positions
        scores = [(q[i] * k[j]).sum(-1) * scale for j in range(seen)]
        top = scores[0]
        for score in scores[1:]:
            top = torch.maximum(top, score)
        weights = [torch.exp(score - top) for score in scores]
        total = weights[0]
        for weight in weights[1:]:
            total = total + weight
        mixed = (weights[0] / total)[..., None] * v[0]
        for j in range(1, seen):
            mixed = mixed + (weights[j] / total)[..., None] * v[j]
        out.append(mixed.to(v_BTHK.dtype))
    return torch.stack(out, dim=1)


def by_products(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHK: Tensor, causal: bool, tap: Tap | None = None
) -> Tensor:
    """`attend` as two batched matrix products around a float32 softmax, whose result `tap` may see."""
    positions, scale = q_BTHK.shape[1], q_BTHK.shape[-1] ** -0.5
    q, k, v = (x.transpose(1, 2) for x in (q_BTHK, k_BTHK, v_BTHK))
    scores_BHTT = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        index = torch.arange(positions, device=q.device)
        scores_BHTT = scores_BHTT.masked_fill(index[None, :] > index[:, None], -torch.inf)
    weights_BHTT = tapped(tap, "pattern", torch.softmax(scores_BHTT, dim=-1)).to(v.dtype)
    return (weights_BHTT @ v).transpose(1, 2)


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

    def forward(self, x_BTHK: Tensor) -> Tensor:
        cos, sin = (table[: x_BTHK.shape[1], None, :] for table in (self.cos_TK, self.sin_TK))
        wide = x_BTHK.float()
        first, second = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x_BTHK.dtype)


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

    def forward(self, x_BTD: Tensor, tap: Tap | None = None) -> Tensor:
        batch, positions, width = x_BTD.shape
        q, k, v = self.qkv(x_BTD).view(batch, positions, 3, self.heads, width // self.heads).unbind(2)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        mixed_BTHK = attend(q, k, v, self.causal) if tap is None else by_products(q, k, v, self.causal, tap)
        out: Tensor = self.out(mixed_BTHK.reshape(batch, positions, width))
        return tapped(tap, "attention", out)
