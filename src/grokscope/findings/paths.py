"""Do two groups of runs take the same path? The comparison of `mechanics.judge.compare`, over worlds.

Where every seed has a world of its own, runs of two regimes can be compared only within a world, one against
one: every world gives a distance in parts of its margin (1: a tenth of the queries go another way), and the
worlds are the sample. Two single models differ in more than their regime; the distance "by queries" would
call two seeds of one regime different too, so it is left out there, and the profile over all queries counts.
Where all runs share one world, regimes are compared as groups, less the distance between seeds.
"""

import math
from collections.abc import Sequence
from functools import partial

from grokscope.findings.measured import Measured, pairs
from grokscope.findings.rules import Draft
from grokscope.findings.values import Result
from grokscope.mechanics.judge.compare import compare
from grokscope.mechanics.judge.profile import Profile
from grokscope.statistics.exact import FEWEST_RUNS, Answer, equivalence

FEWEST_REPLICATES = 20
"""The distance itself needs none; `compare` asks for at least these."""


def same_path(
    key: str,
    hypothesis: str,
    first: Sequence[Measured],
    second: Sequence[Measured],
    sets: tuple[str, str],
) -> Draft:
    """The emergence of `sets[0]` in the first runs is that of `sets[1]` in the second, at the end.

    Args:
        key, hypothesis: of the claim.
        first, second: the runs of each side; the same ones twice to compare probe sets.
        sets: probe sets.
    """
    untested = partial(Draft, key, hypothesis, "same", None, "distance", "margins")
    one, two, paired = (list(first), list(second), True) if first is second else pairs(first, second)
    paths = [run.path(name) for group, name in zip((one, two), sets, strict=True) for run in group]
    known = [path for path in paths if path is not None]
    if len(known) < len(paths):
        said = f"{len(paths) - len(known)} of {len(paths)} traces hold no {' or '.join(dict.fromkeys(sets))}."
        return untested(said)
    left, right = known[: len(one)], known[len(one) :]
    if paired:
        values = [_in_margins(a, b) for a, b in zip(left, right, strict=True)]
        if lacking := sum(not math.isfinite(value) for value in values):
            said = f"{lacking} of {len(values)} distances do not exist: a probe set has too few queries."
            return untested(said)
        outcome = equivalence(values, [0.0] * len(values), 1.0, paired=True)
        said = "Emergence only: what is used is the causal claim."
        return Draft(key, hypothesis, "same", outcome, "distance", "margins", said, each=tuple(values))
    worlds = {run.world for run in [*one, *two]}
    if len(worlds) > 1:
        said = "the seeds of the regimes do not pair by world, and paths are compared on the same facts."
        return untested(said)
    found = compare(left, right)
    few = min(found.runs) < FEWEST_RUNS
    result: Result = "descriptive" if few else _RESULTS[found.answer]
    said = f"paths {found.answer}, level split over the distances instead of Holm: {found.reason}"
    return untested(said, result)


_RESULTS: dict[Answer, Result] = {
    "equivalent": "supported", "different": "contradicted", "cannot tell": "cannot tell",
}  # fmt: skip


def _in_margins(first: Profile, second: Profile) -> float:
    """The distance between two single runs' profiles, over its margin; NaN where there is none."""
    found = compare([first], [second], replicates=FEWEST_REPLICATES)
    (one,) = (one for one in found.distances if one.measure == "profile")
    return math.nan if one.estimate is None else one.estimate.value / one.margin
