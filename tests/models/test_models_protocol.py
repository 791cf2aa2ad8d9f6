"""start, step, read, write and hidden agree, whatever the configuration."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from grokscope.errors import InputError
from grokscope.models.blocks import only
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from tests.models.helpers import CAUSAL, FULL, VOCAB, models, shaken, tokens, unrolled

SMALL: list[tuple[ModelSpec, bool]] = [
    (LoopedSpec(width=16, heads=2, layers=1, loops=2), True),
    (LoopedSpec(width=16, layers=1, norm="layernorm", norm_position="pre", shared=False), False),
    (RecursiveSpec(width=16, layers=1, h_cycles=2, l_cycles=2, prefix=2), False),
    (
        RecursiveSpec(width=16, layers=1, h_cycles=3, l_cycles=1, mixer=False, heads=2, positions="rotary"),
        False,
    ),
]


def build(spec: ModelSpec, causal: bool, seed: int = 0, dtype: str = "float32") -> Reasoner:
    return build_model(spec, VOCAB, 5, CAUSAL if causal else FULL, seed, dtype)


@settings(max_examples=60, deadline=None)
@given(models())
def test_the_unrolled_loop_is_hidden_and_forward(model: Reasoner) -> None:
    tokens_BS = tokens(3, model.positions)
    with torch.no_grad():
        states = unrolled(model, tokens_BS)
        assert [stage.index for stage in model.stages] == list(range(len(states)))
        assert all(state.dtype == model.dtype for state in states)
        assert torch.equal(states[-1], model.hidden(tokens_BS, model.inference_loops))
        logits_BSV = model(tokens_BS)
        assert logits_BSV.shape == (3, model.positions, VOCAB)
        assert logits_BSV.dtype == torch.float32
        # cutting the prefix before or after the head may change the order of summation, not the numbers
        torch.testing.assert_close(
            logits_BSV, model.unembed(states[-1])[:, model.prefix :], atol=1e-4, rtol=1e-4
        )


@settings(max_examples=40, deadline=None)
@given(models(), st.data())
def test_write_then_read_and_resume_from_a_carry(model: Reasoner, data: st.DataObject) -> None:
    stage = data.draw(st.integers(0, len(model.stages) - 1))
    with torch.no_grad():
        carry, other = (model.start(tokens(2, model.positions, seed)) for seed in (0, 1))
        for index in range(1, stage + 1):
            carry, other = model.step(carry, index), model.step(other, index)
        before = [value.clone() for value in carry]
        state_BTD = model.read(other, stage)
        same = model.write(carry, stage, model.read(carry, stage))
        assert all(torch.equal(a, b) for a, b in zip(same, carry, strict=True))
        mixed = model.write(carry, stage, state_BTD)
        assert torch.equal(model.read(mixed, stage), state_BTD)
        for index in range(stage + 1, len(model.stages)):
            mixed, other = model.step(mixed, index), model.step(other, index)
        assert all(torch.equal(a, b) for a, b in zip(carry, before, strict=True)), (
            "a carry was changed in place"
        )
        assert torch.equal(
            model.read(other, len(model.stages) - 1), unrolled(model, tokens(2, model.positions, 1))[-1]
        )


@settings(max_examples=60, deadline=None)
@given(models(), st.data())
def test_one_position_of_a_pass_is_that_of_the_whole_pass(model: Reasoner, data: st.DataObject) -> None:
    """Also with every value inside the pass changed, whichever positions the tap is shown."""
    stage = data.draw(st.integers(1, len(model.stages) - 1))
    position = data.draw(st.integers(0, model.prefix + model.positions - 1))
    near = 1e-4 if model.dtype == torch.float32 else 0.1
    with torch.no_grad():
        carry = model.start(tokens(3, model.positions))
        for index in range(1, stage):
            carry = model.step(carry, index)
        for tap in (None, lambda site, value: value if site.endswith("pattern") else value * 0.5 + 0.25):
            whole = model.read(model.step(carry, stage, tap), stage)[:, position]
            alone = model.step_at(carry, stage, position, tap)
            assert alone.dtype == model.dtype
            torch.testing.assert_close(alone, whole, atol=near, rtol=near)


@settings(max_examples=60, deadline=None)
@given(models(dtypes=("float32",)), st.data())
def test_some_positions_of_hidden_are_those_of_all(model: Reasoner, data: st.DataObject) -> None:
    """Of each example its own, in any order and several times, or the same of all; gradients too."""
    total = model.prefix + model.positions
    if data.draw(st.booleans(), label="own"):
        row = st.lists(st.integers(0, total - 1), min_size=2, max_size=2)
        at: Tensor | slice = torch.tensor(data.draw(st.lists(row, min_size=3, max_size=3)))
    else:
        at = slice(*sorted(data.draw(st.lists(st.integers(0, total), min_size=2, max_size=2, unique=True))))
    tokens_BS = tokens(3, model.positions)
    truth = only(model.hidden(tokens_BS), at)
    found = model.hidden_at(tokens_BS, at)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)
    pull = torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    parameters = list(model.parameters())
    ours, theirs = (
        torch.autograd.grad((pull * state).sum(), parameters, allow_unused=True) for state in (found, truth)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, atol=1e-4 * (1 + float(other.abs().max())), rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(models(dtypes=("float32",)), st.data())
def test_what_stays_at_its_position_changes_no_other(model: Reasoner, data: st.DataObject) -> None:
    stage = data.draw(st.integers(1, len(model.stages) - 1))
    position = data.draw(st.integers(0, model.prefix + model.positions - 1))
    with torch.no_grad():
        carry = model.start(tokens(3, model.positions))
        for index in range(1, stage):
            carry = model.step(carry, index)
        plain = model.read(model.step(carry, stage, lambda _, value: value), stage)
        staying = [site for site in model.sites(stage)[1:] if model.stays(stage, site)]
        assert {site.rpartition(".")[2] for site in staying} in ({"attention", "mlp"}, {"mlp"})
        for changed in staying:

            def tap(site: str, value: Tensor, changed: str = changed) -> Tensor:
                if site != changed:
                    return value
                value = value.clone()
                value[:, position] = value[:, position] * 2.0 + 1.0
                return value

            state = model.read(model.step(carry, stage, tap), stage)
            others = [t for t in range(state.shape[1]) if t != position]
            assert torch.equal(state[:, others], plain[:, others])
            assert not torch.equal(state[:, position], plain[:, position])


@pytest.mark.parametrize("stage", range(5))
def test_a_written_state_is_all_that_a_looped_model_without_injection_knows(stage: int) -> None:
    model = build(LoopedSpec(width=16, heads=2, layers=2, loops=2, injection=False), causal=True)
    carry, other = model.start(tokens(2, 5, 0)), model.start(tokens(2, 5, 1))
    for index in range(1, stage + 1):
        carry, other = model.step(carry, index), model.step(other, index)
    mixed = model.write(carry, stage, model.read(other, stage))
    for index in range(stage + 1, len(model.stages)):
        mixed = model.step(mixed, index)
    final_BTD = model.read(mixed, len(model.stages) - 1)
    assert torch.equal(final_BTD, model.hidden(tokens(2, 5, 1)))
    assert not torch.equal(final_BTD, model.hidden(tokens(2, 5, 0)))


def test_a_causal_model_does_not_see_ahead_and_a_full_one_does() -> None:
    spec = LoopedSpec(width=16, heads=2, positions="learned")
    for causal in (True, False):
        model = build(spec, causal)
        tokens_BS = tokens(2, 5)
        changed = tokens_BS.clone()
        changed[:, 4] = (changed[:, 4] + 1) % VOCAB
        before, after = model(tokens_BS), model(changed)
        assert torch.equal(before[:, :4], after[:, :4]) == causal
        assert not torch.equal(before[:, 4], after[:, 4])


@pytest.mark.parametrize(("spec", "causal"), SMALL)
def test_only_the_last_outer_cycle_carries_gradient(spec: ModelSpec, causal: bool) -> None:
    """As taken by hand: the carry is cut before the last cycle (TRM), or nowhere (looped)."""
    model = shaken(build(spec, causal))
    tokens_BS = tokens(3, 5)
    model.hidden(tokens_BS).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    carry = model.start(tokens_BS)
    cut = len(model.stages) - 1 - spec.l_cycles - 1 if isinstance(spec, RecursiveSpec) else None
    for index in range(1, len(model.stages)):
        carry = model.step(carry, index)
        if index == cut:
            carry = type(carry)(carry.z_H_BTD.detach(), carry.z_L_BTD.detach(), carry.embedding_BTD)
    model.read(carry, len(model.stages) - 1).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


@pytest.mark.parametrize(("spec", "causal"), SMALL[::2])
def test_hidden_compiles_whole_and_without_change(spec: ModelSpec, causal: bool) -> None:
    model = build(spec, causal)
    torch._dynamo.reset()
    compiled = torch.compile(model.hidden, backend="aot_eager", fullgraph=True, dynamic=False)
    found, truth = compiled(tokens(3, 5)), model.hidden(tokens(3, 5))
    torch.testing.assert_close(found, truth, atol=1e-5, rtol=1e-5)
    (found_grad,) = torch.autograd.grad(found.sum(), [model.get_parameter("token_embedding")])
    (truth_grad,) = torch.autograd.grad(truth.sum(), [model.get_parameter("token_embedding")])
    torch.testing.assert_close(found_grad, truth_grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("spec", "causal"), SMALL)
def test_many_members_at_once(spec: ModelSpec, causal: bool) -> None:
    """A leading member axis on all parameters gives every member's own logits and gradients."""
    members = [build(spec, causal, seed) for seed in (0, 1)]
    stacked, buffers = stack_module_state(list(members))
    tokens_BS = tokens(3, 5)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return functional_call(members[0], (parameters, buffers), (tokens_BS,)).square().mean()

    found = vmap(grad(loss))(stacked, buffers)
    for index, member in enumerate(members):
        member(tokens_BS).square().mean().backward()
        for name, parameter in member.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name][index], parameter.grad, atol=1e-5, rtol=1e-4)


