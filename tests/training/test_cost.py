"""What a training is said to take, against what can be counted by hand and what one takes that runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grokscope.models.build import build_model
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.training.cost import disk_estimate, examples_flops, training_memory, update
from grokscope.training.data import Batches, RowLayout
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.spec import OptimizerSpec, TrainingSpec
from grokscope.training.step import eager_step
from grokscope.world.format import FormatSpec
from tests.training import tiny


def test_forward_and_backward_of_a_looped_model_by_hand() -> None:
    """The last block has an output of attention and an MLP at the one labelled position alone."""
    model = build_model(LoopedSpec(width=16, heads=2, layers=1, loops=2), 30, 3, FormatSpec(), 0, "float32")
    whole, behind = 6 * 3 * 16 * 16, 4 * 3 * 16 + (2 + 16) * 16 * 16
    spec = TrainingSpec(batch=4, loss="softmax")
    forward = 2 * whole + 3 * behind + behind + 2 * 16 * 30
    assert examples_flops(model, spec, RowLayout(3, 1)) == 4 * 3 * forward


@pytest.mark.parametrize("kind", ["recursive", "mixer", "looped"])
def test_a_whole_step_is_what_torch_counts(kind: str) -> None:
    """Backward only through a recursive model's last cycle, the optimiser included. Attention here is made of
    sums, which torch does not count as products."""
    spec = tiny.spec()
    model = tiny.model(kind)
    layout = RowLayout.of(tiny.FORMATS[kind])
    ours = examples_flops(model, spec, layout) + update(model, spec).flop
    batches, optimizer = Batches(tiny.data(kind), spec.batch, 0), Optimizer(spec, model)
    step = eager_step(Objective(model, batches.layout, spec.loss, spec.halt_weight), optimizer)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step(optimizer.start(model), batches(0), optimizer.scalars(0), None)
    assert (0.85 if kind != "mixer" else 0.9999) * ours < counter.get_total_flops() <= ours


@pytest.mark.parametrize("kind", tiny.FORMATS)
def test_the_layout_of_a_format_is_that_of_its_examples(kind: str) -> None:
    assert RowLayout.of(tiny.FORMATS[kind]) == tiny.data(kind).rows()[1]
    assert RowLayout.of(tiny.FORMATS[kind]).columns == tiny.data(kind).rows()[0].shape[1]


def test_newton_schulz_by_hand_and_whatever_the_batch() -> None:
    """Per iteration on an (r, c) matrix, r <= c: x x^T (2 r^2 c), its square (2 r^3), their sum times x."""
    model = build_model(LoopedSpec(width=16, heads=2, layers=1, loops=2), 30, 3, FormatSpec(), 0, "float32")
    spec = TrainingSpec(batch=4, optimizer=OptimizerSpec(kind="muon"))
    square, wide = (4 * 16 * 16 * columns + 2 * 16**3 for columns in (16, 64))
    qkv = 4 * 16 * 16 * 48 + 2 * 16**3
    assert update(model, spec).flop == 5 * (square + 2 * wide + qkv)
    assert update(model, spec.replace(batch=8)) == update(model, spec)
    assert update(model, spec.replace(optimizer={})).flop == 0


def test_the_mean_step_of_random_loop_counts() -> None:
    model = build_model(LoopedSpec(width=32, heads=2, layers=1, loops=2), 20, 5, FormatSpec(), 0, "float32")
    spec, layout = TrainingSpec(batch=4, loop_choices=(1, 3)), RowLayout(5, 5)
    assert examples_flops(model, spec, layout) == pytest.approx(
        examples_flops(model, spec.replace(loop_choices=None), layout)
    )


def test_the_reference_step_by_hand() -> None:
    """Of its shape, at a twelfth of the width; at the whole one it is about 23 TFLOP."""
    model = build_model(RecursiveSpec(width=128), 2207, 5, FormatSpec(), 0, "float32")
    inner, mixing = 512, 256  # of a width of 128, of 21 positions
    level = 2 * (6 * 21 * 128 * inner + 6 * 128 * 21 * mixing)
    wanted = 512 * ((7 + 3 * 7) * level + 3 * (5 * 2 * 128 * 2207 + 2 * 2 * 128))
    assert examples_flops(model, TrainingSpec(), RowLayout(5, 5)) == wanted


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


@pytest.mark.parametrize("kind", ["looped", "recursive"])
def test_the_disk_estimate_holds(tmp_path, kind):
    wanted = {"keep": 5, "steps": 60, "optimizer": OptimizerSpec(kind="adamw", lr=1e-3)}
    tiny.run(tmp_path, kind, **wanted)
    taken = sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))
    estimate = disk_estimate(tiny.model(kind), tiny.spec(**wanted))
    # Beside the numbers themselves there are headers, large against tiny tensors.
    headers = 4000 * len(list(tmp_path.rglob("*.safetensors")))
    assert taken - headers < estimate < 2.5 * taken
