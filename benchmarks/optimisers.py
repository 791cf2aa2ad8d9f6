"""The optimiser study's table: python -m benchmarks.optimisers STUDY_DIRECTORY ... [--against FAMILY]

Every directory holds one family of `studies/optimisers.yaml`. A time is that of the first checkpoint whose
accuracy reaches a threshold, so it is late by up to one distance of checkpoints. A run that never gets there
is censored at its last checkpoint: it counts in the median as later than that (Kaplan-Meier), and not as
missing.
"""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from grokscope.errors import InputError
from grokscope.studies.run import Run, Study

THRESHOLDS = (0.5, 0.9)
CONFIDENCE = 0.95
FEWEST = 3
"""Pairs of runs from which on a ratio has an interval."""


@dataclass(frozen=True)
class Reached:
    """When a run reached a threshold, or until when it had not."""

    step: int
    seconds: float
    """Clock time of the training up to there, its evaluations included."""
    censored: bool


def reached(run: Run, probe_set: str, threshold: float) -> Reached:
    """The first checkpoint with at least this accuracy on a probe set.

    Raises:
        InputError: the run has no such probe set.
    """
    column = f"accuracy.{probe_set}"
    if column not in run.metrics.columns:
        raise InputError(f"probe set {probe_set!r}: {run.directory} has no accuracies of that name.")
    rows = run.metrics.select("step", "seconds", column).rows()
    for step, seconds, accuracy in rows:
        if accuracy is not None and accuracy >= threshold:
            return Reached(step, seconds, False)
    return Reached(rows[-1][0], rows[-1][1], True)


def median(values: Sequence[float], censored: Sequence[bool]) -> tuple[float, bool]:
    """Kaplan-Meier median: the first time by which half have got there; or the last time that anyone was
    watched, and True, if half never did."""
    survival = stats.ecdf(stats.CensoredData.right_censored(values, censored)).sf
    there = survival.probabilities <= 0.5
    return (float(survival.quantiles[there][0]), False) if there.any() else (float(max(values)), True)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as the other: geometric mean over seeds, and its t interval."""

    value: float
    low: float
    high: float
    p_value: float
    """Of "equally long", two-sided, paired by seed."""
    pairs: int


def ratio(ours: Mapping[int, Reached], base: Mapping[int, Reached]) -> Ratio | None:
    """Steps against steps of the same seeds; None, cannot tell: fewer than `FEWEST` pairs, or one of them
    censored."""
    seeds = sorted(set(ours) & set(base))
    if len(seeds) < FEWEST or any(one[seed].censored for one in (ours, base) for seed in seeds):
        return None
    logs = np.log([ours[seed].step / base[seed].step for seed in seeds])
    if np.ptp(logs) == 0:
        return None
    test = stats.ttest_1samp(logs, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    low, high = math.exp(interval.low), math.exp(interval.high)
    return Ratio(math.exp(logs.mean()), low, high, float(test.pvalue), len(seeds))


def table(studies: Mapping[str, Study], against: str, probe_set: str) -> str:
    """Markdown: one line per family and regime."""
    head = ["recipe", "regime", "runs"]
    head += [f"{what} to {level}" for what in ("steps", "seconds") for level in THRESHOLDS]
    head += [f"steps to {THRESHOLDS[-1]}, times those of {against}", "verdicts"]
    lines = [head, ["---"] * len(head)]
    for family, study in studies.items():
        for regime, runs in _by_regime(study).items():
            base = _by_regime(studies[against]).get(regime, {}) if against in studies else {}
            lines.append(_line(family, regime, runs, {} if family == against else base, probe_set))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(
    family: str, regime: str, runs: Mapping[int, Run], base: Mapping[int, Run], probe_set: str
) -> list[str]:
    times = [[reached(run, probe_set, level) for run in runs.values()] for level in THRESHOLDS]
    last = THRESHOLDS[-1]
    ours, theirs = ({s: reached(r, probe_set, last) for s, r in some.items()} for some in (runs, base))
    against = ratio(ours, theirs)
    found = Counter(run.verdict.verdict for run in runs.values() if run.verdict is not None)
    return [
        family,
        regime,
        str(len(runs)),
        *(_cell([one.step for one in level], level, ".0f") for level in times),
        *(_cell([one.seconds for one in level], level, ".0f") for level in times),
        _ratio(against) if base else "",
        ", ".join(f"{name} {count}" for name, count in found.items()) or "none made",
    ]


def _cell(values: Sequence[float], level: Sequence[Reached], form: str) -> str:
    censored = [one.censored for one in level]
    middle, never = median(values, censored)
    got = censored.count(False)
    return f"{'> ' if never else ''}{middle:{form}} ({got} of {len(level)})"


def _ratio(found: Ratio | None) -> str:
    if found is None:
        return "cannot tell"
    return (
        f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}, p = {found.p_value:.2g}, n = {found.pairs})"
    )


def _by_regime(study: Study) -> dict[str, dict[int, Run]]:
    """Finished runs by regime and seed."""
    found: dict[str, dict[int, Run]] = {}
    for name, run in study.runs.items():
        if run.finished:
            seed = int(name.rpartition("-s")[2])
            found.setdefault(run.spec.regime.name, {})[seed] = run
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", help="directories of finished studies")
    parser.add_argument("--against", default="muon", help="the family that the others are compared with")
    parser.add_argument("--probe-set", default="test_ood")
    options = parser.parse_args(argv)
    studies = [Study.open(directory) for directory in options.studies]
    try:
        print(table({study.spec.family: study for study in studies}, options.against, options.probe_set))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
