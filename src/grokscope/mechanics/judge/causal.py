"""The causal verdict: does a model answer by resolving the bridge and looking it up, and how much of it does?

`examine` asks one probe set of one model; `combine` joins what ID and OOD queries say with the behaviour
over training. The rule and the reason of every threshold are on docs/verdict.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias, get_args

import numpy as np
import xarray as xr
from scipy import special

from grokscope.mechanics.judge.ablation import Ablation, ablate
from grokscope.mechanics.judge.needed import needed_maps
from grokscope.mechanics.judge.share import EDGE, NEEDED, REST, Cell, Share, share
from grokscope.mechanics.patch.drawing import RANDOM, Drawn, Setting, draw
from grokscope.mechanics.patch.interchange import accuracy_in, interchange
from grokscope.mechanics.unrolled import STATE
from grokscope.models.protocol import Reasoner
from grokscope.statistics.clustered import FEWEST_PROBES, Rate, clustered_rate, rate_among
from grokscope.statistics.estimate import Estimate, Spread, text
from grokscope.world.probes import ProbeSet

Mechanism: TypeAlias = Literal["circuit", "memorised", "partial", "redundant", "undecided"]
Verdict: TypeAlias = Literal[
    "memorised", "circuit without delay", "grokked circuit", "fake grokking", "partial", "undecided"
]

KNOWN: tuple[Mechanism, ...] = get_args(Mechanism)[:-1]
"""Every mechanism but "undecided"."""
MOST_NEEDED = 100_000
"""More answers than this are not named as what would decide: the share lies at a threshold."""
STATE_ARMS = ("bridge", "centroid", "transport", RANDOM, *NEEDED)
"""Arms of the map that a verdict shows."""


@dataclass(frozen=True)
class Interchanged(Spread):
    """An arm's accuracy in the share's cell, given what the model knows, and given nothing; None where there
    are too few pairs."""

    rate: Estimate | None
    n: int
    unconditioned: float | None
    n_unconditioned: int


@dataclass(frozen=True, eq=False)
class Examined:
    """What one probe set says of the mechanism."""

    probe_set: str
    mechanism: Mechanism
    possible: tuple[Mechanism, ...]
    """Mechanisms that the interval leaves open: one where it is decided, all where nothing can be said."""
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
        return found.value if near or found.holds(ablation.necessary.value) else None


def examine(
    model: Reasoner,
    probe_set: ProbeSet,
    setting: Setting,
    atoms_known_P: np.ndarray,
    confidence: float = 0.95,
    maps: xr.Dataset | None = None,
    drawn: Drawn | None = None,
    shown: bool = True,
) -> Examined:
    """The mechanism behind the right answers of one probe set.

    Args:
        model: any reasoner.
        probe_set: probes of as many hops as what was trained.
        setting: the world, what was trained, the format, seed and memory.
        atoms_known_P: which probes have both atoms answered right.
        confidence: level of the intervals.
        maps: the interchange of these probes with `STATE_ARMS`, if it has been made already.
        drawn: donors of these probes, if they have been drawn already: of `STATE_ARMS`, with `maps` of
            `NEEDED`, with `shown` False also of the bridge arm.
        shown: also measure what a verdict shows and its mechanism does not depend on: every cell of the
            map, sufficiency and necessity. False: several times as fast, `ablation` None, `arms` empty.

    Raises:
        InputError: the probes have other hops than what was trained, or the budget is too small.
    """
    if drawn is None:
        drawn = draw(model, probe_set, setting, STATE_ARMS if maps is None else NEEDED)
    if maps is None and shown:
        maps = interchange(model, probe_set, setting, STATE_ARMS, drawn=drawn)
    maps, *inside = needed_maps(model, probe_set, setting, drawn, maps)
    found = share(maps, *inside, confidence=confidence)
    ablation = ablate(model, probe_set, setting, maps, found, confidence) if shown else None
    right_P = (maps["clean_said"] == maps["answer"]).values
    fact_PK = probe_set.fact_PK
    guess = clustered_rate(probe_set.guess_P == probe_set.queries.path_NK[:, -1], fact_PK, confidence)
    known = rate_among(right_P, fact_PK, np.asarray(atoms_known_P, dtype=bool), confidence, fewest=1)
    arms: dict[str, Interchanged] = {}
    if shown and found.cells and found.cells[0].site == maps.attrs["site"]:
        arms = {arm: _interchanged(maps, arm, found.cells[0], confidence) for arm in STATE_ARMS}
    possible, reason = judge_share(found, all(cell.site == STATE for cell in found.cells))
    exact = clustered_rate(right_P, fact_PK, confidence)
    if exact.low <= guess.high:
        possible = KNOWN
        reason = f"{exact.value:.2f} right is not above guessing ({guess.value:.2f}): too little to explain."
    mechanism: Mechanism = possible[0] if len(possible) == 1 else "undecided"
    return Examined(probe_set.name, mechanism, possible, reason, exact, guess, known, found, ablation, arms)


def _interchanged(maps: xr.Dataset, arm: str, cell: Cell, confidence: float) -> Interchanged:
    """An arm's accuracy in one cell."""
    (given, n), (free, n_free) = (
        accuracy_in(maps, arm, (cell.stage, cell.column), conditioned, confidence)
        for conditioned in (True, False)
    )
    return Interchanged(given, n, free.value if free else None, n_free)


