"""The causal verdict: does a model answer by resolving the bridge and looking it up, and how much of it does?

`examine` asks one probe set of one model; `combine` joins what ID and OOD queries say with the behaviour
over training. The rule and the reason of every threshold are on docs/verdict.md.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr

from grokscope.mechanics.ablation import Ablation, ablate
from grokscope.mechanics.interchange import FEWEST, RANDOM, Setting, accuracy, draw, interchange
from grokscope.mechanics.intervals import Rate, clustered_rate
from grokscope.mechanics.share import EDGE, NEEDED, Cell, Share, settled, share
from grokscope.mechanics.unrolled import inside_sites
from grokscope.models.protocol import Reasoner
from grokscope.world.probes import ProbeSet

Mechanism: TypeAlias = Literal["circuit", "memorised", "partial", "redundant", "undecided"]
Verdict: TypeAlias = Literal[
    "memorised", "circuit without delay", "grokked circuit", "fake grokking", "partial", "undecided"
]

ADDED = 0.2
"""A route adds to an answer if the margin falls by more than this without it: less is what any exchange of
states can cost a trained model."""
STATE_ARMS = ("bridge", "centroid", "transport", RANDOM, *NEEDED)
"""Arms of the map that a verdict shows."""


@dataclass(frozen=True, eq=False)
class Interchanged:
    """An arm's accuracy in the cell, given what the model knows, and given nothing."""

    rate: float
    low: float
    high: float
    n: int
    unconditioned: float
    n_unconditioned: int


@dataclass(frozen=True, eq=False)
class Examined:
    """What one probe set says of the mechanism."""

    probe_set: str
    mechanism: Mechanism
    reason: str
    accuracy: Rate
    """Exact answers, all probes."""
    guess: Rate
    """Probes that the most frequent tail of r2 answers."""
    atoms_known: Rate | None
    """Exact answers among probes whose two atoms are both answered right; None: there is none."""
    share: Share
    ablation: Ablation | None
    arms: dict[str, Interchanged]
    """In the first of the share's cells, when that is a state."""

    @property
    def cell(self) -> Cell | None:
        """Where the second hop takes the bridge."""
        return self.share.cells[0] if self.share.cells else None

    @property
    def through_circuit(self) -> float | None:
        """The one share, only where losing the bridge, sufficiency and necessity agree; else None."""
        found, ablation = self.share.rate, self.ablation
        if found is None or ablation is None or not ablation.agree:
            return None
        near = abs(found.value - ablation.necessary.value) <= EDGE
        return found.value if near or found.low <= ablation.necessary.value <= found.high else None


def examine(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    atoms_known_P: np.ndarray,
    confidence: float = 0.95,
    maps: xr.Dataset | None = None,
) -> Examined:
    """The mechanism behind the right answers of one probe set.

    Args:
        model: any reasoner.
        probe_set: two-hop probes.
        setting: the world, what was trained, the format, seed and memory.
        atoms_known_P: which probes have both atoms answered right.
        confidence: level of the intervals.
        maps: the interchange of these probes with `STATE_ARMS`, if it has been made already.

    Raises:
        InputError: the probes do not have two hops, or the budget is too small.
    """
    if maps is None:
        maps = interchange(model, probe_set, setting, STATE_ARMS)
    inside = []
    if not settled(maps):
        drawn = draw(model, probe_set, setting, NEEDED)
        sites = inside_sites(model)
        inside = [interchange(model, probe_set, setting, NEEDED, site=site, drawn=drawn) for site in sites]
    found = share(maps, *inside, confidence=confidence)
    ablation = ablate(model, probe_set, setting, maps, found, confidence)
    right_P = (maps["clean_said"] == maps["answer"]).values
    fact_PK = probe_set.fact_PK
    guess = clustered_rate(probe_set.guess_P == probe_set.queries.path_NK[:, 1], fact_PK, confidence)
    known_P = np.asarray(atoms_known_P, dtype=bool)
    known = clustered_rate(right_P[known_P], fact_PK[known_P], confidence) if known_P.any() else None
    arms: dict[str, Interchanged] = {}
    if found.cells and found.cells[0].site == maps.attrs["site"]:
        for arm in STATE_ARMS:
            given, free = (accuracy(maps, arm, conditioned, confidence) for conditioned in (True, False))
            cell = {"stage": found.cells[0].stage, "position": found.cells[0].column}
            rate, low, high = (float(given[name].isel(cell)) for name in ("rate", "low", "high"))
            arms[arm] = Interchanged(
                rate, low, high, int(given["n"]), float(free["rate"].isel(cell)), int(free["n"])
            )
    mechanism, reason = judge_share(found, ablation)
    exact = clustered_rate(right_P, fact_PK, confidence)
    if mechanism != "undecided" and exact.low <= guess.high:
        mechanism = "undecided"
        reason = f"{exact.value:.2f} right is not above guessing ({guess.value:.2f}): too little to explain."
    return Examined(probe_set.name, mechanism, reason, exact, guess, known, found, ablation, arms)


def judge_share(found: Share, ablation: Ablation | None) -> tuple[Mechanism, str]:
    """The rule for one probe set: mechanism and the sentence that says why."""
    rate, used = found.rate, len(found.probe_U)
    if rate is None or used < FEWEST:
        return "undecided", f"{used} right answers have donors, {FEWEST} are needed."
    said = f"share through the bridge {rate.value:.2f} ({rate.low:.2f} to {rate.high:.2f}, n = {rate.n})"
    both_U = (found.drop_U > ADDED) & (found.rest_U > ADDED) & (found.rest_U < 1 - ADDED)
    if ablation is not None and clustered_rate(both_U, np.arange(used)[:, None]).low > 0.5:
        part = 1 - float(found.rest_U.mean())
        return (
            "redundant",
            f"the bridge is {part:.2f} of the evidence of most answers, other routes add the rest.",
        )
    if rate.low >= 1 - EDGE:
        return "circuit", said + "."
    if rate.high <= EDGE:
        return "memorised", said + ": no cell carries the bridge to the answer."
    if rate.low > EDGE and rate.high < 1 - EDGE:
        return "partial", said + "."
    return "undecided", said + ": the interval reaches over a threshold."


def combine(
    behaviour: str, in_distribution: Examined | None, out_of_distribution: Examined | None
) -> tuple[Verdict, str]:
    """The verdict on a run: how it came to answer OOD queries, and by what.

    Args:
        behaviour: as in `mechanics.diagnosis`. in_distribution: of trained queries. out_of_distribution: of
        queries with two OOD hops; None: not tested.
    """
    inner = in_distribution.mechanism if in_distribution else "undecided"
    outer = out_of_distribution.mechanism if out_of_distribution else "undecided"
    seen = f"ID {inner}, OOD {outer}; behaviour: {behaviour}."
    if behaviour == "memorised":
        if inner == "memorised":
            return "memorised", seen
        if inner in ("circuit", "partial", "redundant"):
            return "partial", f"a path for ID facts that OOD facts do not have: {seen}"
        return "undecided", seen
    if outer in ("partial", "redundant"):
        return "partial", seen
    if behaviour in ("generalised without delay", "generalised after a delay", "delayed rise, incomplete"):
        late = behaviour != "generalised without delay"
        if outer == "circuit":
            return ("grokked circuit" if late else "circuit without delay"), seen
        if outer == "memorised":
            return ("fake grokking" if late else "partial"), f"OOD answers without the bridge: {seen}"
        return "undecided", seen
    if behaviour == "partial" and outer in ("circuit", "memorised"):
        return "partial", seen
    return "undecided", seen
