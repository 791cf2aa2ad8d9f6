"""Our C++ against PyTorch's operations, number by number."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad_and_value, vmap

from grokscope.kernels import library, memory, mixer_passes, mixing, pieces
from grokscope.kernels.accelerated import accelerated
from grokscope.kernels.library import available
from grokscope.kernels.mixer_passes import MixerPasses, NativePasses, matrices_of
from grokscope.mechanics.read import lens
from grokscope.models.attention import Attention, by_sums
from grokscope.models.blocks import EPS, Mlp
from grokscope.models.build import build_model
from grokscope.models.init import Init
from grokscope.models.recursive import MixerBlock
from grokscope.models.spec import RecursiveSpec
from grokscope.native import compiler
from grokscope.training.start import with_threads
from grokscope.world.format import FormatSpec

there = pytest.mark.skipif(not available(), reason="no AVX512-BF16, or no C++ compiler")
sizes = st.tuples(st.integers(1, 20), st.integers(1, 64), st.integers(1, 9), st.integers(1, 4))
"""Examples, positions, width / 16, inner width / 64."""


def drawn(size, seed):
    """States, the weights of a mixer and a gradient."""
    examples, positions, width, inner = size[0], size[1], 16 * size[2], 64 * size[3]
    random = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(examples, positions, width, generator=random).bfloat16() for _ in range(2))
    gate_up = torch.randn(2 * inner, positions, generator=random) / math.sqrt(positions)
    return x, gate_up, torch.randn(positions, inner, generator=random) / math.sqrt(inner), g


def plain(x, gate_up, down):
    """The mixer by PyTorch's operations, in the dtype of x."""
    gate, up = (x.transpose(1, 2) @ gate_up.to(x.dtype).t()).chunk(2, dim=-1)
    return ((F.silu(gate) * up) @ down.to(x.dtype).t()).transpose(1, 2)


def same(one, two):
    """Rounded in the same places: nearly all are the same bits, and the others are neighbours."""
    assert (one != two).sum() <= 2 + 0.02 * one.numel()
    torch.testing.assert_close(one, two, rtol=2**-6, atol=2**-6)


@there
@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 99))
def test_the_mixer_is_that_of_the_plain_operations(size, seed):
    x, gate_up, down, _ = drawn(size, seed)
    y = mixing.mixed(x, gate_up, down)
    same(y, plain(x, gate_up, down))
    normed = x.clone()
    mixing.mix_(normed, gate_up, down)
    sums = (x + y).float()
    same(normed, (sums * torch.rsqrt(sums.square().mean(1, keepdim=True) + EPS)).bfloat16())


@there
@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 99))
def test_its_gradient_is_as_near_to_the_exact_one_as_that_of_the_plain_operations(size, seed):
    x, gate_up, down, g = drawn(size, seed)
    exact = [one.bfloat16().float().requires_grad_() for one in (x, gate_up, down)]
    exactly = torch.autograd.grad(plain(*exact), exact, g.float())
    errors = []
    for function in (mixing.mixed, plain):
        leaves = [one.clone().requires_grad_() for one in (x, gate_up, down)]
        grads = torch.autograd.grad(function(*leaves), leaves, g)
        pairs = zip(grads, exactly, leaves, strict=True)
        errors.append([])
        for ours, right, leaf in pairs:
            assert ours.dtype == leaf.dtype
            errors[-1].append(float((ours.float() - right).norm() / right.norm()))
    for ours, others in zip(*errors, strict=True):
        assert ours < max(1.3 * others, 0.01)


@there
def test_threads_change_no_bit():
    x, gate_up, down, g = drawn((37, 21, 8, 4), 0)
    results = []
    for threads in (1, 2, 3):
        with with_threads(threads):
            mixed = torch.ops.grokscope.mixed(x, gate_up, down)
            results.append([mixed, *torch.ops.grokscope.mixed_backward(g, x, gate_up, down)])
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@there
def test_a_second_derivative_is_refused():
    """And not zero."""
    x, gate_up, down, _ = drawn((2, 3, 1, 1), 0)

    def slope(x):
        return grad_and_value(lambda x: mixing.mixed(x, gate_up, down).float().square().sum())(x)[0]

    with pytest.raises(RuntimeError, match="no second derivative"):
        grad_and_value(lambda x: slope(x).float().square().sum())(x)


