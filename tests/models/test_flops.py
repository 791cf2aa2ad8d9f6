"""What is counted, against arithmetic by hand."""

import pytest

from grokscope.models.build import build_model
from grokscope.models.flops import evaluation, reading
from grokscope.models.spec import LoopedSpec, ModelSpec, RecursiveSpec
from grokscope.world.format import FormatSpec

T, D, V = 5, 64, 50
ATTENTION = 8 * T * D * D + 4 * T * T * D
"""q, k, v and output maps; scores and sums."""


@pytest.mark.parametrize(
    ("spec", "passes", "states"),
    [
        (LoopedSpec(width=D, layers=2, loops=3), 6 * (ATTENTION + 16 * T * D * D), 7),
        (LoopedSpec(width=D, layers=1, loops=1, inference_loops=4), 4 * (ATTENTION + 16 * T * D * D), 5),
        (
            LoopedSpec(width=D, layers=1, loops=2, activation="swiglu", reembed_temperature=1.0),
            2 * (ATTENTION + 24 * T * D * D) + 4 * T * D * V,
            3,
        ),
        (
            # Inner widths 256, for the features and for the positions.
            RecursiveSpec(width=D, layers=2, h_cycles=2, l_cycles=3, prefix=0),
            2 * 4 * 2 * (6 * T * D * 256 + 6 * D * T * 256),
            9,
        ),
    ],
)
def test_evaluation_and_lens_are_their_products(spec: ModelSpec, passes: int, states: int) -> None:
    model = build_model(spec, V, T, FormatSpec(), 0, "float32")
    assert evaluation(model, 1).flop == passes + 2 * D * V
    assert reading(model).flop == passes + states * T * 2 * D * V
