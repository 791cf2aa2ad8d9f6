"""What findings need to know of a study: of every run its diagnosis, its verdict, and where its checkpoints
lie."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from grokscope.errors import InputError
from grokscope.findings.transfers import Transferred, transferred
from grokscope.findings.values import Result
from grokscope.mechanics.judge.diagnosis import Diagnosis
from grokscope.mechanics.judge.profile import Profile, profile
from grokscope.mechanics.judge.verdict import CausalVerdict
from grokscope.mechanics.read.layout import select
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from grokscope.statistics.clustered import Rate
from grokscope.statistics.times import Time


@dataclass(frozen=True, eq=False)
class Measured:
    """One finished run."""

    name: str
    regime: str
    seed: int
    world: str
    """Fingerprint: runs of one world pair."""
    grid: tuple[int, ...]
    """Steps of the checkpoints."""
    diagnosis: Diagnosis
    verdict: CausalVerdict | None
    path: Callable[[str], Profile | None]
    """The emergence profile of a probe set at the last checkpoint; None: it was not traced."""

    def has(self, event: str) -> bool:
        """Whether the run has probes for an event."""
        return event in self.diagnosis.events

    def time(self, event: str) -> Time:
        """When an event of the diagnosis happened.

        An event is the first of `window` checkpoints in a row, so a run can show none after its last
        checkpoint but (window - 1): that is where its observation ends.

        Raises:
            InputError: the diagnosis has no such event.
        """
        if not self.has(event):
            raise InputError(f"event = {event!r}: the diagnosis of {self.name} has none of that name.")
        step = self.diagnosis.events[event].step
        until = float(self.grid[max(0, len(self.grid) - self.diagnosis.spec.window)])
        if step is None:
            return Time(until, None, until)
        before = [one for one in self.grid if one < step]
        # A level that is there at step 0 already was reached "by step 1".
        return Time(float(before[-1]) if before else 0.0, float(max(step, 1)), max(until, float(step), 1.0))

    def rate(self, *keys: str) -> Rate | None:
        """A number of a probe set: its name and `exact`, or a variable and a kind of decoding."""
        name, *rest = keys
        numbers = self.diagnosis.sets.get(name)
        if numbers is None:
            return None
        if rest == ["exact"]:
            return numbers.exact
        variable, kind = rest
        return numbers.decoded.get(variable, {}).get(kind)

    def share(self, name: str) -> Rate | None:
        """The share of right answers through the bridge at the end; None: not tested, or cannot tell."""
        found = self.verdict.of(name) if self.verdict else None
        return found.share if found else None


class Missing(Exception):
    """There is nothing to test a claim on, for the reason that is given; none: no finished run."""

    def __init__(self, reason: str = "", result: Result = "not run") -> None:
        super().__init__(reason)
        self.result = result


@dataclass(frozen=True, eq=False)
class Evidence:
    """What findings are judged by: the finished runs and transfers of a study, measured once."""

    runs: Sequence[Measured] = ()
    tuned: Sequence[Transferred] = ()
    notes: tuple[str, ...] = ()
    """On what is missing."""

    def __getitem__(self, regime: str) -> Sequence[Measured]:
        """The finished runs of a regime, always the same ones; `Missing` if there is none."""
        if regime not in self._of:
            raise Missing
        return self._of[regime]

    @cached_property
    def _of(self) -> dict[str, list[Measured]]:
        return {run.regime: of(self.runs, run.regime) for run in self.runs}


def evidence(study: Study, runs: Mapping[str, Run] | None = None) -> Evidence:
    """Measure what a study has finished, in its order.

    Args:
        study: it. runs: its runs, where they have been opened; None: they are opened here.
    """
    found, missing, unfinished, notes = [], list[str](), list[str](), list[str]()
    runs = study.runs if runs is None else runs
    for name in study.spec.expand():
        run = runs.get(name)
        if run is None:
            missing.append(name)
        elif run.diagnosis is None:
            unfinished.append(name)
        else:
            try:
                found.append(measure(name, run, run.diagnosis))
            except InputError as error:
                notes.append(f"{name} is not counted: {error}")
    if missing:
        notes.append(f"Not started, so not counted: {', '.join(missing)}.")
    if unfinished:
        notes.append(f"Unfinished, so not counted: {', '.join(unfinished)}.")
    untested = [one.name for one in found if one.verdict is None]
    if untested:
        notes.append(f"Without a causal verdict: {', '.join(untested)} (`grokscope diagnose RUN` makes one).")
    tuned, tuned_notes = transferred(study)
    return Evidence(found, tuned, (*notes, *tuned_notes))


def measure(name: str, run: Run, diagnosis: Diagnosis) -> Measured:
    """What the findings need of one run; its traces are read when a path is asked for."""

    def path(probe_set: str) -> Profile | None:
        try:
            traces = run.traces
        except InputError:
            return None
        if probe_set not in traces["set"].values.tolist():
            return None
        return profile(select(traces.isel(step=-1), probe_set).load())

    return Measured(
        name=name,
        regime=run.spec.regime.name,
        seed=run.spec.seed,
        world=run.world_fingerprint,
        grid=tuple(int(step) for step in np.unique(run.metrics["step"].to_numpy())),
        diagnosis=diagnosis,
        verdict=run.verdict,
        path=path,
    )


def of(runs: Iterable[Measured], regime: str) -> list[Measured]:
    """The runs of one regime."""
    return [run for run in runs if run.regime == regime]


def pairs(
    first: Sequence[Measured], second: Sequence[Measured]
) -> tuple[list[Measured], list[Measured], bool]:
    """Both groups, in the order of seeds and cut to the common ones where every seed has one world in both.

    Returns:
        The groups, and whether they pair: run u of both has the same world, and no two pairs do.
    """
    one, two = ({run.seed: run for run in group} for group in (first, second))
    seeds = sorted(set(one) & set(two))
    same = all(one[seed].world == two[seed].world for seed in seeds)
    own = len({one[seed].world for seed in seeds}) == len(seeds)
    if seeds and same and own:
        return [one[seed] for seed in seeds], [two[seed] for seed in seeds], True
    return list(first), list(second), False
