"""What a GPU does with grokscope, in one run of less than ten minutes: python -m benchmarks.gpu

In the order of importance, each table written as soon as it is there, so that a run that is cut off keeps the
others: what the device's matrix product can do; whether every way to make a step makes the same one, over 50
steps in float32; the step of the paper's size, of a small TRM and of the pocket study as plain PyTorch, eager
and compiled, against grokscope's, compiled and captured as a CUDA graph; populations; lens and interchange.
`--study trm` then gives a study what is left of the minutes; run again, it goes on with it.

`--device cpu --quick` tries the same out where there is no GPU, with tiny sizes and nothing compiled. The
package need not be installed: PYTHONPATH=src python -m benchmarks.gpu
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, population, run, steps, tables
from benchmarks.clock import take_time, take_turns
from benchmarks.plain import PlainTrainer
from benchmarks.shapes import SHAPES, Setup, built, setup, shape
from grokscope.files import write_json
from grokscope.mechanics.patch.interchange import Setting, interchange
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.training.optim import TrainState
from grokscope.training.population import lane_of, stack, stacked_buffers
from grokscope.training.step import Step, compiled_step, copied, eager_step, first_line

MINUTES = 8.0
EQUAL = 50
"""Steps over which the ways to make one are held against each other."""
LOOKED_AT = 240
"""Queries of an interchange."""
QUICK_STUDY = ("--seeds", "0", "--regimes", "natural", "--training.steps", "4", "--training.compile", "off")
WIDTH = 1536
"""Of the reference's model: the paper's."""


def equal_steps(quick: bool, device: str) -> Iterator[dict[str, Any]]:
    """Rows of how far every variant is from the eager step after as many steps in float32."""
    for name in ("small", "pocket"):
        changes = {"training": {"device": device, "dtype": "float32"}}
        with steps.as_trained(1, device):
            made = setup(shape(name, quick, changes))
            first, count = made.spec.training.warmup, 5 if quick else EQUAL
            wanted, losses = _after(made, eager_step(made.objective, made.optimizer), first, count)
            for variant, make in _steps_of(made, quick, device).items():
                try:
                    state, own = _after(made, make(), first, count)
                except RuntimeError as error:
                    yield {"shape": name, "variant": f"{variant}: {first_line(error)}"}
                    continue
                yield {
                    "shape": name,
                    "variant": variant,
                    "steps": count,
                    "loss": float((own - losses).abs().max()),
                    # Of all together: a prefix of zeros goes by the signs of its gradient alone.
                    "weights": _norm([state[key] - one for key, one in wanted.items()])
                    / _norm(list(wanted.values())),
                }


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.stack([one.norm() for one in tensors]).norm())


def _steps_of(made: Setup, quick: bool, device: str) -> dict[str, Callable[[], Step]]:
    """The ways to make a step, beside the eager one. Made only where they can be had."""
    found: dict[str, Callable[[], Step]] = {"stacked": lambda: _first_of_two(made)}
    if not quick:
        found["compiled"] = lambda: compiled_step(made.objective, made.optimizer)
    if device == "cuda":
        found["captured"] = lambda: Captured(made)
    return found


def _first_of_two(made: Setup) -> Step:
    """The eager step of a population of two, the second of which is like the first."""
    buffers = stacked_buffers([made.model] * 2)
    step = eager_step(made.objective, made.optimizer, buffers=buffers)

    def first(
        state: TrainState, rows: torch.Tensor, scalars: torch.Tensor, loops: int | None
    ) -> torch.Tensor:
        both = stack([state, state])
        loss = step(both, torch.stack([rows] * 2), torch.stack([scalars] * 2), loops)[0]
        for old, new in zip(state, lane_of(both, 0), strict=True):
            for name, tensor in new.items():
                old[name].copy_(tensor)
        return loss

    return first


def _after(made: Setup, step: Step, first: int, count: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Weights after so many steps, and the losses on the way."""
    state, losses = copied(made.state), []
    for now in range(first, first + count):
        scalars = made.optimizer.scalars(now).to(made.spec.training.device)
        losses.append(step(state, made.batches(now), scalars, None).clone())
    return dict(state.params), torch.stack(losses)


def reference_steps(quick: bool, device: str) -> Iterator[dict[str, Any]]:
    """Rows of the training step by shape and variant; a variant that fails has its error in the row."""
    for name in SHAPES:
        changes: dict[str, Any] = {"training": {"device": device}}
        if name == "reference" and not quick:
            changes["model"] = {"width": WIDTH}
        with steps.as_trained(1, device):
            made = setup(shape(name, quick, changes))
            calls, broken = _working(_variants(made, quick, device))
            timings = take_turns(calls, 3 if quick else 11, 0.0 if quick else 0.5, device)
            peak = machine.ceiling(made.spec.training.dtype, quick, device)
        plain = timings["plain"].seconds
        for variant, timing in timings.items():
            yield {
                "shape": name,
                "threads": 1,
                "variant": variant,
                **timing.tree(),
                "flops": made.flops,
                "share": made.flops / timing.seconds / peak,
                "speedup": plain / timing.seconds,
            }
        for variant, problem in broken.items():
            yield {"shape": name, "threads": 1, "variant": f"{variant}: {problem}"}


