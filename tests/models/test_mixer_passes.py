"""The mixer's passes for looking against the passes of training."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from grokscope.models.build import build_model
from grokscope.models.mixer_passes import MixerPasses
from grokscope.models.recursive import matrices_of
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
    monkeypatch.setattr("grokscope.models.mixer_passes.GATES_AT_ONCE", 3 * 256 * SPEC.width)
    monkeypatch.setattr("grokscope.models.products.WIDE", wide and torch.backends.mkldnn.is_available())
    model = _model(dtype)
    with torch.no_grad():
        carry = model.start(_tokens(7))
        for stage in model.stages[1:]:
            plain = model.step(carry, stage.index)
            plain_logits = model.unembed(model.read(plain, stage.index))
            with model.looking():
                quick = model.step(carry, stage.index)
                quick_logits = model.unembed(model.read(plain, stage.index))
            torch.testing.assert_close(quick_logits, plain_logits)
            for one, two in zip(quick, plain, strict=True):
                assert one.dtype == two.dtype
                np.testing.assert_allclose(one.float(), two.float(), atol=near)
                # Rounded in the same places: nearly all are the same bits.
                assert dtype == "float32" or (one == two).float().mean() > 0.99
            with model.looking():
                alone_BD = model.step_at(carry, stage.index, 4)
            here_BD = model.read(quick, stage.index)[:, 4]
            np.testing.assert_allclose(alone_BD.float(), here_BD.float(), atol=near)
            carry = plain


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_is_not_copied_for_every_row(dtype):
    """Of a slice of positions PyTorch makes a product per row, and in bfloat16 a copy of the weight for each:
    that took two thirds of the time of a lens."""
    model = _model(dtype)
    with torch.no_grad(), model.looking():
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


def test_a_span_ends_with_its_block_and_sees_the_weights_of_its_beginning():
    model, tokens_BS = _model(), _tokens(2)
    with torch.no_grad(), model.looking():
        before = _states(model, tokens_BS)
    assert model._looking is None
    with torch.no_grad():
        model.level.blocks[0].mlp.down.weight.mul_(2)
        plain = _states(model, tokens_BS)
        with model.looking():
            after = _states(model, tokens_BS)
            with model.looking():
                pass
            assert model._looking is not None
    assert not torch.allclose(before[-1], after[-1], atol=1e-2)
    torch.testing.assert_close(after, plain, atol=1e-4, rtol=0)


def test_gradients_taps_and_hooks_get_the_plain_passes():
    model, tokens_BS = _model(), _tokens(2)
    seen = []
    with model.looking():
        model.unembed(model.step(model.start(tokens_BS), 1).z_L_BTD).sum().backward()
        assert model.level.blocks[0].mlp.down.weight.grad is not None
        with torch.no_grad():
            model.step(model.start(tokens_BS), 1, lambda site, value: seen.append(site) or value)
    assert "block1.mixer" in seen
    hook = model.level.blocks[1].register_forward_hook(lambda *_: seen.append("hook"))
    with torch.no_grad(), model.looking():
        model.step(model.start(tokens_BS), 1)
    hook.remove()
    assert seen[-1] == "hook"


def test_buffers_serve_every_mode_without_gradients():
    """Tensors made in inference mode cannot be written outside of it."""
    model, tokens_BS = _model(), _tokens(2)
    with torch.inference_mode(), model.looking():
        one = _states(model, tokens_BS)
        with torch.inference_mode(False), torch.no_grad():
            two = _states(model, tokens_BS)
    assert torch.equal(one, two)


def test_nothing_is_computed_for_no_rows():
    model = _model()
    passes = MixerPasses([matrices_of(block) for block in model.level.blocks], torch.float32)
    assert passes(torch.empty(0, 8, 32), torch.empty(0, 8, 32)).shape == (0, 8, 32)
