"""`grokscope status`: how a study stands, from any machine that sees its directory."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from grokscope.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from grokscope.runs.status import JobStatus

WATCH_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Status:
    """Say how the runs of a study stand: where each is worked on, how far and how fast, and what failed."""

    study: tyro.conf.Positional[Path]
    """A study's directory, or the name of one under runs/."""
    watch: bool = False
    """Go on showing it until nothing is at work or waiting."""
    json: bool = False
    """Print JSON."""


def status(command: Status) -> int:
    """Read the directories, and print."""
    from rich.console import Console
    from rich.live import Live

    from grokscope.runs.status import status_of, summary
    from grokscope.runs.study import open_study

    named = Path("runs") / command.study
    study = open_study(named if not command.study.is_dir() and named.is_dir() else command.study)
    if command.watch and command.json:
        raise InputError("watch: JSON is printed once; allowed is one of watch and json.")
    found = status_of(study)
    if command.json:
        rows = [dataclasses.asdict(one) | {"seconds_left": one.seconds_left} for one in found]
        print(json.dumps(rows, indent=1))
        return 0
    console = Console()
    if command.watch:
        with Live(_table(found), console=console, auto_refresh=False) as live:
            while any(one.at_work or one.state == "waiting" for one in found):
                time.sleep(WATCH_SECONDS)
                found = status_of(study)
                live.update(_table(found), refresh=True)
    else:
        console.print(_table(found))
    for one in found:
        if one.last:
            print(f"{one.name} failed: {one.last}")
    print(summary(found))
    return 0


def _table(found: "list[JobStatus]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("run", "state", "where", "step", "steps/s", "left"):
        table.add_column(name, justify="left" if name in ("run", "state", "where") else "right", no_wrap=True)
    for one in found:
        rate = "" if one.rate is None else f"{one.rate:.1f}"
        table.add_row(one.name, one.state, one.where, f"{one.step}/{one.steps}", rate, one.time_left)
    return table