@there
def test_states_that_lie_otherwise_are_put_right():
    x, gate_up, down, g = drawn((5, 8, 2, 1), 1)
    across = [one.transpose(0, 1).contiguous().transpose(0, 1) for one in (x, g)]
    assert torch.equal(mixing.mixed(across[0], gate_up, down), mixing.mixed(x, gate_up, down))
    ours, plainly = (
        torch.ops.grokscope.mixed_backward(*given, gate_up, down)[0] for given in (across[::-1], (g, x))
    )
    assert torch.equal(ours, plainly)


@there
def test_members_are_mixed_each_with_its_own_weights():
    """The gradient of a sum over members is what a population trains by."""
    members = [drawn((4, 6, 2, 1), seed) for seed in range(3)]
    x, gate_up, down, g = (torch.stack(parts) for parts in zip(*members, strict=True))

    def loss(weights, x, g):
        return (vmap(mixing.mixed)(x, *weights).float() * g).sum()

    grads, _ = grad_and_value(loss)((gate_up, down), x, g)
    for index, (own_x, own_gate_up, own_down, own_g) in enumerate(members):
        alone = torch.ops.grokscope.mixed_backward(own_g, own_x, own_gate_up, own_down)[1:]
        assert all(torch.equal(many[index], one) for many, one in zip(grads, alone, strict=True))


@there
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
@pytest.mark.parametrize("cycles", [1, 2])
def test_a_compiled_gradient_has_the_mixers_own(cycles):
    """Of the last outer cycle alone; a graph that looked into the operation would have none."""
    fmt = FormatSpec(attention="full", output="answer")
    spec = RecursiveSpec(width=32, layers=1, h_cycles=cycles, l_cycles=1, mixer=True, prefix=3)
    model = build_model(spec, 20, 3, fmt, 0, "bfloat16")
    torch.nn.init.normal_(model.prefix_embedding)
    tokens = torch.randint(1, 20, (6, 3), generator=torch.Generator().manual_seed(0))
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    aim = torch.randn(6, 6, 32, generator=torch.Generator().manual_seed(1))

    def gradient(params):
        def loss(params):
            return (functional_call(model, params, (tokens,), tie_weights=False) * aim).sum()

        return grad_and_value(loss)(params)

    plain = model
    plain.forward = lambda tokens: plain.hidden(tokens).float()
    eager, _ = gradient(params)
    model = accelerated(plain, gradients=True)
    model.forward = lambda tokens: model.hidden(tokens).float()
    compiled, _ = torch.compile(gradient, fullgraph=True)(params)
    for name in ("gate_up", "down"):
        for part in ("mixer", "mlp"):
            key = f"level.blocks.0.{part}.{name}.weight"
            assert eager[key].norm() > 0.1
            assert (eager[key] - compiled[key]).norm() < 0.05 * eager[key].norm()


@there
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 99))
def test_what_stands_between_products_is_that_of_the_plain_operations(rows, registers, seed):
    random = torch.Generator().manual_seed(seed)
    x, y = (3 * torch.randn(rows, 16 * registers, generator=random).bfloat16() for _ in range(2))
    gates = torch.cat([x, y], dim=1)
    same(pieces.gated(gates, torch.empty_like(x)), F.silu(x) * y)
    # In float64: PyTorch's bfloat16 has nothing left of it below zero.
    near = x.clamp(-6, 6)
    same(pieces.gelu(near), F.gelu(near.double(), approximate="tanh").bfloat16())
    torch.testing.assert_close(pieces.gelu(x), F.gelu(x, approximate="tanh"), rtol=2**-6, atol=1e-3)
    for given_y, sums in ((y, (x + y).float()), (None, x.float())):
        scaled = sums * torch.rsqrt(sums.square().mean(-1, keepdim=True) + EPS)
        same(pieces.normed(x, given_y), scaled.bfloat16())
    inplace = x.clone()
    assert torch.equal(pieces.normed(inplace, y, inplace), pieces.normed(x, y))


