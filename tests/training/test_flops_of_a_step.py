"""The arithmetic of a training step against torch's own count of the step that really runs.

Torch counts matrix products; attention over few positions is written without any, so it is made to use them.
"""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from grokscope.models import attention
from grokscope.models.build import build_model
from grokscope.models.flops import evaluation_flops, lens_flops
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.training.data import RowLayout
from grokscope.training.flops import examples_flops, update_flops
from grokscope.training.loss import Objective
from grokscope.training.optim import Optimizer
from grokscope.training.spec import OptimizerSpec, TrainingSpec
from grokscope.training.step import eager_step
from grokscope.world.format import FormatSpec

WITHIN = 0.02
VOCAB, BATCH = 60, 3


@pytest.fixture(autouse=True, scope="module")
def attention_by_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "FEW", 0)
        yield


looped = st.builds(
    LoopedSpec,
    width=st.sampled_from([32, 64, 96]),
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    loops=st.integers(1, 3),
    shared=st.booleans(),
    expansion=st.sampled_from([1.5, 4.0]),
    activation=st.sampled_from(["gelu", "swiglu"]),
    tied_head=st.booleans(),
    reembed_temperature=st.sampled_from([None, 1.0]),
)
recursive = st.builds(
    RecursiveSpec,
    width=st.sampled_from([32, 64, 96]),
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 2),
    h_cycles=st.integers(1, 3),
    l_cycles=st.integers(1, 3),
    mixer=st.booleans(),
    prefix=st.integers(0, 4),
)
formats = st.builds(
    FormatSpec, attention=st.sampled_from(["full", "causal"]), output=st.sampled_from(["answer", "sequence"])
)


@settings(max_examples=40, deadline=None)
@given(
    model_spec=st.one_of(looped, recursive),
    fmt=formats,
    kind=st.sampled_from(["muon", "adamw"]),
    loops=st.sampled_from([None, 1, 2]),
)
def test_a_whole_step_is_what_torch_counts(
    model_spec: LoopedSpec | RecursiveSpec, fmt: FormatSpec, kind: str, loops: int | None
) -> None:
    """Forward, backward (only through a recursive model's last cycle) and the optimiser, of every family."""
    if isinstance(model_spec, RecursiveSpec) and fmt.attention == "causal":
        fmt = fmt.replace(attention="full")
    if isinstance(model_spec, LoopedSpec) and not model_spec.shared:
        loops = None
    size = 4 if fmt.attention == "causal" else 5
    labelled = 1 if fmt.output == "answer" else 2 if fmt.attention == "causal" else size
    optimizer_spec = OptimizerSpec.parse({"kind": kind})
    choices = None if loops is None else (loops,)
    spec = TrainingSpec(batch=BATCH, optimizer=optimizer_spec, loss="softmax", loop_choices=choices)
    model = build_model(model_spec, VOCAB, size, fmt, 0)
    layout = RowLayout(size, labelled)
    rows_BC = torch.ones(BATCH, size + (0 if labelled == size else labelled) + labelled, dtype=torch.long)
    optimizer = Optimizer(spec, model)
    state = optimizer.start(model)
    step = eager_step(Objective(model, layout, "softmax", 0.5), optimizer)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        step(state, rows_BC, optimizer.scalars(0), loops)
    shapes = {name: tuple(p.shape) for name, p in state.params.items()}
    ours = examples_flops(spec, model_spec, VOCAB, size, fmt) + update_flops(optimizer, shapes)
    assert ours == pytest.approx(counter.get_total_flops(), rel=WITHIN)


@settings(max_examples=15, deadline=None)
@given(model_spec=st.one_of(looped, recursive), positions=st.integers(3, 6))
def test_looking_is_what_torch_counts(model_spec: LoopedSpec | RecursiveSpec, positions: int) -> None:
    fmt = FormatSpec(attention="full", output="sequence")
    model = build_model(model_spec, VOCAB, positions, fmt, 0)
    tokens_BS = torch.ones(BATCH, positions, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        carry = model.start(tokens_BS)
        for stage in model.stages:
            carry = carry if stage.index == 0 else model.step(carry, stage.index)
            model.unembed(model.read(carry, stage.index)[:, model.prefix :])
    ours = BATCH * lens_flops(model_spec, VOCAB, positions)
    assert ours == pytest.approx(counter.get_total_flops(), rel=WITHIN)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens_BS)
    ours = BATCH * evaluation_flops(model_spec, VOCAB, positions, fmt)
    assert ours == pytest.approx(counter.get_total_flops(), rel=WITHIN)


def test_the_mean_step_of_random_loop_counts() -> None:
    model, fmt = LoopedSpec(width=32, heads=2, layers=1, loops=2), FormatSpec()
    spec = TrainingSpec(batch=4, loop_choices=(1, 3))
    assert examples_flops(spec, model, 20, 5, fmt) == pytest.approx(
        examples_flops(spec.replace(loop_choices=None), model, 20, 5, fmt)
    )
