"""Saving beside the training: a copy of the state, made at once, and a thread that writes it.

The loop stands still only while the copy is made. There is one copy and one thread, so a save that comes
before the last one is on the disk waits for it: what is written, and in which order, is the same as if
everything stood still meanwhile. What goes wrong in the thread is raised in the loop, at the next save or
look at the loss, and nothing is written after it.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from grokscope.kernels import memory
from grokscope.training.optim import Tensors, TrainState

COPIERS = 4
"""Threads that make a large copy; one alone does not use all of the memory's bandwidth."""
LARGE = 1 << 24
"""Bytes from which on a copy is worth more than one thread."""


class Writer:
    """Does one job at a time in a thread of its own, and ends it before the process ends by itself."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "grokscope-writer")
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Begin a job, when the one before has ended.

        Raises:
            BaseException: what the job before raised; this one is not begun.
        """
        self.wait()
        self._job = self._thread.submit(job)

    def wait(self) -> None:
        """Until there is nothing to do. Raises what the job raised, once."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def check(self) -> None:
        """Raise what a job raised, once; does not wait."""
        if self._job is not None and self._job.done():
            self.wait()

    def close(self) -> None:
        """Wait for the job, whatever becomes of it."""
        self._thread.shutdown()


class Snapshot:
    """Room for a copy of a training state. It is made and touched at the start: memory that is new to a
    process costs many times the copy itself.

    Args:
        state: what is copied; its tensors are only ever changed in place.
        sums: running sums of the loss, copied with it.

    Attributes:
        state, sums: the copy, on the same device.
    """

    def __init__(self, state: TrainState, sums: Tensor) -> None:
        self.state = TrainState(*({name: t.clone() for name, t in part.items()} for part in state))
        self.sums = sums.clone()
        self._source, self._source_sums = state, sums
        self._on_gpu = sums.device.type == "cuda"
        large = not self._on_gpu and sum(t.nbytes for part in state for t in part.values()) >= LARGE
        self._pool = ThreadPoolExecutor(COPIERS, "grokscope-copy") if large else None
        self._averages: list[_Pairs] = []
        self._others: list[_Pairs] = []
        if not self._on_gpu:
            averages = _pairs(state.ema, self.state.ema)
            others = zip(state._replace(ema={}), self.state, strict=True)
            self._averages, self._others = (
                _shares(some, COPIERS if large else 1)
                for some in (averages, [pair for part, copy in others for pair in _pairs(part, copy)])
            )
        self._left = [*self._averages, *self._others]
        self._begun: list[Future[bool]] = []

    def copy_average(self) -> str | None:
        """Copy the averaged weights, and give the name of one that is not finite; None: there is none.

        What is not copied yet is copied by `begin` and `end`.
        """
        if self._on_gpu:
            return not_finite(self._source.ema)
        if self._pool is None:
            finite = [_copy(share) for share in self._averages]
        else:
            finite = list(self._pool.map(_copy, self._averages))
        broken = None if all(finite) else not_finite(self._source.ema)
        self._left = self._others if broken is None else self._left
        return broken

    def begin(self) -> None:
        """Start to copy the state, beside whatever only reads it until `end`."""
        if self._pool is not None:
            self._begun = [self._pool.submit(_copy, share) for share in self._left]

    def end(self) -> None:
        """The copy is made, of the state and of the sums as they are now. On a GPU it is queued behind the
        step instead, and nothing waits.
        """
        if self._on_gpu:
            for part, copy in zip(self._source, self.state, strict=True):
                for name, tensor in part.items():
                    copy[name].copy_(tensor)
        elif self._pool is None:
            for share in self._left:
                _copy(share)
        else:
            for done in self._begun:
                done.result()
        self._left = [*self._averages, *self._others]
        self.sums.copy_(self._source_sums)
        if self._on_gpu:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def on_host(self) -> tuple[TrainState, Tensor]:
        """The copy in main memory; from a GPU it comes by a stream of its own, beside the next steps."""
        if not self._on_gpu:
            return self.state, self.sums
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().wait_event(self._copied)
            parts = ({name: tensor.cpu() for name, tensor in part.items()} for part in self.state)
            return TrainState(*parts), self.sums.cpu()

    def close(self) -> None:
        """Let go of the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of a tensor with an infinity or NaN in it; None: there is none.

    Both survive a sum, which reads a tensor ten times as fast as a test of every number; a sum may also
    overflow by itself, so it only says where to look closer.
    """
    if bool(torch.isfinite(torch.stack([tensor.sum() for tensor in tensors.values()])).all()):
        return None
    return next((name for name, t in tensors.items() if not bool(torch.isfinite(t).all())), None)


_Pairs = list[tuple[Tensor, Tensor, bool]]
"""Tensors, what they are copied into, and whether by `memory.copied`."""


def _pairs(source: Tensors, target: Tensors) -> _Pairs:
    pairs = [(source[name].detach(), target[name]) for name in source]
    return [(one, two, memory.copies(one, two)) for one, two in pairs]


def _shares(pairs: _Pairs, count: int) -> list[_Pairs]:
    """The copies of about equal size that threads make, each of whole tensors."""
    shares: list[_Pairs] = [[] for _ in range(count)]
    sizes = [0] * count
    for pair in sorted(pairs, key=lambda pair: -pair[0].nbytes):
        least = sizes.index(min(sizes))
        shares[least].append(pair)
        sizes[least] += pair[0].nbytes
    return shares


def _copy(pairs: _Pairs) -> bool:
    """Whether all that was copied is known to be finite."""
    finite = True
    for source, target, quick in pairs:
        if quick:
            finite &= memory.copied(source, target)
        else:
            np.copyto(target.numpy(), source.numpy())
            finite = False
    return finite
