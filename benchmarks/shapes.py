"""The configurations that are measured: the shipped studies' own, the reference's at width 128."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from grokscope.models.protocol import Reasoner
from grokscope.runs.files import load_study
from grokscope.runs.job import RunSpec
from grokscope.runs.setup import RunSetup
from grokscope.spec import merge
from grokscope.training.cost import examples_flops
from grokscope.training.data import Batches, TrainingData
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer, TrainState

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "reference": ("paper", {"model": {"width": 128}}),
    "pocket": ("pocket", {}),
    "small": ("trm", {"model": {"width": 128}, "training": {"batch": 512},
                      "world": {"entities": 120, "relations": 40, "degree": 30}, "corpus": {"phi": 18}}),
}  # fmt: skip
"""Name of a shape: the study it is taken from, and what is changed."""
TINY: dict[str, dict[str, Any]] = {
    "reference": {
        "world": {"entities": 30, "relations": 8, "degree": 5},
        "corpus": {"phi": 2.0},
        "model": {"width": 16, "l_cycles": 2, "prefix": 2},
        "training": {"batch": 8},
    },
    "pocket": {
        "world": {"entities": 30, "relations": 8, "degree": 5},
        "corpus": {"phi": 2.0},
        "model": {"width": 16, "loops": 2},
        "training": {"batch": 8},
    },
    "small": {
        "world": {"entities": 30, "relations": 8, "degree": 5, "ood_fraction": 0.2},
        "corpus": {"phi": 2.0},
        "model": {"width": 16, "l_cycles": 2, "prefix": 2},
        "training": {"batch": 8},
    },
}
"""The same, small enough for a test."""


def shape(name: str, quick: bool, changes: dict[str, Any] | None = None) -> RunSpec:
    """The spec of a shape: a study's natural regime, seed 0, with changes laid over it."""
    study, own = SHAPES[name]
    spec = load_study(study).expand()["natural-s0"]
    tree = merge(spec.tree(), {**own, "training": {"device": "cpu"}})
    for over in (TINY[name] if quick else {}, changes or {}):
        tree = merge(tree, over)
    return RunSpec.parse(tree, name)


@cache
def built(spec: RunSpec) -> RunSetup:
    """World, corpus and data of a spec; built once per process."""
    return RunSetup(spec)


@dataclass(frozen=True, eq=False)
class Setup:
    """All that a training step needs."""

    spec: RunSpec
    data: TrainingData
    batches: Batches
    model: Reasoner
    objective: Objective
    optimizer: Optimizer
    state: TrainState
    flops: float
    """Of one step: forward and backward of the matrix products, without the optimiser."""


def build(spec: RunSpec, dtype: str | None = None) -> Reasoner:
    """The model of a spec, on its device."""
    return built(spec).model(dtype=dtype).to(spec.training.device)


def setup(spec: RunSpec) -> Setup:
    """Data, model and optimiser of a spec, with the initial state."""
    made = built(spec)
    data = made.data
    batches = Batches(data, spec.training.batch, spec.seeds.order, torch.device(spec.training.device))
    model = build(spec)
    objective = Objective(model, batches.layout, spec.training.loss, spec.training.halt_weight)
    optimizer = Optimizer(spec.training, model)
    return Setup(
        spec=spec,
        data=data,
        batches=batches,
        model=model,
        objective=objective,
        optimizer=optimizer,
        state=optimizer.start(model),
        flops=examples_flops(model, spec.training, batches.layout),
    )
