"""Measuring a study's speed on this machine: as many stopwatches at once as there would be workers."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from grokscope.errors import InputError
from grokscope.files import write_json
from grokscope.runs.job import RunSpec

MODULE = "grokscope.runs.stopwatch"


@dataclass(frozen=True)
class Speed:
    """Seconds of a run's parts with all workers busy, and bytes at its peak."""

    start: float
    """From starting the process to having built world, data and model."""
    compile: float
    """Until the first step is done, where an earlier run has left its graph in PyTorch's cache."""
    step: float
    checkpoint: float
    """Evaluation, lens and saving."""
    save: float
    """Of the resumable state between checkpoints."""
    diagnosis: tuple[float, float]
    """Of a finished run: whatever its length, and per checkpoint."""
    look: tuple[float, float]
    """Of the causal verdict at one probe set of one checkpoint: whatever its size, and per probe."""
    peak: int
    workers: int
    threads: int
    steps: int
    """Steps that were timed, by all workers."""
    busy: float | None
    """CPU time over clock time of the steps; well below 1, others were using the cores. None: more than one
    thread, or a GPU, where the two do not compare."""
    alone: "Speed | None" = None
    """The same by CPU time, where it compares: as if nobody else used the cores."""

    def parts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "start": self.start,
            "compile": self.compile,
            "step": self.step,
            "checkpoint": self.checkpoint,
            "save": self.save,
            "diagnosis": list(self.diagnosis),
            "look": list(self.look),
            "peak_bytes": self.peak,
            "workers": self.workers,
            "threads": self.threads,
            "steps_timed": self.steps,
            "busy": self.busy,
            "alone": None if self.alone is None else self.alone.parts(),
        }


def measure_here(spec: RunSpec, workers: int, threads: int, seconds: float) -> Speed:
    """Time the parts of a run, in `workers` processes that measure at the same time.

    One process compiles alone first, so that what the others find in the cache is what the runs of a study
    (all but the very first) find.

    Args:
        spec: a run of the study.
        workers: processes at once.
        threads: of each.
        seconds: about how long to measure, once everything is compiled.

    Raises:
        InputError: the run is impossible here.
    """
    with tempfile.TemporaryDirectory(prefix="grokscope-plan-") as name:
        folder = Path(name)
        write_json(folder / "spec.json", spec.tree())
        if spec.training.compile != "off":
            with _Stopwatch(folder, "first", threads, seconds) as first:
                first.line()
        watches = [_Stopwatch(folder, f"worker{index}", threads, seconds) for index in range(workers)]
        try:
            ready = [watch.line() for watch in watches]
            for watch in watches:
                watch.go()
            times = [watch.line() for watch in watches]
        finally:
            for watch in watches:
                watch.close()
    on_gpu = spec.training.device == "cuda"
    return together(ready, times, workers, threads, comparable=threads == 1 and not on_gpu)


def together(
    ready: Sequence[Mapping[str, Any]],
    times: Sequence[Mapping[str, Any]],
    workers: int,
    threads: int,
    comparable: bool,
) -> Speed:
    """The mean over the processes, of what `stopwatch.measure` gave each: `ready` and what it returned.

    Args:
        ready: {"start", "compile"} of every process. times: what it measured. workers: how many there were.
        threads: of each. comparable: whether CPU time is what a step would take on a core of its own.
    """
    wall, cpu = (sum(one["step"][clock] * one["step"]["n"] for one in times) for clock in ("wall", "cpu"))

    def by(clock: str, share: float, alone: Speed | None) -> Speed:
        def line(name: str) -> tuple[float, float]:
            return mean(one[name][clock][0] for one in times), mean(one[name][clock][1] for one in times)

        return Speed(
            # Compilers are processes of their own: their CPU time is not in ours.
            start=share * mean(one["start"] for one in ready),
            compile=share * mean(one["compile"] for one in ready),
            step=mean(one["step"][clock] for one in times),
            checkpoint=mean(one["checkpoint"][clock] for one in times),
            save=mean(one["save"][clock] for one in times),
            diagnosis=line("diagnosis"),
            look=line("look"),
            peak=max(one["peak"] for one in times),
            workers=workers,
            threads=threads,
            steps=sum(one["step"]["n"] for one in times),
            busy=cpu / wall if comparable else None,
            alone=alone,
        )

    return by("wall", 1.0, by("cpu", min(1.0, cpu / wall), None) if comparable else None)


class _Stopwatch:
    """A process that measures; leaving it ends the process."""

    def __init__(self, folder: Path, name: str, threads: int, seconds: float) -> None:
        command = [sys.executable, "-m", MODULE, str(folder / "spec.json"), str(folder / name)]
        options = ["--threads", threads, "--seconds", seconds, "--began", time.time()]
        self.said = folder / f"{name}.log"
        with self.said.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )

    def __enter__(self) -> "_Stopwatch":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def line(self) -> dict[str, Any]:
        """The next line it prints.

        Raises:
            InputError: it ended instead.
        """
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            said = self.said.read_text(errors="replace").splitlines()
            errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
            raise InputError(
                errors[-1] if errors else f"measuring ended early: {said[-1] if said else 'no word'}"
            )
        tree: dict[str, Any] = json.loads(text)
        return tree

    def go(self) -> None:
        """Let it start measuring."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
