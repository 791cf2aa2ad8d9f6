"""The optimiser study's table: python -m benchmarks.optimisers STUDY_DIRECTORY ... [--against FAMILY]

Every directory holds one family of `studies/optimisers.yaml`. When a run got to a level, and how two recipes
compare, is as `grokscope worthwhile` has it: a run that never got there is censored at its last look, counts
in the median as later than that (Kaplan-Meier), and makes a ratio an "at least".

Runs of a study share a machine with each other and with whatever else it does, so the clock of a run says
little of its recipe. The seconds are therefore steps times a step's time, measured here: the steps of all
recipes in turn, compiled if they were trained so, one thread.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path

from benchmarks.clock import take_turns
from benchmarks.shapes import setup
from benchmarks.steps import as_trained, stepper
from grokscope.errors import InputError
from grokscope.findings.ways import Against, Reached
from grokscope.findings.worthwhile import compared, reached
from grokscope.runs.cost import step_flop
from grokscope.runs.open import Run
from grokscope.runs.study import Study
from grokscope.statistics.times import kaplan_meier

LEVELS = (0.5, 0.9)
HEAD = (
    "recipe", "regime", "runs", "step", *(f"steps to {level}" for level in LEVELS),
    f"seconds to {LEVELS[-1]}", f"steps to {LEVELS[-1]}, times those of", "verdicts",
)  # fmt: skip


def table(
    studies: Mapping[str, Study], against: str, probe_set: str, seconds: Mapping[str, float] | None = None
) -> str:
    """Markdown: one line per family and regime.

    Args:
        studies: by family.
        against: the family that the others are compared with.
        probe_set: whose accuracy counts.
        seconds: of one step, by family; None: not measured.

    Raises:
        InputError: a run has no such probe set.
    """
    head = [f"{name} {against}" if name.endswith("times those of") else name for name in HEAD]
    lines = [head, ["---"] * len(head)]
    for family, study in studies.items():
        for regime, runs in finished(study).items():
            base = finished(studies[against]).get(regime, {}) if against in studies else {}
            pairs = "world" in study.spec.vary
            step = None if seconds is None else seconds[family]
            lines.append(
                [family, *_line(regime, runs, {} if family == against else base, probe_set, pairs, step)]
            )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def finished(study: Study) -> dict[str, dict[str, Run]]:
    """Finished runs by regime and name."""
    found: dict[str, dict[str, Run]] = {}
    for name, run in study.runs.items():
        if run.finished:
            found.setdefault(run.spec.regime.name, {})[name] = run
    return found


def step_seconds(studies: Mapping[str, Study], rounds: int) -> dict[str, float]:
    """Seconds of a step of every family with a finished run, one thread, in turns."""
    first = {
        family: run
        for family, study in studies.items()
        for runs in list(finished(study).values())[:1]
        for run in list(runs.values())[:1]
    }
    with as_trained(1, "cpu"):
        calls = {
            family: stepper(setup(run.spec), "eager" if run.spec.training.compile == "off" else "compiled")
            for family, run in first.items()
        }
        return {name: one.seconds for name, one in take_turns(calls, rounds, least=0.5).items()}


def _line(
    regime: str,
    runs: Mapping[str, Run],
    base: Mapping[str, Run],
    probe_set: str,
    pairs: bool,
    step: float | None,
) -> list[str]:
    def when(some: Mapping[str, Run], level: float) -> list[Reached]:
        return [reached(name, run, level, probe_set, step_flop(run.setup)) for name, run in some.items()]

    times = [when(runs, level) for level in LEVELS]
    middle = kaplan_meier([one.time for one in times[-1]]).median.value
    last = max(one.time.until for one in times[-1])
    found = Counter(run.verdict.verdict for run in runs.values() if run.verdict is not None)
    return [
        regime,
        str(len(runs)),
        "-" if step is None else f"{step * 1e3:.1f} ms",
        *(_steps(level) for level in times),
        "-" if step is None else f"{'> ' if middle == inf else ''}{min(middle, last) * step:.0f}",
        _against(compared(times[-1], when(base, LEVELS[-1]), pairs)) if base else "",
        ", ".join(f"{name} {count}" for name, count in found.items()) or "none made",
    ]


def _steps(runs: Sequence[Reached]) -> str:
    """Median, how many got there, and their span."""
    middle = kaplan_meier([one.time for one in runs]).median.value
    got = sorted(one.time.by for one in runs if one.time.by is not None)
    said = f"> {max(one.time.until for one in runs):.0f}" if middle == inf else f"{middle:.0f}"
    span = f"; {got[0]:.0f} to {got[-1]:.0f}" if got else ""
    return f"{said} ({len(got)} of {len(runs)}{span})"


def _against(found: Against) -> str:
    """`compared` has the recipe as what waits: its factor is how many times the steps it takes."""
    if found.factor is None:
        return "cannot tell"
    value, low, high = found.factor.value, found.factor.low, found.factor.high
    bounds = f"{low:.2f} to {high:.2f}, " if low > 0 and high < inf else ""
    kind = "" if found.kind == "ratio" else f"{found.kind} "
    return f"{kind}{value:.2f} ({bounds}p = {found.p_value:.2g}, n = {found.runs[0]})"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=Path, nargs="+", help="directories of finished studies")
    parser.add_argument("--against", default="muon", help="the family that the others are compared with")
    parser.add_argument("--probe-set", default="test_ood")
    parser.add_argument("--rounds", type=int, default=11, help="half-second turns per recipe; 0: no seconds")
    options = parser.parse_args(argv)
    try:
        studies = {study.spec.family: study for study in map(Study.open, options.studies)}
        seconds = step_seconds(studies, options.rounds) if options.rounds else None
        print(table(studies, options.against, options.probe_set, seconds))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
