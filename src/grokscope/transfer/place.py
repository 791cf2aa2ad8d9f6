"""From rates to one sentence: where the second hop of a mix stands or falls."""

from typing import Literal, TypeAlias

from grokscope.statistics.clustered import FEWEST_PROBES, Rate
from grokscope.statistics.estimate import text
from grokscope.transfer.second_hop import Stations

Place: TypeAlias = Literal[
    "works", "bridge not resolved", "resolved, not read", "read, not looked up", "cannot tell"
]
MOST = 0.5
"""A station holds (fails) if the interval of its rate lies above (below) this: true of most queries."""


def place_of(known: Rate | None, failing: Stations, old: Stations | None, works: float) -> tuple[Place, str]:
    """Where the second hop fails, and why that is said.

    Args:
        known: accuracy among the probes whose two atoms are answered right; None: too few.
        failing: the stations of those among them that are answered wrong.
        old: of old queries that the model does answer; None: there are too few. If the lens does not read
            their bridge, or exchanging it does not move their answer (bridge and r2 share a position), these
            instruments can say nothing of the new ones.
        works: accuracy from which on a mix works.

    The first station that fails is named. The last word is the upper bound's: a query that is answered once
    its bridge is given does not fail at the lookup.
    """
    if known is None:
        return "cannot tell", f"fewer than {FEWEST_PROBES} queries have both atoms known."
    said = f"{known.value:.2f} right among {known.n} queries with known atoms"
    if known.value >= works:
        return "works", f"{said}."
    if failing.n < FEWEST_PROBES:
        return "cannot tell", f"{said}, but only {failing.n} fail: too few to say where."
    resolved, read, given = (_holds(one) for one in (failing.resolved, failing.read, failing.given))
    numbers = ", ".join(
        f"{name} {text(rate, form='{} ({} to {}, n {n})', missing='too few')}"
        for name, rate in (("resolved", failing.resolved), ("read", failing.read), ("given", failing.given))
    )
    said = f"{said}; of those that fail: {numbers}"
    if resolved is False:
        if old is not None and _holds(old.resolved) is False:
            return "cannot tell", f"{said}; the lens does not read the bridge of old queries either."
        return "bridge not resolved", f"{said}."
    if resolved is None:
        return "cannot tell", f"{said}: whether the bridge is resolved is not certain."
    if given is True:
        return "resolved, not read", f"{said}."
    if read is False:
        if old is None or _holds(old.read) is not True:
            return "cannot tell", f"{said}; no old queries show that their answer follows the bridge either."
        return "resolved, not read", f"{said}."
    if read is True and given is False:
        return "read, not looked up", f"{said}."
    unsure = "the bridge is read" if read is None else "it would be looked up if it were given"
    return "cannot tell", f"{said}: whether {unsure} is not certain."


def _holds(rate: Rate | None) -> bool | None:
    """True: of most; False: of few; None: not certain."""
    if rate is None or rate.holds(MOST):
        return None
    return rate.low > MOST
