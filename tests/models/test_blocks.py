"""The parts of a block."""

import pytest
import torch
import torch.nn.functional as F

from grokscope.models.blocks import gelu, rms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_the_same_function_for_a_compiler(dtype):
    x = torch.linspace(-12, 12, 4801).to(dtype).requires_grad_()
    compiled = torch.compile(gelu, backend="eager", fullgraph=True)
    slack = {torch.float32: 2e-6, torch.bfloat16: 0.02}[dtype]
    out, wanted = compiled(x), F.gelu(x, approximate="tanh")
    assert out.dtype == dtype
    torch.testing.assert_close(out, wanted, rtol=slack, atol=slack)
    (slope,), (wanted_slope,) = (torch.autograd.grad(y.sum(), x) for y in (out, wanted))
    torch.testing.assert_close(slope, wanted_slope, rtol=slack, atol=slack)
    torch.testing.assert_close(gelu(x), wanted)


def test_gelu_far_out_is_finite():
    x = torch.tensor([-1e30, -1e4, 1e4, 1e30], requires_grad=True)
    out = torch.compile(gelu, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(out, torch.tensor([0.0, 0.0, 1e4, 1e30]))


def test_rms_over_an_axis_is_rms_of_the_transposed():
    x = torch.randn(3, 5, 7)
    torch.testing.assert_close(rms(x, -2), rms(x.mT).mT)
    torch.testing.assert_close(rms(x).square().mean(-1), torch.ones(3, 5), rtol=1e-4, atol=1e-4)