def test_hooks_see_every_pass_of_a_shared_block() -> None:
    looped = build(LoopedSpec(width=16, heads=2, layers=2, loops=3), causal=True)
    recursive = build(RecursiveSpec(width=16, heads=2, h_cycles=2, l_cycles=3, prefix=0), causal=False)
    for model, name, times in (
        (looped, "blocks.1", 3),
        (recursive, "level", 8),
        (recursive, "level.blocks.0", 8),
    ):
        seen: list[Tensor] = []
        hook = model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, seen=seen: seen.append(out)
        )
        states = unrolled(model, tokens(2, 5))
        hook.remove()
        assert len(seen) == times
        if name != "level.blocks.0":
            at = [s.index for s in model.stages[1:] if name == "level" or s.layer == 1]
            assert all(torch.equal(a, states[i]) for a, i in zip(seen, at, strict=True))


@settings(max_examples=25, deadline=None)
@given(models(dtypes=("float32",)))
def test_a_tap_that_changes_nothing_changes_nothing(model: Reasoner) -> None:
    """It is called at the announced sites, in order, at every stage."""
    with torch.no_grad():
        carry = model.start(tokens(2, model.positions))
        for stage in model.stages[1:]:
            seen: list[str] = []
            # Each pass from the same carry: over many passes a TRM blows up another order of sums.
            tapped = model.step(
                carry, stage.index, lambda site, value, seen=seen: (seen.append(site), value)[1]
            )
            carry = model.step(carry, stage.index)
            assert ("state" if stage.site == "state" else stage.site, *seen) == model.sites(stage.index)
            torch.testing.assert_close(
                model.read(tapped, stage.index), model.read(carry, stage.index), atol=1e-4, rtol=1e-4
            )


def test_refusals() -> None:
    model = build(RecursiveSpec(width=16, heads=2, h_cycles=1, l_cycles=1, prefix=1), causal=False)
    carry = model.start(tokens(2, 5))
    for stage in (0, 3, -1):
        with pytest.raises(InputError, match="stage"):
            model.step(carry, stage)
    with pytest.raises(InputError, match="positions 5"):
        model(tokens(2, 4))
    with pytest.raises(InputError, match="positions 1 to 5"):
        build(LoopedSpec(width=16, heads=2), causal=True)(tokens(2, 6))
    with pytest.raises(InputError, match="not shared"):
        build(LoopedSpec(width=16, heads=2, loops=2, shared=False), causal=True).hidden(tokens(2, 5), 3)
    for any_model in (model, build(LoopedSpec(width=16, heads=2), causal=True)):
        with pytest.raises(InputError, match="at least 1"):
            any_model.hidden(tokens(2, 5), 0)
