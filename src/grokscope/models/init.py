"""Initial weights. All draws of a model come from one generator, in the order its modules are made."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from grokscope.seeds import generator

GPT2_STD = 0.02
# std of a standard normal that is cut at 2: dividing by it gives the cut distribution the std asked for
_CUT_STD = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


@dataclass(frozen=True)
class Init:
    """A law for initial weights and the generator they are drawn from.

    Laws: "fan_in", normal, std 1/sqrt(inputs) (embeddings 1/sqrt(D)); "truncated", the same stds, cut at 2
    std (TRM); "gpt2", normal, std 0.02, residual outputs further over sqrt(`residuals`), the number of sums
    into the stream."""

    draws: torch.Generator
    law: Literal["fan_in", "truncated", "gpt2"]
    residuals: int = 1

    @classmethod
    def seeded(cls, law: Literal["fan_in", "truncated", "gpt2"], seed: int, residuals: int = 1) -> "Init":
        """An Init on the stream "init" of `seed`; the global random state is not touched."""
        draws = torch.Generator(device="cpu")
        draws.manual_seed(int(generator("init", seed).integers(2**63)))
        return cls(draws, law, residuals)

    def matrix(self, outputs: int, inputs: int) -> nn.Parameter:
        """Weight (outputs, inputs) of a linear map."""
        return nn.Parameter(self._draw((outputs, inputs), self._std(inputs)))

    def residual(self, outputs: int, inputs: int) -> nn.Parameter:
        """Weight (outputs, inputs) of a linear map whose output is added to the residual stream."""
        return nn.Parameter(self._draw((outputs, inputs), self._std(inputs) / math.sqrt(self.residuals)))

    def table(self, rows: int, width: int) -> nn.Parameter:
        """Embedding table (rows, width)."""
        return nn.Parameter(self._draw((rows, width), self._std(width)))

    def state(self, width: int) -> Tensor:
        """A fixed random vector of std 1, cut at 2."""
        return self._draw((width,), 1.0)

    def _std(self, inputs: int) -> float:
        return GPT2_STD if self.law == "gpt2" else 1 / math.sqrt(inputs)

    def _draw(self, shape: tuple[int, ...], std: float) -> Tensor:
        if self.law == "truncated":
            wide = std / _CUT_STD
            return nn.init.trunc_normal_(
                torch.empty(shape), std=wide, a=-2 * wide, b=2 * wide, generator=self.draws
            )
        return torch.randn(shape, generator=self.draws) * std
