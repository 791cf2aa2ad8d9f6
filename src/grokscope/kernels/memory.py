"""Copies of a large state, beside what goes on in the cache."""

import torch
from torch import Tensor

from grokscope.kernels.library import available, call


def copies(source: Tensor, target: Tensor) -> bool:
    """Whether `copied` can be asked for these."""
    return (
        available()
        and source.dtype == target.dtype == torch.float32
        and source.device.type == target.device.type == "cpu"
        and source.is_contiguous()
        and target.is_contiguous()
    )


def copied(source: Tensor, target: Tensor) -> bool:
    """Copy float32 numbers on a CPU, both contiguous and of one size; whether all are finite."""
    return call("copied", (source, target), (source.numel(),)) == 1
