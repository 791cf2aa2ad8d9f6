"""The optimiser against PyTorch's own."""

import pytest
import torch

from grokscope.errors import InputError
from grokscope.runs.files import load_study
from grokscope.training.optim import NEWTON_SCHULZ, Optimizer, orthogonalise, orthogonalise_all
from grokscope.training.spec import OptimizerSpec
from tests.training import tiny


def gradients(optimizer, params, steps, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [{name: torch.randn(p.shape, generator=draw) for name, p in params.items()} for _ in range(steps)]


def walk(kind, changes, steps=30):
    """The states of some steps under random gradients, and those gradients."""
    model = tiny.model(kind)
    optimizer = Optimizer(tiny.spec(**changes), model)
    states = [optimizer.start(model)]
    grads = gradients(optimizer, states[0].params, steps)
    for step, grad in enumerate(grads):
        states.append(optimizer.update(states[-1], grad, optimizer.scalars(step)))
    return optimizer, states, grads


def test_adamw_is_torchs():
    settings = OptimizerSpec(kind="adamw", lr=3e-3, weight_decay=0.7, beta1=0.9, beta2=0.98)
    _, states, grads = walk("looped", {"optimizer": settings, "warmup": 0})
    params = {name: p.clone().requires_grad_() for name, p in states[0].params.items()}
    other = torch.optim.AdamW(params.values(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.7, eps=1e-8)
    for grad in grads:
        for name, p in params.items():
            p.grad = grad[name]
        other.step()
    for name, p in params.items():
        torch.testing.assert_close(states[-1].params[name], p.detach(), rtol=1e-6, atol=1e-6)


def test_muon_is_torchs():
    settings = OptimizerSpec(kind="muon", lr=1e-3, muon_lr=3e-3, weight_decay=0.7, muon_weight_decay=0.3)
    optimizer, states, grads = walk("looped", {"optimizer": settings, "warmup": 0})
    params = {name: states[0].params[name].clone().requires_grad_() for name in optimizer.muon}
    other = torch.optim.Muon(
        params.values(), lr=3e-3, weight_decay=0.3, momentum=0.95, nesterov=True, ns_steps=5,
        ns_coefficients=NEWTON_SCHULZ, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    for grad in grads:
        for name, p in params.items():
            p.grad = grad[name]
        other.step()
    for name, p in params.items():
        # Newton-Schulz runs in bfloat16 in both, in another order of operations.
        start, end = states[0].params[name], states[-1].params[name]
        difference = (end - p.detach()).norm() / (end - start).norm()
        assert float(difference) < 0.02, name


def test_muon_update_is_orthogonal_and_has_the_size_of_adamws():
    draw = torch.Generator().manual_seed(0)
    # Well-conditioned: five iterations bring very small singular values only part of the way.
    matrices = {
        "wide": torch.randn(24, 96, generator=draw),
        "tall": torch.randn(96, 24, generator=draw),
        "other": torch.randn(24, 48, generator=draw),
    }
    out = orthogonalise_all(matrices, [["wide"], ["tall"], ["other"]])
    for name, matrix in matrices.items():
        singular = torch.linalg.svdvals(out[name])
        assert float(singular.min()) > 0.6
        assert float(singular.max()) < 1.3
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        cosine = (out[name] * (u @ v)).sum() / out[name].norm() / (u @ v).norm()
        assert float(cosine) > 0.97, name
        rms = 0.2 * max(matrix.shape) ** 0.5 * out[name].square().mean().sqrt()
        assert 0.15 < float(rms) < 0.25


def test_stacking_and_lying_down_change_no_matrix():
    draw = torch.Generator().manual_seed(0)
    matrices = {name: torch.randn(48, 16, generator=draw) for name in "abc"}
    together = orthogonalise_all(matrices, [list("abc")])
    for name, matrix in matrices.items():
        torch.testing.assert_close(together[name], orthogonalise(matrix), rtol=0.02, atol=2e-3)
        torch.testing.assert_close(together[name].mT, orthogonalise(matrix.mT), rtol=0.02, atol=2e-3)


def test_every_parameter_has_one_rule():
    for kind in ("looped", "gpt2", "recursive", "mixer"):
        for rule in ("adamw", "muon"):
            model = tiny.model(kind)
            optimizer = Optimizer(tiny.spec(optimizer=OptimizerSpec(kind=rule)), model)
            every = sorted(optimizer.adamw + optimizer.muon + optimizer.sign)
            assert every == sorted(name for name, _ in model.named_parameters())
            assert optimizer.sign == (["prefix_embedding"] if kind in ("recursive", "mixer") else [])
            assert bool(optimizer.muon) == (rule == "muon")
            assert all(model.get_parameter(name).ndim == 2 for name in optimizer.muon)


def test_prefix_is_sign_sgd_with_its_own_rates():
    settings = OptimizerSpec(kind="adamw", lr=1e-2, prefix_lr=1e-3, prefix_weight_decay=2.0)
    _, states, grads = walk("recursive", {"optimizer": settings, "warmup": 0}, steps=2)
    p = states[0].params["prefix_embedding"]
    for grad in grads:
        p = p * (1 - 1e-3 * 2.0) - 1e-3 * grad["prefix_embedding"].sign()
    torch.testing.assert_close(states[-1].params["prefix_embedding"], p)


def test_vectors_and_position_codes_can_be_spared_from_decay():
    settings = {"kind": "adamw", "lr": 1e-3, "weight_decay": 5.0}
    moved = {}
    for decay in (True, False):
        wanted = OptimizerSpec(**settings, decay_vectors=decay)
        _, states, _ = walk("gpt2", {"optimizer": wanted, "warmup": 0}, steps=5)
        moved[decay] = states[-1].params
    spared = {name for name in moved[True] if not torch.equal(moved[True][name], moved[False][name])}
    model = tiny.model("gpt2")
    vectors = {name for name, p in model.named_parameters() if p.ndim < 2}
    zero = {
        name for name, p in model.named_parameters() if not p.any()
    }  # decay does nothing to them at the start
    assert spared >= vectors - zero
    assert spared <= vectors | {"position_embedding"}
    assert "position_embedding" in spared


def test_ema_ramps_and_then_decays():
    _, states, _ = walk("looped", {"ema": 0.9}, steps=100)
    for name in states[0].params:
        average = states[0].ema[name].double()
        for step, state in enumerate(states[1:]):
            keep = min(0.9, (1 + step) / (10 + step))
            average = keep * average + (1 - keep) * state.params[name].double()
        torch.testing.assert_close(states[-1].ema[name].double(), average, rtol=1e-5, atol=1e-6)


def test_ema_off_is_the_weights():
    _, states, _ = walk("looped", {"ema": 0.0}, steps=3)
    for name, p in states[-1].params.items():
        assert torch.equal(states[-1].ema[name], p)


def test_update_changes_nothing_it_is_given():
    model = tiny.model("recursive")
    optimizer = Optimizer(tiny.spec(), model)
    state = optimizer.start(model)
    before = [{name: t.clone() for name, t in part.items()} for part in state]
    optimizer.update(state, gradients(optimizer, state.params, 1)[0], optimizer.scalars(0))
    for part, old in zip(state, before, strict=True):
        assert all(torch.equal(part[name], old[name]) for name in old)


def test_muon_needs_matrices():
    model = tiny.model("looped")
    model.group_of = lambda name: "head"  # type: ignore[method-assign]
    with pytest.raises(InputError, match="block matrices"):
        Optimizer(tiny.spec(), model)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_grokfast_is_the_published_filter_before_any_rule(kind):
    """h = first gradient, then h = d h + (1 - d) g; the rule sees g + amplification h."""
    settings = {"kind": kind, "lr": 1e-3}
    wanted = OptimizerSpec(**settings, grokfast=2.0, grokfast_decay=0.9)
    _, states, grads = walk("recursive", {"optimizer": wanted, "warmup": 0}, steps=6)
    plain = Optimizer(tiny.spec(optimizer=OptimizerSpec(**settings), warmup=0), tiny.model("recursive"))
    state, slow = plain.start(tiny.model("recursive")), None
    assert state.slow == {}
    for step, grad in enumerate(grads):
        slow = grad if slow is None else {n: 0.9 * s + 0.1 * grad[n] for n, s in slow.items()}
        filtered = {name: g + 2.0 * slow[name] for name, g in grad.items()}
        state = plain.update(state, filtered, plain.scalars(step))
    for name, p in state.params.items():
        torch.testing.assert_close(states[-1].params[name], p, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(states[-1].slow[name], slow[name], rtol=1e-4, atol=1e-5)


def test_a_run_without_grokfast_is_the_run_it_was():
    """Its identity, and so its directory, is that of runs from before there was a filter."""
    before = load_study("pocket").expand()["natural-s0"]
    assert before.identity == "c286a29e7488"
    settings = before.training.optimizer
    with_filter = before.training.replace(optimizer=settings.replace(grokfast=2.0))
    assert before.replace(training=with_filter).identity != before.identity
