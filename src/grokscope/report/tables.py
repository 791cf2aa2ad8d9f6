"""The tidy tables every figure and sentence of the report is a pure function of.

Measuring a run is slow and drawing it is fast: `gather.py` measures each run once into these tables, they are
written as CSV beside the figures, and nothing after them looks at a run again.

`curves`     one row per run, step, probe set, measure and variable: a rate with its interval.
`emergence`  one row per run, moment, variable and cell (stage, position): where a latent is decoded.
`causal`     one row per run, step, probe set, arm and cell: what interchange and lens say there.
`events`     one row per run and event: the step it happened at, or the last step at which it had not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from grokscope.files import whole
from grokscope.findings.cells import Ran, Resampled
from grokscope.findings.measured import Evidence
from grokscope.findings.values import Findings
from grokscope.mechanics.judge.verdict import CausalVerdict
from grokscope.runs.causal import SCHEMA
from grokscope.statistics.clustered import Rate
from grokscope.statistics.estimate import Estimate

Row = dict[str, Any]
"""One row of a table, by column."""

ACCURACY = "accuracy"
"""Exact match of every labelled position."""
GUESS = "guess"
"""Accuracy of answering the most frequent tail of the last relation."""
ANYWHERE = "anywhere"
"""The variable is the argmax at any stage and any position, registers included."""
TOKENS = "tokens"
"""The same at positions that hold a token alone: the paper's rate, as its evaluation cuts the prefix off.
Only of models that have a prefix; of others `ANYWHERE` is it."""
CHANCE = "chance"
"""The same rate for the control entity: what `anywhere` gives for nothing."""
CELL = "cell"
"""The variable is the argmax in one cell, chosen on half of the facts and scored on the other half."""
CELL_EARLY = "cell_before_last"
"""The same among the cells before the last stage: only what is there early can serve a second hop."""

_RUN = {"run": pl.String, "regime": pl.String, "seed": pl.Int64}
CURVES: dict[str, Any] = {
    **_RUN,
    "step": pl.Int64,
    "probes": pl.String,
    "measure": pl.String,
    "variable": pl.String,  # a latent or "answer"; "" where the measure reads the output
    "value": pl.Float64,
    "low": pl.Float64,  # interval clustered by fact; null where the measure has none
    "high": pl.Float64,
    "n": pl.Int64,  # probes
    "facts": pl.Int64,  # clusters the interval rests on
}
EMERGENCE: dict[str, Any] = {
    **_RUN,
    "moment": pl.String,  # "early", "saturation", "end"
    "step": pl.Int64,
    "probes": pl.String,
    "variable": pl.String,
    "stage_index": pl.Int64,
    "stage": pl.String,
    "position_index": pl.Int64,
    "position": pl.String,
    "rate": pl.Float64,
    "n": pl.Int64,
}
EVENTS: dict[str, Any] = {
    **_RUN,
    "event": pl.String,
    "threshold": pl.Float64,
    "step": pl.Int64,  # null: not observed
    "last_step": pl.Int64,  # observed up to here
}
CAUSAL: dict[str, Any] = {**_RUN, **SCHEMA}
"""causal.csv of every run, of its last checkpoint and the moments before."""
MOMENTS = ("early", "saturation", "end")


@dataclass(frozen=True)
class RunView:
    """What the report says of one run beyond its tables."""

    name: str
    regime: str
    seed: int
    behaviour: str
    mechanism: str
    reason: str
    """The sentence of the diagnosis."""
    spec: Mapping[str, Any]
    manifest: Mapping[str, Any]
    over_guess: Estimate | None = None
    """OOD accuracy minus guessing at the end, paired; None: not measured."""
    rise: Estimate | None = None
    """OOD accuracy at the end minus at saturation, paired; None: not saturated or not measured."""
    atoms_known: Estimate | None = None
    """OOD accuracy at the end among queries whose facts are both known."""
    by_injection: Mapping[str, Rate] = field(default_factory=dict)
    """OOD accuracy at the end by which hops of the query were injected; empty if none was."""
    verdict: CausalVerdict | None = None
    """What interventions said; None: not tested."""
    answer_position: int = 0
    """Where its answers are read."""
    notes: tuple[str, ...] = ()
    """Plain sentences on what this run does not have."""


@dataclass(frozen=True)
class StudyView:
    """A study, measured: everything the report needs, and nothing that is slow."""

    name: str
    family: str
    command: str
    saturation: float
    generalisation: float
    confidence: float
    runs: tuple[RunView, ...]
    curves: pl.DataFrame
    emergence: pl.DataFrame
    events: pl.DataFrame
    causal: pl.DataFrame = field(default_factory=lambda: table((), CAUSAL))
    missing: tuple[str, ...] = ()
    """Runs of the study that have not been started."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)
    """What its findings are judged by."""
    found: Findings | None = None
    """Its findings; None: no run has finished."""
    ran: Sequence[Ran] = ()
    """The finished runs of a sweep."""
    law: Resampled | None = None
    """Of what becomes of them; None: no sweep, or nothing to fit it on."""
    notes: tuple[str, ...] = ()
    """Plain sentences on what the study does not have."""
    tuned: pl.DataFrame | None = None
    """Its transfers at every checkpoint, see `tuning_figures.tuning_curves`."""

    @property
    def regimes(self) -> list[str]:
        """Regimes in the study's order."""
        return list(dict.fromkeys(run.regime for run in self.runs))

    def of(self, regime: str) -> list[RunView]:
        """The runs of one regime."""
        return [run for run in self.runs if run.regime == regime]


def table(rows: Iterable[Row], schema: dict[str, Any]) -> pl.DataFrame:
    """Rows as a table of exactly this schema; a missing or unknown column is an error, not a null."""
    rows = list(rows)
    for row in rows:
        if set(row) != set(schema):
            raise ValueError(f"row has columns {sorted(row)}, the table has {sorted(schema)}")
    return pl.DataFrame(rows, schema=schema, orient="row") if rows else pl.DataFrame(schema=schema)


def select(
    curves: pl.DataFrame,
    measure: str,
    variable: str = "",
    probes: str | None = None,
    regime: str | None = None,
) -> pl.DataFrame:
    """The rows of one quantity, ordered by run and step."""
    keep = (pl.col("measure") == measure) & (pl.col("variable") == variable)
    if probes is not None:
        keep &= pl.col("probes") == probes
    if regime is not None:
        keep &= pl.col("regime") == regime
    return curves.filter(keep).sort("seed", "run", "step")


def latents(curves: pl.DataFrame) -> list[str]:
    """The intermediate variables the lens looked for (not the answer), in table order."""
    names = curves.filter(pl.col("measure") == ANYWHERE)["variable"].unique(maintain_order=True).to_list()
    return [name for name in names if name != "answer"]


def write_tables(view: StudyView, directory: Path) -> list[Path]:
    """Write the tables as CSV."""
    paths = []
    for name in ("curves", "emergence", "events", "causal"):
        path = directory / f"{name}.csv"
        with whole(path) as draft:
            getattr(view, name).write_csv(draft)
        paths.append(path)
    return paths
