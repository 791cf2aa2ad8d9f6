"""Bytes of a training against what can be counted by hand."""

import pytest

from grokscope.training.memory import training_memory
from grokscope.training.optim import Optimizer
from tests.training import tiny


@pytest.mark.parametrize("kind", ["looped", "recursive"])
def test_state_holds_every_tensor_of_the_optimiser_and_gradients(kind: str) -> None:
    model, spec = tiny.model(kind), tiny.spec()
    rules = Optimizer(spec, model)
    sizes = {name: 4 * p.numel() for name, p in model.named_parameters()}
    moments = [*rules.adamw, *rules.adamw, *rules.muon]
    wanted = 3 * sum(sizes.values()) + sum(sizes[name] for name in moments)
    assert training_memory(model, tiny.data(kind), spec).state == wanted


def test_activations_grow_with_the_batch_and_with_loops_that_carry_gradient() -> None:
    looped, recursive = tiny.model("looped"), tiny.model("recursive")
    one = training_memory(looped, tiny.data("looped"), tiny.spec(batch=8))
    assert (
        training_memory(looped, tiny.data("looped"), tiny.spec(batch=16)).activations == 2 * one.activations
    )
    deep = training_memory(looped, tiny.data("looped"), tiny.spec(batch=8, loop_choices=(1, 4)))
    assert deep.activations > 1.5 * one.activations
    # Only the last outer cycle of a recursive model carries gradient: more of them keep nothing more.
    few, many = (
        training_memory(
            recursive, tiny.data("recursive"), tiny.spec(batch=8, loop_choices=choices)
        ).activations
        for choices in ((1,), (3,))
    )
    assert few == many
