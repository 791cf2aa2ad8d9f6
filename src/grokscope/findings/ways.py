"""What a way to an OOD accuracy costs, as values and tables: of a run, of a regime, of one against waiting.

`worthwhile.py` says what a way is and computes them.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import polars as pl

from grokscope.statistics.estimate import Estimate, finite, numbers
from grokscope.statistics.exact import FEWEST_RUNS
from grokscope.statistics.times import Time

Kind: TypeAlias = Literal["ratio", "at least", "at most", "cannot tell"]


@dataclass(frozen=True)
class Reached:
    """One run at one level."""

    run: str
    regime: str
    seed: int
    level: float
    time: Time
    """In steps."""
    accuracy: float
    """At the end."""
    seconds: float | None
    """Clock of the run at that checkpoint, looking and whatever else the machine did included; None: not
    reached."""
    compositions: int
    """Trained in all."""
    added: int
    """Of them those with an OOD fact, which the regime added."""
    ood_facts: int
    step_flop: float
    batch: int

    @property
    def added_per_fact(self) -> float:
        """Per OOD fact; 0 in a world that has none."""
        return self.added / self.ood_facts if self.ood_facts else 0.0

    @property
    def known_after(self) -> float:
        """Last step at which it was not there yet."""
        return self.time.until if self.time.by is None else self.time.after


@dataclass(frozen=True)
class Against:
    """A way against waiting: how many times fewer steps (so FLOP) it takes."""

    kind: Kind
    """Ratio: every run of both got there. At least: all of the way's did, and not all that waited. At most:
    the reverse. Cannot tell: runs of both ended before."""
    factor: Estimate | None
    """Geometric mean of the ratio, censored runs at their last look, with the exact interval; unbounded where
    there are too few runs, or by censoring. None: cannot tell."""
    p_value: float
    """Two-sided, exact, of log steps up to the last step that every run was looked at: a run that was ended
    early is no evidence."""
    runs: tuple[int, int]
    paired: bool

    @property
    def descriptive(self) -> bool:
        """Too few runs for a claim."""
        return min(self.runs) < FEWEST_RUNS


@dataclass(frozen=True)
class Way:
    """A regime at a level."""

    level: float
    regime: str
    runs: int
    reached: int
    added: float
    """Compositions with an OOD fact, mean over runs."""
    added_per_fact: float
    """The same per OOD fact."""
    step: Estimate
    """Kaplan-Meier median; infinite: half of the runs did not get there."""
    after: float
    """Not before this step."""
    span: tuple[float, float]
    """Of the runs: the earliest step and the latest; infinite: some did not get there."""
    step_flop: float
    seconds: float | None
    """Median clock of the runs that got there; None: fewer than half did."""
    against: Against | None
    """None: this is waiting, or there is nothing to compare with."""
    efficient: bool | None
    """No other way of this level takes at most its FLOP and its data; None: half of its runs did not get
    there."""

    def flop(self, step: float) -> float:
        """FLOP up to a step."""
        return step * self.step_flop


@dataclass(frozen=True)
class Worth:
    """The computation over a study."""

    study: str
    probe_set: str
    window: int
    ways: tuple[Way, ...]
    """By level, then by data."""
    runs: tuple[Reached, ...]
    notes: tuple[str, ...]

    def table(self) -> pl.DataFrame:
        """One row per level and regime; FLOP, steps and seconds of the median run, null where fewer than half
        of the runs got there."""
        rows = [
            {
                "level": way.level,
                "regime": way.regime,
                "runs": way.runs,
                "reached": way.reached,
                "added": way.added,
                "added_per_ood_fact": way.added_per_fact,
                "step_after": way.after,
                "step_by": finite(way.step.value),
                "step_first_run": way.span[0],
                "step_last_run": finite(way.span[1]),
                "step_low": finite(way.step.low),
                "step_high": finite(way.step.high),
                **numbers(way.step.scaled(way.flop), "flop", "flop_"),
                "seconds": way.seconds,
                **numbers(way.against.factor if way.against else None, "times_cheaper", "times_cheaper_"),
                "p_value": way.against.p_value if way.against else None,
                "comparison": way.against.kind if way.against else None,
                "descriptive": way.against.descriptive if way.against else None,
                "efficient": way.efficient,
            }
            for way in self.ways
        ]
        return pl.DataFrame(rows, schema_overrides=_TYPES)

    def run_table(self) -> pl.DataFrame:
        """One row per run and level: between which checkpoints, at what cost; `by` null: censored."""
        return pl.DataFrame(
            [
                {
                    "run": one.run,
                    "regime": one.regime,
                    "seed": one.seed,
                    "level": one.level,
                    "after": one.time.after,
                    "by": one.time.by,
                    "until": one.time.until,
                    "flop": None if one.time.by is None else one.time.by * one.step_flop,
                    "flop_at_least": (one.time.until if one.time.by is None else one.time.after)
                    * one.step_flop,
                    "seconds": one.seconds,
                    "examples": None if one.time.by is None else one.time.by * one.batch,
                    "accuracy_at_end": one.accuracy,
                    "compositions": one.compositions,
                    "added": one.added,
                    "added_per_ood_fact": one.added_per_fact,
                }
                for one in self.runs
            ],
            schema_overrides={
                "by": pl.Float64,
                "flop": pl.Float64,
                "seconds": pl.Float64,
                "examples": pl.Float64,
            },
        )


_TYPES = {
    **dict.fromkeys(
        ("step_by", "step_last_run", "step_high", "flop", "flop_high", "seconds", "p_value"), pl.Float64
    ),
    **dict.fromkeys(("times_cheaper", "times_cheaper_low", "times_cheaper_high"), pl.Float64),
    "comparison": pl.String,
    **dict.fromkeys(("descriptive", "efficient"), pl.Boolean),
}
