"""How claims are tested: an event later than another, a rate above or below, one path or two.

Each test says in a plain sentence why there is nothing to test, where that is so.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from grokscope.findings.measured import Measured, pairs
from grokscope.findings.rules import Outcome
from grokscope.findings.values import Number, Result
from grokscope.mechanics.judge.compare import compare
from grokscope.mechanics.judge.profile import Profile
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import Estimate
from grokscope.statistics.exact import FEWEST_RUNS, Answer, difference, equivalence, location
from grokscope.statistics.rates import over_runs
from grokscope.statistics.times import compare_times, horizon, kaplan_meier, log_rank, restricted, seen

Read = Callable[[Measured], Rate | None]
EVENTS = {
    "saturation": "saturation",
    "generalisation.test_ood": "OOD accuracy 0.9",
    "bridge.test_ood": "bridge decoded for 0.9 of OOD queries",
    "bridge_before_last.test_iid": "bridge decoded for 0.9 of ID queries before the last stage",
}
"""What events are called."""
FEWEST_REPLICATES = 20
"""The distance itself needs none; `compare` asks for at least these."""


def later(
    first: Sequence[Measured],
    event: str,
    second: Sequence[Measured],
    reference: str,
    paper: tuple[Number, ...] = (),
) -> Outcome:
    """`event` in the runs of `first` comes later than `reference` in those of `second`.

    The same runs twice: within every run. Otherwise the groups pair by seed where the worlds do.
    """
    untested = partial(Outcome, paper=paper)
    if lacking := _lacking((first, event), (second, reference)):
        return untested(reason=lacking)
    same = first is second
    one, two, paired = (first, second, True) if same else pairs(first, second)
    groups = (time_number(one, event),) + (
        (time_number(two, reference),) if not same or event != reference else ()
    )
    for runs, name in ((one, event), (two, reference)):
        if not any(run.time(name).by is not None for run in runs):
            last = max(run.grid[-1] for run in runs)
            said = f"no run of {runs[0].regime} reached {_event(name)} within {last:,} steps"
            if name == reference and event != reference:
                said += ": nothing to be late against."
                return untested(reason=said, groups=groups)
    times = [run.time(event) for run in one], [run.time(reference) for run in two]
    end = horizon(*times)
    count = [int(seen(group, end).sum()) for group in times]
    if not any(count):
        said = f"neither was seen within the {end:,.0f} steps that all runs were looked at."
        return untested(reason=said, groups=groups)
    found = compare_times(*times, paired=paired)
    reason = ""
    if not same and min(len(one), len(two)) >= FEWEST_RUNS:
        reason = f"Log-rank by exchange of runs, not corrected: p = {log_rank(*times).p_value:.3g}."
    if min(count[0] - len(one), count[1] - len(two)) < 0:
        waiting = [f"{len(group) - n} of {len(group)}" for group, n in zip(times, count, strict=True)]
        reason += f" Censored at step {end:,.0f}: {waiting[0]} and {waiting[1]} runs."
    note = "at least" if count[0] < len(one) and count[1] == len(two) else ""
    logs = [restricted(group, end) for group in times]
    each = tuple((logs[0] - logs[1]).tolist()) if paired else ()
    return Outcome(
        found, "times as late", "factor", reason.strip(), scale=_factor, note=note,
        each=each, groups=groups, paper=paper,
    )  # fmt: skip


def delayed(runs: Sequence[Measured], paper: tuple[Number, ...] = ()) -> Outcome:
    """OOD accuracy is reached later than `diagnosis.delay` times saturation, within every run."""
    untested = partial(Outcome, paper=paper)
    if lacking := _lacking((runs, "generalisation.test_ood")):
        return untested(reason=lacking)
    groups = tuple(time_number(runs, event) for event in ("saturation", "generalisation.test_ood"))
    late, full = ([run.time(event) for run in runs] for event in ("generalisation.test_ood", "saturation"))
    unsaturated = sum(time.by is None for time in full)
    if unsaturated:
        said = f"{unsaturated} of {len(runs)} runs never saturated: there is nothing to be late against."
        return untested(reason=said, groups=groups)
    limit, end = runs[0].diagnosis.spec.delay, horizon(late, full)
    logs = restricted(late, end) - restricted(full, end) - math.log2(limit)
    waiting = ~seen(late, end)
    if (short := int((waiting & (logs < 0)).sum())) > 0:
        said = f"{short} of {len(runs)} runs were not looked at for {limit:g} times saturation."
        return untested(reason=said, groups=groups)
    reason = f"Tested against {limit:g} times."
    if waiting.any():
        reason += f" {int(waiting.sum())} of {len(runs)} runs did not reach it by step {end:,.0f}."
    return Outcome(
        location(logs), "OOD accuracy 0.9 over saturation", "factor", reason,
        scale=lambda value: limit * _factor(value), note="at least" if waiting.any() else "",
        each=tuple(logs.tolist()), groups=groups, paper=paper,
    )  # fmt: skip


def rates_differ(
    first: Sequence[Measured],
    second: Sequence[Measured],
    read: Read,
    what: str,
    margin: float | None = None,
    paper: tuple[Number, ...] = (),
) -> Outcome:
    """A rate of the first group's runs against the second's; with a margin, whether it is the same within
    it."""
    one, two, paired = pairs(first, second)
    label = f"{one[0].regime} less {two[0].regime}"
    known = [[read(run) for run in group] for group in (one, two)]
    groups = tuple(_rates(group, read, what) for group in (one, two))
    lacking = [run.name for run, rate in zip([*one, *two], known[0] + known[1], strict=True) if rate is None]
    if lacking:
        said = f"no {what} for {', '.join(lacking)}."
        return Outcome(reason=said, groups=groups, paper=paper)
    values = [[rate.value for rate in group if rate is not None] for group in known]
    outcome = (
        equivalence(values[0], values[1], margin, paired=paired)
        if margin is not None
        else difference(values[0], values[1], paired=paired)
    )
    each = tuple(a - b for a, b in zip(*values, strict=True)) if paired else ()
    return Outcome(outcome, label, "difference", each=each, groups=groups, paper=paper)


def rate_against(
    runs: Sequence[Measured],
    read: Read,
    what: str,
    threshold: float,
    paper: tuple[Number, ...] = (),
) -> Outcome:
    """The mean of a rate over runs against a fixed number."""
    known, groups = [read(run) for run in runs], (_rates(runs, read, what),)
    lacking = [run.name for run, rate in zip(runs, known, strict=True) if rate is None]
    if lacking:
        said = f"no {what} for {', '.join(lacking)}."
        return Outcome(reason=said, groups=groups, paper=paper)
    values = [rate.value for rate in known if rate is not None]
    outcome = location(values, threshold)
    return Outcome(
        outcome, what, "rate", f"Tested against {threshold:g}.",
        scale=lambda value: value + threshold, each=tuple(value - threshold for value in values),
        groups=groups, paper=paper,
    )  # fmt: skip


def rate_number(label: str, rates: Sequence[Rate | None], worlds: Sequence[str]) -> Number:
    """The mean of a rate over the runs that have it, and what it rests on in words."""
    known = [(rate, world) for rate, world in zip(rates, worlds, strict=True) if rate is not None]
    if not known:
        return Number(label, "rate", None, "0 runs", "not measured")
    found = over_runs([rate for rate, _ in known], [world for _, world in known])
    facts = min(min(rate.clusters) for rate, _ in known)
    rests = f"{_runs(len(known))}, {found.n:,} probes, at least {facts} facts a run"
    return Number(label, "rate", found, rests)


def time_number(runs: Sequence[Measured], event: str) -> Number:
    """The median step of an event, with the runs that never reached it as censored."""
    found = kaplan_meier([run.time(event) for run in runs])
    label = f"{_event(event)}, {runs[0].regime}, median"
    rests = f"{_runs(found.n)}, {found.events} with the event"
    steps = [time.by for run in runs if (time := run.time(event)).by is not None]
    if len(steps) > 1:
        rests += f" at step {min(steps):,.0f} to {max(steps):,.0f}"
    step = found.median
    if not math.isfinite(step.value):
        last = max(run.time(event).until for run in runs)
        return Number(label, "step", None, rests, f"> {last:,.0f}")
    low = step.low or -math.inf  # from step 0 on: no bound at this n
    return Number(label, "step", Estimate(step.value, low, step.high), rests)


def _rates(runs: Sequence[Measured], read: Read, what: str) -> Number:
    return rate_number(f"{what}, {runs[0].regime}", [read(run) for run in runs], [run.world for run in runs])


def _lacking(*asked: tuple[Sequence[Measured], str]) -> str:
    """Which runs have no probes for an event, as a sentence; empty: none."""
    names = [run.name for runs, event in asked for run in runs if not run.has(event)]
    return f"no probes for it in {', '.join(dict.fromkeys(names))}." if names else ""


def _event(name: str) -> str:
    return EVENTS.get(name, name)


def _runs(count: int) -> str:
    return f"{count} run{'s' if count != 1 else ''}"


def _factor(log2: float) -> float:
    return float(2**log2)


def same_path(
    first: Sequence[Measured],
    second: Sequence[Measured],
    sets: tuple[str, str],
) -> Outcome:
    """The emergence of `sets[0]` in the first runs is that of `sets[1]` in the second, at the end.

    Where every seed has a world of its own, runs of two regimes can be compared only within a world, one
    against one: every world gives a distance in parts of its margin (1: a tenth of the queries go another
    way), and the worlds are the sample. Two single models differ in more than their regime; the distance "by
    queries" would call two seeds of one regime different too, so it is left out there, and the profile over
    all queries counts. Where all runs share one world, regimes are compared as groups, less the distance
    between seeds.

    Args:
        first, second: the runs of each side; the same ones twice to compare probe sets.
        sets: probe sets.
    """
    one, two, paired = (list(first), list(second), True) if first is second else pairs(first, second)
    paths = [run.path(name) for group, name in zip((one, two), sets, strict=True) for run in group]
    known = [path for path in paths if path is not None]
    if len(known) < len(paths):
        said = f"{len(paths) - len(known)} of {len(paths)} traces hold no {' or '.join(dict.fromkeys(sets))}."
        return Outcome(reason=said)
    left, right = known[: len(one)], known[len(one) :]
    if paired:
        values = [_in_margins(a, b) for a, b in zip(left, right, strict=True)]
        if lacking := sum(not math.isfinite(value) for value in values):
            said = f"{lacking} of {len(values)} distances do not exist: a probe set has too few queries."
            return Outcome(reason=said)
        outcome = equivalence(values, [0.0] * len(values), 1.0, paired=True)
        said = "Emergence only: what is used is the causal claim."
        return Outcome(outcome, "distance", "margins", said, each=tuple(values))
    worlds = {run.world for run in [*one, *two]}
    if len(worlds) > 1:
        said = "the seeds of the regimes do not pair by world, and paths are compared on the same facts."
        return Outcome(reason=said)
    found = compare(left, right)
    few = min(found.runs) < FEWEST_RUNS
    result: Result = "descriptive" if few else _RESULTS[found.answer]
    said = f"paths {found.answer}, level split over the distances instead of Holm: {found.reason}"
    return Outcome(reason=said, missing=result)


_RESULTS: dict[Answer, Result] = {
    "equivalent": "supported", "different": "contradicted", "cannot tell": "cannot tell",
}  # fmt: skip


def _in_margins(first: Profile, second: Profile) -> float:
    """The distance between two single runs' profiles, over its margin; NaN where there is none."""
    found = compare([first], [second], replicates=FEWEST_REPLICATES)
    (one,) = (one for one in found.distances if one.measure == "profile")
    return math.nan if one.estimate is None else one.estimate.value / one.margin
