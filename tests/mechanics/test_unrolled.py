"""Passes in parts against passes whole."""

import torch

from grokscope.mechanics import unrolled
from grokscope.mechanics.unrolled import chunks, step_rows

from .tiny import encoded, model


def test_parts_are_the_whole_pass_and_what_it_leaves_alone_is_not_copied(monkeypatch):
    """Copies of the embedding and of the other state would be two thirds of what is kept of a run."""
    reasoner = model("recursive")
    tokens_BS = torch.from_numpy(encoded("recursive", "test_iid").tokens_NS[:7]).long()
    with torch.no_grad():
        carry = reasoner.start(tokens_BS)
        monkeypatch.setattr(unrolled, "_cached", lambda carry: chunks(len(carry[0]), 3))
        for stage in reasoner.stages[1:]:
            whole, parts = reasoner.step(carry, stage.index), step_rows(reasoner, carry, stage.index)
            for name, one in whole._asdict().items():
                torch.testing.assert_close(getattr(parts, name), one, atol=1e-5, rtol=0)
                changes = name == f"{stage.site}_BTD"
                assert (getattr(parts, name) is getattr(carry, name)) != changes
            carry = whole
