"""The models against their original definitions, at every stage."""

import pytest
import torch

from grokscope.models.build import build_model
from grokscope.models.spec import LoopedSpec, RecursiveSpec
from tests.models import reference
from tests.models.helpers import CAUSAL, FULL, VOCAB, shaken, tokens, unrolled


@pytest.mark.parametrize(("h_cycles", "l_cycles", "layers"), [(1, 1, 1), (2, 3, 2), (3, 2, 1)])
@pytest.mark.parametrize("prefix", [0, 3])
@pytest.mark.parametrize(
    ("mixer", "positions"),
    [(True, "none"), (True, "learned"), (False, "none"), (False, "learned"), (False, "rotary")],
)
def test_trm_is_the_original(
    mixer: bool, positions: str, prefix: int, h_cycles: int, l_cycles: int, layers: int
) -> None:
    shape = {"h_cycles": h_cycles, "l_cycles": l_cycles, "layers": layers}
    spec = RecursiveSpec.parse(
        {"width": 24, "heads": 3, "mixer": mixer, "positions": positions, "prefix": prefix, **shape}
    )
    model = shaken(build_model(spec, VOCAB, 5, FULL, seed=3, dtype="float32"))
    tokens_BS = tokens(4, 5)
    truth = reference.trm(
        dict(model.state_dict()), tokens_BS, heads=3, mixer=mixer, positions=positions, **shape
    )
    carry = model.start(tokens_BS)
    torch.testing.assert_close(model.read(carry, 0), truth["init"], atol=0, rtol=0)
    for stage in model.stages[1:]:
        carry = model.step(carry, stage.index)
        torch.testing.assert_close(model.read(carry, stage.index), truth[stage.name], atol=1e-5, rtol=1e-5)
        # go on from the truth: a TRM with large weights amplifies rounding from pass to pass; that
        # `hidden` is this chain of steps, bit for bit, is tested with the protocol
        carry = model.write(carry, stage.index, truth[stage.name])
    torch.testing.assert_close(
        model.unembed(truth[stage.name])[:, prefix:], truth["logits"], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(model.halt(truth[stage.name]), truth["halt"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [None, 1.5])
@pytest.mark.parametrize("positions", [3, 6])
@pytest.mark.parametrize(("layers", "loops"), [(4, 2), (2, 1), (1, 3)])
def test_recurrent_gpt2_is_the_original(
    layers: int, loops: int, positions: int, temperature: float | None
) -> None:
    spec = LoopedSpec(
        width=16,
        heads=2,
        layers=layers,
        loops=loops,
        norm="layernorm",
        norm_position="pre",
        positions="learned",
        bias=True,
        injection=False,
        reembed_temperature=temperature,
        init="gpt2",
    )
    model = shaken(build_model(spec, VOCAB, positions, CAUSAL, seed=3, dtype="float32"))
    tokens_BS = tokens(4, positions)
    truth = reference.gpt2(
        dict(model.state_dict()), tokens_BS, heads=2, layers=layers, loops=loops, temperature=temperature
    )
    for stage, state_BTD in zip(model.stages, unrolled(model, tokens_BS), strict=True):
        torch.testing.assert_close(state_BTD, truth[stage.name], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tokens_BS), truth["logits"], atol=1e-5, rtol=1e-5)


def test_post_norm_looped_model_is_the_universal_transformer() -> None:
    """Normalised embedding, injected before every loop but the first; norms after sums; tied head."""
    spec = LoopedSpec(width=16, heads=2, layers=2, loops=3, expansion=4.0)
    model = shaken(build_model(spec, VOCAB, 3, CAUSAL, seed=3, dtype="float32"))
    w, tokens_BS = dict(model.state_dict()), tokens(4, 3)

    def rms(x: torch.Tensor) -> torch.Tensor:
        return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)

    embedding = rms(w["token_embedding"][tokens_BS])
    x, truth = embedding, [embedding]
    for loop in range(3):
        if loop:
            x = x + embedding
        for i in range(2):
            qkv, out = w[f"blocks.{i}.attention.qkv.weight"], w[f"blocks.{i}.attention.out.weight"]
            x = rms(x + reference.attention(x, qkv, None, out, None, 2, causal=True, rotary=False))
            up, down = w[f"blocks.{i}.mlp.up.weight"], w[f"blocks.{i}.mlp.down.weight"]
            x = rms(x + torch.nn.functional.gelu(x @ up.T, approximate="tanh") @ down.T)
            truth.append(x)
    for state_BTD, expected in zip(unrolled(model, tokens_BS), truth, strict=True):
        torch.testing.assert_close(state_BTD, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(tokens_BS), x @ w["token_embedding"].T, atol=1e-5, rtol=1e-5)
