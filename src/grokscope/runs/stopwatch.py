"""Times of one run's parts, really taken: `python -m grokscope.runs.stopwatch SPEC DIRECTORY`.

A process like a worker's: it builds and compiles the run, says so, and waits for a line on its standard input
(so that several of them can start measuring at once). Then it takes training steps, checkpoints with
evaluation, lens and saving, a diagnosis and two small looks of the causal verdict, and prints what each took.
Nothing is kept but in DIRECTORY, which its caller deletes.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grokscope.errors import InputError
from grokscope.files import read_json
from grokscope.mechanics.judge.diagnosis import VERDICT_SET, diagnose
from grokscope.mechanics.judge.verdict import look
from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.read.traces import TraceWriter, open_traces
from grokscope.models.build import build_model
from grokscope.runs.directory import TRACES
from grokscope.runs.job import RunSpec
from grokscope.training.data import Batches, loops_at, training_data
from grokscope.training.keeper import Keeper
from grokscope.training.loss import Objective
from grokscope.training.metrics import read_metrics
from grokscope.training.optim import Optimizer
from grokscope.training.start import repeatable
from grokscope.training.step import make_step
from grokscope.world.corpus import build_corpus
from grokscope.world.format import encode, positions
from grokscope.world.graph import build_world
from grokscope.world.probes import ProbeSet

LOOKS = (8, 24)
"""Probes of two looks: what a look costs whatever its size, and what each probe adds."""
CYCLES = 4
"""Checkpoints that are timed, each followed by steps, as in a run: what the writer's thread and the disk
still have to do for a checkpoint is part of the steps after it."""
SHARE = 0.6
"""Of the time asked for that goes to steps; checkpoints, diagnosis and looks take what they take."""
FEWEST = 3
"""Steps after a checkpoint, however long they last."""
SAVES = 2
SETTLE_EVERY = 8
"""Steps that a GPU may be ahead of the clock."""


def main() -> int:
    """Measure, and print one line when ready and one with the times."""
    parser = argparse.ArgumentParser(description="Time the parts of a run.")
    parser.add_argument("spec", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--began", type=float, required=True, help="time.time() when it was started")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        spec = RunSpec.parse(read_json(options.spec, "run spec"))
        times = measure(spec, options.directory, options.seconds, options.began, _wait)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    print(json.dumps(times), flush=True)
    return 0


def _wait(ready: Mapping[str, Any]) -> None:
    print(json.dumps(ready), flush=True)
    if not sys.stdin.readline():
        raise SystemExit(0)


def measure(
    spec: RunSpec,
    directory: Path,
    seconds: float,
    began: float,
    wait: Callable[[Mapping[str, Any]], None] = lambda ready: None,
) -> dict[str, Any]:
    """Time the parts of a run in this process.

    Args:
        spec: the run.
        directory: where checkpoints and traces may be written.
        seconds: about how long to measure, once compiled.
        began: `time.time()` when the process was started.
        wait: called with {"start", "compile"} when everything is ready.

    Returns:
        `step`, `checkpoint`, `save` as {"wall", "cpu", "n"} (seconds of one, and how many were timed);
        `diagnosis`, `look` as {"wall", "cpu"} of (fixed part, per checkpoint or probe); `peak` (bytes).

    Raises:
        InputError: the run is impossible.
    """
    corpus = build_corpus(build_world(spec.world, spec.seeds), spec.corpus, spec.regime, spec.seeds)
    vocabulary, size = corpus.world.vocabulary, positions(spec.format)
    training, device = spec.training, torch.device(spec.training.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "training.device = 'cuda': PyTorch sees no GPU here; name the one to plan for (--device H100), "
            "or set --training.device cpu."
        )
    encoded = {
        name: encode(probes.queries, vocabulary, spec.format) for name, probes in corpus.probes.items()
    }
    model = build_model(spec.model, vocabulary.size, size, spec.format, spec.seeds.init, training.dtype).to(
        device
    )
    with repeatable(device), torch.no_grad():
        data = training_data(corpus, spec.format, training.atom_repetition)
        batches = Batches(data, training.batch, spec.seeds.order, device)
        objective = Objective(model, batches.layout, training.loss, training.halt_weight)
        optimizer = Optimizer(training, model)
        state = optimizer.start(model)
        writer = TraceWriter(directory / TRACES, corpus.probes, encoded, vocabulary, spec.lens)
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        keeper = Keeper(model, encoded, training, directory, [writer], [], state, sums, 1.0)
        built = time.time()
        counts = [loops_at(step, training.loop_choices, spec.seeds.order) for step in range(32)]
        example = (state, batches(0), optimizer.scalars(0).to(device), counts[0])
        with redirect_stdout(sys.stderr):
            step, _ = make_step(objective, optimizer, training.compile, example, print)
        for loops in set(counts):
            step(state, batches(0), optimizer.scalars(0).to(device), loops)
        _settle(device)
        wait({"start": built - began, "compile": time.time() - built})

        def one_step(number: int) -> None:
            loops, scalars = counts[number % len(counts)], optimizer.scalars(number).to(device)
            keeper.sums += step(state, batches(number), scalars, loops)

        def one_checkpoint(number: int) -> None:
            keeper.step = number
            keeper.checkpoint()

        def one_save(number: int) -> None:
            keeper.step += 1
            keeper.save()

        keeper.begin(None)
        one_checkpoint(0)
        steps, checkpoints = _Tally(device), _Tally(device)
        for cycle in range(CYCLES):
            checkpoints.take(partial(one_checkpoint, cycle + 1), 0.0, 1)
            steps.take(partial(one_step, cycle), seconds * SHARE / CYCLES, FEWEST)
        saves = _Tally(device)
        saves.take(partial(one_save, 0), 0.0, SAVES)
        keeper.close()
        out: dict[str, Any] = {
            "step": steps.mean(),
            "checkpoint": checkpoints.mean(),
            "save": saves.mean(),
        }
    out["diagnosis"] = _diagnosis(spec, directory, corpus.probes)
    out["look"] = {"wall": (0.0, 0.0), "cpu": (0.0, 0.0)}
    if spec.causal.enabled and VERDICT_SET in corpus.probes:
        setting = Setting(corpus.world, corpus.composition, spec.format)
        few, more = (
            _timed(partial(look, model, corpus.probes[VERDICT_SET], setting, 0, most)) for most in LOOKS
        )
        out["look"] = {clock: _line(few[clock], more[clock], *LOOKS) for clock in few}
    out["peak"] = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    )
    return out


def _diagnosis(
    spec: RunSpec, directory: Path, probes: Mapping[str, ProbeSet]
) -> dict[str, tuple[float, float]]:
    """What a diagnosis costs whatever the number of checkpoints, and what each adds."""
    metrics, traces = read_metrics(directory), open_traces(directory / TRACES)
    first = partial(diagnose, metrics.head(1), traces.isel(step=[0]), probes, spec.diagnosis)
    first()
    one, many = _timed(first), _timed(partial(diagnose, metrics, traces, probes, spec.diagnosis))
    return {clock: _line(one[clock], many[clock], 1, metrics.height) for clock in one}


def _line(few: float, more: float, at_few: int, at_more: int) -> tuple[float, float]:
    """Fixed part and slope through two points, neither of them negative."""
    each = max(0.0, more - few) / (at_more - at_few)
    return max(0.0, few - at_few * each), each


class _Tally:
    """Wall and CPU seconds of calls."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.wall, self.cpu, self.done = device, 0.0, 0.0, 0

    def take(self, call: Callable[[], None], seconds: float, least: int) -> None:
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


def _timed(call: Callable[[], object]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
