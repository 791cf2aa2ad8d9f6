"""A transfer's spec: everything that one fine-tuning depends on, in its directory."""

from grokscope.models.spec import ModelSpec
from grokscope.runs.spec import RunSpec
from grokscope.spec import Spec, digest
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.spec import TransferSpec


class TransferRunSpec(Spec):
    """A base, taken at one step, and what is done with it. Beside it the directory holds the base's weights
    (base.safetensors) and what is known of it (base.json), so that nothing else is needed."""

    base: RunSpec
    """The run that the base was trained in."""
    step: int
    """The base's step; 0: untrained."""
    transfer: TransferSpec
    """New facts, fine-tuning, examination."""

    @property
    def identity(self) -> str:
        """Hash without the number of steps and without what only reads the outcome."""
        tree = self.transfer.essence()
        tree.pop("examine")
        tree["tuning"].pop("steps")
        return digest({"base": self.base.identity, "step": self.step, "transfer": tree})

    @property
    def model(self) -> ModelSpec:
        """The base's model, evaluated with as many loops as the transfer says.

        Raises:
            InputError: the loops of the base do not share their weights.
        """
        loops = self.transfer.tuning.inference_loops
        if loops is None:
            return self.base.model
        return self.base.model.replace(**{self.base.model.INFERENCE_LOOPS: loops})

    @property
    def training(self) -> TrainingSpec:
        """How it is trained."""
        return self.transfer.tuning.of(self.base.training)
