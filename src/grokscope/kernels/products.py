"""Matrix products without gradient on a CPU, by whichever library is the faster one.

PyTorch multiplies float32 matrices with MKL, which uses registers of 256 bits where the processor is not
Intel's, even if it has AVX-512. oneDNN, to which PyTorch goes by itself only in bfloat16, then takes half the
time: the same products, added up in another order.

Shapes: X rows, N inputs, M outputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
WIDE = _ONEDNN and torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether oneDNN has registers of 512 bits here."""


def by_onednn(dtype: torch.dtype) -> bool:
    """Whether `linear` asks oneDNN by its name."""
    return WIDE and dtype == torch.float32


def linear(
    x_XN: Tensor, weight_MN: Tensor, out_XM: Tensor | None = None, bias_M: Tensor | None = None
) -> Tensor:
    """x W^T + b; `out_XM` is memory that may be used for it."""
    if by_onednn(x_XN.dtype):
        product_XM: Tensor = torch.ops.mkldnn._linear_pointwise(x_XN, weight_MN, bias_M, "none", [], "")
        return product_XM
    if out_XM is None or bias_M is not None:
        return F.linear(x_XN, weight_MN, bias_M)
    return torch.mm(x_XN, weight_MN.t(), out=out_XM)
