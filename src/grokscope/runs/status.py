"""How the jobs of a study stand, whoever does them and wherever: read from their directories alone."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grokscope.errors import shortened
from grokscope.runs.directory import LOG, read_progress, standing
from grokscope.runs.lease import directory_time, holder_of, silent
from grokscope.runs.open import Run, Transfer
from grokscope.runs.study import Study
from grokscope.training.progress import clock

TAIL_BYTES = 4096
"""Of a log, where its last line is looked for."""
DONE, FAILED, LOST, STOPPED, WAITING = "done", "failed", "lost", "stopped", "waiting"


@dataclass(frozen=True)
class JobStatus:
    """How one job stands."""

    name: str
    state: str
    """done; failed; lost: its worker is not heard of any more; stopped: it goes on when it is asked for;
    waiting; else what is being done: building, training, intervening, ..."""
    where: str
    """Machine of the worker; empty: nobody works on it."""
    step: int
    steps: int
    rate: float | None
    """Steps per second; None: unknown, or nobody works on it."""
    last: str
    """Of a failed job the last line that its worker said."""

    @property
    def at_work(self) -> bool:
        return bool(self.where) and self.state not in (DONE, LOST)

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None: unknown."""
        return (self.steps - self.step) / self.rate if self.rate else None

    @property
    def time_left(self) -> str:
        """The same as h:mm:ss, or nothing."""
        return "" if self.seconds_left is None else clock(self.seconds_left)


def status_of(study: Study) -> list[JobStatus]:
    """Every run and transfer that the study asks for, in its order.

    Raises:
        InputError: a file is damaged.
    """
    now = directory_time(study.directory) if os.access(study.directory, os.W_OK) else time.time()
    jobs: list[Run | Transfer] = [*study.run_jobs]
    if study.spec.transfer is not None:  # What bases there are takes reading runs.
        jobs += study.transfer_jobs
    return [_status(job, now) for job in jobs]


def _status(job: Run | Transfer, now: float) -> JobStatus:
    directory, steps = job.directory, job.spec.training.steps
    stands, holder, seen = standing(directory), holder_of(directory), read_progress(directory)
    if holder is None:
        last = _last_line(directory / LOG)
        failed = last.startswith("error: ")
        done = stands.state == "done" and job.ends_at(stands.step)
        begun = stands.step > 0 or stands.state == "interrupted"
        state = DONE if done else FAILED if failed else STOPPED if begun else WAITING
        said = shortened(last.removeprefix("error: "), 200) if state == FAILED else ""
        return JobStatus(job.name, state, "", stands.step, steps, None, said)
    where = str(seen.get("host") or holder.about.get("host", "?"))
    step = int(seen.get("step", stands.step))
    if holder.dead or silent(holder, now):
        return JobStatus(job.name, LOST, where, stands.step, steps, None, "")
    return JobStatus(job.name, str(seen.get("doing", "building")), where, step, steps, seen.get("rate"), "")


def _last_line(path: Path) -> str:
    with suppress(OSError), path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = handle.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "")
    return ""


def summary(found: Sequence[JobStatus]) -> str:
    """All of them as one sentence."""
    work = [one for one in found if one.at_work]
    parts = [f"{sum(one.state == DONE for one in found)} of {len(found)} done", f"{len(work)} at work"]
    for state in (FAILED, LOST, STOPPED, WAITING):
        if count := sum(one.state == state for one in found):
            parts.append(f"{count} {state}")
    rate = sum(one.rate or 0.0 for one in work)
    left = sum(one.steps - one.step for one in found if one.state not in (DONE, FAILED))
    if rate and left:
        parts[-1] += f"; about {clock(left / rate)} left at this rate"
    return f"{', '.join(parts)}."
