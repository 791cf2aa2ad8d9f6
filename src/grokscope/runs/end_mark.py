"""The end mark of a finished run, while its training is continued."""

from pathlib import Path

from grokscope.files import remove
from grokscope.models.protocol import Reasoner
from grokscope.runs.directory import DONE


class EndMark:
    """Takes the end mark of a finished run away once its continuation has begun, and not if it cannot."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def at_checkpoint(self, step: int, model: Reasoner) -> None:
        """Nothing to look at."""

    def forget_after(self, step: int) -> None:
        """The state is read and the training goes on."""
        remove(self.directory / DONE)
