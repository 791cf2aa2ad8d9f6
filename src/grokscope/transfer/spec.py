"""What can be said of a transfer. Defaults are the reference's protocol where it has one."""

from typing import Literal

from pydantic import Field

from grokscope.spec import Spec, later
from grokscope.training.spec import Part, TrainingSpec
from grokscope.world.newfacts_spec import NewFactsSpec


class TuningSpec(Spec):
    """The fine-tuning: what differs from the base's training. All else is as it was there."""

    steps: int = Field(40_000, ge=1)
    """Optimiser steps (reference: about 40,000). Not part of a transfer's identity: raising it continues."""
    lr_factor: float = Field(0.5, gt=0.0)
    """Learning rates of AdamW and Muon, as a multiple of the base's peak (reference: 2e-5 after 4e-5). The
    rate is constant after the warm-up, whatever the base's schedule was."""
    batch: int | None = Field(None, ge=1)
    """Examples per step; None: as the base's."""
    warmup: int | None = Field(None, ge=0)
    """Linear warm-up steps; None: as the base's."""
    repetition: int | None = Field(None, ge=1)
    """How often every new atom stands in an epoch; None: as often as the base's atoms, and the retained ones,
    do (training.atom_repetition)."""
    replay: float | None = Field(None, gt=0.0)
    """Old examples per new one in an epoch: the side that falls short is repeated, in whole copies and a
    random part. None: as the retention and the repetition come out."""
    freeze: tuple[Part, ...] = later(())
    """Parts of the model that keep the base's weights (training.freeze), whatever the base itself froze."""
    identity_relation: bool = later(False)
    """Also show (e, identity) -> e for every entity (corpus.identity_relation), as often as an old atom."""
    inference_loops: int | None = later(None, ge=1)
    """Times the shared part runs when evaluated, looked at and intervened on (TRM: outer cycles); None: as
    the base."""
    first_checkpoint: int = Field(1000, ge=1)
    """Checkpoints are dense up to here ..."""
    dense_every: int = Field(1000, ge=1)
    """... at this distance (steps; reference: 976), then log-spaced."""
    checkpoints_per_doubling: int = Field(6, ge=1)
    """Checkpoints per doubling of the step after `first_checkpoint`."""
    keep: int | None = Field(8, ge=2)
    """Most checkpoints kept with weights (evenly in log step, first and last always); None: all."""

    def of(self, base: TrainingSpec) -> TrainingSpec:
        """The training spec of a fine-tuning of a base that was trained with `base`."""
        optimizer = base.optimizer.tree()
        for name in ("lr", "muon_lr"):
            if optimizer[name] is not None:
                optimizer[name] *= self.lr_factor
        own = {"batch": self.batch, "warmup": self.warmup}
        return base.replace(
            optimizer=optimizer,
            freeze=self.freeze,
            steps=self.steps,
            until={},
            schedule="constant",
            schedule_steps=None,
            first_checkpoint=self.first_checkpoint,
            dense_every=self.dense_every,
            checkpoints_per_doubling=self.checkpoints_per_doubling,
            keep=self.keep,
            **{name: value for name, value in own.items() if value is not None},
        )


class ExamineSpec(Spec):
    """Where the second hop of a mix fails: what is intervened on. It only reads."""

    probes: int = Field(240, ge=1)
    """Most probes per mix that are intervened on (evenly spaced in stable id order)."""
    steps: Literal["end", "all"] = "end"
    """Checkpoints that are examined: the last, or every kept one."""
    learned: float = Field(0.99, gt=0.0, le=1.0)
    """Accuracy on the new atoms at which they count as learned."""
    works: float = Field(0.9, gt=0.0, le=1.0)
    """Accuracy among probes with known atoms from which on a mix works (the level at which a run counts as
    having generalised)."""
    window: int = Field(3, ge=1)
    """Consecutive checkpoints at or above a level for an event to count."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of all intervals."""
    seed: int = 0
    """Draws donors."""


class TransferSpec(Spec):
    """New facts, how they are trained, and how the outcome is examined."""

    facts: NewFactsSpec = NewFactsSpec()
    """What is new, and what is retained."""
    tuning: TuningSpec = TuningSpec()
    """How it is trained."""
    examine: ExamineSpec = ExamineSpec()
    """How the outcome is examined."""
