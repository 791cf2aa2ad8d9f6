"""The ways a training ends early, and the watch for signals."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """A signal asked the training to stop; the step was finished and its state saved. The message says how to
    go on.

    Attributes:
        step: the step that was saved.
    """

    def __init__(self, step: int, message: str) -> None:
        super().__init__(message)
        self.step = step


class Diverged(Exception):
    """The loss or a weight is no longer a usable number. Nothing of it was saved.

    Attributes:
        step: the step at which it was noticed.
        kept: the last step whose state is kept, None if there is none.
    """

    def __init__(self, step: int, kept: int | None, message: str) -> None:
        super().__init__(message)
        self.step, self.kept = step, kept


_saving: list["SignalWatch"] = []


def saving() -> bool:
    """Whether a training was asked to stop, and has not saved yet."""
    return bool(_saving)


class SignalWatch:
    """Remembers the first SIGINT or SIGTERM instead of dying of it."""

    caught: int | None = None

    @property
    def name(self) -> str:
        """Name of the caught signal."""
        return "" if self.caught is None else signal.Signals(self.caught).name


@contextmanager
def watch_signals() -> Iterator[SignalWatch]:
    """Catch the first SIGINT or SIGTERM; a second one acts as before, and so does any when the block has
    ended.

    Python lets only the main thread set handlers: in another thread nothing is caught.
    """
    watch = SignalWatch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def note(number: int, frame: FrameType | None) -> None:
        watch.caught = number
        _saving.append(watch)
        restore()

    try:
        for number in before:
            signal.signal(number, note)
        yield watch
    finally:
        if watch in _saving:
            _saving.remove(watch)
        restore()
