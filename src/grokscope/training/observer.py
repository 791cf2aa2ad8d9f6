"""How training hands each checkpoint to whoever looks. Training knows no lens; a study wires lenses to it."""

from collections.abc import Mapping
from typing import Protocol

from grokscope.models.protocol import Reasoner


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
