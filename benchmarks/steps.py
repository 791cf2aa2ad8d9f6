"""The training step against the plain one: speed, shares of the ceilings, phases."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.func import functional_call

from benchmarks.clock import Timing, take_turns
from benchmarks.machine import ceiling, products_of, seconds_alone
from benchmarks.plain import PlainTrainer, phases
from benchmarks.shapes import Setup, setup, shape
from grokscope.training.start import keep_freed_memory, repeatable
from grokscope.training.step import (
    Step,
    compiled_step,
    compiler,
    copied,
    eager_step,
    is_small,
    to_compile,
    transformed_gradient,
)

VARIANTS = ("plain", "eager", "compiled")
"""plain: `benchmarks.plain`; eager: grokscope's step without a compiler; compiled: as it trains."""


@contextmanager
def as_trained(threads: int, device: str, give_back: bool = False) -> Iterator[None]:
    """Threads, memory and determinism as the training loop sets them, for the plain step too.

    `give_back` leaves the C library's ways with freed memory as they are.
    """
    if not give_back:
        keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with repeatable(torch.device(device)), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def stepper(made: Setup, variant: str) -> Callable[[], object]:
    """A call that makes the next step, data and rates included.

    Steps start behind the warm-up, so that no update is zero.
    """
    numbers = itertools.count(made.spec.training.warmup)
    if variant == "plain":
        trainer = PlainTrainer(made)

        def plain() -> float:
            with torch.enable_grad():
                return trainer.step(next(numbers))

        return plain
    if variant == "compiled":
        small = is_small(made.model, made.spec.training.batch)
        step: Step = compiled_step(made.objective, made.optimizer, small)
    else:
        step = eager_step(made.objective, made.optimizer)
    state = copied(made.state)
    device = made.spec.training.device
    sums = torch.zeros(2, dtype=torch.float64, device=device)

    def ours() -> None:
        now = next(numbers)
        sums.add_(step(state, made.batches(now), made.optimizer.scalars(now).to(device), None))

    return ours


def variants(quick: bool, device: str = "cpu") -> tuple[str, ...]:
    """What can run here. Quick: nothing is compiled."""
    return VARIANTS if not quick and (device == "cuda" or compiler()) else VARIANTS[:2]


def compare(name: str, threads: int, quick: bool, device: str) -> list[dict[str, Any]]:
    """Steps of every variant in turn, and the two ceilings that hold for them.

    `share` is of the best square product in the dtype of the states, by the arithmetic of the model;
    `share_own` is the time that the step's own products take alone, optimiser included, over its time.
    """
    with as_trained(threads, device):
        made = setup(shape(name, quick, {"training": {"device": device}}))
        calls = {variant: stepper(made, variant) for variant in variants(quick, device)}
        timings = take_turns(calls, 3 if quick else 11, 0.0 if quick else 1.0, device)
        peak = ceiling(made.spec.training.dtype, quick, device)
        own = seconds_alone(products_of(stepper(made, "eager")), quick, device)
    plain = timings["plain"].seconds
    return [
        {
            "shape": name,
            "threads": threads,
            "variant": variant,
            **timing.tree(),
            "flops": made.flops,
            "share": made.flops / timing.seconds / peak,
            "share_own": own / timing.seconds,
            "speedup": plain / timing.seconds,
        }
        for variant, timing in timings.items()
    ]


def step_phases(name: str, threads: int, quick: bool, device: str) -> list[dict[str, Any]]:
    """Seconds of the phases of a step.

    A compiled step is one graph, so its phases are graphs of their own: forward; forward and backward
    ("gradient"); the update of given gradients with and without the average. backward = gradient - forward.
    """
    with as_trained(threads, device):
        made = setup(shape(name, quick, {"training": {"device": device}}))
        now = made.spec.training.warmup
        rounds, least = (3, 0.0) if quick else (7, 0.5)
        ours = take_turns(_parts(made, now, quick, device), rounds, least, device)
        trainer = PlainTrainer(made)
        with torch.enable_grad():
            plain = take_turns(phases(trainer, now), rounds, least, device)
    return [_row(name, threads, "plain", plain), _row(name, threads, variants(quick, device)[-1], ours)]


def _row(name: str, threads: int, variant: str, timings: Mapping[str, Timing]) -> dict[str, Any]:
    seconds = {phase: timing.seconds for phase, timing in timings.items()}
    seconds["backward"] = seconds.pop("gradient") - seconds["forward"]
    if "update" in seconds:
        seconds["ema"] = seconds.pop("update") - seconds["optimiser"]
    return {"shape": name, "threads": threads, "variant": variant, "seconds": seconds}


def _parts(made: Setup, now: int, quick: bool, device: str) -> dict[str, Callable[[], object]]:
    compiled = "compiled" in variants(quick, device)
    objective = to_compile(made.objective) if compiled else made.objective
    optimizer, state = made.optimizer, copied(made.state)
    rows, scalars = made.batches(now), made.optimizer.scalars(now).to(device)
    grads = {name: torch.ones_like(p) for name, p in state.params.items()}
    sums = torch.zeros(2, dtype=torch.float64, device=device)

    def loss_of(params: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        weights = {f"model.{name}": p for name, p in params.items()}
        loss: torch.Tensor = functional_call(objective, weights, (rows, None))
        return loss, loss

    def in_place(keep_average: bool) -> object:
        after = optimizer.update(state, grads, scalars)
        parts = list(zip(state, after, strict=True))
        for old, new in parts if keep_average else parts[:-1]:
            for name, tensor in new.items():
                old[name].copy_(tensor)
        return None

    wrap = partial(torch.compile, dynamic=False, fullgraph=True) if compiled else lambda call: call
    forward = wrap(lambda: loss_of(state.params))
    gradient = wrap(lambda: transformed_gradient(loss_of, state.params))
    optimiser, update = wrap(lambda: in_place(False)), wrap(lambda: in_place(True))
    return {
        "data": lambda: (made.batches(now), optimizer.scalars(now)),
        "forward": forward,
        "gradient": gradient,
        "optimiser": optimiser,
        "update": update,
        "metrics": lambda: sums.add_(1.0),
    }
