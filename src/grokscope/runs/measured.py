"""Measuring a study's speed on this machine: a run that stops after a few steps, with a clock, in as many
processes at once as there would be workers."""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from grokscope.errors import InputError
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, diagnose
from grokscope.mechanics.judge.verdict import look
from grokscope.mechanics.read.traces import open_traces
from grokscope.models.protocol import Reasoner
from grokscope.runs.directory import TRACES
from grokscope.runs.job import RunSpec
from grokscope.runs.setup import RunSetup
from grokscope.training.data import loops_at
from grokscope.training.metrics import read_metrics
from grokscope.training.shared import SharedSteps
from grokscope.training.stops import Diverged
from grokscope.training.trainer import Alone, Lane, Trainer, assembled

EXAMINED = (8, 24)
"""Probes of two examinations: what one costs whatever its size, and what each probe adds."""
CYCLES = 4
"""Times that steps and the checkpoint behind them are timed, as in a run: what the writer's thread and the
disk still have to do for a checkpoint is part of the steps after it."""
SHARE = 0.6
"""Of the time asked for that goes to steps; checkpoints, diagnosis and examinations take what they take."""
FEWEST = 3
"""Steps of a cycle, however long they last."""
SAVES = 2
SETTLE_EVERY = 8
"""Steps that a GPU may be ahead of the clock."""
NEVER = 10**9
"""A step to which no run comes that is measured."""


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
    examination: tuple[float, float]
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
        called = {"examination": "look", "peak": "peak_bytes", "steps": "steps_timed"}
        tree = {called.get(name, name): value for name, value in vars(self).items()}
        return tree | {"alone": None if self.alone is None else self.alone.parts()}


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
    on_gpu = spec.training.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise InputError(
            "training.device = 'cuda': PyTorch sees no GPU here; name the one to plan for (--device H100), "
            "or set --training.device cpu."
        )
    with tempfile.TemporaryDirectory(prefix="grokscope-plan-") as name:
        if spec.training.compile != "off":
            _side_by_side(spec, Path(name) / "first", 1, threads, None)
        times = _side_by_side(spec, Path(name) / "all", workers, threads, seconds)
    return together(times, threads, comparable=threads == 1 and not on_gpu)


def together(times: Sequence[Mapping[str, Any]], threads: int, comparable: bool) -> Speed:
    """The mean over the processes, of what `measure` gave each.

    Args:
        times: what each measured. threads: of each. comparable: whether CPU time is what a step would take on
        a core of its own.
    """
    wall, cpu = (sum(one["step"][clock] * one["step"]["n"] for one in times) for clock in ("wall", "cpu"))

    def by(clock: str, share: float, alone: Speed | None) -> Speed:
        def line(name: str) -> tuple[float, float]:
            return mean(one[name][clock][0] for one in times), mean(one[name][clock][1] for one in times)

        return Speed(
            # Compilers are processes of their own: their CPU time is not in ours.
            start=share * mean(one["start"] for one in times),
            compile=share * mean(one["compile"] for one in times),
            step=mean(one["step"][clock] for one in times),
            checkpoint=mean(one["checkpoint"][clock] for one in times),
            save=mean(one["save"][clock] for one in times),
            diagnosis=line("diagnosis"),
            examination=line("examination"),
            peak=max(one["peak"] for one in times),
            workers=len(times),
            threads=threads,
            steps=sum(one["step"]["n"] for one in times),
            busy=cpu / wall if comparable else None,
            alone=alone,
        )

    return by("wall", 1.0, by("cpu", min(1.0, cpu / wall), None) if comparable else None)


