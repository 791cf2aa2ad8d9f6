"""The objective: cross-entropy over the labelled positions, and the halting head's term.

Per example the mean over its labels, then the mean over the batch (the reference's). Labels 0 carry no loss.
Only labelled positions are unembedded, and the model's last pass is asked for no others.

Stablemax (the reference's): p = s / sum s with s(x) = x + 1 for x >= 0 and 1 / (1 - x) for x < 0. Since
log s(x) = sign(x) log(1 + |x|), it needs no float64 to be exact: log1p is accurate for small |x|, and the sum
of positive terms loses no digits. `stablemax64` computes the same formula in float64.

Shape suffixes: B batch, S input positions, T positions with prefix, K labelled positions, N positions that
are read, D width, V vocabulary, C columns of a row.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grokscope.models.protocol import Reasoner
from grokscope.training.data import RowLayout

LossKind = Literal["softmax", "stablemax", "stablemax64"]


class Objective(nn.Module):
    """The loss of a batch of rows under a model.

    Args:
        model: the model.
        layout: what stands where in a row.
        kind: softmax, stablemax in float32, or stablemax in float64.
        halt_weight: weight of the halting head's binary cross-entropy against "all labels right";
            without effect for a model that has no such head.
    """

    def __init__(self, model: Reasoner, layout: RowLayout, kind: LossKind, halt_weight: float) -> None:
        super().__init__()
        self.model, self.layout, self.kind, self.halt_weight = model, layout, kind, halt_weight

    def forward(self, rows_BC: Tensor, loops: int | None = None) -> Tensor:
        """The loss, a 0-d tensor (float32, or float64 for stablemax64). `loops` as in `Reasoner.hidden`."""
        tokens_BS, position_BK, target_BK = self.layout.split(rows_BC.long())
        state_BND = self.model.hidden_at(tokens_BS, self._read(position_BK), loops)
        logits_BKV = self.model.unembed(state_BND[:, -target_BK.shape[1] :])
        loss = mean_loss(negative_log_likelihood(logits_BKV, target_BK, self.kind), target_BK)
        halt_B2 = self.model.halt(state_BND) if self.halt_weight else None
        if halt_B2 is not None:
            right_B = all_right(logits_BKV.detach(), target_BK).to(halt_B2.dtype)
            loss = loss + self.halt_weight * F.binary_cross_entropy_with_logits(halt_B2[:, 0], right_B)
        return loss

    def _read(self, position_BK: Tensor | None) -> Tensor | None:
        """Which positions N of the T axis are read: those with a label and, before them, the first one if a
        halting head reads it. None: all."""
        if position_BK is None:
            return None
        at_BK = position_BK + self.model.prefix
        if not (self.model.halts and self.halt_weight):
            return at_BK
        return torch.cat([torch.zeros_like(at_BK[:, :1]), at_BK], dim=1)


def gather_states(state_BTD: Tensor, prefix: int, position_BK: Tensor | None) -> Tensor:
    """state_BKD at the labelled positions (None: all), counted behind the prefix."""
    state_BSD = state_BTD[:, prefix:]
    if position_BK is None:
        return state_BSD
    return state_BSD.gather(1, position_BK[:, :, None].expand(-1, -1, state_BSD.shape[2]))


def negative_log_likelihood(logits_BKV: Tensor, target_BK: Tensor, kind: LossKind) -> Tensor:
    """nll_BK, also where the target is 0."""
    if kind == "softmax":
        flat = F.cross_entropy(logits_BKV.flatten(0, 1), target_BK.flatten(), reduction="none")
        return flat.view_as(target_BK)
    wide_BKV = logits_BKV.double() if kind == "stablemax64" else logits_BKV
    total_BK = stable(wide_BKV).sum(-1)
    return total_BK.log() - log_stable(wide_BKV.gather(2, target_BK[:, :, None])[:, :, 0])


def stable(x: Tensor) -> Tensor:
    """s(x). The clamp keeps the branch that is not taken finite, else its gradient would be inf * 0."""
    return torch.where(x < 0, 1 / (1 - x.clamp(max=0)), x + 1)


def log_stable(x: Tensor) -> Tensor:
    """log s(x) = sign(x) log(1 + |x|), with derivative 1 at 0."""
    return torch.where(x < 0, -torch.log1p(-x.clamp(max=0)), torch.log1p(x.clamp(min=0)))


def mean_loss(nll_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Per example the mean over its labels, then the mean over the batch."""
    labelled_BK = target_BK != 0
    return (torch.where(labelled_BK, nll_BK, 0).sum(1) / labelled_BK.sum(1)).mean()


def all_right(logits_BKV: Tensor, target_BK: Tensor) -> Tensor:
    """right_B: every label is the most likely token."""
    return ((logits_BKV.argmax(-1) == target_BK) | (target_BK == 0)).all(1)
