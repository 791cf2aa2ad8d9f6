"""Small models and strategies for the tests of this folder."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

VOCAB = 11
CAUSAL = FormatSpec(attention="causal", output="answer")
FULL = FormatSpec(attention="full", output="sequence")


def tokens(batch: int, positions: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (batch, positions), generator=torch.Generator().manual_seed(seed))


def unrolled(model: Reasoner, tokens_BS: Tensor) -> list[Tensor]:
    """The state at every stage, by start, step and read."""
    carry = model.start(tokens_BS)
    states = [model.read(carry, 0)]
    for stage in model.stages[1:]:
        carry = model.step(carry, stage.index)
        states.append(model.read(carry, stage.index))
    return states


def shaken(model: Reasoner, seed: int = 1) -> Reasoner:
    """Every parameter moved off its initial value: zeros and ones would hide what they multiply."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.1)
    return model


looped_specs = st.builds(
    lambda shared, loops, inference, **rest: LoopedSpec(
        shared=shared, loops=loops, inference_loops=inference if shared else None, **rest
    ),
    shared=st.booleans(),
    loops=st.integers(1, 3),
    inference=st.none() | st.integers(1, 4),
    width=st.sampled_from([8, 12]),
    heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    expansion=st.sampled_from([1.0, 2.5]),
    activation=st.sampled_from(["gelu", "relu", "swiglu"]),
    norm=st.sampled_from(["rms", "layernorm"]),
    norm_position=st.sampled_from(["pre", "post", "none"]),
    positions=st.sampled_from(["learned", "rotary", "none"]),
    injection=st.booleans(),
    tied_head=st.booleans(),
    bias=st.booleans(),
    reembed_temperature=st.sampled_from([None, 0.5, 2.0]),
    init=st.sampled_from(["fan_in", "gpt2"]),
)
recursive_specs = st.builds(
    lambda mixer, positions, **rest: RecursiveSpec(
        mixer=mixer, positions="none" if mixer and positions == "rotary" else positions, **rest
    ),
    mixer=st.booleans(),
    positions=st.sampled_from(["learned", "rotary", "none"]),
    width=st.sampled_from([8, 12]),
    heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    h_cycles=st.integers(1, 3),
    l_cycles=st.integers(1, 3),
    inference_h_cycles=st.none() | st.integers(1, 3),
    expansion=st.sampled_from([1.0, 4.0]),
    prefix=st.integers(0, 2),
    tied_head=st.booleans(),
)


@st.composite
def models(draw: st.DrawFn, dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> Reasoner:
    """Any model at all, with shaken weights and 1 to 6 positions (both forms of attention)."""
    spec = draw(looped_specs | recursive_specs)
    fmt = draw(st.sampled_from([CAUSAL, FULL])) if isinstance(spec, LoopedSpec) else FULL
    positions, dtype = draw(st.integers(1, 6)), draw(st.sampled_from(dtypes))
    return shaken(build_model(spec, VOCAB, positions, fmt, draw(st.integers(0, 9)), dtype))
