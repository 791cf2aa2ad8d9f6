"""How a training shows itself: a bar on a terminal, a plain line now and then elsewhere, or the caller's own
display."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[dict[str, Any]], None]
"""Gets {"step", "steps", "seconds", "rate", "eta", "loss", "accuracy"}: rate in steps per second, eta in
seconds (both None until they are known), loss and accuracies those of the last checkpoint."""

REPORT_SECONDS = 1.0
BAR_SECONDS = 0.25
LINE_SECONDS = 30.0


class Display(Protocol):
    """What shows one training."""

    every: float
    """Seconds between two calls of `show` at least."""

    def show(self, news: dict[str, Any], checkpoint: bool) -> None:
        """Show where the training stands; `checkpoint`: there are new accuracies."""

    def close(self) -> None:
        """The training has ended."""


class Caller:
    """Hands the news to a function."""

    every = REPORT_SECONDS

    def __init__(self, report: Report) -> None:
        self.report = report

    def show(self, news: dict[str, Any], checkpoint: bool) -> None:
        self.report(news)

    def close(self) -> None:
        """Nothing to do."""


class Bar:
    """A progress bar with step rate, time left and the last accuracies."""

    every = BAR_SECONDS

    def __init__(self, console: Console) -> None:
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}"),
        )
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task("training", total=None, rate="", accuracy="")
        self.progress.start()

    def show(self, news: dict[str, Any], checkpoint: bool) -> None:
        rate = "" if news["rate"] is None else f"{news['rate']:.1f} steps/s"
        accuracy = accuracies(news["accuracy"])
        self.progress.update(
            self.task, completed=news["step"], total=news["steps"], rate=rate, accuracy=accuracy
        )

    def close(self) -> None:
        self.progress.stop()


class Lines:
    """One plain line per checkpoint, but at most every half minute, and one for the last step."""

    every = LINE_SECONDS

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.last = say, float("-inf")

    def show(self, news: dict[str, Any], checkpoint: bool) -> None:
        end = news["step"] == news["steps"]
        if not checkpoint or not (end or time.monotonic() >= self.last + LINE_SECONDS):
            return
        self.last = time.monotonic()
        rate = "" if news["rate"] is None else f", {news['rate']:.1f} steps/s"
        left = "" if news["eta"] is None or end else f", {clock(news['eta'])} left"
        self.say(f"step {news['step']}/{news['steps']}{rate}{left}: {accuracies(news['accuracy'])}")

    def close(self) -> None:
        """Nothing to do."""


def choose_display(report: Report | None, say: Callable[[str], None]) -> Display:
    """The caller's function if there is one, else a bar on a terminal, else lines."""
    if report is not None:
        return Caller(report)
    return Bar(Console()) if sys.stdout.isatty() else Lines(say)


def accuracies(accuracy: Mapping[str, float]) -> str:
    """Accuracies on one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in accuracy.items())


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
