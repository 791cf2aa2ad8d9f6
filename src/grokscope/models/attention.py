"""Attention over few positions.

Queries here have 3 to 21 positions. At that size `scaled_dot_product_attention` is several times slower on a
CPU than the arithmetic itself, and batched products of tiny matrices cost more than they compute. So up to
`FEW` positions attention is elementwise products and sums, which a compiler fuses with what stands around
them: a training step at 5 positions and width 64 takes 0.7 of its time with products. Softmax is float32.

Shapes: B batch, T positions, K of them that ask, H heads, N head width, D = H * N width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.models.blocks import At, Linear, only
from grokscope.models.init import Init
from grokscope.models.taps import Tap, tapped

FEW = 5
"""Most positions for which attention is elementwise; beyond, its T * T * D intermediate costs too much."""
ROTARY_BASE = 10_000.0


def by_sums(q_BKHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, causal: bool, at: At | None = None) -> Tensor:
    """softmax(q k^T / sqrt(N)) v per head as elementwise products and sums, all in float32.

    Args:
        q_BKHN: what asks; k_BTHN, v_BTHN: what is seen.
        causal: whether it sees only itself and earlier positions.
        at: which positions ask; None: all T.
    """
    q, k, v = q_BKHN.float(), k_BTHN.float(), v_BTHN.float()
    scores_BKTH = (q[:, :, None] * k[:, None]).sum(-1) * q.shape[-1] ** -0.5
    if causal:
        scores_BKTH = scores_BKTH.masked_fill(_ahead(k, at)[..., None], -torch.inf)
    weights_BKTH = torch.softmax(scores_BKTH, dim=2)
    return (weights_BKTH[..., None] * v[:, None]).sum(2).to(v_BTHN.dtype)


def by_products(
    q_BKHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, causal: bool, at: At | None = None, tap: Tap | None = None
) -> Tensor:
    """The same as two batched matrix products around a float32 softmax, whose result `tap` may see."""
    q, k, v = (x.transpose(1, 2) for x in (q_BKHN, k_BTHN, v_BTHN))
    scores_BHKT = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if causal:
        scores_BHKT = scores_BHKT.masked_fill(_ahead(k_BTHN, at).unsqueeze(-3), -torch.inf)
    weights_BHKT = tapped(tap, "pattern", torch.softmax(scores_BHKT, dim=-1)).to(v.dtype)
    return (weights_BHKT @ v).transpose(1, 2)


def by_pytorch(q_BTHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, causal: bool) -> Tensor:
    """The same by `scaled_dot_product_attention`, over all positions."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHN, k_BTHN, v_BTHN))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def _ahead(k_BTHN: Tensor, at: At | None) -> Tensor:
    """Whether a key comes later than what asks: (K, T), or (B, K, T) if examples ask at their own places."""
    index_T = torch.arange(k_BTHN.shape[1], device=k_BTHN.device)
    asking = at if isinstance(at, Tensor) else index_T if at is None else index_T[at]
    return index_T > asking[..., None]


class Rotary(nn.Module):
    """Rotary position code, base 10,000, half-rotation: the second half of a head is the first's partner."""

    cos_TN: Tensor
    sin_TN: Tensor

    def __init__(self, positions: int, head_width: int) -> None:
        super().__init__()
        half = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        angle = torch.outer(torch.arange(positions, dtype=torch.float32), 1.0 / ROTARY_BASE**half)
        angle_TN = torch.cat([angle, angle], dim=-1)
        self.register_buffer("cos_TN", angle_TN.cos(), persistent=False)
        self.register_buffer("sin_TN", angle_TN.sin(), persistent=False)

    def forward(self, x_BTHN: Tensor, at: At | None = None) -> Tensor:
        """Turned heads, which stand at the first positions, or where `at` says."""
        at = slice(x_BTHN.shape[1]) if at is None else at
        cos, sin = (table[at].unsqueeze(-2) for table in (self.cos_TN, self.sin_TN))
        wide = x_BTHN.float()
        low, high = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat([-high, low], dim=-1) * sin).to(x_BTHN.dtype)


class Attention(nn.Module):
    """Multi-head attention; one linear map makes q, k and v, viewed as (heads q, heads k, heads v).

    Args:
        exact: evaluated in float32, give the bits of PyTorch's own attention: over dozens of passes a TRM
            blows another order of sums up to the fourth digit.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        init: Init,
        bias: bool = False,
        rotary: Rotary | None = None,
        exact: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.exact = heads, causal, exact
        self.few = FEW
        self.qkv = Linear(init.matrix(3 * width, width), bias)
        self.out = Linear(init.residual(width, width), bias)
        self.rotary = rotary

    def forward(self, x_BTD: Tensor, tap: Tap | None = None, at: At | None = None) -> Tensor:
        """What attention adds (B, T, D); with `at`, at those positions alone (B, K, D)."""
        if at is None:
            q, k, v = self._heads(self.qkv(x_BTD), 3)
        elif isinstance(at, Tensor):
            # As in training: the gradient of a part of the weight costs more than queries that nobody needs.
            q, k, v = self._heads(self.qkv(x_BTD), 3)
            q = only(q, at)
        else:
            width = x_BTD.shape[2]
            (q,) = self._heads(self.qkv(only(x_BTD, at), slice(width)), 1)
            k, v = self._heads(self.qkv(x_BTD, slice(width, None)), 2)
        if self.rotary is not None:
            q, k = self.rotary(q, at), self.rotary(k)
        out: Tensor = self.out(self.mix(q, k, v, tap, at).flatten(2))
        return tapped(tap, "attention", out)

    def mix(
        self, q_BKHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, tap: Tap | None = None, at: At | None = None
    ) -> Tensor:
        """softmax(q k^T / sqrt(N)) v per head (B, K, H, N)."""
        if tap is not None:
            return by_products(q_BKHN, k_BTHN, v_BTHN, self.causal, at, tap)
        if self.exact and at is None and not self.training and q_BKHN.dtype == torch.float32:
            return by_pytorch(q_BKHN, k_BTHN, v_BTHN, self.causal)
        form = by_sums if k_BTHN.shape[1] <= self.few else by_products
        return form(q_BKHN, k_BTHN, v_BTHN, self.causal, at)

    def _heads(self, parts: Tensor, count: int) -> tuple[Tensor, ...]:
        """Several (B, T, H, N) from one (B, T, count * D)."""
        batch, positions, features = parts.shape
        return parts.view(batch, positions, count, self.heads, features // (count * self.heads)).unbind(2)
