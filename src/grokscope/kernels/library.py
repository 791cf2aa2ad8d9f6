"""Our C++ as a library, made at its first use where the processor has AVX512-BF16 and there is a compiler.

The environment variable GROKSCOPE_KERNELS=off puts it aside.
"""

import ctypes
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from grokscope import native

SOURCES = ("mixing.cpp", "pieces.cpp", "readout.cpp", "memory.cpp")
HEADERS = ("vectors.h",)
SETS = ("fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16")
OPTIONS = ("-O3", "-fopenmp", "-ffp-contract=off", *(f"-m{one}" for one in SETS))
LANES = 16
"""Numbers in a register: a multiple of it fills them all."""
VARIABLE = "GROKSCOPE_KERNELS"
_MAKING = threading.Lock()
_PLAINLY: ContextVar[bool] = ContextVar("plainly", default=False)


def available() -> bool:
    """Whether there is such a library on this machine, and it is not put aside."""
    aside = _PLAINLY.get() or os.environ.get(VARIABLE, "").lower() == "off"
    return not aside and _library() is not None


@contextmanager
def plainly() -> Iterator[None]:
    """A span, of this thread, in which the library is put aside: PyTorch's operations alone."""
    outer = _PLAINLY.set(True)
    try:
        yield
    finally:
        _PLAINLY.reset(outer)


def serves(x: Tensor) -> bool:
    """Whether kernels without a gradient can be asked for x: contiguous bfloat16 on a CPU, rows of full
    registers, nothing to be differentiated."""
    kind = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled()
    return kind and x.shape[-1] % LANES == 0 and x.is_contiguous() and available()


def call(function: str, arrays: Sequence[Tensor | None], sizes: Sequence[int], *flags: int) -> int:
    """Call a function of the library with arrays (None: a null pointer), the last of which are written, and
    with as many threads as PyTorch has. What it returns, if it returns a number."""
    pointers = (ctypes.c_void_p(None if array is None else array.data_ptr()) for array in arrays)
    longs = (ctypes.c_long(size) for size in sizes)
    result: int = getattr(_library(), function)(*pointers, *longs, *flags, torch.get_num_threads())
    return result


def _library() -> ctypes.CDLL | None:
    # A cache alone would let threads make it side by side.
    with _MAKING:
        return _loaded()


@cache
def _loaded() -> ctypes.CDLL | None:
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    here = Path(__file__).parent
    sources, headers = ([here / name for name in names] for names in (SOURCES, HEADERS))
    return native.load("kernels", sources, headers, OPTIONS)