def _variants(made: Setup, quick: bool, device: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """How each variant is made; making one may fail."""
    found = {variant: _maker(made, variant) for variant in ("plain", "eager")}
    if not quick:
        found["plain compiled"] = lambda: plain_compiled(made)
        found["compiled"] = _maker(made, "compiled")
    if device == "cuda":
        found["captured"] = lambda: captured(made)
    return found


def _maker(made: Setup, variant: str) -> Callable[[], Callable[[], object]]:
    return lambda: steps.stepper(made, variant)


def _working(
    makers: dict[str, Callable[[], Callable[[], object]]],
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    calls, broken = {}, {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except RuntimeError as error:
            broken[name] = first_line(error)
        else:
            calls[name] = call
    return calls, broken


def plain_compiled(made: Setup) -> Callable[[], object]:
    """The plain step with its model compiled, as one would write it for speed."""
    trainer = PlainTrainer(made)
    trainer.model.compile(dynamic=False)
    number = made.spec.training.warmup

    def step() -> float:
        with torch.enable_grad():
            return trainer.step(number)

    return step


def captured(made: Setup) -> Callable[[], object]:
    """A call that makes the next step as one CUDA graph."""
    step, now = Captured(made), made.spec.training.warmup
    pinned = made.optimizer.scalars(now).pin_memory()
    return lambda: step(step.state, made.batches(now), pinned, None)


class Captured:
    """The compiled step as one CUDA graph: captured once, on inputs that are filled before every replay."""

    def __init__(self, made: Setup) -> None:
        step, self.state = compiled_step(made.objective, made.optimizer), copied(made.state)
        now, device = made.spec.training.warmup, made.spec.training.device
        self.rows, self.scalars = made.batches(now), made.optimizer.scalars(now).to(device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(self.state, self.rows, self.scalars, None)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = step(self.state, self.rows, self.scalars, None)
        self._fill(made.state)

    def __call__(
        self, state: TrainState, rows: torch.Tensor, scalars: torch.Tensor, loops: int | None
    ) -> torch.Tensor:
        """Replay. A state that is not the graph's own is copied in and out."""
        own = state is self.state
        if not own:
            self._fill(state)
        self.rows.copy_(rows)
        self.scalars.copy_(scalars, non_blocking=True)
        self.graph.replay()
        if not own:
            for theirs, ours in zip(state, self.state, strict=True):
                for name, tensor in ours.items():
                    theirs[name].copy_(tensor)
        return self.loss

    def _fill(self, state: TrainState) -> None:
        for ours, theirs in zip(self.state, state, strict=True):
            for name, tensor in theirs.items():
                ours[name].copy_(tensor)


def looking(quick: bool, device: str) -> Iterator[dict[str, Any]]:
    """Rows of lens and interchange on the device, all queries at once."""
    for name in ("small", "pocket"):
        spec = shape(name, quick, {"training": {"device": device}})
        made = built(spec)
        model, probes = made.model().to(device).eval(), made.corpus.probes["train_inferred"]
        encoded, vocabulary = made.encoded["train_inferred"], made.world.vocabulary
        few, _ = some_probes(probes, encoded, 16 if quick else LOOKED_AT)
        setting = Setting(made.world, made.composed, spec.format)
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "lens": (partial(lens, model, probes, encoded, vocabulary), len(probes)),
            "interchange": (partial(interchange, model, few, setting, ["bridge"]), len(few)),
        }
        for instrument, (call, queries) in calls.items():
            timing = take_time(call, 1 if quick else 3, device=device)
            yield {"instrument": instrument, "shape": name, "queries": queries, **timing.tree()}


def study(name: str, out: Path, seconds: float, quick: bool, device: str) -> int:
    """Give a study so many seconds of the device; what was saved is gone on with the next time."""
    command = [sys.executable, "-m", "grokscope", "run", name, "--out", str(out), "--training.device", device]
    with subprocess.Popen([*command, *(QUICK_STUDY if quick else ())]) as process:
        try:
            return process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            return process.wait()


SECTIONS: dict[str, Callable[[bool, str], list[dict[str, Any]]]] = {
    "matmul": machine.matmul,
    "gpu_equal": lambda quick, device: list(equal_steps(quick, device)),
    "gpu_steps": lambda quick, device: list(reference_steps(quick, device)),
    "population": lambda quick, device: [
        row for name in ("small", "pocket") for row in population.population(name, quick, device)
    ],
    "gpu_looking": lambda quick, device: list(looking(quick, device)),
}
"""In the order of what is wanted most, so that a lack of time takes the least."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what fits into the time, write the JSON, fill in the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no section is begun after these")
    parser.add_argument("--study", help="a study that gets what is left of the minutes")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/gpu"), help="where that study's runs are kept"
    )
    parser.add_argument("--out", type=Path, default=run.RESULTS)
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; --device cpu --quick tries the program out")
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    end = time.monotonic() + 60 * options.minutes
    for name, measure in SECTIONS.items():
        if time.monotonic() > end:
            print(f"{name}: not measured, the {options.minutes:g} minutes are over")
            continue
        found = machine.measured(partial(measure, options.quick, options.device), options.device)
        results.setdefault(options.device, {})[name] = found
        write_json(options.out, results)
        print(tables.table(name, found), flush=True)
    if options.out == run.RESULTS and not options.quick:
        tables.fill(run.DOCUMENT, results)
    if options.study:
        code = study(options.study, options.runs, end - time.monotonic(), options.quick, options.device)
        print(f"{options.study}: {'done' if code == 0 else f'not done (code {code}), goes on from there'}")


if __name__ == "__main__":
    main()
