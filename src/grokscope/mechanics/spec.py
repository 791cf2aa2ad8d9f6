"""What can be said of the measurements."""

from typing import Literal

from pydantic import Field

from grokscope.spec import Spec


class LensSpec(Spec):
    """What is read at every kept checkpoint."""

    probes_per_set: int | None = Field(None, ge=1)
    """Most probes per set in a trace (evenly spaced in stable id order, as ids go by head); None: all."""
    batch: int = Field(1024, ge=1)
    """Probes per forward pass."""


class DiagnosisSpec(Spec):
    """Thresholds of phases and diagnosis; docs/diagnosis.md gives the reason of each."""

    saturation: float = Field(0.99, gt=0.0, le=1.0)
    """Accuracy that train_inferred, id_atomic and ood_atomic must all reach."""
    generalisation: float = Field(0.9, gt=0.0, le=1.0)
    """OOD accuracy at which a run counts as having generalised."""
    window: int = Field(3, ge=1)
    """Consecutive checkpoints at or above a threshold for an event to count; the event is at the first of
    them.
    """
    delay: float = Field(2.0, ge=1.0)
    """OOD generalisation later than this multiple of the saturation step is 'after a delay'."""
    half: float = Field(0.5, gt=0.0, le=1.0)
    """Level of the half-way events; and the most that a memoriser's OOD accuracy may still exceed guessing
    by.
    """
    margin: float = Field(0.05, ge=0.0, lt=1.0)
    """Smallest difference of two accuracies that counts, however sure it is."""
    known_minimum: int = Field(20, ge=1)
    """Fewest queries with known atoms for an accuracy among them to be used."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of all intervals."""


RULES = {"causal": 3, "full": 4}
"""Version of the causal verdict's rule and of what it reads, by attention; raised with every change that may
change a verdict. Finished runs whose verdict is of another version are examined again."""


class CausalSpec(Spec):
    """What is intervened on once a run has finished. It only reads: another setting is no other run."""

    enabled: bool = True
    """Whether finished runs get a causal verdict (verdict.json, causal.csv)."""
    sets: tuple[str, ...] = ("train_inferred", "test_iid", "test_ood")
    """Two-hop probe sets that are examined; the run's verdict needs train_inferred and test_ood."""
    probes: int = Field(240, ge=1)
    """Most probes per set at the last checkpoint (evenly spaced in stable id order). With 240 a share of 0.5
    is known to about 0.07.
    """
    steps: Literal["end", "moments", "all"] = "moments"
    """Checkpoints that are examined: the last; also those at which saturation, half-way and generalisation
    on test_ood happened; or every kept one.
    """
    dense_probes: int = Field(120, ge=1)
    """Most probes of test_ood at the checkpoints before the last, where the other sets are not examined."""
    seed: int = 0
    """Draws the donors and the noise."""
