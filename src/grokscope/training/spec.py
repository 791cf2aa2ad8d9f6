"""What can be said of a training. Defaults are the reference's recipe where it has one."""

import math
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from grokscope.spec import Spec, canonical_json, later

Part: TypeAlias = Literal["embedding", "blocks", "head"]
"""What can be frozen."""

MOST_CHECKPOINTS = 100_000
"""Of one run. Each evaluates every probe and writes files."""


class OptimizerSpec(Spec):
    """AdamW on everything, or Muon on the block matrices beside AdamW on the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the 2-D block matrices, AdamW for embeddings, head, gains and
    biases."""
    lr: float = Field(4e-5, gt=0.0)
    """Peak learning rate of AdamW (reference: 4e-5)."""
    muon_lr: float | None = Field(None, gt=0.0)
    """Peak learning rate of Muon; None: as lr. An update has RMS 0.2 per entry times this rate."""
    weight_decay: float = Field(1.0, ge=0.0)
    """Decoupled decay of AdamW parameters, times the learning rate (reference: 1.0)."""
    muon_weight_decay: float | None = Field(None, ge=0.0)
    """Decoupled decay of Muon parameters; None: as weight_decay."""
    decay_vectors: bool = True
    """Decay gains, biases and position codes too (reference: every parameter)."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW first-moment decay."""
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    """AdamW second-moment decay."""
    momentum: float = Field(0.95, ge=0.0, lt=1.0)
    """Muon momentum (Nesterov)."""
    grokfast: float = later(0.0, ge=0.0)
    """Grokfast: so many times the slow average of a gradient is added to it (published: 2.0); 0: off."""
    grokfast_decay: float = later(0.98, ge=0.0, lt=1.0)
    """Grokfast: decay of that average per step (published: 0.98). Without effect where grokfast is 0."""
    prefix_lr: float = Field(1e-4, gt=0.0)
    """Learning rate of the TRM prefix embedding (sign-SGD, reference: 1e-4)."""
    prefix_weight_decay: float = Field(1.0, ge=0.0)
    """Decay of the TRM prefix embedding (reference: 1.0)."""


class TrainingSpec(Spec):
    """The loop: how long, how fast, what is kept."""

    steps: int = Field(10_000, ge=1)
    """Optimiser steps. Not part of a run's identity: raising it continues the run."""
    until: dict[str, Annotated[float, Field(gt=0.0, le=1.0)]] = later({})
    """End before that once these probe sets have these accuracies, all of them at `until_checkpoints`
    scheduled checkpoints in a row. Like `steps` no part of an identity: taken away, the run goes on."""
    until_checkpoints: int = later(3, ge=1)
    """Without effect where until is empty."""
    batch: int = Field(512, ge=1)
    """Examples per step; epochs shuffle without replacement, the last partial batch is dropped (reference:
    512)."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """Optimiser."""
    warmup: int = Field(2000, ge=0)
    """Linear warm-up steps (reference: 2,000)."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after warm-up."""
    schedule_steps: int | None = Field(None, ge=1)
    """Step at which cosine / linear end; required for them, so that the rate does not depend on `steps`."""
    final_lr: float = Field(0.1, ge=0.0, le=1.0)
    """Cosine / linear end at this share of the peak rate and stay there."""
    loss: Literal["softmax", "stablemax", "stablemax64"] = "stablemax64"
    """Cross-entropy: softmax, stablemax in float32, or stablemax in float64 (reference)."""
    halt_weight: float = Field(0.5, ge=0.0)
    """Weight of the TRM halting head's binary cross-entropy (reference: 0.5)."""
    ema: float = Field(0.999, ge=0.0, lt=1.0)
    """Decay of the weight average that is evaluated and kept (reference: 0.999); 0: off."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Activations; weights are float32."""
    atom_repetition: int = Field(1, ge=1)
    """How often every atomic fact stands in an epoch (reference: 1)."""
    loop_choices: tuple[int, ...] | None = None
    """Looped models: draw the number of loops of each step from these; None: always as the model says."""
    freeze: tuple[Part, ...] = later(())
    """Parts that keep their weights, to the byte: token, position and prefix embeddings (with a tied head the
    head too); the blocks that are run over and over; the output head with its norm and halting head."""
    first_checkpoint: int = Field(100, ge=1)
    """Checkpoints are dense up to here ..."""
    dense_every: int = Field(100, ge=1)
    """... at this distance (steps), then log-spaced."""
    checkpoints_per_doubling: int = Field(4, ge=1)
    """Checkpoints per doubling of the step after `first_checkpoint`."""
    keep: int | None = Field(None, ge=2)
    """Most checkpoints kept with weights (evenly in log step, first and last always); None: all."""
    resume_every: int = Field(1000, ge=1)
    """Steps between saves of the resumable state (also saved at every checkpoint)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it runs."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: auto uses it where a compiler works, and says once where not."""

    def __hash__(self) -> int:
        """Of a field that is a mapping as of all others."""
        return hash(canonical_json(self.tree()))

    @field_validator("compile", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        """YAML reads an unquoted on or off as true or false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _possible(self) -> "TrainingSpec":
        if self.schedule != "constant" and self.schedule_steps is None:
            raise ValueError(f"schedule {self.schedule!r} needs schedule_steps")
        if self.schedule_steps is not None and self.schedule_steps <= self.warmup:
            raise ValueError(
                f"schedule_steps {self.schedule_steps} must be greater than warmup {self.warmup}"
            )
        if len(set(self.freeze)) != len(self.freeze):
            raise ValueError(f"freeze {list(self.freeze)} names a part twice")
        reached = min(self.first_checkpoint, self.steps)
        doublings = max(0.0, math.log2(self.steps) - math.log2(self.first_checkpoint))
        checkpoints = reached // self.dense_every + doublings * self.checkpoints_per_doubling
        if checkpoints > MOST_CHECKPOINTS:
            raise ValueError(
                f"first_checkpoint {self.first_checkpoint}, dense_every {self.dense_every}, "
                f"checkpoints_per_doubling {self.checkpoints_per_doubling} and steps {self.steps} make "
                f"{checkpoints:.2g} checkpoints; allowed are {MOST_CHECKPOINTS}"
            )
        if self.loop_choices is not None and (not self.loop_choices or min(self.loop_choices) < 1):
            raise ValueError(
                f"loop_choices {list(self.loop_choices)} must be one or more numbers, each at least 1"
            )
        return self
