"""Frozen parts keep their bytes, everywhere they are kept; what is trained is trained as if nothing were."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grokscope.errors import InputError
from grokscope.training.checkpoint import weights_path
from grokscope.training.data import Batches
from grokscope.training.loss import Objective
from grokscope.training.optim import PARTS, Optimizer
from grokscope.training.spec import OptimizerSpec
from grokscope.training.step import compiled_step, compiler, copied, eager_step
from tests.training import tiny

MUON, ADAMW = (OptimizerSpec.parse({"kind": kind, "lr": 3e-3}) for kind in ("muon", "adamw"))


def kept(directory: Path, step: int) -> dict[str, bytes]:
    """Every tensor of a checkpoint, and every parameter of the resume state, as bytes."""
    state = load_file(directory / "resume" / f"step_{step:08d}.safetensors") if step else {}
    tensors = load_file(weights_path(directory, step)) | {
        name: tensor for name, tensor in state.items() if name.startswith(("params/", "ema/"))
    }
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("kind", "parts", "optimizer"),
    [
        ("looped", ("embedding",), MUON),
        ("looped", ("blocks",), MUON),
        ("gpt2", ("blocks", "head"), ADAMW),
        ("recursive", ("embedding", "head"), MUON),
        ("recursive", ("blocks",), ADAMW),
    ],
)
def test_frozen_parts_keep_their_bytes_through_interruption_and_average(
    tmp_path: Path, kind: str, parts: tuple[str, ...], optimizer: OptimizerSpec
) -> None:
    """-0.0 included, which averaging a tensor with itself would turn into 0.0."""
    for name, steps in (("cut", 9), ("cut", 16), ("whole", 16)):
        tiny.run(tmp_path / name, kind, steps=steps, freeze=parts, optimizer=optimizer)
    start, end, model = kept(tmp_path / "whole", 0), kept(tmp_path / "whole", 16), tiny.model(kind)
    assert end == kept(tmp_path / "cut", 16)
    for name, value in end.items():
        own = name.removeprefix("params/").removeprefix("ema/")
        if own in dict(model.named_parameters()):
            assert (value == start[own]) == (PARTS[model.group_of(own)] in parts), name


@pytest.mark.parametrize("kind", ["looped", "recursive"])
def test_the_first_update_of_the_rest_is_that_of_an_ordinary_training(kind: str) -> None:
    frozen, ordinary = (_after_a_step(kind, parts) for parts in (("embedding",), ()))
    for name, tensor in frozen.params.items():
        same = torch.equal(tensor, ordinary.params[name])
        assert same == (PARTS[tiny.model(kind).group_of(name)] != "embedding"), name
    assert not {name for part in (frozen.momentum, frozen.second) for name in part if "embedding" in name}


def _after_a_step(kind: str, parts: tuple[str, ...]):
    model, spec = tiny.model(kind), tiny.spec(freeze=parts, optimizer=ADAMW, warmup=0)
    batches, optimizer = Batches(tiny.data(kind), spec.batch, 0), Optimizer(spec, model)
    state = optimizer.start(model)
    step = eager_step(Objective(model, batches.layout, "softmax", 0.5), optimizer)
    with torch.no_grad():
        step(state, batches(0), optimizer.scalars(0), None)
    return state


@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_a_compiled_step_freezes_the_same() -> None:
    model, spec = tiny.model("looped"), tiny.spec(freeze=("blocks",))
    batches, optimizer = Batches(tiny.data("looped"), spec.batch, 0), Optimizer(spec, model)
    objective = Objective(model, batches.layout, "softmax", 0.5)
    before = optimizer.start(model)
    states = []
    for make in (eager_step, compiled_step):
        state, step = copied(before), make(objective, optimizer)
        with torch.no_grad():
            for number in range(3):
                step(state, batches(number), optimizer.scalars(number), None)
        states.append(state)
    for eager, compiled in zip(*states, strict=True):
        torch.testing.assert_close(eager, compiled, rtol=1e-4, atol=1e-5)
    for name, tensor in states[1].params.items():
        assert torch.equal(tensor, before.params[name]) == (model.group_of(name) == "blocks")


@pytest.mark.parametrize(
    ("kind", "parts", "named"),
    [
        ("looped", ("head",), "tied head"),
        ("looped", ("embedding", "blocks"), "nothing would be trained"),
        ("recursive", ("head", "blocks", "embedding"), "nothing would be trained"),
    ],
)
def test_what_cannot_be_frozen_is_refused(kind: str, parts: tuple[str, ...], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Optimizer(tiny.spec(freeze=parts), tiny.model(kind))


def test_a_part_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        tiny.spec(freeze=("blocks", "blocks"))
