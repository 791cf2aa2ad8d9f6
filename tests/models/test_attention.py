"""Both forms of attention against torch's kernel."""

import pytest
import torch
import torch.nn.functional as F

from grokscope.models.attention import FEW, Rotary, by_products, by_pytorch, by_sums


@pytest.mark.parametrize("form", [by_sums, by_products, by_pytorch])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [1, 3, 5, 6, 21])
def test_attention_is_scaled_dot_product_attention(form, causal: bool, positions: int) -> None:  # type: ignore[no-untyped-def]
    draws = torch.Generator().manual_seed(positions)
    # large scores: a softmax without the maximum taken out would overflow
    q, k, v = (40 * torch.randn(2, positions, 3, 8, generator=draws) for _ in range(3))
    truth = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal)
    torch.testing.assert_close(form(q, k, v, causal), truth.transpose(1, 2), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("form", [by_sums, by_products])
def test_bfloat16_attention_stays_near_float32(form) -> None:  # type: ignore[no-untyped-def]
    """Scores and softmax in float32: the error is that of the inputs' rounding, a few parts in 256."""
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, FEW, 4, 16, generator=draws).bfloat16() for _ in range(3))
    found = form(q, k, v, causal=True)
    assert found.dtype == torch.bfloat16
    truth = form(q.float(), k.float(), v.float(), causal=True)
    torch.testing.assert_close(found.float(), truth, atol=0.03, rtol=0.02)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    rotary = Rotary(9, 8)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turned_q, turned_k = (rotary(x.expand(1, 9, 1, 8))[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(-8, 9):
        along = scores.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-5)
    assert scores.diagonal(0)[0] != scores.diagonal(1)[0]
