"""How a process is set up for a training."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt: free memory at the end of the heap from which on it is given back (-1: never);
how many blocks may be mapped by themselves."""


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """So many threads of PyTorch for a while; None: as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Sums into shared places (gradients of embeddings) must not depend on which CPU thread comes first."""
    if device.type != "cpu" or torch.get_num_threads() == 1:
        yield  # Nothing is asked of PyTorch, which would import its compiler for it: a second.
        return
    before = torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, from now on; without glibc nothing happens.

    A step at the reference's size frees and allocates some GB. By default a large block is mapped anew every
    time and filled with zeros by the kernel, page by page, which takes a quarter of the CPU time of an eager
    step (docs/speed.md). What is computed does not change.
    """
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_MAX, 0)
        set_option(M_TRIM_THRESHOLD, -1)
