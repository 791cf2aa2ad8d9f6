"""A study: regimes x seeds of one model on one world, and transfers of its runs, expanded to jobs."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Discriminator, Field, Tag, model_validator

from grokscope.errors import InputError, quoted
from grokscope.mechanics.spec import CausalSpec, DiagnosisSpec, LensSpec
from grokscope.models.spec import AnyModel, LoopedSpec
from grokscope.runs.execution import ExecutionSpec
from grokscope.runs.job import UNTRAINED, RunSpec, SinkName, TransferRunSpec
from grokscope.runs.sweep import REGIME, Point, SweepSpec, laid
from grokscope.seeds import Seed, Seeds
from grokscope.spec import Spec, merge
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.spec import TransferSpec
from grokscope.world.format import FormatSpec
from grokscope.world.probes import patterns
from grokscope.world.spec import REGIMES, CorpusSpec, Regime, WorldSpec

MOMENTS = ("end", "saturation", "generalisation")
"""Moments of a run that a base can be taken at, beside a step."""


SECTIONS = ("world", "corpus", "format", "model", "training", "lens", "diagnosis", "causal")
SWEPT = (*SECTIONS, REGIME)
"""Whose fields a sweep can vary."""


class BaseChoice(NamedTuple):
    """A base, for every seed of a study."""

    regime: str | None
    """None: the untrained control."""
    moment: str
    """One of `MOMENTS`, "untrained", or a step as digits."""


class StudyTransfers(TransferSpec):
    """Bases, and the transfers that are made of each of them, for every seed of the study."""

    bases: tuple[str, ...] = ()
    """`REGIME@MOMENT`, the moment being end, saturation, generalisation (of test_ood), or a kept checkpoint's
    step; or `untrained`, the control. A run that never reached its moment gives no base, and that is said."""

    variants: dict[str, dict[str, Any]] = Field({})
    """By name, what is laid over `facts`, `tuning` and `examine`: every base is transferred once per variant.
    Empty: once, as the section says. Only in a file, no option."""

    @property
    def transfer(self) -> TransferSpec:
        """The settings without bases and variants."""
        return TransferSpec(facts=self.facts, tuning=self.tuning, examine=self.examine)

    def transfers(self) -> dict[str, TransferSpec]:
        """The settings of every variant, by name; without variants, those of the section, named "".

        Raises:
            InputError: a variant is not named by letters, digits and _, or lays on what cannot be honoured.
        """
        own = self.transfer
        if not self.variants:
            return {"": own}
        found = {}
        for name, over in self.variants.items():
            if not re.fullmatch(r"\w+", name, re.ASCII):
                raise InputError(f"transfer.variants = {quoted(name)}: names are letters, digits and _.")
            found[name] = TransferSpec.parse(merge(own.tree(), over), f"transfer.variants.{name}")
        return found

    def choices(self) -> list[BaseChoice]:
        """The bases, parsed.

        Raises:
            ValueError: one is malformed or stands twice.
        """
        if len(set(self.bases)) != len(self.bases):
            raise ValueError(f"transfer.bases repeats an item: {list(self.bases)}")
        return [_parse(text) for text in self.bases]


def _parse(text: str) -> BaseChoice:
    if text == UNTRAINED:
        return BaseChoice(None, UNTRAINED)
    regime, at, moment = text.partition("@")
    if not at or not regime or not (moment in MOMENTS or moment.isdecimal()):
        raise ValueError(
            f"transfer.bases: {text!r} must be REGIME@MOMENT with the moment {', '.join(MOMENTS)} or a step, "
            f"or {UNTRAINED!r}"
        )
    return BaseChoice(regime, moment)


def _named(regime: str, label: str) -> str:
    return f"{regime}-{label}" if label else regime


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
    execution: ExecutionSpec = ExecutionSpec()
    """Where and with what it is run; part of no run."""
    sweep: SweepSpec | None = None
    """Which fields vary from run to run, beside regimes and seeds; None: none. Only in a file, no option."""
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
        probes = patterns(self.corpus.hops)
        for name in self.training.until:
            if name not in probes:
                raise ValueError(f"training.until names {name!r}; the probe sets are {', '.join(probes)}")
        for field in self.sweep.vary if self.sweep is not None else ():
            if field.partition(".")[0] not in SWEPT or "." not in field:
                raise ValueError(
                    f"sweep.vary names {field!r}; allowed are fields of {', '.join(SWEPT)}, as in corpus.phi"
                )
        names = list(self.regime_names)
        for choice in self.transfer.choices() if self.transfer is not None else []:
            if choice.regime is not None and choice.regime not in names:
                raise ValueError(f"transfer.bases names {choice.regime!r}; the regimes are {names}")
        return self

    @property
    def regime_names(self) -> tuple[str, ...]:
        """The regimes by name; with a sweep, those of every point: `<regime>-<field><value>-...`."""
        return tuple(_named(name, label) for label, _ in self.points for name in self._own_names)

    @property
    def _own_names(self) -> list[str]:
        return [item if isinstance(item, str) else item.name for item in self.regimes]

    @property
    def points(self) -> list[tuple[str, Point]]:
        """The points of the sweep and what they are called; without one, the study itself, called nothing.

        Raises:
            InputError: a value has no name.
        """
        if self.sweep is None:
            return [("", {})]
        return [(self.sweep.label(point), point) for point in self.sweep.chosen()]

    def swept(self) -> dict[str, tuple[str, Point]]:
        """By regime name, the study's own regime, and the values of the varied fields."""
        return {
            _named(name, label): (name, point) for label, point in self.points for name in self._own_names
        }

    def _at(self, label: str, point: Point) -> Self:
        """The study of one point.

        Raises:
            InputError: a field does not exist, or its value cannot be honoured.
        """
        if not point:
            return self
        tree = laid({name: getattr(self, name).tree() for name in SECTIONS}, point, regime=False)
        regimes = []
        for item in self.regimes:
            regime = REGIMES[item] if isinstance(item, str) else item
            named = {"name": _named(regime.name, label)}
            regimes.append(Regime.parse(laid(regime.tree(), point, regime=True) | named, "sweep").tree())
        steps = {_named(name, label): count for name, count in self.steps_for.items()}
        parts = {"regimes": regimes, "steps_for": steps, "sweep": None, "transfer": None}
        return type(self).parse({**self.tree(), **tree, **parts}, "sweep")

    def with_world(self, world: WorldSpec) -> Self:
        """The same of another world, or of the same facts in another place."""
        return self.model_copy(update={"world": world})

    def alone(self, regime: str, seed: int) -> Self:
        """The study of one run: of one of its own regimes, or of the reference's, by name.

        Raises:
            InputError: there is no such regime.
        """
        own = {item.name: item for item in self.regimes if not isinstance(item, str)}
        known = REGIMES | own
        if regime not in known:
            raise InputError(f"regime = {regime!r}: allowed are {', '.join(known)}.")
        return self.replace(
            regimes=[known[regime].tree()], seeds=[seed], steps_for={}, transfer=None, sweep=None
        )

    def expand(self) -> dict[str, RunSpec]:
        """Run specs by run name (`<regime>-s<seed>`), in the order they should be started.

        Raises:
            InputError: a sweep names a field that does not exist, or a value that cannot be honoured.
        """
        studies = [self._at(label, point) for label, point in self.points]
        runs = [run for seed in self.seeds for one in studies for run in one._of_seed(seed)]
        return {run.name: run for run in runs}

    def _of_seed(self, seed: int) -> Iterator[RunSpec]:
        for item in self.regimes:
            regime = REGIMES[item] if isinstance(item, str) else item
            steps = self.steps_for.get(regime.name, self.training.steps)
            yield RunSpec(
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
                seed=seed,
            )

    def expand_transfers(self) -> list[TransferRunSpec]:
        """Transfer specs, in the order they should be started. Their step is 0: at which one a moment was is
        known when the run has been trained."""
        if self.transfer is None:
            return []
        runs = {(run.regime.name, run.seed): run for run in self.expand().values()}
        variants = self.transfer.transfers()
        return [
            # Untrained models of one seed are the same in every regime.
            TransferRunSpec(
                base=runs[choice.regime or self.regime_names[0], seed],
                step=0,
                transfer=transfer,
                moment=choice.moment,
                variant=variant,
            )
            for seed in self.seeds
            for choice in self.transfer.choices()
            for variant, transfer in variants.items()
        ]
