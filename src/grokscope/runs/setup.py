"""What a job's spec means, wired in one place and handed on: world, corpus, probes, training data, model.

Each part is built when it is first asked for, and once; models, which are changed by whoever has them, are
built anew every time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from grokscope.errors import InputError
from grokscope.mechanics.patch.interchange import Setting
from grokscope.mechanics.read.traces import TraceWriter
from grokscope.models.build import build_model
from grokscope.models.protocol import Reasoner
from grokscope.runs.directory import TRACES
from grokscope.runs.job import RunSpec, TransferRunSpec
from grokscope.training.checkpoint import load_weights
from grokscope.training.data import TrainingData, training_data
from grokscope.training.member import Member, Observer
from grokscope.training.progress import Report
from grokscope.training.sinks import Sink
from grokscope.training.spec import TrainingSpec
from grokscope.transfer.tune import tuning_data
from grokscope.world.answers import asked
from grokscope.world.corpus import Corpus, build_corpus
from grokscope.world.format import Encoded, positions
from grokscope.world.graph import World, build_world
from grokscope.world.newfacts import NewFacts, build_new_facts
from grokscope.world.queries import Queries

S = TypeVar("S", RunSpec, TransferRunSpec)
C = TypeVar("C", Corpus, NewFacts)


class Setup(ABC, Generic[S, C]):
    """What both kinds of job have. All of it may raise InputError: the spec cannot be honoured."""

    def __init__(self, spec: S) -> None:
        self.spec: S = spec

    @property
    @abstractmethod
    def world(self) -> World:
        """The facts; of a transfer, those of its base, without the new ones."""

    @property
    @abstractmethod
    def corpus(self) -> C:
        """The training data and probes; of a transfer, its new facts."""

    @property
    @abstractmethod
    def composed(self) -> Queries:
        """The queries of two hops or more that were ever trained."""

    @property
    @abstractmethod
    def data(self) -> TrainingData:
        """The examples of one epoch."""

    @cached_property
    def encoded(self) -> dict[str, Encoded]:
        """The probes as the model sees them, by name."""
        return {
            name: asked(one.queries, self.corpus.world, self.spec.format, self.spec.hops)
            for name, one in self.corpus.probes.items()
        }

    def tracer(self, directory: Path) -> TraceWriter:
        """Traces the probes at every checkpoint of a job's directory."""
        probes, vocabulary = self.corpus.probes, self.world.vocabulary
        return TraceWriter(directory / TRACES, probes, self.encoded, vocabulary, self.spec.lens)

    def member(
        self,
        directory: Path,
        weights: Path | None = None,
        observers: Sequence[Observer] = (),
        sinks: Sequence[Sink] = (),
        report: Report | None = None,
        training: TrainingSpec | None = None,
    ) -> Member:
        """What training is given.

        Args:
            directory: where it is trained, and traced. weights: as for `model`.
            observers: look before it is traced. sinks, report: as for `train`.
            training: in place of the spec's.
        """
        return Member(
            model=self.model(weights),
            data=self.data,
            probes=self.encoded,
            spec=training or self.spec.training,
            seeds=self.spec.seeds,
            directory=directory,
            observers=[*observers, self.tracer(directory)],
            sinks=sinks,
            report=report,
        )

    def setting(self, seed: int = 0, hop: int = 1) -> Setting:
        """What an intervention needs to know; the seed draws donors, the bridge is the entity after `hop`.

        Raises:
            InputError: there is no such bridge, or there is none as nothing is chained.
        """
        if self.spec.task != "chain":
            raise InputError(
                f"corpus.task = {self.spec.task!r}: nothing is chained, so there is no bridge to exchange; "
                "the lens, its controls and the course of training are there (grokscope report)."
            )
        if not 1 <= hop < self.spec.hops:
            raise InputError(f"hop = {hop}: the bridges of this run are after hop 1 to {self.spec.hops - 1}.")
        return Setting(self.corpus.world, self.composed, self.spec.format, seed, hop=hop)

    def model(self, weights: Path | None = None, dtype: str | None = None) -> Reasoner:
        """The model, on the CPU.

        Args:
            weights: a file of its weights, with which it is ready to evaluate; None: the initial ones.
            dtype: of the activations; None: as it is trained.

        Raises:
            InputError: the file is missing, damaged, or of another architecture.
        """
        spec, fmt = self.spec, self.spec.format
        vocab, dtype = self.world.vocabulary.size, dtype or spec.training.dtype
        model = build_model(spec.model, vocab, positions(fmt, spec.hops), fmt, spec.seeds.init, dtype)
        if weights is None:
            return model
        load_weights(weights, model)
        return model.eval()


class RunSetup(Setup[RunSpec, Corpus]):
    """Of a run."""

    @cached_property
    def world(self) -> World:
        return build_world(self.spec.world, self.spec.seeds)

    @cached_property
    def corpus(self) -> Corpus:
        return build_corpus(self.world, self.spec.corpus, self.spec.regime, self.spec.seeds)

    @property
    def composed(self) -> Queries:
        return self.corpus.composition

    @property
    def data(self) -> TrainingData:
        return training_data(self.corpus, self.spec.format, self.spec.training.atom_repetition)


class TransferSetup(Setup[TransferRunSpec, NewFacts]):
    """Of a transfer; `base` is the setup that its base was trained with, if it is at hand."""

    def __init__(self, spec: TransferRunSpec, base: RunSetup | None = None) -> None:
        super().__init__(spec)
        self.base = base or RunSetup(spec.base)

    @property
    def world(self) -> World:
        return self.base.world

    @cached_property
    def corpus(self) -> NewFacts:
        return build_new_facts(self.base.corpus, self.spec.transfer.facts, self.spec.seeds)

    @property
    def composed(self) -> Queries:
        return self.corpus.composed

    @property
    def data(self) -> TrainingData:
        spec = self.spec
        return tuning_data(self.corpus, spec.format, spec.transfer, spec.training, spec.seeds)
