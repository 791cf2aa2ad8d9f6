"""Compiled steps of one process: who shares one. That nobody can tell is shown in runs/test_jobs.py."""

from typing import Any

import pytest
import torch

from grokscope.kernels.library import available, plainly
from grokscope.models.blocks import Linear
from grokscope.models.build import build_model
from grokscope.models.spec import LoopedSpec
from grokscope.training.data import Batches
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.shared import MOST, SharedSteps, form_of
from grokscope.training.spec import OptimizerSpec
from grokscope.training.step import to_compile
from grokscope.world.format import FormatSpec, positions
from tests.training import tiny


def form(
    model: Any = None, kind: str = "looped", seed: int = 0, causal: bool = True, **changes: Any
) -> str | None:
    """The form of a tiny training's step."""
    fmt = tiny.FORMATS[kind] if causal else FormatSpec(attention="full", output="answer")
    spec = tiny.spec(**changes)
    made = build_model(
        model or tiny.MODELS[kind], tiny.corpus().world.vocabulary.size, positions(fmt), fmt, seed, spec.dtype
    )
    batches = Batches(tiny.data(kind), spec.batch, seed)
    objective = Objective(made, batches.layout, spec.loss, spec.halt_weight)
    return form_of(to_compile(objective), Optimizer(spec, made), batches(0))


@pytest.mark.parametrize("kind", ["looped", "gpt2"])
def test_weights_and_order_are_arguments_of_a_step(kind: str) -> None:
    assert form(kind=kind) == form(kind=kind, seed=1) is not None


@pytest.mark.skipif(not available(), reason="there are no kernels here")
def test_kernels_are_in_its_form() -> None:
    """A token mixer's, that is: no other part of a step is different with them."""
    with plainly():
        aside, other = form(kind="mixer", dtype="bfloat16"), form()
    assert aside != form(kind="mixer", dtype="bfloat16")
    assert other == form()


def test_whatever_else_a_step_computes_with_is_in_its_form() -> None:
    """A constant of the graph that is missing here would be another run's: wrong numbers, and no error."""
    plain = tiny.MODELS["looped"]
    assert isinstance(plain, LoopedSpec)
    others = {
        "causal": form(causal=False),
        "loops": form(plain.replace(loops=3)),
        "norm": form(plain.replace(norm="layernorm")),
        "rotary": form(plain.replace(positions="rotary")),
        "temperature": form(plain.replace(reembed_temperature=1.0)),
        "another temperature": form(plain.replace(reembed_temperature=2.0)),
        "dtype": form(dtype="bfloat16"),
        "loss": form(loss="stablemax"),
        "batch": form(batch=16),
        "decay": form(optimizer=OptimizerSpec(kind="muon", lr=3e-3, weight_decay=0.2)),
        "adamw": form(optimizer=OptimizerSpec(lr=3e-3, weight_decay=0.1)),
        "frozen": form(freeze=("embedding",)),
        "format": form(kind="gpt2"),
        # Its initial states are drawn from the seed, and are no parameters.
        "buffers": form(kind="recursive"),
        "other buffers": form(kind="recursive", seed=1),
        "itself": form(),
    }
    assert None not in others.values()
    assert len(set(others.values())) == len(others)


def test_threads_are_part_of_a_form() -> None:
    """Compiled code splits its loops over so many."""
    before, threads = form(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert form() != before
    finally:
        torch.set_num_threads(threads)


def test_what_cannot_be_written_down_is_not_shared() -> None:
    model = tiny.model()
    batches = Batches(tiny.data(), 32, 0)
    objective = Objective(model, batches.layout, "softmax", 0.5)
    next(m for m in model.modules() if isinstance(m, Linear)).register_forward_hook(lambda *_: None)
    assert form_of(objective, Optimizer(tiny.spec(), model), batches(0)) is None
    made = iter("ab")
    shared = SharedSteps()
    steps = [shared.take(None, lambda: (next(made), "compiled"))[0] for _ in range(2)]  # type: ignore[arg-type,return-value]
    assert steps == ["a", "b"]


def test_few_steps_are_kept_and_none_that_is_not_compiled() -> None:
    shared, asked = SharedSteps(), []

    def take(form: str, backend: str = "compiled") -> None:
        shared.take(form, lambda: (asked.append(form) or form, backend))  # type: ignore[arg-type,return-value,func-returns-value]

    take("eager", "eager")
    take("eager", "eager")
    assert asked == ["eager", "eager"]
    asked.clear()
    for number in range(MOST):
        take(str(number))
    take("0")
    take("new")
    assert asked == [*(str(number) for number in range(MOST)), "new"]
    take("0")
    take("1")
    assert asked[MOST + 1 :] == ["1"]
