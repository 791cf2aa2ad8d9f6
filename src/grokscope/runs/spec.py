"""A study: regimes x seeds of one model on one world, expanded to self-contained run specs."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from grokscope.mechanics.spec import CausalSpec, DiagnosisSpec, LensSpec
from grokscope.models.spec import AnyModel, LoopedSpec
from grokscope.runs.transfer_section import StudyTransfers
from grokscope.seeds import Seed, Seeds
from grokscope.spec import Spec, digest
from grokscope.training.spec import TrainingSpec
from grokscope.world.format import FormatSpec
from grokscope.world.spec import REGIMES, CorpusSpec, Regime, WorldSpec

SinkName = Literal["tensorboard", "wandb"]


class RunSpec(Spec):
    """Everything one run depends on. Any executor can take it; nothing else is consulted."""

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

    @property
    def identity(self) -> str:
        """Hash of the spec without the number of steps, without what only reads the run, and without fields
        that came later (`grokscope.spec.later`) as long as they have their default."""
        tree = self.essence()
        tree["training"].pop("steps")
        tree.pop("diagnosis")
        tree.pop("sinks")
        tree.pop("causal")
        return digest(tree)


class StudySpec(Spec):
    """Regimes x seeds, and the settings they share."""

    name: str = "study"
    """Name of the study; its runs are kept in a directory of this name."""
    family: str = "default"
    """Which of the file's model families these settings are."""
    world: WorldSpec = WorldSpec()
    """The facts."""
    corpus: CorpusSpec = CorpusSpec()
    """What is shown and what is kept back."""
    format: FormatSpec = FormatSpec()
    """Tokens and labels."""
    model: AnyModel = LoopedSpec()
    """The model."""
    training: TrainingSpec = TrainingSpec()
    """The loop."""
    lens: LensSpec = LensSpec()
    """What is read at every checkpoint."""
    diagnosis: DiagnosisSpec = DiagnosisSpec()
    """Thresholds."""
    causal: CausalSpec = CausalSpec()
    """What is intervened on when a run has finished."""
    regimes: tuple[
        Annotated[
            Annotated[str, Tag("name")] | Annotated[Regime, Tag("regime")],
            Discriminator(lambda item: "name" if isinstance(item, str) else "regime"),
        ],
        ...,
    ] = Field(tuple(REGIMES), min_length=1)
    """Names of the reference's regimes, or regimes spelled out."""
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    """One run per regime and seed."""
    vary: tuple[Literal["world", "split", "corpus", "init", "order"], ...] = (
        "world", "split", "corpus", "init", "order",
    )  # fmt: skip
    """The streams a study seed sets; the others keep seed 0. Regimes of one seed always share their world."""
    steps_for: dict[str, Annotated[int, Field(ge=1)]] = Field({})
    """Other numbers of steps for some regimes, by name (`--training.steps` alone holds for all regimes)."""
    sinks: tuple[SinkName, ...] = ()
    """Where metrics go beside the run's own files; each is an extra to install."""
    transfer: StudyTransfers | None = None
    """Which models are fine-tuned on new facts once the runs have finished, and how; None: none."""

    @model_validator(mode="after")
    def _possible(self) -> "StudySpec":
        names = []
        for regime in self.regimes:
            if isinstance(regime, str) and regime not in REGIMES:
                raise ValueError(f"regime {regime!r} is unknown; the named ones are {', '.join(REGIMES)}")
            names.append(regime if isinstance(regime, str) else regime.name)
        for what, items in (("regimes", names), ("seeds", list(self.seeds)), ("vary", list(self.vary))):
            if len(set(items)) != len(items):
                raise ValueError(f"{what} repeats an item: {items}")
        if len(self.seeds) > 1 and not self.vary:
            raise ValueError(f"vary [] sets no stream, so the seeds {list(self.seeds)} would be one run each")
        if unknown := set(self.steps_for) - set(names):
            raise ValueError(f"steps_for names {sorted(unknown)}, which are not among the regimes {names}")
        for choice in self.transfer.choices() if self.transfer is not None else []:
            if choice.regime is not None and choice.regime not in names:
                raise ValueError(f"transfer.bases names {choice.regime!r}; the regimes are {names}")
        return self

    @property
    def regime_names(self) -> tuple[str, ...]:
        """The regimes by name."""
        return tuple(item if isinstance(item, str) else item.name for item in self.regimes)

    def expand(self) -> dict[str, RunSpec]:
        """Run specs by run name (`<regime>-s<seed>`), in the order they should be started."""
        runs = {}
        for seed in self.seeds:
            for item in self.regimes:
                regime = REGIMES[item] if isinstance(item, str) else item
                steps = self.steps_for.get(regime.name, self.training.steps)
                runs[f"{regime.name}-s{seed}"] = RunSpec(
                    world=self.world,
                    corpus=self.corpus,
                    regime=regime,
                    format=self.format,
                    model=self.model,
                    training=self.training.replace(steps=steps),
                    lens=self.lens,
                    diagnosis=self.diagnosis,
                    causal=self.causal,
                    sinks=self.sinks,
                    seeds=Seeds(**dict.fromkeys(self.vary, seed)),
                )
        return runs
