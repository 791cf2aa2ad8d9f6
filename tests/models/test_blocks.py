"""The parts of a block."""

import torch

from grokscope.models.blocks import RmsNorm


def test_rms_over_an_axis_is_rms_of_the_transposed():
    x = torch.randn(3, 5, 7)
    torch.testing.assert_close(RmsNorm(-2)(x), RmsNorm()(x.mT).mT)
    torch.testing.assert_close(RmsNorm()(x).square().mean(-1), torch.ones(3, 5), rtol=1e-4, atol=1e-4)
