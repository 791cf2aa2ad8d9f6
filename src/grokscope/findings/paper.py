"""The published curves of the reference study, to draw beside ours.

Source: K. He, M. Zhang, P. Wu, X. Du, Z. Chen, "Is Grokking Worthwhile? Functional Analysis and
Transferability of Generalization Circuits in Transformers", arXiv 2601.09049, Findings of ACL 2026.
`paper_pretraining_curves.csv` and `paper_finetuning_curves.csv` hold the values of its published evaluation
records, one run (one seed) per regime.

What is called "Final Answer Accuracy (OOD Composition)" there is the target-found rate at any stage and
position, not the exact match of the output; so it stands beside our target found, not our accuracy.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from types import MappingProxyType

import polars as pl

CITATION = "He et al. 2026, arXiv 2601.09049"
SATURATION = 0.99
"""Training accuracy at which a published run is saturated; its time is scaled by the first such step."""

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
