"""A run as training is given it. Training knows no lens; a study wires lenses to it as observers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from grokscope.models.protocol import Reasoner
from grokscope.seeds import Seeds
from grokscope.training.data import TrainingData
from grokscope.training.progress import Report
from grokscope.training.sinks import Sink
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import Encoded


class Observer(Protocol):
    """Looks at the model at every checkpoint, without changing it."""

    def at_checkpoint(self, step: int, model: Reasoner) -> Mapping[str, float] | None:
        """Look at the checkpoint of `step`.

        Returns:
            Accuracies by probe set, where the whole set was read on the way: the share for which
            `training.evaluate.correct` says yes. Training then does not evaluate these sets a second time.

        The model holds the averaged (EMA) weights. What is written here must be whole when the call returns:
        the checkpoint counts as complete only afterwards, and if the process dies before that, the call is
        repeated.
        """

    def forget_after(self, step: int) -> None:
        """The training goes on from `step`: remove whatever was written for later steps."""


@dataclass(frozen=True, eq=False)
class Member:
    """One run that is trained, alone or together with others."""

    model: Reasoner
    """Freshly built, with its initial weights, in the dtype of the spec. It holds the averaged (EMA) weights
    whenever someone else looks at it, and at the end."""
    data: TrainingData
    """The examples of one epoch."""
    probes: Mapping[str, Encoded]
    """What is evaluated at checkpoints, by name; empty sets are left out."""
    spec: TrainingSpec
    seeds: Seeds
    """`order` draws the order of the examples and random numbers of loops."""
    directory: Path
    """Of the run; made if it is not there."""
    observers: Sequence[Observer] = ()
    """Look at every checkpoint, in this order."""
    sinks: Sequence[Sink] = ()
    """Get every metrics line, beside `metrics.jsonl`."""
    report: Report | None = None
    """Called about once a second with the progress, instead of a display; see `training.progress`."""
