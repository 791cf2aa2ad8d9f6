"""How training hands each checkpoint to whoever looks. Training knows no lens; a study wires lenses to it."""

from typing import Protocol

from grokscope.models.protocol import Reasoner


class Observer(Protocol):
    """Looks at the model at every checkpoint, without changing it."""

    def at_checkpoint(self, step: int, model: Reasoner) -> None:
        """Look at the checkpoint of `step`.

        The model holds the averaged (EMA) weights. What is written here must be whole when the call returns:
        the checkpoint counts as complete only afterwards, and if the process dies before that, the call is
        repeated.
        """

    def forget_after(self, step: int) -> None:
        """The training goes on from `step`: remove whatever was written for later steps."""