@there
def test_extreme_gates_are_silu():
    x = torch.tensor(
        [-3e30, -200.0, -90.0, -80.0, -0.0, 0.0, 80.0, 90.0, 200.0, 3e30, 1e-20, -1e-20] + 4 * [1.0]
    )
    x = x.bfloat16()[None]
    ones = torch.ones_like(x)
    out = pieces.gated(torch.cat([x, ones], dim=1), torch.empty_like(x))
    np.testing.assert_allclose(out.float(), F.silu(x).float(), rtol=0.01, atol=1e-2)
    broken = torch.full_like(x, torch.nan)
    assert pieces.gated(torch.cat([broken, ones], dim=1), torch.empty_like(x)).isnan().all()


@there
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.data())
def test_attention_is_that_of_the_plain_operations(batch, positions, heads, registers, causal, data):
    """Also of heads that lie among others, and of positions in the middle that ask alone."""
    width = 16 * registers
    quick = accelerated(Attention(heads * width, heads, causal, Init.seeded("fan_in", 0)))
    random = torch.Generator().manual_seed(batch)
    qkv = torch.randn(batch, positions, 3, heads, width, generator=random).bfloat16()
    q, k, v = qkv.unbind(2)
    first = data.draw(st.integers(0, positions - 1))
    for at in (None, slice(first, positions)):
        asking = q if at is None else q[:, at]
        with torch.no_grad():
            assert pieces.attends(asking, k, v)
            same(quick.mix(asking, k, v, at=at), by_sums(asking, k, v, causal, at))
    k[0, 0] = torch.nan
    with torch.no_grad():
        assert quick.mix(q, k, v)[0].isnan().all()


@there
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100), st.integers(0, 17), st.integers(0, 17), st.data())
def test_a_copy_is_whole_and_says_what_is_not_finite(size, source_at, target_at, data):
    """Wherever both begin in memory; nothing beside it is touched."""
    source = torch.arange(1.0, 121.0)[source_at : source_at + size]
    memory_around = torch.zeros(120)
    target = memory_around[target_at : target_at + size]
    assert memory.copied(source, target)
    assert torch.equal(source, target)
    assert memory_around.count_nonzero() == size
    if size:
        where = data.draw(st.integers(0, size - 1))
        source[where] = data.draw(st.sampled_from([math.inf, -math.inf, math.nan]))
        assert not memory.copied(source, target)
        assert torch.equal(source.isfinite(), target.isfinite())


logits = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, math.inf, -math.inf, math.nan]), st.floats(-50, 50, width=32)
)


@there
@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 40))
def test_what_is_read_off_logits_is_what_the_plain_operations_read(data, batch, positions, vocab):
    """Ties, infinities and what is not a number included."""
    values = data.draw(st.lists(logits, min_size=vocab, max_size=vocab * positions * batch))
    size = batch * positions * vocab
    logits_BSV = torch.tensor((values * size)[:size]).view(batch, positions, vocab)
    tokens = st.lists(st.integers(0, vocab - 1), min_size=2 * batch, max_size=2 * batch)
    target_BC = torch.tensor(data.draw(tokens)).view(batch, 2)
    rank, logp, argmax = pieces.readout(logits_BSV, target_BC)
    with library.plainly():
        plain_rank, plain_logp, plain_argmax = lens.measure(logits_BSV, target_BC)
    assert torch.equal(rank, plain_rank)
    assert torch.equal(argmax, plain_argmax)
    torch.testing.assert_close(logp, plain_logp, rtol=1e-5, atol=2e-5, equal_nan=True)


@there
def test_put_aside_reading_takes_the_plain_operations():
    spec = RecursiveSpec(width=32, layers=2, h_cycles=1, l_cycles=1, mixer=True, prefix=3)
    model = build_model(spec, 20, 3, FormatSpec(attention="full", output="answer"), 0, "bfloat16")
    blocks = [matrices_of(block) for block in model.level.blocks]
    assert type(mixer_passes.mixer_passes(blocks, torch.bfloat16)) is NativePasses
    with library.plainly(), torch.no_grad():
        assert type(mixer_passes.mixer_passes(blocks, torch.bfloat16)) is MixerPasses
        assert not pieces.reads(torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.int64))
        assert not library.serves(torch.zeros(1, 16).bfloat16())
        assert type(accelerated(model, gradients=True).level.blocks[0]) is MixerBlock


