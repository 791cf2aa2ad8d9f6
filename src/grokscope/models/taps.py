"""Taps: a callable that sees, and may replace, values inside a pass.

A pass offers these sites, by name, in the order they are computed:

- `injection`: what is added to the state before the blocks (looped: the input embedding, before every loop
  but the first; TRM: z_H + e in a thinking pass, z_L in a commit);
- `block{i}.pattern`: attention weights (B, H, T, T), query position before key position;
- `block{i}.attention` or `block{i}.mixer`: what mixing over positions adds to the residual stream (B, T, D);
- `block{i}.mlp`: what the MLP adds to it.

The state after a pass is no tap site: `Reasoner.read` and `write` are for that. Without a tap nothing is
computed differently; with one, attention is computed by matrix products, so that there is a pattern to see.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Tap: TypeAlias = Callable[[str, Tensor], Tensor]
"""tap(site, value) -> the value to go on with."""


def tapped(tap: Tap | None, site: str, value: Tensor) -> Tensor:
    """`value` as `tap` leaves it; `value` itself when there is no tap."""
    return value if tap is None else tap(site, value)


def within(tap: Tap | None, place: str) -> Tap | None:
    """The tap that a part of the model named `place` is given: its sites are called `place.site`."""
    if tap is None:
        return None
    outer = tap
    return lambda site, value: outer(f"{place}.{site}", value)
