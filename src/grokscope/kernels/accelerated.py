"""A model's faster twin.

`accelerated(model)` has the model's own weights, buffers and hooks; parts of it that can be had faster are
of a class that goes another way to the same numbers, up to the order of sums and single bfloat16 roundings.
Parts that nothing is known of, and whatever a class below does not serve (gradients, taps, another device),
are computed as the model computes them.

There are two kinds of twins: one to be read without gradients, for lens and interventions, and one whose
training step is given to a compiler.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grokscope.kernels import mixing, pieces
from grokscope.kernels.library import available, serves
from grokscope.kernels.mixer_passes import MixerPasses, matrices_of, mixer_passes
from grokscope.kernels.products import linear
from grokscope.models.attention import Attention, by_products, by_sums
from grokscope.models.blocks import At, Linear, Mlp, RmsNorm
from grokscope.models.protocol import Reasoner
from grokscope.models.recursive import Level, MixerBlock
from grokscope.models.taps import Tap

GELU_SLOPE = (8 / math.pi) ** 0.5
GELU_CUBIC = 0.044715


def accelerated(model: Reasoner, gradients: bool = False) -> Reasoner:
    """The faster twin of a model, which is left as it is.

    Args:
        model: any. The twin of a twin is as fast.
        gradients: for a training step that is compiled. False: to be read, by `step`, `step_at` and
            `unembed` without gradients; weights that have to be cast are those of their first use.
    """
    faster: Mapping[type, type] = READ
    if gradients:
        # Here, as these two import the compiler, two seconds that who compiles nothing need not wait for.
        torch.compiler.assume_constant_result(available)  # type: ignore[no-untyped-call]
        torch.compiler.allow_in_graph(mixing.applied)  # type: ignore[no-untyped-call]
        faster = TRAINED if available() else {Mlp: TRAINED[Mlp]}
    twin: Reasoner = _twin(model, faster)
    return twin


def _twin(part: Any, faster: Mapping[type, type]) -> Any:
    if part is None:
        return None
    twin = copy.copy(part)
    twin.__class__ = faster.get(type(part), type(part))
    twin._modules = {name: _twin(child, faster) for name, child in part._modules.items()}
    return twin


class ReadLinear(Linear):
    """The product by the faster library, with a weight that is cast once."""

    cast: tuple[Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor, outputs: slice | None = None) -> Tensor:
        if torch.is_grad_enabled() or x.is_cuda:
            return super().forward(x, outputs)
        if self.cast is None or self.cast[0].dtype != x.dtype:
            self.cast = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        weight, bias = self.cast
        if outputs is not None:
            weight, bias = weight[outputs], None if bias is None else bias[outputs]
        return linear(x, weight, bias_M=bias)


class ReadRmsNorm(RmsNorm):
    """The norm over features in C++."""

    def forward(self, x: Tensor) -> Tensor:
        return pieces.normed(x) if self.axis == -1 and serves(x) else super().forward(x)


class ReadMlp(Mlp):
    """GELU in C++."""

    def gelu(self, x: Tensor) -> Tensor:
        return pieces.gelu(x) if serves(x) else super().gelu(x)


class ReadAttention(Attention):
    """Attention over few positions in C++; never by PyTorch's own, for the sake of its bits."""

    def mix(
        self, q_BKHN: Tensor, k_BTHN: Tensor, v_BTHN: Tensor, tap: Tap | None = None, at: At | None = None
    ) -> Tensor:
        if tap is not None or k_BTHN.shape[1] > self.few:
            return by_products(q_BKHN, k_BTHN, v_BTHN, self.causal, at, tap)
        first = _first(at)
        if first is not None and pieces.attends(q_BKHN, k_BTHN, v_BTHN):
            return pieces.attend(q_BKHN, k_BTHN, v_BTHN, self.causal, first)
        return by_sums(q_BKHN, k_BTHN, v_BTHN, self.causal, at)


class ReadLevel(Level):
    """A level of mixers on a CPU, which nobody hooks into, has passes of its own."""

    passes: MixerPasses | None = None

    def forward(
        self, z_BTD: Tensor, injection_BTD: Tensor, tap: Tap | None = None, at: At | None = None
    ) -> Tensor:
        own = tap is None and _first(at) is not None and not torch.is_grad_enabled()
        if not (own and z_BTD.device.type == "cpu" and self._are_bare_mixers()):
            return super().forward(z_BTD, injection_BTD, tap, at)
        if self.passes is None:
            self.passes = mixer_passes([matrices_of(block) for block in self.blocks], z_BTD.dtype)
        positions = range(z_BTD.shape[1])
        return self.passes(z_BTD, injection_BTD, positions[at] if isinstance(at, slice) else positions)

    def _are_bare_mixers(self) -> bool:
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in self.modules())
        return all(isinstance(block, MixerBlock) for block in self.blocks) and not hooked


def _first(at: At | None) -> int | None:
    """Where the positions begin, if they are the same of all examples and lie one after the other."""
    if at is None:
        return 0
    if isinstance(at, Tensor) or at.step is not None or (at.start or 0) < 0:
        return None
    return at.start or 0


class TracedMlp(Mlp):
    """GELU as x sigmoid(2 u) for x (1 + tanh u) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3): a compiler's tanh
    costs three times its exponential."""

    def gelu(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.sigmoid(GELU_SLOPE * wide * (1 + GELU_CUBIC * wide * wide))).to(x.dtype)


class TracedMixerBlock(MixerBlock):
    """The map over positions in C++, with its gradient."""

    def mix(self, x_BTD: Tensor) -> Tensor:
        gate_up, down = self.mixer.gate_up.weight, self.mixer.down.weight
        if mixing.fits(x_BTD, gate_up, down):
            return mixing.mixed(x_BTD, gate_up, down)
        return super().mix(x_BTD)


READ: Mapping[type, type] = {
    Linear: ReadLinear,
    RmsNorm: ReadRmsNorm,
    Mlp: ReadMlp,
    Attention: ReadAttention,
    Level: ReadLevel,
}
TRAINED: Mapping[type, type] = {Mlp: TracedMlp, MixerBlock: TracedMixerBlock}
