"""What is settled before the first step, and holds for the whole of a training."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils import deterministic

from grokscope.errors import InputError
from grokscope.models.protocol import Reasoner
from grokscope.training.checkpoint import Progress, find_state, kept_steps
from grokscope.training.loss import Objective
from grokscope.training.manifest import Manifest, read_manifest
from grokscope.training.spec import TrainingSpec

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt: free memory at the end of the heap from which on it is given back (-1: never);
how many blocks may be mapped by themselves."""


@dataclass(frozen=True)
class Past:
    """What a run directory already holds."""

    progress: Progress | None
    """The state it goes on from; None: it begins."""
    manifest: Manifest | None
    """What the bits so far depend on; None: there are none."""

    def wanted_compile(self, spec: TrainingSpec) -> Literal["auto", "on", "off"]:
        """A run that began without a compiler goes on without."""
        eager = self.manifest is not None and self.manifest.backend.endswith("eager")
        return "off" if eager and spec.compile == "auto" else spec.compile


def past_of(directory: Path, spec: TrainingSpec) -> Past:
    """Where a run stands.

    Raises:
        InputError: it has more steps than are wanted, cannot be continued, or is damaged.
    """
    progress = find_state(directory)
    manifest = read_manifest(directory) if progress else None
    if progress and progress.step > spec.steps:
        raise InputError(
            f"training.steps = {spec.steps}: the run in {directory} already has {progress.step} steps; "
            f"allowed is at least {progress.step}."
        )
    if not progress and (orphans := [step for step in kept_steps(directory) if step > 0]):
        raise InputError(
            f"{directory} has checkpoints up to step {orphans[-1]} but no resume state, so it cannot "
            "be continued; start in another directory."
        )
    return Past(progress, manifest)


def checked_device(model: Reasoner, spec: TrainingSpec) -> torch.device:
    """The device of a spec.

    Raises:
        InputError: it is not there, or the model is of another dtype than the spec.
    """
    if spec.device == "cuda" and not torch.cuda.is_available():
        raise InputError("training.device = 'cuda': PyTorch sees no GPU here; allowed is 'cpu'.")
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype != spec.dtype:
        raise InputError(
            f"training.dtype = {spec.dtype!r}: the model was built for {dtype!r}; both must agree."
        )
    return torch.device(spec.device)


def loss_at_first(objective: Objective, rows_BC: torch.Tensor, spec: TrainingSpec) -> float:
    """Loss of the first batch under the initial weights; also tries out every number of loops.

    Raises:
        InputError: the model cannot have that number of loops.
    """
    with torch.no_grad():
        for loops in spec.loop_choices or ():
            objective(rows_BC[:1], loops)
        return float(objective(rows_BC))


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
    before = torch.are_deterministic_algorithms_enabled()
    filled = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if device.type == "cpu" and torch.get_num_threads() > 1:
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
