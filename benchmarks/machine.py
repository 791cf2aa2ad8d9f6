"""What the numbers were measured on, and what its matrix multiplication can do at best."""

import datetime
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import grokscope
from benchmarks.clock import take_time
from grokscope.kernels.library import plainly
from grokscope.kernels.products import by_onednn, linear
from grokscope.training.manifest import compiler_version, cpu_capability

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SQUARES = (1024, 1536, 2048)
"""Sides of the square products whose best rate counts as the ceiling."""
TICKS = Path("/proc/stat")


def facts(device: str) -> dict[str, Any]:
    """Machine, versions and date."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "instructions": cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": compiler_version(),
        "grokscope": grokscope.__version__,
        "date": datetime.date.today().isoformat(),
    }


def measured(measure: Callable[[], list[dict[str, Any]]], device: str, second: float = 1.0) -> dict[str, Any]:
    """A section of the results: rows, machine, and how busy it was before. `second` is how long is looked."""
    busy, began = _busy(second), time.monotonic()
    rows = measure()
    took = round(time.monotonic() - began, 1)
    return {"rows": rows, "machine": facts(device), "busy_before": round(busy, 2), "took_seconds": took}


def _busy(seconds: float) -> float:
    """Cores that are at work while this process sleeps; without a /proc, the load of the last minute."""
    if not TICKS.is_file():
        return os.getloadavg()[0]
    before = _ticks()
    time.sleep(seconds)
    return (_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def _ticks() -> int:
    """Ticks that any core has worked since the machine began: user, nice, system, interrupts, stolen."""
    _, user, nice, system, _, _, *rest = TICKS.read_text().splitlines()[0].split()
    return sum(map(int, (user, nice, system, *rest[:3])))


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Product(NamedTuple):
    """A matrix product as it occurs: a batch of (m, k) x (k, n), operands by their strides."""

    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    strides: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def flops(self) -> int:
        """2 per multiply-add."""
        *batch, m, k = self.shapes[0]
        return 2 * (batch[0] if batch else 1) * m * k * self.shapes[1][-1]

    def call(self, device: str) -> Callable[[], object]:
        """The product alone, into memory that is already there."""
        a, b = (
            _strided(shape, stride, self.dtype, device)
            for shape, stride in zip(self.shapes, self.strides, strict=True)
        )
        out = a @ b
        return lambda: torch.matmul(a, b, out=out)


def _strided(
    shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, device: str
) -> torch.Tensor:
    reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.randn(reach, device=device).to(dtype).as_strided(shape, stride)


def square(side: int, dtype: str) -> Product:
    """A product of two square matrices."""
    return Product(DTYPES[dtype], ((side, side),) * 2, ((side, 1),) * 2)


def ceiling(dtype: str, quick: bool, device: str) -> float:
    """FLOP per second of the best square product of any library, with the threads that are set."""
    rates = []
    for side in (128,) if quick else (4096, 8192) if device == "cuda" else SQUARES:
        product = square(side, dtype)
        calls = [product.call(device)]
        if device == "cpu" and by_onednn(DTYPES[dtype]):
            calls.append(partial(linear, torch.randn(side, side), torch.randn(side, side)))
        for call in calls:
            timing = take_time(call, 3 if quick else 7, 0.0 if quick else 0.1, device)
            rates.append(product.flops / timing.low)
    return max(rates)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            a, b = args[:2]
            self.found[Product(a.dtype, (tuple(a.shape), tuple(b.shape)), (a.stride(), b.stride()))] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], object]) -> Counter[Product]:
    """The matrix products that a call makes, and how often."""
    with _Recorder() as recorder:
        call()
    return recorder.found


def seconds_alone(products: Counter[Product], quick: bool, device: str) -> float:
    """Time that these products take with nothing around them: the ceiling on a model's own shapes."""
    rounds, least = (3, 0.0) if quick else (5, 0.02)
    return sum(
        count * take_time(one.call(device), rounds, least, device).seconds for one, count in products.items()
    )


def flops(call: Callable[[], object]) -> int:
    """Operations of the matrix products that a call makes, by `products.linear` and kernels too."""
    mapping = {torch.ops.mkldnn._linear_pointwise: _linear_flops} if by_onednn(torch.float32) else {}
    with plainly(), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        call()
    return int(counter.get_total_flops())


def _linear_flops(x_shape: Sequence[int], weight_shape: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


def matmul(quick: bool, device: str) -> list[dict[str, Any]]:
    """Ceilings by dtype and threads."""
    rows = []
    before = torch.get_num_threads()
    counts = [1] if quick or device == "cuda" else sorted({1, before})
    for threads in counts:
        torch.set_num_threads(threads)
        for dtype in DTYPES:
            rate = ceiling(dtype, quick, device)
            rows.append({"dtype": dtype, "threads": threads, "gflops": rate / 1e9})
    torch.set_num_threads(before)
    return rows