@there
@pytest.mark.parametrize("change", ["columns", "bfloat16", "float64"])
def test_weights_of_another_layout_or_dtype_are_read_right(change):
    """An edited or converted model: its passes are the plain ones, and frozen while it is looked at."""
    spec = RecursiveSpec(width=32, layers=2, h_cycles=1, l_cycles=1, mixer=True, prefix=3)
    model = build_model(spec, 20, 3, FormatSpec(attention="full", output="answer"), 0, "bfloat16")
    torch.nn.init.normal_(model.prefix_embedding)
    mixer = model.level.blocks[0].mixer
    if change == "columns":
        for part in (mixer.gate_up, mixer.down):
            part.weight.data = part.weight.data.t().contiguous().t()
    else:
        model.to(getattr(torch, change))
    tokens = torch.randint(1, 20, (6, 3), generator=torch.Generator().manual_seed(0))

    def last(model):
        carry = model.start(tokens)
        for stage in model.stages[1:]:
            carry = model.step(carry, stage.index)
        return model.read(carry, len(model.stages) - 1)

    with torch.no_grad():
        plainly, twin = last(model), accelerated(model)
        quick = last(twin)
        mixer.down.weight.data.zero_()
        assert torch.equal(last(twin), quick)
    assert (quick == plainly).float().mean() > 0.95
    torch.testing.assert_close(quick, plainly, rtol=0.05, atol=0.05)


@there
def test_what_does_not_fit_is_refused():
    """What is read by a pointer must be what it is taken for."""
    x, gate_up, down, g = drawn((4, 8, 2, 1), 0)
    for wrong in (
        (x.float(), gate_up, down),
        (x, gate_up.bfloat16(), down),
        (x, gate_up, down.double()),
        (x, gate_up[:-2], down),
        (x, gate_up, down.t()),
    ):
        with pytest.raises(ValueError, match="cannot be mixed"):
            torch.ops.grokscope.mixed(*wrong)
        with pytest.raises(ValueError, match="cannot be mixed"):
            torch.ops.grokscope.mixed_backward(g, *wrong)
    with pytest.raises(ValueError, match="like x"):
        torch.ops.grokscope.mixed_backward(g.float(), x, gate_up, down)
    logits = torch.zeros(2, 3, 20)
    for targets in ([[20], [0]], [[-1], [0]]):
        with pytest.raises((IndexError, RuntimeError)):
            lens.measure(logits, torch.tensor(targets))
    assert not pieces.reads(logits, torch.zeros(2, 1, dtype=torch.int32))
    many = torch.zeros(1, 65, 1, 16).bfloat16()
    with torch.no_grad():
        assert not pieces.attends(many, many, many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_the_same_function_for_a_compiler(dtype):
    plain = Mlp(4, 4, "gelu", Init.seeded("fan_in", 0))
    traced = accelerated(plain, gradients=True)
    x = torch.linspace(-12, 12, 4801).to(dtype).requires_grad_()
    slack = {torch.float32: 2e-6, torch.bfloat16: 0.02}[dtype]
    out, wanted = traced.gelu(x), plain.gelu(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out, wanted, rtol=slack, atol=slack)
    (slope,), (wanted_slope,) = (torch.autograd.grad(y.sum(), x) for y in (out, wanted))
    torch.testing.assert_close(slope, wanted_slope, rtol=slack, atol=slack)
    far = traced.gelu(torch.tensor([-1e30, -1e4, 1e4, 1e30]))
    torch.testing.assert_close(far, torch.tensor([0.0, 0.0, 1e4, 1e30]))


def test_a_variable_puts_them_aside(monkeypatch):
    monkeypatch.setenv(library.VARIABLE, "off")
    assert not available()
