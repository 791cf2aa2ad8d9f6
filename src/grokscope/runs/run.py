"""Reading results: a `Run` and a `Study` are opened from their directories, and asked."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import InputError
from grokscope.files import read_json
from grokscope.runs.directory import (
    CAUSAL,
    CORPUS,
    DIAGNOSIS,
    DONE,
    SPEC,
    STUDY,
    VERDICT,
    read_spec,
    read_study,
    run_directory,
)
from grokscope.runs.spec import RunSpec, StudySpec
from grokscope.runs.trained import Trained

if TYPE_CHECKING:
    import polars as pl

    from grokscope.mechanics.judge.diagnosis import Diagnosis
    from grokscope.mechanics.judge.verdict import CausalVerdict
    from grokscope.models.protocol import Reasoner
    from grokscope.runs.transfer import Transfer
    from grokscope.world.corpus import Corpus
    from grokscope.world.graph import World


class Run(Trained[RunSpec]):
    """One run, finished or not. Nothing is read before it is asked for, and nothing is ever written.

    Attributes:
        directory: where it is kept.
        spec: everything it depends on.
    """

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        """Open a run directory.

        Raises:
            InputError: it has no spec, or one that cannot be read.
        """
        directory = Path(directory)
        if (directory / STUDY).exists() and not (directory / SPEC).exists():
            runs = sorted(path.parent.name for path in directory.glob(f"*/{SPEC}"))
            which = f"give one of its runs, such as {directory / runs[0]}" if runs else "it has no runs yet"
            raise InputError(f"{directory} is the directory of a study: {which}.")
        return cls(directory, read_spec(directory))

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What its bits depend on beside the spec: threads, backend, dtype, versions."""
        tree: Mapping[str, Any] = read_json(self.directory / "manifest.json", "manifest")
        return tree

    def model(self, step: int | None = None) -> "Reasoner":
        """The model with the averaged (EMA) weights of a checkpoint, ready to evaluate, on the CPU.

        Args:
            step: one of `steps`; None: the last.

        Raises:
            InputError: there is no checkpoint of that step, or it is corrupt.
        """
        from grokscope.models.build import build_model
        from grokscope.training.checkpoint import load_weights
        from grokscope.world.format import positions

        path = self.weights(step)
        model = build_model(
            self.spec.model,
            self.world.vocabulary.size,
            positions(self.spec.format),
            self.spec.format,
            self.spec.seeds.init,
            self.spec.training.dtype,
        )
        load_weights(path, model)
        return model.eval()

    @cached_property
    def world(self) -> "World":
        """The facts, rebuilt from the spec."""
        from grokscope.world.graph import build_world

        return build_world(self.spec.world, self.spec.seeds)

    @cached_property
    def corpus(self) -> "Corpus":
        """The training data and probes, rebuilt from the spec.

        Raises:
            InputError: what is built is not what the run was trained on.
        """
        from grokscope.world.corpus import build_corpus

        corpus = build_corpus(self.world, self.spec.corpus, self.spec.regime, self.spec.seeds)
        check_fingerprint(self.directory, corpus.fingerprint)
        return corpus

    @property
    def diagnosis(self) -> "Diagnosis | None":
        """What was diagnosed when the run finished; None: not yet."""
        from grokscope.mechanics.judge.diagnosis import Diagnosis

        path = self.directory / DIAGNOSIS
        if not (self.directory / DONE).exists():
            return None
        return Diagnosis.parse(read_json(path, "diagnosis"), str(path))

    @property
    def verdict(self) -> "CausalVerdict | None":
        """What interventions said of the last checkpoint; None: nobody has intervened on it yet."""
        from grokscope.mechanics.judge.verdict import CausalVerdict

        path = self.directory / VERDICT
        if not path.exists():
            return None
        found = CausalVerdict.parse(read_json(path, "verdict"), str(path))
        return found if self.steps and found.step == self.steps[-1] else None

    @property
    def causal(self) -> "pl.DataFrame":
        """Every cell that the verdict looked at, with its rate: columns as `studies.causal.SCHEMA`.

        Raises:
            InputError: there is no verdict yet, or not every cell that it looked at is there.
        """
        import polars as pl

        path = self.directory / CAUSAL
        if not path.exists():
            raise InputError(f"run {self.name} has no causal map yet: grokscope diagnose {self.directory}")
        damaged = InputError(
            f"{path} is damaged; remove it, then make it anew: grokscope diagnose {self.directory}"
        )
        try:
            table = pl.read_csv(path, schema_overrides={"position": pl.String})
            cells_K = table.group_by("step", "probe_set").len()["len"]
        except (pl.exceptions.PolarsError, OSError):
            raise damaged from None
        # Every look has the same cells.
        if self.verdict is not None and (len(cells_K), cells_K.n_unique()) != (len(self.verdict.sets), 1):
            raise damaged
        return table