def judge_share(found: Share, in_state: bool) -> tuple[tuple[Mechanism, ...], str]:
    """The rule for one probe set: the mechanisms that are possible, and the sentence that says why.

    Args:
        found: the share. in_state: whether its cells are states, which are all that goes on: only there do
        what falls with the bridge and what falls without it tell of two routes.
    """
    rate, used = found.rate, len(found.probe_U)
    if rate is None or used < FEWEST_PROBES:
        return KNOWN, f"{used} right answers have donors, {FEWEST_PROBES} are needed."
    said = f"share through the bridge {text(rate, ends='.3f', form='{} ({} to {}, n = {n})')}"
    both_U = (found.drop_U > REST) & (found.rest_U > REST) & (found.rest_U < 1 - REST)
    both = clustered_rate(both_U, np.arange(used)[:, None])
    if in_state and both.low > 0.5:
        part = 1 - float(found.rest_U.mean())
        return (
            ("redundant",),
            f"the bridge is {part:.2f} of the evidence of most answers, other routes add the rest.",
        )
    within = {
        "circuit": rate.high >= 1 - EDGE,
        "partial": rate.low < 1 - EDGE and rate.high > EDGE,
        "memorised": rate.low <= EDGE,
        "redundant": in_state and both.high > 0.5,
    }
    possible = tuple(name for name in KNOWN if within[name])
    if possible == ("memorised",):
        return possible, said + ": no cell carries the bridge to the answer."
    if len(possible) == 1:
        return possible, said + "."
    return possible, f"{said}: {' or '.join(possible)}{_deciding(rate)}."


def _deciding(rate: Rate) -> str:
    """How many answers would decide at this share: the n at which Wilson's interval leaves out the nearest
    threshold e, z^2 e (1 - e) / (share - e)^2, times the answers per independent one."""
    edge = min((EDGE, 1 - EDGE), key=lambda one: abs(rate.value - one))
    z = float(special.ndtri(0.975))
    gap = max(abs(rate.value - edge), 1e-9)
    needed = z**2 * edge * (1 - edge) / gap**2 * rate.n / rate.n_effective
    return f"; about {needed:.0f} such answers would decide" if rate.n < needed <= MOST_NEEDED else ""


def combine(
    behaviour: str, in_distribution: Examined | None, out_of_distribution: Examined | None
) -> tuple[Verdict, str]:
    """The verdict on a run: how it came to answer OOD queries, and by what.

    Args:
        behaviour: as in `judge.diagnosis`. in_distribution: of trained queries. out_of_distribution: of
        queries with two OOD hops; None: not tested.
    """
    inner, outer = (
        one.possible if one is not None else KNOWN for one in (in_distribution, out_of_distribution)
    )
    seen = f"ID {_open(inner)}, OOD {_open(outer)}; behaviour: {behaviour}."
    cases = [_rule(behaviour, one, other) for one, other in product(inner, outer)]
    verdicts = list(dict.fromkeys(verdict for verdict, _ in cases))
    if len(verdicts) > 1:
        return "undecided", f"{' or '.join(verdicts)}: {seen}"
    notes = {note for _, note in cases}
    return verdicts[0], (notes.pop() if len(notes) == 1 else "") + seen


def together(found: Mapping[str | None, tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """The verdict on a run of several bridges, from `combine`'s by name: theirs, if it is one and the same.

    Where some bridges carry the answer and others do not, only part of the path is a circuit.
    """
    if len(found) == 1:
        return next(iter(found.values()))
    verdicts = [verdict for verdict, _ in found.values()]
    reason = " ".join(f"{name}: {verdict}: {why}" for name, (verdict, why) in found.items())
    if len(set(verdicts)) == 1:
        return verdicts[0], reason
    return "undecided" if "undecided" in verdicts else "partial", reason


def _rule(behaviour: str, inner: Mechanism, outer: Mechanism) -> tuple[Verdict, str]:
    """The table of docs/verdict.md for known mechanisms: verdict, and what is to be said before the facts."""
    if behaviour == "memorised":
        if inner == "memorised":
            return "memorised", ""
        return "partial", "a path for ID facts that OOD facts do not have: "
    if outer in ("partial", "redundant"):
        return "partial", ""
    if behaviour in ("generalised without delay", "generalised after a delay", "delayed rise, incomplete"):
        late = behaviour != "generalised without delay"
        if outer == "circuit":
            return ("grokked circuit" if late else "circuit without delay"), ""
        return ("fake grokking" if late else "partial"), "OOD answers without the bridge: "
    if behaviour == "partial":
        return "partial", ""
    return "undecided", ""


def _open(possible: tuple[Mechanism, ...]) -> str:
    """A decided mechanism, or what is left open."""
    if len(possible) == 1:
        return possible[0]
    return "undecided" if possible == KNOWN else f"undecided ({' or '.join(possible)})"
