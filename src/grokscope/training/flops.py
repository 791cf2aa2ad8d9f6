"""FLOPs of a whole training step: the examples' products, and the optimiser's (see `models.flops`).

The optimiser's do not grow with the batch. AdamW, sign-SGD and the EMA are elementwise and, as everywhere in
these counts, left out.
"""

from functools import partial

import torch

from grokscope.models.flops import counted, without_numbers
from grokscope.models.protocol import Reasoner
from grokscope.training.data import RowLayout
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.spec import TrainingSpec


def examples_flops(model: Reasoner, spec: TrainingSpec, layout: RowLayout) -> float:
    """FLOPs of forward and backward over one batch; with random numbers of loops, of the mean step."""
    objective = Objective(without_numbers(model), layout, spec.loss, spec.halt_weight)
    row_1C = torch.empty(1, layout.columns, dtype=torch.int64, device="meta")

    def forward_and_backward(loops: int | None) -> None:
        with torch.enable_grad():
            objective(row_1C, loops).backward()

    choices = spec.loop_choices or (None,)
    each = [counted(partial(forward_and_backward, loops)) for loops in choices]
    return spec.batch * sum(each) / len(each)


def update_flops(model: Reasoner, spec: TrainingSpec) -> int:
    """FLOPs of one update: Muon's Newton-Schulz iterations."""
    optimizer = Optimizer(spec, shapes := without_numbers(model))
    state, scalars = optimizer.start(shapes), optimizer.scalars(0).to("meta")
    return counted(lambda: optimizer.update(state, state.params, scalars))
