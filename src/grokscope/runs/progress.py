"""How a running study looks: a live table on a terminal, lines elsewhere; both read the run directories."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from grokscope.runs.directory import read_progress
from grokscope.runs.open import Transfer
from grokscope.runs.plan import Planned
from grokscope.training.progress import clock

SHOWN = {
    "id_atomic": "ID atoms",
    "ood_atomic": "OOD atoms",
    "train_inferred": "train",
    "test_iid": "ID queries",
    "test_ood": "OOD queries",
}
"""Accuracies in the table, and what they are called there."""
SHOWN_OF_TRANSFERS = {
    "new_atomic": "new atoms",
    "new_then_old": "new-old",
    "old_then_new": "old-new",
    "new_then_new": "new-new",
    "test_iid": "ID two-hop",
}
"""The same of a fine-tuning on new facts."""
NARROW = ("train_inferred", "test_ood", "new_atomic", "new_then_new")
"""Those of them that a narrow terminal gets."""
WIDE = 125
"""Columns of a terminal from which the whole table fits."""
MARGIN = 4
"""Lines of a terminal that are not rows."""
LINE_SECONDS = 15.0
"""Without a terminal: a run's progress is printed at most this often."""


class Display(Protocol):
    """What shows a study while it runs."""

    def state(self, run: Planned, state: str) -> None:
        """A run has started or ended."""

    def update(self) -> None:
        """Read the run directories again."""

    def say(self, sentence: str) -> None:
        """Print a sentence."""


@contextmanager
def display(runs: list[Planned], console: Console | None = None) -> Iterator[Display]:
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

    def __init__(self, runs: list[Planned], live: Live) -> None:
        self.runs, self.live = runs, live
        self.states = {run.name: "waiting" for run in runs}
        self.next_update = 0.0

    def state(self, run: Planned, state: str) -> None:
        known = state in ("starting", "done", "interrupted")
        self.states[run.name] = state if known else "failed"
        if not known:
            self.say(f"{run.name} failed: {state}")
        self.next_update = 0.0

    def say(self, sentence: str) -> None:
        self.live.console.print(sentence, markup=False, highlight=False)

    def update(self, force: bool = False) -> None:
        now = time.monotonic()
        if now < self.next_update and not force:
            return
        self.next_update = now + 0.5
        rows = [self._cells(run) for run in self._shown()]
        table = Table(box=None, pad_edge=False)
        for name in rows[0] if rows else ():
            table.add_column(name, justify="left" if name in ("run", "state") else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row.values())
        if len(rows) < len(self.runs):
            states = list(self.states.values())
            counts = {state: states.count(state) for state in dict.fromkeys(sorted(states))}
            table.caption = ", ".join(f"{count} {state}" for state, count in counts.items())
        self.live.update(table)

    def _shown(self) -> list[Planned]:
        """All runs, or those at work where a terminal has no room for all: it is also what is read."""
        room = self.live.console.height - MARGIN
        if len(self.runs) <= room:
            return self.runs
        return [run for run in self.runs if self.states[run.name] == "starting"][: max(1, room)]

    def _cells(self, run: Planned) -> dict[str, Any]:
        """A row by column name; a narrow terminal gets fewer columns."""
        state, steps = self.states[run.name], run.spec.training.steps
        seen = {} if state == "waiting" else read_progress(run.directory)
        step = int(seen.get("step", run.step))
        running = state == "starting" and bool(seen)
        wide = self.live.console.width >= WIDE
        accuracy = seen.get("accuracy", {})
        cells = {"run": run.name, "state": seen.get("doing", state) if running else state}
        cells["step"] = f"{step}/{steps}" if wide else str(step)
        if wide:
            cells["done"] = ProgressBar(total=steps, completed=step, width=16)
        cells["steps/s"] = f"{seen['rate']:.1f}" if running and seen.get("rate") else ""
        shown = SHOWN_OF_TRANSFERS if isinstance(run.job, Transfer) else SHOWN
        for name, label in shown.items():
            if wide or name in NARROW:
                cells[label] = f"{accuracy[name]:.3f}" if name in accuracy else ""
        cells["left"] = time_left(seen, steps) if running else ""
        return cells


class Lines:
    """A line per run now and then, and one when it starts or ends."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.active: dict[str, Planned] = {}
        self.last: dict[str, tuple[float, int]] = {}

    def state(self, run: Planned, state: str) -> None:
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
    shown = SHOWN_OF_TRANSFERS if "new_atomic" in accuracy else SHOWN
    return "".join(f", {label} {accuracy[name]:.3f}" for name, label in shown.items() if name in accuracy)


def time_left(seen: dict[str, Any], steps: int) -> str:
    """Steps left at the present rate, as h:mm:ss."""
    if not seen.get("rate"):
        return ""
    return clock((steps - seen.get("step", 0)) / seen["rate"])
