"""What a GPU does with grokscope, in one run of less than ten minutes: python -m benchmarks.gpu

Three tables, each in turns on the same device: what its matrix product can do; the reference's training step
at the paper's size (and the pocket study's) as plain PyTorch, eager and compiled, against grokscope's,
compiled and captured as a CUDA graph; and populations. Each table is written as soon as it is there, so a run
that is cut off keeps the others.

`--device cpu --quick` tries the same out where there is no GPU, with tiny sizes and nothing compiled.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, population, run, steps, tables
from benchmarks.clock import take_turns
from benchmarks.plain import PlainTrainer
from benchmarks.shapes import SHAPES, Setup, setup, shape
from grokscope.files import write_json
from grokscope.training.step import compiled_step, copied, first_line

MINUTES = 10.0
WIDTH = 1536
"""Of the reference's model: the paper's."""


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
    """The compiled step as one CUDA graph: captured once, on inputs that are filled before every replay."""
    step, state = compiled_step(made.objective, made.optimizer), copied(made.state)
    now, device = made.spec.training.warmup, made.spec.training.device
    rows, scalars = made.batches(now), made.optimizer.scalars(now).to(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(state, rows, scalars, None)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(state, rows, scalars, None)
    pinned = made.optimizer.scalars(now).pin_memory()

    def replay() -> None:
        rows.copy_(made.batches(now))
        scalars.copy_(pinned, non_blocking=True)
        graph.replay()

    return replay


SECTIONS: dict[str, Callable[[bool, str], list[dict[str, Any]]]] = {
    "matmul": machine.matmul,
    "gpu_steps": lambda quick, device: list(reference_steps(quick, device)),
    "population": lambda quick, device: population.population("pocket", quick, device),
}
"""In the order of what is wanted most, so that a lack of time takes the least."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what fits into the time, write the JSON, fill in the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, not how fast")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no section is begun after these")
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
    if options.out == run.RESULTS:
        tables.fill(run.DOCUMENT, results)


if __name__ == "__main__":
    main()
