"""One training step as a pure function of (parameters, optimiser state, batch, scalars), and how it is run.

Forward, backward, optimiser and EMA are one function, and compiled they are one graph: nothing of a step runs
in Python but the call.

Shape suffixes: B batch, C columns of a row.
"""

import os
import shutil
import types
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value

from grokscope.errors import InputError
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer, TrainState

Backend = Literal["compiled", "eager"]
Step = Callable[[TrainState, Tensor, Tensor, int | None], Tensor]
"""(state, rows_BC, scalars, loops) -> loss; the state is changed in place."""


def pure_step(
    objective: Objective,
    optimizer: Optimizer,
    state: TrainState,
    rows_BC: Tensor,
    scalars: Tensor,
    loops: int | None,
) -> tuple[TrainState, Tensor]:
    """The state after one step and the loss before it. Changes nothing."""

    def loss_of(params: dict[str, Tensor]) -> Tensor:
        weights = {f"model.{name}": p for name, p in params.items()}
        loss: Tensor = functional_call(objective, weights, (rows_BC, loops))
        return loss

    grads, loss = grad_and_value(loss_of)(state.params)
    return optimizer.update(state, grads, scalars), loss


def eager_step(objective: Objective, optimizer: Optimizer) -> Step:
    """A step that writes its result back into the state it was given."""

    def run(state: TrainState, rows_BC: Tensor, scalars: Tensor, loops: int | None) -> Tensor:
        after, loss = pure_step(objective, optimizer, state, rows_BC, scalars, loops)
        for old, new in zip(state, after, strict=True):
            for name, tensor in new.items():
                old[name].copy_(tensor)
        return loss

    return run


def compiled_step(objective: Objective, optimizer: Optimizer) -> Step:
    """The same step as one graph per number of loops; shapes are fixed, rates enter as tensors."""
    # Compiled graphs are kept per code object and their number is limited: every training gets a code object
    # of its own.
    run = eager_step(objective, optimizer)
    if not isinstance(run, types.FunctionType):
        raise TypeError("eager_step must return a plain function")
    own = types.FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
    compiled: Step = torch.compile(own, dynamic=False, fullgraph=True)
    return compiled


def make_step(
    objective: Objective,
    optimizer: Optimizer,
    wanted: Literal["auto", "on", "off"],
    example: tuple[TrainState, Tensor, Tensor, int | None],
    say: Callable[[str], None],
) -> tuple[Step, Backend]:
    """The step and what runs it. Compiling is tried out on a copy of `example`, so a failure costs nothing.

    Args:
        objective: the loss.
        optimizer: the update.
        wanted: auto falls back to eager, and says so, where torch.compile does not work.
        example: arguments of the first step.
        say: gets the one sentence about falling back.

    Raises:
        InputError: `wanted` is "on" and compiling does not work.
    """
    eager = eager_step(objective, optimizer)
    if wanted == "off":
        return eager, "eager"
    needed = example[1].device.type == "cpu"
    problem = "there is no C++ compiler" if needed and compiler() is None else None
    if problem is None:
        step = compiled_step(objective, optimizer)
        state, rows_BC, scalars, loops = example
        try:
            step(copied(state), rows_BC, scalars, loops)
        except (RuntimeError, OSError) as error:
            problem = first_line(error)
        else:
            return step, "compiled"
    if wanted == "on":
        raise InputError(
            f"training.compile = 'on': torch.compile does not work here ({problem}); allowed: auto, off."
        )
    say(f"torch.compile does not work here ({problem}): training runs without it, several times slower.")
    return eager, "eager"


def compiler() -> str | None:
    """The C++ compiler that would be used: $CXX, or the first of g++ and clang++ that is there; None: none
    is."""
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").strip() else ["g++", "clang++"]
    return next((name for name in names if shutil.which(name)), None)


def copied(state: TrainState) -> TrainState:
    """A state with tensors of its own."""
    return TrainState(*({name: tensor.clone() for name, tensor in part.items()} for part in state))


def first_line(error: Any) -> str:
    """The first line of an error's message, and its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__
