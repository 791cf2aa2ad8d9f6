"""Many runs in one process: steps of all of them per second, against one run alone."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.clock import take_turns
from benchmarks.machine import ceiling
from benchmarks.shapes import Setup, build, setup, shape
from benchmarks.steps import as_trained, stepper, variants
from grokscope.training.data import Batches
from grokscope.training.population import StackedBatches, stack, stacked_buffers
from grokscope.training.step import compiled_step, eager_step

MEMBERS = {"cpu": (1, 8, 32), "cuda": (1, 8, 32, 128)}
"""Sizes that are measured."""


def population(name: str, quick: bool, device: str) -> list[dict[str, Any]]:
    """Populations of several sizes, each as it trains; beside them the step of one run alone."""
    return list(population_rows(name, quick, device))


def population_rows(name: str, quick: bool, device: str) -> Iterator[dict[str, Any]]:
    """The same row by row: one size at a time, each in turn with the run alone."""
    with as_trained(1, device):
        made = setup(shape(name, quick, {"training": {"device": device}}))
        alone = stepper(made, variants(quick, device)[-1])
        peak = ceiling(made.spec.training.dtype, quick, device)
        for members in (1, 2) if quick else MEMBERS[device]:
            calls = {"alone": alone, "together": together(made, members, quick, device)}
            timings = take_turns(calls, 3 if quick else 7, 0.0 if quick else 0.5, device)
            one, all_ = timings["alone"].seconds, timings["together"].seconds
            yield {
                "shape": name,
                "members": members,
                **timings["together"].tree(),
                "alone": one,
                "steps_per_second": members / all_,
                "gain": members * one / all_,
                "share": members * made.flops / all_ / peak,
            }


def together(made: Setup, members: int, quick: bool, device: str) -> Callable[[], object]:
    """A call that makes the next step of so many runs, each with weights and an order of its own."""
    seeds = made.spec.seeds
    specs = [made.spec.replace(seeds={**seeds.tree(), "init": n, "order": n}) for n in range(members)]
    models = [build(spec) for spec in specs]
    orders = [Batches(made.data, made.batches.batch, n, device) for n in range(members)]
    batches = StackedBatches(orders)
    state = stack([made.optimizer.start(model) for model in models])
    buffers = stacked_buffers(models)
    if variants(quick, device)[-1] == "compiled":
        step = compiled_step(made.objective, made.optimizer, buffers=buffers)
    else:
        step = eager_step(made.objective, made.optimizer, buffers=buffers)
    numbers = itertools.count(made.spec.training.warmup)

    def ours() -> None:
        now = next(numbers)
        scalars = made.optimizer.scalars(now).expand(members, -1).to(device)
        step(state, batches([now] * members), scalars, None)

    return ours
