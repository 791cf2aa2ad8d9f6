"""The published curves of the reference study, to draw beside ours.

Source: K. He, M. Zhang, P. Wu, X. Du, Z. Chen, "Is Grokking Worthwhile? Functional Analysis and
Transferability of Generalization Circuits in Transformers", arXiv 2601.09049, Findings of ACL 2026.
`paper_pretraining_curves.csv` and `paper_finetuning_curves.csv` hold the values of its published evaluation
records, one run (one seed) per regime.

What is called "Final Answer Accuracy (OOD Composition)" there is the target-found rate at any stage and
position, not the exact match of the output; so it stands beside our target found, not our accuracy.

Its numbers stand beside ours with the interval that their n implies. Every published regime is one run, so
nothing is known of the spread between runs; the interval of a rate is that of independent probes, the least
it can be. A published time is known to one evaluation.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from types import MappingProxyType

import polars as pl

from grokscope.findings.values import Number
from grokscope.statistics.estimate import Estimate
from grokscope.statistics.rates import trials

CITATION = "He et al. 2026, arXiv 2601.09049"
SATURATION = 0.99
"""Training accuracy at which a published run is saturated; its time is scaled by the first such step."""

LAST = 10
"""Evaluations that a published rate at the end of pretraining is the mean of."""
LAST_TUNED = 5
"""The same of fine-tuning."""

DOUBTS = MappingProxyType(
    {
        "first_hop_full": (
            "The published figure labels this panel “Both Hop Half Aug.”, while the folder of its data is "
            "named “First hop full augmentation”; which of the two it is cannot be told from the publication."
        )
    }
)
"""Doubts about a published curve, by regime; they are printed wherever the curve is drawn."""


@dataclass(frozen=True)
class PaperCurve:
    """One published run: columns step, train_accuracy, bridge_found_rate, target_found_rate."""

    regime: str
    table: pl.DataFrame
    doubt: str | None

    def first_step(self, column: str, threshold: float) -> int | None:
        """First evaluated step at which `column` is at or above `threshold`; None if it never is."""
        reached = self.table.filter(pl.col(column) >= threshold)["step"]
        return int(reached[0]) if len(reached) else None

    @property
    def saturation(self) -> int | None:
        """First step with training accuracy at or above 0.99."""
        return self.first_step("train_accuracy", SATURATION)


@cache
def _read(name: str) -> pl.DataFrame:
    text = files("grokscope.findings").joinpath(name).read_text(encoding="utf-8")
    return pl.read_csv(StringIO(text))


def pretraining_curve(regime: str) -> PaperCurve | None:
    """The published pretraining curve of a regime; None where the paper published none."""
    rows = _read("paper_pretraining_curves.csv").filter(pl.col("regime") == regime).sort("step")
    if not len(rows):
        return None
    return PaperCurve(regime, rows.drop("regime"), DOUBTS.get(regime))


def finetuning_curves() -> pl.DataFrame:
    """The published fine-tuning curves.

    Columns: regime, step, mix, n_probes, exact_match, bridge_found_rate, new_fact_accuracy.
    """
    return _read("paper_finetuning_curves.csv")


def paper_rate(regime: str, column: str, label: str) -> tuple[Number, ...]:
    """The mean of the last evaluations of a published pretraining curve; empty where there is none."""
    curve = pretraining_curve(regime)
    if curve is None:
        return ()
    value = float(curve.table[column].tail(LAST).to_numpy().mean())
    n = probes_of(curve.table[column].to_list())
    return (Number(f"{label}, {regime}", "rate", trials(value, n), f"1 run, {n:,} probes"),)


def paper_time(regime: str, column: str, threshold: float, label: str) -> tuple[Number, ...]:
    """The first evaluation of a published curve at or above a threshold, and the one before."""
    curve = pretraining_curve(regime)
    if curve is None:
        return ()
    step, steps = curve.first_step(column, threshold), curve.table["step"].to_list()
    name = f"{label}, {regime}"
    if step is None:
        return (Number(name, "step", None, "1 run", f"> {steps[-1]:,}"),)
    before = max((one for one in steps if one < step), default=0)
    return (Number(name, "step", Estimate(step, before, step), "1 run, between two evaluations"),)


def paper_tuned(regime: str, mix: str, column: str, label: str) -> tuple[Number, ...]:
    """The mean of the last evaluations of a published fine-tuning curve; empty where there is none."""
    curves = finetuning_curves()
    rows = curves.filter((curves["regime"] == regime) & (curves["mix"] == mix)).sort("step")
    if not len(rows):
        return ()
    value, n = float(rows[column].tail(LAST_TUNED).to_numpy().mean()), int(rows["n_probes"][0])
    return (Number(f"{label}, {regime}", "rate", trials(value, n), f"1 run, {n:,} probes"),)


def probes_of(rates: list[float], most: int = 3000) -> int:
    """The number of probes behind published rates of six decimals: the smallest that all are parts of.

    The publication says "at most 3,000", and gives the rates alone.
    """
    known = [rate for rate in rates if rate is not None]
    for n in range(1, most + 1):
        if all(abs(rate * n - round(rate * n)) <= 6e-7 * n for rate in known):
            return n
    return most
