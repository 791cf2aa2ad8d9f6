"""The executor of SLURM: a study's jobs are a batch, and job arrays are its workers.

Only what every SLURM has is used, by its own commands: sbatch, squeue, scancel, scontrol. Its jobs have the
batch's name, by which they are found again, so nothing is lost when this process ends at any moment: asked
again, it goes on watching.
"""

import re
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from grokscope.errors import InputError
from grokscope.files import remove
from grokscope.runs.batch import BATCHES, Batch, ends, read_end
from grokscope.runs.directory import PROGRESS, in_use, standing
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.executor import STARTING, STOPPED, Say
from grokscope.runs.lease import directory_time
from grokscope.runs.plan import Planned
from grokscope.runs.scheduler import COMMANDS, Away, ask

GLANCE_SECONDS = 1.0
"""Between two looks at what has ended."""
LOOK_SECONDS = 10.0
"""Between two questions to the scheduler."""
RETRY_SECONDS = 60.0
"""At least so long after runs lost their jobs these are queued once more: by then lost leases have lapsed."""
TRIES = 3
"""So often they are queued again without any of them getting further."""
FORGET_SECONDS = 3600.0
"""After so long a batch without jobs in the queue is removed."""


class Slurm:
    """Job arrays; the arguments are those of `executor.executor`."""

    def __init__(
        self,
        spec: ExecutionSpec,
        study: Path,
        planned: list[Planned],
        together: list[list[Planned]],
        say: Say,
    ) -> None:
        for command in COMMANDS:
            if shutil.which(command) is None:
                raise InputError(
                    f"executor = 'slurm': there is no {command} on this machine; allowed are local and ray, "
                    "or slurm on a machine that submits to a SLURM cluster."
                )
        self.spec, self.study, self.say = spec, study.resolve(), say
        self.batches: dict[Path, list[Planned]] = {}
        """Of each batch the jobs that have not ended."""
        self._given: list[list[Planned]] = []
        self._unqueued: list[Path] = []
        self._begun: set[str] = set()
        self._tries: dict[Path, tuple[float, int, int]] = {}
        self._stop: list[str] = []
        self._stopping, self._at_once = False, False
        self._away, self._next_look, self._next_glance = False, 0.0, 0.0

    @property
    def busy(self) -> bool:
        return bool(self._given or any(self.batches.values()))

    @property
    def left_to_others(self) -> bool:
        return not self._given and not self._unqueued

    def submit(self, groups: list[list[Planned]]) -> None:
        self._given = groups

    def watch(self) -> Iterator[tuple[Planned, str]]:
        if time.monotonic() >= self._next_glance:
            self._next_glance = time.monotonic() + GLANCE_SECONDS
            for place, left in self.batches.items():
                ended = ends(place)
                for run in [run for run in left if run.directory.name in ended]:
                    left.remove(run)
                    yield run, read_end(place, run.directory) or "its end cannot be read"
        if self._stopping and (self._given or self._at_once):
            yield from self._dropped()
        if time.monotonic() < self._next_look:
            return
        try:
            yield from self._look()
            if self._away:
                self.say("the scheduler answers again")
            self._away = False
        except Away as error:
            if not self._away:
                self.say(f"the scheduler does not answer ({error}); waiting, running jobs go on")
            self._away = True
        self._next_look = time.monotonic() + LOOK_SECONDS

    def stop(self, at_once: bool) -> None:
        self._stopping, self._at_once = True, at_once
        # A job in the queue is taken out, one at work is told, and leaves when it has saved.
        self._stop = ["--state=PENDING", "--batch --signal=TERM"]
        self._next_look = 0.0

    def close(self) -> None:
        """What is queued stays so, but for jobs that would find nothing left to do."""
        for place, left in self.batches.items():
            if not left:
                with suppress(Away):
                    ask("scancel", f"--name={place.name}", "--state=PENDING")

    def _look(self) -> Iterator[tuple[Planned, str]]:
        """Ask the scheduler, and do what follows.

        Raises:
            Away: it does not answer.
            InputError: it refuses jobs.
        """
        if self._given:
            self._adopt()
        for place in list(self._unqueued):
            if not self._stopping:
                self._submit(place)
            self._unqueued.remove(place)
        while self._stop:
            for place in self.batches:
                ask("scancel", f"--name={place.name}", *self._stop[0].split())
            self._stop.pop(0)
        for place, left in self.batches.items():
            for run in left:
                if run.name not in self._begun and (run.directory / PROGRESS).exists():
                    self._begun.add(run.name)
                    yield run, STARTING
            if left and not self._queued(place):
                yield from self._ended(place, left)

    def _dropped(self) -> Iterator[tuple[Planned, str]]:
        """Stop without the scheduler's answer: what was not queued, or all."""
        dropped = [run for runs in self._given for run in runs]
        if self._at_once:
            for place in self.batches:
                with suppress(Away):
                    ask("scancel", f"--name={place.name}")
            dropped += [run for left in self.batches.values() for run in left]
            self.batches = {}
        self._given = []
        for run in dropped:
            yield run, STOPPED

    def _adopt(self) -> None:
        """Go on with what is queued from before; all else that was given becomes a batch."""
        left = {self._name(run): run for runs in self._given for run in runs}
        adopted = {}
        for place in sorted((self.study / BATCHES).glob("*")):
            if not self._queued(place):
                if directory_time(self.study) - place.stat().st_mtime > FORGET_SECONDS:
                    remove(place)
                continue
            named = [name for group in Batch.read(place).groups for name in group if name in left]
            if mine := [name for name in named if read_end(place, self.study / name) is None]:
                adopted[place] = [left.pop(name) for name in mine]
        if adopted:
            self.say(f"{sum(map(len, adopted.values()))} runs are queued or at work from before")
        rest = [[run for run in runs if self._name(run) in left] for runs in self._given]
        if rest := [runs for runs in rest if runs]:
            place = self.study / BATCHES / f"grokscope-{uuid.uuid4().hex[:8]}"
            names = tuple(tuple(self._name(run) for run in runs) for runs in rest)
            Batch(names, self.spec.threads or self.spec.cpus).write(place)
            adopted[place] = [run for runs in rest for run in runs]
            self._unqueued.append(place)
        self.batches, self._given = adopted, []

    def _name(self, run: Planned) -> str:
        return str(run.directory.resolve().relative_to(self.study))

    def _ended(self, place: Path, left: list[Planned]) -> Iterator[tuple[Planned, str]]:
        """A batch has no jobs any more, and runs that have not ended: they were lost with their nodes, or
        what ended them could not say so."""
        unknown = [run for run in left if read_end(place, run.directory) is None]
        if not unknown or self._stopping:
            for run in unknown:
                left.remove(run)
                yield run, STOPPED
            return
        far = sum(standing(run.directory).step for run in unknown)
        since, tries, before = self._tries.get(place, (-RETRY_SECONDS, 0, far))
        if time.monotonic() < since + RETRY_SECONDS:
            return
        tries = 1 if far > before else tries + 1
        if tries <= TRIES:
            self.say(f"{len(unknown)} runs have lost their jobs and are queued again")
            self._submit(place)
            self._tries[place] = (time.monotonic(), tries, far)
            return
        for run in unknown:
            left.remove(run)
            owner = in_use(run.directory)
            used = f"it is in use by another process ({owner}); wait for it or stop it."
            yield run, used if owner else f"its job ended {tries} times without a word; see {place}."

    def _queued(self, place: Path) -> bool:
        """Whether a batch has jobs that wait or work."""
        return bool(ask("squeue", "--noheader", f"--name={place.name}", "--format=%A").strip())

    def _submit(self, place: Path) -> None:
        batch = Batch.read(place)
        workers = -(-len(batch.groups) // self.spec.runs_per_job)
        config = ask("scontrol", "show", "config")
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", config)
        most = max(1, int(found[1])) if found else 1001  # Indices are less than it.
        starts = range(0, workers, most)
        # The limit on jobs at a time is one of each array.
        at_a_time = f"%{max(1, self.spec.workers // len(starts))}" if self.spec.workers else ""
        for first in starts:
            array = f"0-{min(most, workers - first) - 1}{at_a_time}"
            ask("sbatch", *self._options(place, array), text=self._script(place, first, workers))

    def _options(self, place: Path, array: str) -> list[str]:
        spec = self.spec
        wanted = {
            "account": spec.account,
            "partition": spec.partition,
            "mem": spec.memory,
            "gpus-per-task": spec.gpus or None,
        }
        return [
            "--parsable",
            f"--job-name={place.name}",
            f"--array={array}",
            f"--output={place}/%A_%a.log",
            f"--chdir={self.study}",
            "--open-mode=append",
            "--requeue",
            "--ntasks=1",
            f"--cpus-per-task={spec.cpus}",
            f"--time={spec.minutes}",
            f"--signal=B:USR1@{spec.save_seconds}",
            *(f"--{name}={value}" for name, value in wanted.items() if value is not None),
            *spec.options,
        ]

    def _script(self, place: Path, first: int, workers: int) -> str:
        here = shlex.quote(sys.executable) if self.spec.activate is None else "python"
        python = self.spec.python or here
        which = f"$((SLURM_ARRAY_TASK_ID + {first}))"
        command = f"exec {python} -m grokscope.runs.batch {shlex.quote(str(place))} {which} {workers}"
        return "\n".join(["#!/bin/bash", self.spec.activate or "", command, ""])
