"""What stands between the products of a pass, and what is read off logits. None of it has a gradient.

Numbers are those of PyTorch's operations, rounded to bfloat16 where they round, but for three things: GELU
far below zero keeps the digits that PyTorch's loses; numbers beyond 5e33 may become NaN; the smallest
(subnormal) ones may become 0.

Shapes: N numbers, X rows, B batch, S positions, C targets, V vocabulary, D width, M inner width;
of attention T positions, A of them that ask, H heads, N head width.
"""

import torch
from torch import Tensor

from grokscope.kernels.library import LANES, available, call

MOST_POSITIONS = 64


def gated(gates_X2M: Tensor, out_XM: Tensor) -> Tensor:
    """silu(gate) * up; gate and up are the halves of each row. For bfloat16 that the library `serves`."""
    call("gated", (gates_X2M, out_XM), out_XM.shape)
    return out_XM


def normed(x_XD: Tensor, y_XD: Tensor | None = None, out_XD: Tensor | None = None) -> Tensor:
    """rms(x + y), or rms(x), over the last axis; bfloat16 that the library `serves`. `out` may be x or y."""
    out_XD = torch.empty_like(x_XD) if out_XD is None else out_XD
    call("normed", (x_XD, y_XD, out_XD), (x_XD.shape[:-1].numel(), x_XD.shape[-1]))
    return out_XD


def gelu(x_N: Tensor) -> Tensor:
    """GELU's tanh form. For bfloat16 that the library `serves`."""
    out_N = torch.empty_like(x_N)
    call("gelu", (x_N, out_N), (x_N.numel(),))
    return out_N


def attends(q_BAHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor) -> bool:
    """Whether `attend` can be asked for these queries, keys and values."""
    if torch.is_grad_enabled() or k_BTHN.shape != v_BTHN.shape or k_BTHN.shape[1] > MOST_POSITIONS:
        return False
    if q_BAHN.shape[::2] != k_BTHN.shape[::2] or q_BAHN.shape[3] != k_BTHN.shape[3]:
        return False
    return available() and all(
        x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and x.shape[3] % LANES == 0
        and x.stride()[2:] == (x.shape[3], 1)
        for x in (q_BAHN, k_BTHN, v_BTHN)
    )


def attend(q_BAHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, causal: bool, first: int) -> Tensor:
    """softmax(q k^T / sqrt(N)) v per head (B, A, H, N), over at most 64 positions T. The A that ask stand at
    `first` and behind it; with `causal` each sees itself and what is before it."""
    out_BAHN = torch.empty(q_BAHN.shape, dtype=q_BAHN.dtype)
    rows = [stride for x in (q_BAHN, k_BTHN, v_BTHN) for stride in x.stride()[:2]]
    asking, heads, width = q_BAHN.shape[1:]
    sizes = (*rows, len(q_BAHN), asking, k_BTHN.shape[1], heads, width, first)
    call("attend", (q_BAHN, k_BTHN, v_BTHN, out_BAHN), sizes, causal)
    return out_BAHN


def reads(logits_BSV: Tensor, target_BC: Tensor) -> bool:
    """Whether `readout` can be asked for these logits and targets."""
    logits = logits_BSV.dtype == torch.float32 and not logits_BSV.requires_grad
    shapes = logits_BSV.ndim == 3 and target_BC.ndim == 2 and len(logits_BSV) == len(target_BC)
    on_cpu = logits_BSV.device.type == target_BC.device.type == "cpu"
    return logits and shapes and on_cpu and target_BC.dtype == torch.int64 and available()


def readout(logits_BSV: Tensor, target_BC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank (B, C, S), log-probability (B, C, S) and argmax (B, S) of target tokens in float32 logits, as
    `mechanics.read.lens.measure` says.

    Raises:
        IndexError: a target is no token.
    """
    if target_BC.numel() and not 0 <= int(target_BC.min()) <= int(target_BC.max()) < logits_BSV.shape[2]:
        raise IndexError(f"targets must be tokens, 0 to {logits_BSV.shape[2] - 1}.")
    batch, positions, vocab = logits_BSV.shape
    columns = target_BC.shape[1]
    rank_BCS = torch.empty(batch, columns, positions, dtype=torch.int64)
    logp_BCS, argmax_BS = (
        torch.empty(batch, columns, positions),
        torch.empty(batch, positions, dtype=torch.int64),
    )
    given = (logits_BSV.contiguous(), target_BC.contiguous())
    call("readout", (*given, rank_BCS, logp_BCS, argmax_BS), (batch, columns, positions, vocab))
    return rank_BCS, logp_BCS, argmax_BS