def measure(
    spec: RunSpec,
    directory: Path,
    seconds: float | None,
    began: float,
    ready: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Time the parts of a run in this process: it begins as every run does, and stops after a few steps.

    Args:
        spec: the run.
        directory: where it may write.
        seconds: about how long to measure, once compiled; None: not at all.
        began: `time.time()` when the process was started.
        ready: called when everything is compiled.

    Returns:
        `start`, `compile` (seconds); `step`, `checkpoint`, `save` as {"wall", "cpu", "n"} (seconds of one,
        and how many were timed); `diagnosis`, `examination` as {"wall", "cpu"} of (fixed part, per checkpoint
        or probe); `peak` (bytes).

    Raises:
        InputError: the run is impossible.
    """
    setup = RunSetup(spec)
    # Without a checkpoint or a save that is not asked for.
    often = dict.fromkeys(("steps", "first_checkpoint", "dense_every", "resume_every"), NEVER)
    training = spec.training.replace(**often)
    member = setup.member(directory, report=lambda news: None, training=training)
    built = [began]

    def alone(lanes: Sequence[Lane]) -> Trainer:
        trainer = Alone(lanes[0], SharedSteps())
        built.append(time.time())
        return trainer

    with assembled(alone, [member], None, lambda _: None) as trainer:
        (lane,) = trainer.lanes
        if isinstance(lane.outcome, Exception):
            raise lane.outcome

        def step() -> None:
            trainer.update()
            lane.keeper.stepped()

        left = set(spec.training.loop_choices or ())
        while left:  # Every number of loops is a graph of its own.
            left.discard(loops_at(lane.keeper.step, spec.training.loop_choices, spec.seeds.order))
            step()
        _settle(lane.device)
        out: dict[str, Any] = {"start": built[1] - began, "compile": time.time() - built[1]}
        ready()
        if seconds is None:
            return out
        lane.keeper.checkpoint()
        timed = {part: _Tally(lane.device) for part in ("step", "checkpoint", "save")}
        for _ in range(CYCLES):
            timed["step"].take(step, seconds * SHARE / CYCLES, FEWEST)
            timed["checkpoint"].take(lane.keeper.checkpoint, 0.0, 1)
        for _ in range(SAVES):
            step()
            timed["save"].take(lane.keeper.save, 0.0, 1)
        out |= {part: tally.mean() for part, tally in timed.items()}
    out["diagnosis"] = _diagnosis(setup, directory)
    out["examination"] = _examination(setup, member.model)
    out["peak"] = _peak(lane.device)
    return out


def _diagnosis(setup: RunSetup, directory: Path) -> dict[str, tuple[float, float]]:
    """What a diagnosis costs whatever the number of checkpoints, and what each adds."""
    metrics, traces = read_metrics(directory), open_traces(directory / TRACES)
    probes, spec = setup.corpus.probes, setup.spec.diagnosis
    first = partial(diagnose, metrics.head(1), traces.isel(step=[0]), probes, spec)
    first()
    whole = partial(diagnose, metrics, traces, probes, spec)
    return _line((1, first), (metrics.height, whole))


def _examination(setup: RunSetup, model: Reasoner) -> dict[str, tuple[float, float]]:
    """What a causal examination costs whatever the number of probes, and what each adds."""
    probes = setup.corpus.probes.get(VERDICT_SET)
    if not setup.spec.judged or probes is None:
        return {"wall": (0.0, 0.0), "cpu": (0.0, 0.0)}
    few, more = ((most, partial(look, model, probes, setup.setting(), 0, most)) for most in EXAMINED)
    return _line(few, more)


def _line(*points: tuple[int, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """By clock, the fixed part and the slope through the times of two calls, neither of them negative."""
    times = []
    for _, call in points:
        tally = _Tally(torch.device("cpu"))
        tally.take(call, 0.0, 1)
        times.append(tally.mean())
    at_few, at_more = (size for size, _ in points)
    out = {}
    for clock in ("wall", "cpu"):
        few, more = (one[clock] for one in times)
        each = max(0.0, more - few) / (at_more - at_few)
        out[clock] = max(0.0, few - at_few * each), each
    return out


class _Tally:
    """Wall and CPU seconds of calls."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.wall, self.cpu, self.done = device, 0.0, 0.0, 0

    def take(self, call: Callable[[], object], seconds: float, least: int) -> None:
        """Call for about so many seconds, and `least` times at least."""
        _settle(self.device)
        wall, cpu, done = time.perf_counter(), time.process_time(), 0
        while done < least or time.perf_counter() - wall < seconds:
            call()
            done += 1
            if done % SETTLE_EVERY == 0:
                _settle(self.device)
        _settle(self.device)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu
        self.done += done

    def mean(self) -> dict[str, float]:
        """Seconds of one, and how many were timed."""
        return {"wall": self.wall / self.done, "cpu": self.cpu / self.done, "n": self.done}


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int:
    """Bytes that this process held at most, on the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _side_by_side(
    spec: RunSpec, folder: Path, count: int, threads: int, seconds: float | None
) -> list[dict[str, Any]]:
    """What so many processes measure at once.

    Raises:
        InputError: the run is impossible, or a process ended.
    """
    folder.mkdir()
    context = get_context("spawn")
    given = (context.Barrier(count), folder / "log")
    with ProcessPoolExecutor(count, context, _prepare, given) as pool:
        jobs = [
            pool.submit(_measure_in_process, spec.tree(), folder / str(number), threads, seconds, time.time())
            for number in range(count)
        ]
        wait(jobs)
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if isinstance(error, InputError):
            raise error
    if errors:
        said = (folder / "log").read_text(errors="replace").splitlines() or [repr(errors[0])]
        raise InputError(f"measuring ended early: {said[-1]}")
    return [job.result() for job in jobs]


_AT_ONCE: list[Barrier] = []
"""In a process that measures: where it waits for the others."""


def _prepare(barrier: Barrier, log: Path) -> None:
    """Begin a process: what libraries say goes to a file."""
    _AT_ONCE.append(barrier)
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _measure_in_process(
    tree: Any, directory: Path, threads: int, seconds: float | None, began: float
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    (barrier,) = _AT_ONCE
    try:
        return measure(RunSpec.parse(tree), directory, seconds, began, barrier.wait)
    except BaseException as error:
        barrier.abort()
        if isinstance(error, Diverged):
            raise InputError(str(error)) from None
        raise
