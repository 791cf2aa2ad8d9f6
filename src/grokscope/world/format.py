"""How a query becomes tokens and labels: the training formats of the reference, as one value."""

from typing import Literal

from grokscope.spec import Spec


class FormatSpec(Spec):
    """Attention and output decide the layout.

    full + sequence (the reference's TRM):  [h r1 r2 PAD PAD] -> [h r1 r2 t </a>]
    full + answer:                          [h r1 r2 PAD PAD] -> [_ _ _ t _]
    causal + answer:                        [h r1 r2]         -> [_ _ t]         (t read at the last query token)
    causal + sequence (GPT-2 style):        [h r1 r2 t]       -> [_ _ t </a>]
    """

    attention: Literal["causal", "full"] = "full"
    """Causal, or full attention with the answer read at a PAD position."""
    output: Literal["sequence", "answer"] = "sequence"
    """Loss over the whole label, or over the answer token only."""
