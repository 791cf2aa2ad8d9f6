"""Compiled steps that several trainings of one process share.

Tracing and compiling a small model's step takes as long as several hundred updates, and is the same work for
every training whose step is the same function: weights, moments, average, batch and rates are its arguments.
All else that it reads is written down in its *form*, and a step is shared only where the forms are equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from grokscope.spec import Spec, digest
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.step import Step

Backend = Literal["compiled", "eager"]

MOST = 8
"""Compiled steps that are kept; the one that was not used for longest goes first."""


class SharedSteps:
    """Compiled steps by form, for the trainings of one process, which come one after another."""

    def __init__(self) -> None:
        self._steps: dict[str, Step] = {}

    def take(self, form: str | None, make: Callable[[], tuple[Step, Backend]]) -> tuple[Step, Backend]:
        """The step of this form and what runs it: one that is there, or else a new one, which is kept if it
        is compiled. A kept step holds on to the model that it was compiled with.

        Args:
            form: see `form_of`; None: the step is not shared.
            make: makes a step.
        """
        known = self._steps.pop(form, None) if form is not None else None
        step, backend = make() if known is None else (known, "compiled")
        if form is not None and backend == "compiled":
            self._steps[form] = step
            if len(self._steps) > MOST:
                del self._steps[next(iter(self._steps))]
        return step, backend


def form_of(objective: Objective, optimizer: Optimizer, rows_BC: Tensor) -> str | None:
    """All that a compiled step depends on beside its arguments, as a digest: every attribute of the objective
    and of every part of its model, and the class of each; of a parameter the shape only, of any other tensor
    the numbers; the optimiser's settings; the shape of a batch; and what PyTorch compiles for, such as the
    number of threads.

    None: the model holds something that cannot be written down (a forward hook, say), so its step is its own.
    """
    here = [
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        str(rows_BC.dtype),
        list(rows_BC.shape),
        str(rows_BC.device),
    ]
    try:
        return digest({"objective": _plain(objective), "optimizer": _plain(vars(optimizer)), "here": here})
    except TypeError:
        return None


def _plain(value: Any) -> Any:
    """A value as plain data that differ wherever the value differs.

    Raises:
        TypeError: it is of a kind that is not known here.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or isinstance(value, bool | int | float | str):
        return [kind, repr(value)]
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Tensor):
        what = [kind, str(value.dtype), str(value.device), list(value.shape), value.requires_grad]
        return what if isinstance(value, nn.Parameter) else [*what, value.tolist()]
    if isinstance(value, nn.Module):
        return [kind, _plain(vars(value))]
    if isinstance(value, Spec):
        return [kind, value.tree()]
    if isinstance(value, Mapping):
        return [kind, [[_plain(key), _plain(item)] for key, item in value.items()]]
    if isinstance(value, set | frozenset):
        return [kind, sorted((_plain(item) for item in value), key=repr)]
    if isinstance(value, list | tuple):
        return [kind, [_plain(item) for item in value]]
    if is_dataclass(value):
        return [kind, [[field.name, _plain(getattr(value, field.name))] for field in fields(value)]]
    raise TypeError(f"{kind} has no form.")
