"""Is grokking worthwhile? What every way to an OOD accuracy costs: training FLOP, time, compositions.

A way is a regime. With nothing added one waits until OOD queries are answered; a regime that adds
compositions of OOD facts pays in data instead. A run's cost is read at the first of `window` checkpoints in a
row at or above a level, so it is known to lie between two checkpoints; a run that never gets there is
censored at its last look, and stays in the curve as "at least that much". All runs of a study have steps of
one size, so FLOP are steps times a constant, and a ratio of steps is a ratio of FLOP.

Counted are training FLOP (examples and optimiser, `training.flops`), not evaluation and lens.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, log2
from statistics import mean, median

from grokscope.errors import InputError
from grokscope.findings.ways import Against, Kind, Reached, Way, Worth
from grokscope.mechanics.judge.diagnosis import VERDICT_SET
from grokscope.mechanics.read.phases import first_stable
from grokscope.runs.cost import step_flop
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from grokscope.statistics.estimate import Estimate
from grokscope.statistics.exact import difference
from grokscope.statistics.times import Time, compare_times, kaplan_meier

LEVELS = (0.5, 0.9)


def worthwhile(study: Study, levels: Sequence[float] = LEVELS, probe_set: str = VERDICT_SET) -> Worth:
    """Read what every way of a study costs from its finished runs. Nothing is written.

    Args:
        study: with at least one finished run.
        levels: accuracies to be reached, above 0 up to 1.
        probe_set: on which probes.

    Raises:
        InputError: no run is finished, a level is impossible, or the runs have no such probes.
    """
    if len(set(levels)) < len(levels):
        raise InputError(f"levels repeats an item: {list(levels)}.")
    for level in levels:
        if not 0 < level <= 1:
            raise InputError(f"levels = {level}: allowed is above 0, up to 1.")
    runs = study.runs
    finished = {name: run for name, run in runs.items() if run.finished}
    if not finished:
        raise InputError(f"{study.directory} has no finished run; what getting there costs is not known yet.")
    flop = step_flop(next(iter(finished.values())).setup)
    found = [reached(name, run, level, probe_set, flop) for level in levels for name, run in finished.items()]
    wanted = list(study.spec.expand())
    missing = [name for name in wanted if name not in finished]
    notes = [f"Not finished, so not counted: {', '.join(missing)}."] if missing else []
    pairs = "world" in study.spec.vary
    ways = [way for level in levels for way in ways_of([one for one in found if one.level == level], pairs)]
    return Worth(study.name, probe_set, study.spec.diagnosis.window, tuple(ways), tuple(found), tuple(notes))


def reached(name: str, run: Run, level: float, probe_set: str, flop: float) -> Reached:
    """When a finished run got to a level, from its metrics alone.

    Raises:
        InputError: the run has no such probes.
    """
    metrics, column, window = run.metrics.sort("step"), f"accuracy.{probe_set}", run.spec.diagnosis.window
    if column not in metrics.columns:
        raise InputError(f"probe_set = {probe_set!r}: run {name} has no such probes.")
    steps, values = metrics["step"].to_list(), metrics[column].to_list()
    step = first_stable(steps, values, level, window).step
    # A run with fewer looks than a window was not looked at at all; times are compared as logarithms.
    until = max(1.0, float(steps[max(0, len(steps) - window)]))
    if step is None:
        time, seconds = Time(until, None, until), None
    else:
        before = [one for one in steps if one < step]
        time = Time(float(before[-1]) if before else 0.0, float(max(step, 1)), max(until, float(step)))
        seconds = metrics["seconds"][steps.index(step)]
    counts = run.summary
    return Reached(
        run=name,
        regime=run.spec.regime.name,
        seed=run.spec.seed,
        level=level,
        time=time,
        accuracy=float(values[-1]),
        seconds=seconds,
        compositions=int(counts["train_compositions"]),
        added=sum(int(value) for name, value in counts.items() if name.startswith("injected_hop")),
        ood_facts=int(counts["ood_facts"]),
        step_flop=flop,
        batch=run.spec.training.batch,
    )


def ways_of(runs: Sequence[Reached], pairs: bool) -> list[Way]:
    """The ways of one level, those with least data first.

    Args:
        runs: of one level.
        pairs: runs of one seed share a world, and those of two seeds do not.
    """
    groups: dict[str, list[Reached]] = {}
    for one in runs:
        groups.setdefault(one.regime, []).append(one)
    waiting = next((group for group in groups.values() if not any(one.added for one in group)), None)
    ways = [_way(group, waiting, pairs) for group in groups.values()]
    ways.sort(key=lambda way: (way.added, way.regime))
    return [_judged(way, ways) for way in ways]


def _way(group: list[Reached], waiting: list[Reached] | None, pairs: bool) -> Way:
    first = group[0]
    curve = kaplan_meier([one.time for one in group])
    clocks = [one.seconds for one in group if one.seconds is not None]
    return Way(
        level=first.level,
        regime=first.regime,
        runs=len(group),
        reached=len(clocks),
        added=mean(one.added for one in group),
        added_per_fact=mean(one.added_per_fact for one in group),
        step=curve.median,
        after=curve.median_after,
        span=(
            min(one.time.by or one.time.until for one in group),
            max(one.time.by or inf for one in group),
        ),
        step_flop=first.step_flop,
        seconds=median(clocks) if 2 * len(clocks) > len(group) else None,
        against=None if waiting is None or waiting is group else compared(waiting, group, pairs),
        efficient=None,
    )


def compared(waiting: list[Reached], group: list[Reached], pairs: bool) -> Against:
    """How many times fewer steps a group takes than those that wait, of one level; paired by seed if
    `pairs`."""
    one, two = ({run.seed: run.time for run in runs} for runs in (waiting, group))
    seeds = sorted(set(one) & set(two))
    paired = pairs and bool(seeds)
    first, second = (
        ([one[seed] for seed in seeds], [two[seed] for seed in seeds])
        if paired
        else (list(one.values()), list(two.values()))
    )
    reached = [all(time.by is not None for time in times) for times in (first, second)]
    effect = difference(_log_steps(first), _log_steps(second), paired=paired)
    kinds: dict[tuple[bool, bool], Kind] = {
        (True, True): "ratio",
        (False, True): "at least",
        (True, False): "at most",
        (False, False): "cannot tell",
    }
    kind = kinds[reached[0], reached[1]]
    bounded = Estimate(
        effect.value,
        effect.low if kind in ("ratio", "at least") else -inf,
        effect.high if kind in ("ratio", "at most") else inf,
    )
    return Against(
        kind=kind,
        factor=None if kind == "cannot tell" else bounded.scaled(lambda log: 2**log),
        p_value=compare_times(first, second, paired=paired).p_value,
        runs=effect.n,
        paired=paired,
    )


def _log_steps(times: Sequence[Time]) -> list[float]:
    """log2 of the step by which it had happened; of a censored run, of its last look."""
    return [log2(time.until if time.by is None else time.by) for time in times]


def _judged(way: Way, ways: Sequence[Way]) -> Way:
    """With whether another way takes no more of either."""
    step, added = way.step.value, way.added
    if step == inf:
        return way
    beaten = any(
        other.step.value <= step and other.added <= added and (other.step.value, other.added) != (step, added)
        for other in ways
    )
    return replace(way, efficient=not beaten)
