"""How far is far: the distance that a mixture of the zoo causes.

A distance between profiles has no unit that means anything. So it is measured in zoo: a circuit of which a
share of the queries is answered as the memoriser of the same world does (in every cell and arm). Ten percent
is the smallest mixture of the zoo, and the margin within which two paths count as the same. It is a property
of the zoo alone, fixed before any run is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np

from grokscope.errors import InputError
from grokscope.mechanics.judge.profile import Kind, Profile, divergence, one_hot, profile
from grokscope.mechanics.patch.interchange import Setting, interchange
from grokscope.mechanics.read.layout import some_probes
from grokscope.mechanics.read.lens import lens
from grokscope.mechanics.zoo import wire
from grokscope.mechanics.zoo.members import PROBES

Measure: TypeAlias = Literal["profile", "queries"]
SHARE = 0.1
"""The mixture that is the margin."""
ASKED = 120
"""Probes of the zoo's world: circuit and memoriser hardly vary between probes, so that few are enough."""


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A circuit and a memoriser on the same probes."""

    circuit: Profile
    memoriser: Profile

    def at(self, share: float, kind: Kind) -> dict[Measure, float]:
        """The distances between the circuit and itself with `share` of the queries from the memoriser."""
        one_PXC, two_PXC = one_hot(self.circuit, kind), one_hot(self.memoriser, kind)
        both_PX = np.logical_and(one_PXC.any(axis=2), two_PXC.any(axis=2))[:, :, None]
        n_X1 = both_PX.sum(axis=0)
        kept_X = n_X1[:, 0] > 0
        p_XC = ((one_PXC * both_PX).sum(axis=0) / np.maximum(n_X1, 1))[kept_X]
        q_XC = ((two_PXC * both_PX).sum(axis=0) / np.maximum(n_X1, 1))[kept_X]
        differ_PX = ((one_PXC != two_PXC).any(axis=2) & both_PX[:, :, 0])[:, kept_X]
        return {
            "profile": float(divergence(p_XC, (1 - share) * p_XC + share * q_XC).mean()),
            "queries": share * float((differ_PX.sum(axis=0) / n_X1[kept_X, 0]).mean()),
        }


def mixture_margin(
    kind: Kind = "emergence", share: float = SHARE, arms: Sequence[str] = ("bridge",)
) -> dict[Measure, float]:
    """The distances that a mixture causes, per measure of `compare`.

    Args:
        kind: the channels.
        share: queries through the memory.
        arms: interchange arms of the causal channels.

    Raises:
        InputError: the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share = {share}: it must lie between 0 and 1.")
    return yardstick(tuple(arms) if kind == "causal" else ()).at(share, kind)


@cache
def yardstick(arms: tuple[str, ...] = ()) -> Yardstick:
    """The circuit and the memoriser of one world of the zoo; with arms, their causal channels as well."""
    profiles = []
    for name in ("circuit", "memoriser"):
        wired = wire(name, 0)
        every = wired.corpus.probes[PROBES]
        setting = Setting(wired.corpus.world, wired.corpus.composition, wired.format)
        probes, encoded = some_probes(every, setting.encode(every.queries), ASKED)
        trace = lens(wired.model, probes, encoded, wired.corpus.world.vocabulary)
        maps = interchange(wired.model, probes, setting, arms) if arms else None
        profiles.append(profile(trace, maps))
    return Yardstick(*profiles)
