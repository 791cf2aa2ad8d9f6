"""The objective against the reference's formulas."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.training.data import labelled
from grokscope.training.loss import Objective, mean_loss, negative_log_likelihood
from tests.training import tiny


def stablemax_reference(logits_BSV, label_BS):
    """The reference's code in its own terms: s(x), normalised, in float64; mean per example."""
    x = logits_BSV.double()
    s = torch.where(x < 0, 1 / (1 - x + 1e-30), x + 1)
    logp = torch.log(s / s.sum(-1, keepdim=True))
    mask = label_BS != 0
    picked = logp.gather(-1, label_BS[..., None]).squeeze(-1)
    return (-torch.where(mask, picked, 0).sum(-1) / mask.sum(-1)).mean()


def gradient(kind, logits, target):
    leaf = logits.clone().requires_grad_()
    value = mean_loss(negative_log_likelihood(leaf, target, kind), target)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 300.0), st.integers(2, 2207))
def test_stablemax_is_the_references_in_both_precisions(seed, scale, vocab):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 3, vocab, generator=draw) * scale
    logits[0, 0, 0] = 0.0
    target = torch.randint(1, vocab, (5, 3), generator=draw)
    target[1, 2] = target[2, 1] = 0
    leaf = logits.clone().requires_grad_()
    expected = stablemax_reference(leaf, target)
    slope = torch.autograd.grad(expected, leaf)[0]
    for kind, close in (("stablemax64", 1e-12), ("stablemax", 3e-6)):
        value, grad = gradient(kind, logits, target)
        assert float(value) == pytest.approx(float(expected.detach()), rel=close)
        # Relative to the largest gradient: far tails have gradients of 1e-9, which weigh nothing.
        assert float((grad - slope).abs().max()) <= max(close, 1e-6) * float(slope.abs().max())


def test_stablemax_gradient_is_finite_where_a_branch_would_not_be():
    logits = torch.tensor([[[0.0, 1.0, -1.0, 1e4, -1e4]]])
    for kind in ("stablemax", "stablemax64"):
        value, grad = gradient(kind, logits, torch.tensor([[1]]))
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()
    # At 0 both branches of s have slope 1, so the target's own gradient is 1/sum - 1.
    _, grad = gradient("stablemax64", torch.zeros(1, 1, 4), torch.tensor([[2]]))
    assert grad[0, 0].tolist() == pytest.approx([0.25, 0.25, -0.75, 0.25])


def test_mean_is_per_example_first():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[3, 0, 0], [1, 2, 4]])
    logp = logits.log_softmax(-1)
    expected = (-logp[0, 0, 3] + -(logp[1, 0, 1] + logp[1, 1, 2] + logp[1, 2, 4]) / 3) / 2
    value = mean_loss(negative_log_likelihood(logits, target, "softmax"), target)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", ["looped", "gpt2", "recursive", "mixer"])
def test_objective_is_the_loss_over_all_logits(kind):
    """Gathering labelled states before the head must give what masking all logits gives."""
    data, model = tiny.data(kind), tiny.model(kind)
    rows_NC, layout = data.rows()
    pick = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:64]
    label_BS = data.labels_NS[pick].long()
    state_BTD = model.hidden(data.tokens_NS[pick].long())
    logits_BSV = model.unembed(state_BTD[:, model.prefix :])
    logp = -F.cross_entropy(logits_BSV.flatten(0, 1), label_BS.flatten(), reduction="none").view_as(label_BS)
    mask = label_BS != 0
    expected = (-torch.where(mask, logp, 0).sum(1) / mask.sum(1)).mean()
    halt_B2 = model.halt(state_BTD)
    if halt_B2 is not None:
        right_B = ((logits_BSV.argmax(-1) == label_BS) | ~mask).all(1).float()
        expected = expected + 0.5 * F.binary_cross_entropy_with_logits(halt_B2[:, 0], right_B)
    found = Objective(model, layout, "softmax", 0.5)(rows_NC[pick])
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert (halt_B2 is None) == (kind in ("looped", "gpt2"))


def test_halting_term_trains_the_halting_head_alone():
    """The target is detached: it is a number, not a way for gradients into the logits."""
    model = tiny.model("recursive")
    rows_NC, layout = tiny.data("recursive").rows()
    grads = {}
    for weight in (0.0, 0.5):
        loss = Objective(model, layout, "stablemax", weight)(rows_NC[:32])
        names, params = zip(*model.named_parameters(), strict=True)
        grads[weight] = dict(zip(names, torch.autograd.grad(loss, params, allow_unused=True), strict=True))
    assert grads[0.0]["halting.weight"] is None
    assert float(grads[0.5]["halting.weight"].abs().sum()) > 0
    # The halting head starts with zero weights, so it sends nothing back into the states yet.
    torch.testing.assert_close(grads[0.5]["head.weight"], grads[0.0]["head.weight"], rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**31))
def test_labelled_keeps_every_label_and_its_place(rows, size, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(1, 9, (rows, size)) * rng.integers(0, 2, (rows, size))).int()
    labels[:, 0] = 5
    position, target = labelled(labels)
    back = torch.zeros_like(labels)
    for row in range(rows):
        for p, t in zip(position[row].tolist(), target[row].tolist(), strict=True):
            if t:
                back[row, p] = t
    assert torch.equal(back, labels)
    assert target.shape[1] == int((labels != 0).sum(1).max())
