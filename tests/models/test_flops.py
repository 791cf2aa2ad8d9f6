"""The arithmetic against torch's own count."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grokscope.models.build import build_model
from grokscope.models.flops import forward_flops, training_flops
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

SPECS: list[LoopedSpec | RecursiveSpec] = [
    LoopedSpec(width=64, layers=2, loops=3),
    LoopedSpec(width=64, layers=1, loops=2, activation="swiglu", expansion=2.5, reembed_temperature=1.0),
    LoopedSpec(width=64, layers=2, loops=2, shared=False, tied_head=False),
    RecursiveSpec(width=64, heads=4, h_cycles=2, l_cycles=3, prefix=4),
    RecursiveSpec(width=64, heads=4, h_cycles=3, l_cycles=2, prefix=0, mixer=False),
]


@pytest.mark.parametrize("positions", [3, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_forward_flops_is_what_torch_counts(spec: LoopedSpec | RecursiveSpec, positions: int) -> None:
    fmt = FormatSpec(attention="full", output="sequence")
    model = build_model(spec, 50, positions, fmt, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, positions, dtype=torch.long))
    assert forward_flops(spec, 50, positions, fmt) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


@pytest.mark.parametrize(
    ("attention", "output", "labelled"),
    [("full", "sequence", 5), ("causal", "sequence", 2), ("full", "answer", 1)],
)
@pytest.mark.parametrize("spec", SPECS)
def test_training_flops_is_what_torch_counts(
    spec: LoopedSpec | RecursiveSpec, attention: str, output: str, labelled: int
) -> None:
    fmt = FormatSpec.parse({"attention": attention, "output": output})
    if isinstance(spec, RecursiveSpec) and attention == "causal":
        pytest.skip("a recursive model is never causal")
    model = build_model(spec, 50, 5, fmt, 0)
    with FlopCounterMode(display=False) as counter:
        # As the objective reads it: the labelled positions, and the first one for a halting head.
        read = [*([0] if model.halts else []), *range(model.prefix + 5 - labelled, model.prefix + 5)]
        at = None if labelled == 5 else torch.tensor([read, read])
        model.unembed(
            model.hidden_at(torch.zeros(2, 5, dtype=torch.long), at)[:, -labelled:]
        ).sum().backward()
    assert training_flops(spec, 50, 5, fmt) == pytest.approx(counter.get_total_flops() / 2, rel=0.02)


def test_inference_loops_count_in_inference_only() -> None:
    fmt = FormatSpec(attention="causal", output="answer")
    spec = LoopedSpec(width=64, loops=2)
    deep = spec.replace(inference_loops=4)
    assert training_flops(deep, 50, 3, fmt) == training_flops(spec, 50, 3, fmt)
    head = 3 * 2 * 64 * 50
    assert forward_flops(deep, 50, 3, fmt) - head == 2 * (forward_flops(spec, 50, 3, fmt) - head)


def test_the_reference_step_costs_what_the_reference_costs() -> None:
    """About 23 TFLOP per step of 512 examples of 16 + 5 positions."""
    step = 512 * training_flops(RecursiveSpec(), 2207, 5, FormatSpec())
    assert step == pytest.approx(23e12, rel=0.1)
