"""One training step as a pure function of (parameters, optimiser state, batch, scalars), and how it is run.

Forward, backward, optimiser and EMA are one function, and compiled they are one graph: nothing of a step runs
in Python but the call.

Shape suffixes: B batch, C columns of a row.
"""

import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from grokscope.errors import InputError
from grokscope.kernels.accelerated import accelerated
from grokscope.models.protocol import Reasoner
from grokscope.native import compiler
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer, Tensors, TrainState

if TYPE_CHECKING:  # the compiler takes two seconds to import
    from torch._dynamo.types import GuardFilterEntry

Switch = Literal["auto", "on", "off"]
"""Whether a step is compiled; auto: where that works."""
Step = Callable[[TrainState, Tensor, Tensor, int | None], Tensor]
"""(state, rows_BC, scalars, loops) -> loss; the state is changed in place. Of many members at once all but
`loops` have a leading member axis."""
Loss = Callable[[Tensors], tuple[Tensor, Tensor]]
"""parameters -> (what is differentiated, the loss that a step returns)."""
Gradient = Callable[[Loss, Tensors], tuple[Tensors, Tensor]]
"""(loss of the parameters, parameters) -> their gradients, the loss."""
CACHED = 2**20
"""Bytes of a core's second cache. Measured on either side: 0.1 MB (pocket study), 2.8 MB (the reference)."""


def transformed_gradient(loss_of: Loss, params: Tensors) -> tuple[Tensors, Tensor]:
    """Gradients and loss by function transform: it is traced into one graph with what stands around it."""
    grads, loss = grad(loss_of, has_aux=True)(params)
    return grads, loss


def recorded_gradient(loss_of: Loss, params: Tensors) -> tuple[Tensors, Tensor]:
    """The same by autograd's tape, which is a quarter faster where nothing is compiled."""
    with torch.enable_grad():
        leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        total, loss = loss_of(leaves)
        grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True)), loss.detach()


def eager_step(
    objective: Objective,
    optimizer: Optimizer,
    gradient: Gradient = recorded_gradient,
    buffers: Tensors | None = None,
) -> Step:
    """A step that writes its result back into the state it was given.

    Args:
        objective: the loss; its model's weights are not used.
        optimizer: the update.
        gradient: how gradients are taken.
        buffers: of the models of all members, where one step is that of many; None: of one.
    """
    update = optimizer.update if buffers is None else vmap(optimizer.update)

    def run(state: TrainState, rows_BC: Tensor, scalars: Tensor, loops: int | None) -> Tensor:
        def loss_of_one(params: Tensors, fixed: Tensors, rows_BC: Tensor) -> Tensor:
            tensors = {f"model.{name}": tensor for name, tensor in {**fixed, **params}.items()}
            loss: Tensor = functional_call(objective, tensors, (rows_BC, loops))
            return loss

        def loss_of(params: Tensors) -> tuple[Tensor, Tensor]:
            if buffers is None:
                loss = loss_of_one(params, frozen, rows_BC)
                return loss, loss
            # A member's parameters are in its own loss only, so the gradient of the sum holds everyone's own.
            loss_M = vmap(loss_of_one)(params, {**buffers, **frozen}, rows_BC)
            return loss_M.sum(), loss_M

        frozen = {name: p for name, p in state.params.items() if name in optimizer.frozen}
        trained = {name: p for name, p in state.params.items() if name not in optimizer.frozen}
        grads, loss = gradient(loss_of, trained)
        for old, new in zip(state, update(state, grads, scalars), strict=True):
            for name, tensor in new.items():
                old[name].copy_(tensor)
        return loss

    return run


def to_compile(objective: Objective) -> Objective:
    """The objective of the model's accelerated twin."""
    model = accelerated(objective.model, gradients=True).train()
    return Objective(model, objective.layout, objective.kind, objective.halt_weight)


def compiled_step(
    objective: Objective, optimizer: Optimizer, small: bool = False, buffers: Tensors | None = None
) -> Step:
    """The same step as one graph per number of loops; shapes are fixed, rates enter as tensors.

    On a CPU the calls between kernels are compiled too: a small step has some 300 of them, and from Python
    they cost it a sixteenth of its time. In a small step (`is_small`) the gradient of a weight is made where
    the backward pass makes it: the compiler would rather make it where it is used, with the update, when what
    it is made of has left the cache. Of a step whose states fit no cache anyway the compiler is right: a
    fifteenth of the reference's.
    """
    step = eager_step(to_compile(objective), optimizer, transformed_gradient, buffers)
    assert isinstance(step, types.FunctionType)
    # Graphs are kept per code object, and only so many: every training gets a code object of its own.
    own = types.FunctionType(step.__code__.replace(), step.__globals__, step.__name__, None, step.__closure__)
    options: dict[str, Any] = {"guard_filter_fn": kept_guards, "reorder_for_locality": not small}
    if next(objective.parameters()).device.type == "cpu":
        options["cpp_wrapper"] = True
    graph: Step = torch.compile(own, dynamic=False, fullgraph=True, options=options)
    return graph


def is_small(model: Reasoner, batch: int) -> bool:
    """Whether the states of a batch after one pass, of all positions, take less than `CACHED` bytes."""
    with torch.no_grad():
        tokens = torch.zeros(1, model.positions, dtype=torch.int64, device=next(model.parameters()).device)
        state = model.read(model.start(tokens), 0)
    return batch * state.numel() * state.element_size() < CACHED


def kept_guards(guards: Sequence["GuardFilterEntry"]) -> list[bool]:
    """Which of its assumptions a compiled step looks at again at every call: the number of loops, and what is
    global, such as the gradient mode.

    The others are hundreds about the state, the model and the settings, which stay as they were in one
    training; to look at them takes a few hundredths of a small step. Trainings that share a step agree in
    them (`shared.form_of`).
    """
    return [guard.name in ("", "loops") for guard in guards]


def choose_step(
    objective: Objective,
    optimizer: Optimizer,
    wanted: Switch,
    example: tuple[TrainState, Tensor, Tensor, int | None],
    say: Callable[[str], None],
    buffers: Tensors | None = None,
) -> tuple[Step, Literal["compiled", "eager"]]:
    """The step and what runs it. Compiling is tried out on a copy of `example`, so a failure costs nothing.

    Args:
        objective, optimizer, buffers: as for `eager_step`.
        wanted: auto falls back to eager, and says so, where torch.compile does not work.
        example: arguments of the first step.
        say: gets the one sentence about falling back.

    Raises:
        InputError: `wanted` is "on" and compiling does not work.
    """
    eager = eager_step(objective, optimizer, buffers=buffers)
    if wanted == "off":
        return eager, "eager"
    needed = example[1].device.type == "cpu"
    problem = "there is no C++ compiler" if needed and compiler() is None else None
    if problem is None:
        say("compiling the training step; the first time this takes about a minute")
        state, rows, scalars, loops = example
        small = buffers is None and is_small(objective.model, len(rows))
        step = compiled_step(objective, optimizer, small, buffers)
        try:
            with torch.no_grad():
                step(copied(state), rows, scalars, loops)
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


def copied(state: TrainState) -> TrainState:
    """A state with tensors of its own."""
    return TrainState(*({name: tensor.clone() for name, tensor in part.items()} for part in state))


def first_line(error: Any) -> str:
    """The first line of an error's message, and its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__
