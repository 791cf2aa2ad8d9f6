"""Twins that are read: the numbers of the plain model, its weights and hooks, and the passes of a mixer."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grokscope.kernels.accelerated import accelerated
from grokscope.kernels.mixer_passes import MixerPasses, matrices_of
from grokscope.models.build import build_model
from grokscope.models.spec import RecursiveSpec
from grokscope.world.format import FormatSpec

FORMAT = FormatSpec(attention="full", output="sequence")
SPEC = RecursiveSpec(width=32, layers=2, h_cycles=2, l_cycles=2, mixer=True, prefix=3)


def _model(dtype="float32"):
    model = build_model(SPEC, 50, 5, FORMAT, 0, dtype)
    # A prefix of zeros would hide a pass that mixes up its positions.
    torch.nn.init.normal_(model.prefix_embedding)
    return model


def _states(model, tokens_BS):
    carry, states = model.start(tokens_BS), []
    for stage in range(len(model.stages)):
        carry = model.step(carry, stage) if stage else carry
        states.append(model.read(carry, stage))
    return torch.stack(states)


def _tokens(rows):
    return torch.randint(1, 50, (rows, 5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("dtype", "near", "wide"), [("float32", 2e-5, True), ("float32", 2e-5, False), ("bfloat16", 0.03, True)]
)
def test_every_pass_and_logit_is_the_plain_one(dtype, near, wide, monkeypatch):
    """Seven rows in parts of three: a part that is not full, and every buffer used again."""
    monkeypatch.setattr("grokscope.kernels.mixer_passes.GATES_AT_ONCE", 3 * 256 * SPEC.width)
    monkeypatch.setattr("grokscope.kernels.products.WIDE", wide and torch.backends.mkldnn.is_available())
    model = _model(dtype)
    twin = accelerated(model)
    with torch.no_grad():
        carry = model.start(_tokens(7))
        for stage in model.stages[1:]:
            plain = model.step(carry, stage.index)
            plain_logits = model.unembed(model.read(plain, stage.index))
            quick = twin.step(carry, stage.index)
            quick_logits = twin.unembed(model.read(plain, stage.index))
            torch.testing.assert_close(quick_logits, plain_logits)
            for one, two in zip(quick, plain, strict=True):
                assert one.dtype == two.dtype
                np.testing.assert_allclose(one.float(), two.float(), atol=near)
                # Rounded in the same places: nearly all are the same bits.
                assert dtype == "float32" or (one == two).float().mean() > 0.99
            alone_BD = twin.step_at(carry, stage.index, 4)
            here_BD = model.read(quick, stage.index)[:, 4]
            np.testing.assert_allclose(alone_BD.float(), here_BD.float(), atol=near)
            carry = plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_is_not_copied_for_every_row(dtype):
    """Of a slice of positions PyTorch makes a product per row, and in bfloat16 a copy of the weight for each:
    that took two thirds of the time of a lens."""
    model = accelerated(_model(dtype))
    with torch.no_grad():
        state_BSD = model.read(model.start(_tokens(7)), 0).clone()[:, model.prefix :]
        with _Called() as seen:
            logits_BSV = model.unembed(state_BSD)
    assert logits_BSV.shape == (7, 5, 50)
    assert not [name for name in seen.names if "bmm" in name]
    one_by_one = torch.stack([model.unembed(one_SD[None])[0] for one_SD in state_BSD])
    torch.testing.assert_close(logits_BSV, one_by_one)


class _Called(TorchDispatchMode):
    """Which operations are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_twin_keeps_the_weights_of_its_first_use_and_its_model_is_as_it_was():
    model, tokens_BS = _model("bfloat16"), _tokens(2)
    before = {name: (type(part), dict(vars(part))) for name, part in model.named_modules()}
    twin = accelerated(model)
    with torch.no_grad():
        first = _states(twin, tokens_BS)
        assert torch.equal(_states(accelerated(twin), tokens_BS), first)
        model.level.blocks[0].mlp.down.weight.mul_(2)
        assert torch.equal(_states(twin, tokens_BS), first)
        plain, later = (_states(one, tokens_BS)[1].float() for one in (model, accelerated(model)))
    torch.testing.assert_close(later, plain, atol=0.03, rtol=0)
    assert not torch.allclose(first[1].float(), plain, atol=0.1)
    assert {name: (type(part), dict(vars(part))) for name, part in model.named_modules()} == before
    assert [id(p) for p in twin.parameters()] == [id(p) for p in model.parameters()]
    assert twin.eval().training < model.training


def test_gradients_taps_and_hooks_get_the_plain_passes():
    model, tokens_BS = _model(), _tokens(2)
    seen, twin = [], accelerated(model)
    twin.unembed(twin.step(twin.start(tokens_BS), 1).z_L_BTD).sum().backward()
    assert model.level.blocks[0].mlp.down.weight.grad is not None
    with torch.no_grad():
        twin.step(twin.start(tokens_BS), 1, lambda site, value: seen.append(site) or value)
    assert "block1.mixer" in seen
    hook = model.level.blocks[1].register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad():
        twin.step(twin.start(tokens_BS), 1)
    hook.remove()
    assert seen[-1] == "hook"


def test_buffers_serve_every_mode_without_gradients():
    """Tensors made in inference mode cannot be written outside of it."""
    model, tokens_BS = accelerated(_model()), _tokens(2)
    with torch.inference_mode():
        one = _states(model, tokens_BS)
    with torch.no_grad():
        two = _states(model, tokens_BS)
    assert torch.equal(one, two)


def test_nothing_is_computed_for_no_rows():
    model = _model()
    passes = MixerPasses([matrices_of(block) for block in model.level.blocks], torch.float32)
    assert passes(torch.empty(0, 8, 32), torch.empty(0, 8, 32), range(8)).shape == (0, 8, 32)
