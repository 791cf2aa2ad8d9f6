"""What finding 3 needs of a transfer."""

from collections.abc import Mapping
from dataclasses import dataclass

from grokscope.mechanics.intervals import Rate

MIXES = ("new_then_old", "old_then_new", "new_then_new")


@dataclass(frozen=True)
class Transferred:
    """One fine-tuning: a base, and what its new facts compose to at the end."""

    regime: str
    """Of the base; "control": a model that was not trained before."""
    moment: str
    """Which checkpoint of the base."""
    seed: int
    world: str
    mature: bool
    """The base answers OOD queries stably at 0.9 or above."""
    base_ood: Rate | None
    """OOD accuracy of the base."""
    accuracy: Mapping[str, Rate]
    """Per mix, among the probes whose two atoms are answered right; a mix without probes is absent."""
    bridge: Mapping[str, Rate]
    """Per mix, how often the bridge is resolved in time."""
