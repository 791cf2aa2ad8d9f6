"""The jobs a study is made of: to train a run, and to fine-tune a model it was left with on new facts.

A job is a spec that says everything it depends on: any executor can take it, and nothing else is consulted.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from grokscope.mechanics.spec import CausalSpec, DiagnosisSpec, LensSpec
from grokscope.models.spec import AnyModel, ModelSpec
from grokscope.seeds import Seed, Seeds
from grokscope.spec import Spec, digest
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.spec import TransferSpec
from grokscope.world.format import FormatSpec
from grokscope.world.spec import CorpusSpec, Regime, Task, WorldSpec

SinkName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
UNTRAINED = "untrained"
"""The moment of a control that was not trained."""


def _seed_of_streams(values: dict[str, Any]) -> int:
    """The seed of a run from before it was recorded: a study gives its seed to the streams that it varies,
    and 0 to the others."""
    seeds: Seeds = values["seeds"]
    return max(seeds.world, seeds.split, seeds.corpus, seeds.init, seeds.order)


class RunSpec(Spec):
    """A run: a model that is trained on a corpus, traced, diagnosed and intervened on."""

    KIND: ClassVar[str] = "run"
    STEPS: ClassVar[str] = "training.steps"
    """Where a study says how many steps."""

    world: WorldSpec
    corpus: CorpusSpec
    regime: Regime
    format: FormatSpec
    model: AnyModel
    training: TrainingSpec
    lens: LensSpec
    diagnosis: DiagnosisSpec
    seeds: Seeds
    sinks: tuple[SinkName, ...] = ()
    causal: CausalSpec = CausalSpec()
    """Has a default, so that a run from before there was a causal verdict is read as the run it is."""
    seed: Seed = Field(default_factory=_seed_of_streams)
    """The study's seed, which names the run; what it depends on are `seeds`."""

    @property
    def name(self) -> str:
        """`<regime>-s<seed>`."""
        return f"{self.regime.name}-s{self.seed}"

    def with_world(self, world: WorldSpec) -> Self:
        """The same of another world, or of the same facts in another place."""
        return self.model_copy(update={"world": world})

    @property
    def hops(self) -> int:
        """Of the longest query."""
        return self.corpus.hops

    @property
    def task(self) -> Task:
        """What compositions ask."""
        return self.corpus.task

    @property
    def judged(self) -> bool:
        """Whether its end is intervened on: a verdict is about a bridge, which comparisons do not have."""
        return self.causal.enabled and self.task == "chain"

    @property
    def identity(self) -> str:
        """Hash of the spec without the number of steps, without what names the run or only reads it, and
        without fields that came later (`grokscope.spec.later`) as long as they have their default."""
        tree = self.essence()
        for name in ("steps", "until", "until_checkpoints"):
            tree["training"].pop(name, None)
        if self.world.facts_sha256 is not None:  # its content says it all
            tree["world"].pop("facts_file")
        for name in ("diagnosis", "sinks", "causal", "seed"):
            tree.pop(name)
        return digest(tree)


class TransferRunSpec(Spec):
    """A transfer: a base, taken at one step of a run, and what is done with it. Beside it the directory holds
    the base's weights and what is known of it, so that nothing else is needed."""

    KIND: ClassVar[str] = "transfer"
    STEPS: ClassVar[str] = "transfer.tuning.steps"

    base: RunSpec
    """The run that the base was trained in."""
    step: int
    """The base's step; 0: untrained."""
    transfer: TransferSpec
    """New facts, fine-tuning, examination."""
    moment: str
    """What the step was asked for as: end, saturation, generalisation, untrained, or its number."""
    variant: str = ""
    """Which of a study's variants these settings are; empty: there is only one."""

    @property
    def world(self) -> WorldSpec:
        return self.base.world

    def with_world(self, world: WorldSpec) -> Self:
        """The same of another world, or of the same facts in another place."""
        return self.model_copy(update={"base": self.base.with_world(world)})

    @property
    def base_name(self) -> str:
        """`<base run>-<moment>`, or `untrained-s<seed>`."""
        untrained = self.moment == UNTRAINED
        return f"{UNTRAINED}-s{self.base.seed}" if untrained else f"{self.base.name}-{self.moment}"

    @property
    def name(self) -> str:
        """`base_name`, and the variant."""
        return f"{self.base_name}-{self.variant}" if self.variant else self.base_name

    @property
    def identity(self) -> str:
        """Hash without the number of steps, without what names it and without what only reads the outcome."""
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
        """How it is fine-tuned."""
        return self.transfer.tuning.of(self.base.training)

    @property
    def lens(self) -> LensSpec:
        """All probes: what a query's atoms are is looked up among them."""
        return self.base.lens.replace(probes_per_set=None)

    @property
    def format(self) -> FormatSpec:
        return self.base.format

    @property
    def hops(self) -> int:
        """Of the longest query."""
        return self.base.hops

    @property
    def task(self) -> Task:
        """What compositions ask."""
        return self.base.task

    @property
    def seeds(self) -> Seeds:
        return self.base.seeds

    @property
    def sinks(self) -> tuple[SinkName, ...]:
        return self.base.sinks