class Study:
    """A study's directory: the spec it was last run with, and its runs."""

    def __init__(self, directory: Path, spec: StudySpec) -> None:
        self.directory, self.spec = directory, spec

    @classmethod
    def open(cls, directory: str | Path) -> "Study":
        """Open a study directory.

        Raises:
            InputError: it holds no study, or one that cannot be read.
        """
        directory = Path(directory)
        return cls(directory, read_study(directory))

    def __repr__(self) -> str:
        runs = f"{len(self.runs)} of {len(self.spec.expand())} runs"
        return f"Study({self.spec.name}, {runs}, {self.directory})"

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def runs(self) -> dict[str, Run]:
        """The runs of the study that have been started, by name."""
        specs = self.spec.expand()
        places = {name: run_directory(self.directory, name, spec) for name, spec in specs.items()}
        return {name: Run.open(place) for name, place in places.items() if (place / SPEC).exists()}

    @property
    def transfers(self) -> "dict[str, Transfer]":
        """The transfers of the study that have been started, by name: `<regime>-s<seed>-<moment>`, or
        `untrained-s<seed>`."""
        from grokscope.runs.transfer import Transfer
        from grokscope.runs.transfer_plan import plan_transfers

        planned, _ = plan_transfers(self.spec, self.directory, self.runs, look=True)
        places = {name: one.directory for name, one in planned.items()}
        return {name: Transfer.open(place) for name, place in places.items() if (place / SPEC).exists()}

    @property
    def transfers_missing(self) -> dict[str, str]:
        """Transfers that cannot be made (yet), by name, each with the reason as a sentence."""
        from grokscope.runs.transfer_plan import plan_transfers

        return plan_transfers(self.spec, self.directory, self.runs, look=True)[1]


def open_directory(directory: str | Path) -> "Run | Study | Transfer":
    """A `Run`, a `Study` or a `Transfer`, by what the directory is.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}.")
    if (directory / STUDY).exists():
        return Study.open(directory)
    if (directory / SPEC).exists():
        from grokscope.runs.transfer import Transfer, is_transfer

        return Transfer.open(directory) if is_transfer(directory) else Run.open(directory)
    raise InputError(f"{directory} is neither a run ({SPEC}) nor a study ({STUDY}).")


def check_fingerprint(directory: Path, fingerprint: str) -> None:
    """Raise InputError unless the corpus is the one the run in `directory` was started with, as far as
    that was
    noted: a directory may hold spec, manifest, metrics and checkpoints alone."""
    if not (directory / CORPUS).exists():
        return
    summary = read_json(directory / CORPUS, "corpus summary")
    before = summary.get("fingerprint") if isinstance(summary, dict) else None
    if before != fingerprint:
        raise InputError(
            f"the corpus of {directory.name} cannot be rebuilt: fingerprint {before} is now {fingerprint}, "
            "so the facts file or the code that builds worlds has changed; start again in another --out."
        )
