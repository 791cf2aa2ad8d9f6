"""How a running study looks: a live table on a terminal, lines elsewhere; both read the run directories."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from grokscope.studies.directory import read_progress
from grokscope.studies.plan import PlannedRun

SHOWN = {
    "id_atomic": "ID atoms",
    "ood_atomic": "OOD atoms",
    "train_inferred": "train",
    "test_iid": "ID two-hop",
    "test_ood": "OOD two-hop",
}
"""Accuracies in the table, and what they are called there."""
LINE_SECONDS = 15.0
"""Without a terminal: a run's progress is printed at most this often."""


class Display(Protocol):
    """What shows a study while it runs."""

    def state(self, run: PlannedRun, state: str) -> None:
        """A run has started or ended."""

    def update(self) -> None:
        """Read the run directories again."""

    def say(self, sentence: str) -> None:
        """Print a sentence."""


@contextmanager
def display(runs: list[PlannedRun], console: Console | None = None) -> Iterator[Display]:
    """A live table if the console is a terminal, lines otherwise."""
    console = console or Console()
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=2, transient=False) as live:
        table = LiveTable(runs, live)
        yield table
        table.update(force=True)


class LiveTable:
    """One row per run."""

    def __init__(self, runs: list[PlannedRun], live: Live) -> None:
        self.runs, self.live = runs, live
        self.states = {run.name: "waiting" for run in runs}
        self.next_update = 0.0

    def state(self, run: PlannedRun, state: str) -> None:
        self.states[run.name] = state if state in ("starting", "done", "interrupted") else "failed"
        self.next_update = 0.0

    def say(self, sentence: str) -> None:
        self.live.console.print(sentence)

    def update(self, force: bool = False) -> None:
        now = time.monotonic()
        if now < self.next_update and not force:
            return
        self.next_update = now + 0.5
        table = Table(box=None, pad_edge=False)
        for name in ("run", "", "step", "", "steps/s", *SHOWN.values(), "left"):
            table.add_column(name, justify="left" if name in ("run", "") else "right", no_wrap=True)
        for run in self.runs:
            table.add_row(*self._row(run))
        self.live.update(table)

    def _row(self, run: PlannedRun) -> list[Any]:
        state, steps = self.states[run.name], run.spec.training.steps
        seen = {} if state == "waiting" else read_progress(run.directory)
        step = int(seen.get("step", run.step))
        accuracy = seen.get("accuracy", {})
        running = state == "starting" and seen.get("pid") is not None
        return [
            run.name,
            seen.get("doing", state) if running else state,
            f"{step}/{steps}",
            ProgressBar(total=steps, completed=step, width=16),
            f"{seen['rate']:.1f}" if seen.get("rate") else "",
            *(f"{accuracy[name]:.3f}" if name in accuracy else "" for name in SHOWN),
            time_left(seen, steps) if running else "",
        ]


class Lines:
    """A line per run now and then, and one when it starts or ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.active: dict[str, PlannedRun] = {}
        self.last: dict[str, tuple[float, int]] = {}

    def state(self, run: PlannedRun, state: str) -> None:
        if state == "starting":
            self.active[run.name] = run
            self.last[run.name] = (time.monotonic(), -1)
        else:
            self.active.pop(run.name, None)
            accuracy = describe(read_progress(run.directory)) if state == "done" else ""
            self.say(f"{run.name}: {state}{accuracy}")

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True, markup=False, highlight=False)

    def update(self) -> None:
        now = time.monotonic()
        for run in self.active.values():
            before, step_before = self.last[run.name]
            if now < before + LINE_SECONDS:
                continue
            seen = read_progress(run.directory)
            step = int(seen.get("step", -1))
            self.last[run.name] = (now, step)
            if step == step_before:
                continue
            steps = run.spec.training.steps
            rate = f", {seen['rate']:.1f} steps/s" if seen.get("rate") else ""
            left = f", {time_left(seen, steps)} left" if rate else ""
            self.say(f"{run.name}: step {step}/{steps}{rate}{describe(seen)}{left}")


def describe(seen: dict[str, Any]) -> str:
    """The accuracies of a progress file as words."""
    accuracy = seen.get("accuracy", {})
    return "".join(f", {label} {accuracy[name]:.3f}" for name, label in SHOWN.items() if name in accuracy)


def time_left(seen: dict[str, Any], steps: int) -> str:
    """Steps left at the present rate, as h:mm:ss."""
    if not seen.get("rate"):
        return ""
    seconds = int((steps - seen.get("step", 0)) / seen["rate"])
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
