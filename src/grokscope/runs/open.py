"""Reading results: a `Run` and a `Transfer` are opened from their directories, and asked.

Nothing is read or built before it is asked for, and nothing is ever written.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from grokscope.errors import InputError, shortened
from grokscope.files import exists, read_json, read_text
from grokscope.runs.directory import (
    BASE,
    CAUSAL,
    CELLS,
    CORPUS,
    DIAGNOSIS,
    DONE,
    RESULT,
    SPEC,
    STUDY,
    TRACES,
    VERDICT,
    standing,
)
from grokscope.runs.job import RunSpec, TransferRunSpec
from grokscope.world.source import found

if TYPE_CHECKING:
    import polars as pl
    import xarray as xr

    from grokscope.mechanics.judge.diagnosis import Diagnosis
    from grokscope.mechanics.judge.verdict import CausalVerdict
    from grokscope.mechanics.patch.interchange import Setting
    from grokscope.models.protocol import Reasoner
    from grokscope.runs.setup import RunSetup, Setup, TransferSetup
    from grokscope.transfer.result import BaseStanding, TransferResult
    from grokscope.world.corpus import Corpus
    from grokscope.world.graph import World
    from grokscope.world.newfacts import NewFacts

S = TypeVar("S", RunSpec, TransferRunSpec)
C = TypeVar("C", "Corpus", "NewFacts")


class Job(Generic[S, C]):
    """A job and what came of it: what a run and a transfer are asked alike.

    Attributes:
        directory: where it is kept; a job that was not begun has none yet.
        spec: everything it depends on.
    """

    def __init__(self, directory: Path, spec: S) -> None:
        self.directory = directory
        self.spec: S = spec

    @classmethod
    @abstractmethod
    def open(cls, directory: str | Path) -> Self:
        """Open a directory by the spec it holds.

        Raises:
            InputError: it has no spec of this kind, or one that cannot be read.
        """

    @property
    @abstractmethod
    def setup(self) -> "Setup[S, C]":
        """World, corpus, training data and model, rebuilt from the spec."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.directory})"

    @property
    def name(self) -> str:
        """`<regime>-s<seed>` of a run; of a transfer `<base run>-<moment>`, or `untrained-s<seed>`."""
        return self.spec.name

    @property
    def begun(self) -> bool:
        """Whether it is in its directory."""
        return exists(self.directory / SPEC, f"{self.spec.KIND} spec")

    @property
    def finished(self) -> bool:
        """Whether it has reached the number of steps its spec asks for, or what ends it before."""
        now = standing(self.directory)
        return now.state == "done" and self.ends_at(now.step)

    def ends_at(self, step: int) -> bool:
        """Whether there is no more to train when it stands at `step`.

        Raises:
            InputError: its metrics are damaged.
        """
        from grokscope.training.metrics import MetricsFile
        from grokscope.training.schedule import ends

        training = self.spec.training
        if step >= training.steps or not training.until:
            return step >= training.steps
        return ends(training, [row for row in MetricsFile(self.directory).rows() if row["step"] <= step])

    @cached_property
    def metrics(self) -> "pl.DataFrame":
        """One row per evaluated step: step, seconds, loss, lr, and `accuracy.<probe set>` columns."""
        from grokscope.training.metrics import read_metrics

        return read_metrics(self.directory)

    @cached_property
    def traces(self) -> "xr.Dataset":
        """The lens at every checkpoint, lazy: dims (step, probe, variable, stage, position)."""
        from grokscope.mechanics.read.traces import open_traces

        return open_traces(self.directory / TRACES)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints that are kept with weights; a transfer's 0 is its base."""
        from grokscope.training.checkpoint import kept_steps

        return kept_steps(self.directory)

    def weights(self, step: int | None = None) -> Path:
        """The file of a checkpoint's averaged (EMA) weights.

        Args:
            step: one of `steps`; None: the last.

        Raises:
            InputError: there is no checkpoint of that step.
        """
        from grokscope.training.checkpoint import weights_path

        kept, kind = self.steps, self.spec.KIND
        if not kept:
            raise InputError(f"{kind} {self.name} in {self.directory} has no checkpoint yet.")
        wanted = kept[-1] if step is None else step
        if wanted not in kept:
            available = ", ".join(map(str, kept))
            raise InputError(f"step = {wanted}: {kind} {self.name} keeps the checkpoints {available}.")
        return weights_path(self.directory, wanted)

    def model(self, step: int | None = None) -> "Reasoner":
        """The model with the averaged (EMA) weights of a checkpoint, ready to evaluate, on the CPU.

        Args:
            step: one of `steps`; None: the last.

        Raises:
            InputError: there is no checkpoint of that step, or it is corrupt.
        """
        return self.setup.model(self.weights(step))

    @property
    def summary(self) -> Mapping[str, Any]:
        """Counts and fingerprints of what is trained and asked, as recorded when it began; empty: nobody did,
        as a directory may hold spec, manifest, metrics and checkpoints alone.

        Raises:
            InputError: the record is damaged.
        """
        path = self.directory / CORPUS
        if not exists(path, "corpus summary"):
            return {}
        tree = read_json(path, "corpus summary")
        if not isinstance(tree, dict) or not isinstance(tree.get("fingerprint"), str):
            raise InputError(f"{path} is damaged: it holds no fingerprint of a corpus.")
        return tree

    @property
    def world_fingerprint(self) -> str:
        """Of its world, of a transfer's base's: jobs of one world pair. It is rebuilt where there is no
        record of it."""
        return self.summary.get("world") or self.setup.world.fingerprint

    @cached_property
    def checked(self) -> "Setup[S, C]":
        """`setup`, with the corpus that was trained on, as far as that was recorded.

        Raises:
            InputError: another is built today.
        """
        now = self.setup.corpus.fingerprint
        before = self.summary.get("fingerprint", now)
        if before != now:
            raise InputError(
                f"the corpus of {self.directory.name} cannot be rebuilt: fingerprint "
                f"{shortened(before, 20)} is now {now}, so the code that builds worlds has changed; start "
                "again in another --out."
            )
        return self.setup

    def setting(self, seed: int = 0, hop: int = 1) -> "Setting":
        """What an intervention on its models needs to know; the seed draws donors, and the bridge is the
        entity after `hop`."""
        return self.checked.setting(seed, hop)


class Run(Job[RunSpec, "Corpus"]):
    """One run, finished or not."""

    @classmethod
    def open(cls, directory: str | Path) -> "Run":
        directory = Path(directory)
        if exists(directory / STUDY, "study") and not exists(directory / SPEC, "run spec"):
            runs = sorted(path.parent.name for path in directory.glob(f"*/{SPEC}"))
            which = f"give one of its runs, such as {directory / runs[0]}" if runs else "it has no runs yet"
            raise InputError(f"{directory} is the directory of a study: {which}.")
        spec = RunSpec.parse(read_json(directory / SPEC, "run spec"), str(directory / SPEC))
        return cls(directory, spec.with_world(found(spec.world, directory)))

    @cached_property
    def setup(self) -> "RunSetup":
        from grokscope.runs.setup import RunSetup

        return RunSetup(self.spec)

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """What its bits depend on beside the spec: threads, backend, dtype, versions."""
        tree: Mapping[str, Any] = read_json(self.directory / "manifest.json", "manifest")
        return tree

    @property
    def world(self) -> "World":
        """The facts, rebuilt from the spec."""
        return self.setup.world

    @property
    def corpus(self) -> "Corpus":
        """The training data and probes, rebuilt from the spec.

        Raises:
            InputError: what is built is not what the run was trained on.
        """
        return self.checked.corpus

    @property
    def diagnosis(self) -> "Diagnosis | None":
        """What was diagnosed when the run finished; None: not yet."""
        from grokscope.mechanics.judge.diagnosis import Diagnosis

        path = self.directory / DIAGNOSIS
        if not exists(self.directory / DONE, "end mark"):
            return None
        return Diagnosis.parse(read_json(path, "diagnosis"), str(path))

    @property
    def verdict(self) -> "CausalVerdict | None":
        """What interventions said of the last checkpoint; None: nobody has intervened on it yet."""
        from grokscope.mechanics.judge.verdict import CausalVerdict

        path = self.directory / VERDICT
        if not exists(path, "verdict"):
            return None
        found = CausalVerdict.parse(read_json(path, "verdict"), str(path))
        return found if self.steps and found.step == self.steps[-1] else None

    @property
    def causal(self) -> "pl.DataFrame":
        """Every cell that the verdict looked at, with its rate: columns as `runs.causal.SCHEMA`.

        Raises:
            InputError: there is no verdict yet, or not every cell that it looked at is there.
        """
        path = self.directory / CAUSAL
        if not exists(path, "causal map"):
            raise InputError(f"run {self.name} has no causal map yet: grokscope diagnose {self.directory}")
        damaged = InputError(
            f"{path} is damaged; remove it, then make it anew: grokscope diagnose {self.directory}"
        )
        if (table := _cells_in(path)) is None:
            raise damaged
        looks = [name for name in ("step", "probe_set", "latent") if name in table.columns]
        if not looks:
            raise damaged
        cells_K = table.group_by(looks).len()["len"]
        # Every look has the same cells.
        if self.verdict is not None and (len(cells_K), cells_K.n_unique()) != (len(self.verdict.sets), 1):
            raise damaged
        return table


class Transfer(Job[TransferRunSpec, "NewFacts"]):
    """One transfer, finished or not."""

    @classmethod
    def open(cls, directory: str | Path) -> "Transfer":
        directory = Path(directory)
        tree = read_json(directory / SPEC, "transfer spec")
        if isinstance(tree, dict) and "moment" not in tree and (directory / BASE).exists():
            tree = _named(tree, directory)
        spec = TransferRunSpec.parse(tree, str(directory / SPEC))
        return cls(directory, spec.with_world(found(spec.world, directory)))

    @cached_property
    def setup(self) -> "TransferSetup":
        from grokscope.runs.setup import TransferSetup

        return TransferSetup(self.spec)

    @cached_property
    def base(self) -> "BaseStanding":
        """What is known of the base."""
        from grokscope.transfer.result import BaseStanding

        return BaseStanding.parse(read_json(self.directory / BASE, "description of a base"))

    @property
    def new(self) -> "NewFacts":
        """New facts, fine-tuning data and probes, rebuilt from the spec.

        Raises:
            InputError: what is built is not what the transfer was trained on.
        """
        return self.checked.corpus

    @cached_property
    def curves(self) -> "pl.DataFrame":
        """Accuracies per checkpoint, also among queries with known atoms: `transfer.outcome.curves_of`."""
        from grokscope.transfer.outcome import curves_of

        return curves_of(self.traces)

    @property
    def result(self) -> "TransferResult | None":
        """What came out; None: not finished."""
        from grokscope.transfer.result import TransferResult

        if not exists(self.directory / DONE, "end mark"):
            return None
        return TransferResult.parse(read_json(self.directory / RESULT, "transfer result"))

    @property
    def cells(self) -> "pl.DataFrame":
        """Every cell of the examination with its rate: columns as `transfer.outcome.CELLS`.

        Raises:
            InputError: it is not finished.
        """
        path = self.directory / CELLS
        if not exists(path, "table of cells"):
            raise InputError(f"transfer {self.name} is not finished: it has no {CELLS} yet.")
        table = _cells_in(path)
        if table is None:
            raise InputError(f"the table of cells at {path} is damaged.")
        return table


def _cells_in(path: Path) -> "pl.DataFrame | None":
    """A table of cells, or None: it is damaged.

    Raises:
        InputError: it cannot be read, is empty, or is no text.
    """
    import polars as pl

    data = read_text(path, "table of cells").encode()
    try:
        return pl.read_csv(data, schema_overrides={"position": pl.String})
    except pl.exceptions.PolarsError:
        return None


def _named(tree: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The spec of a transfer from before it said its moment, which stands with the base, and its variant,
    which stands in the directory's name: `<base>-<moment>-<variant>-<identity>`."""
    base = read_json(directory / BASE, "description of a base")
    told = {**tree, "moment": base.get("moment") if isinstance(base, dict) else None}
    spec = TransferRunSpec.parse(told, str(directory / SPEC))
    rest = directory.name.removesuffix(f"-{spec.identity}").removeprefix(spec.name)
    return {**told, "variant": rest.removeprefix("-")}


def open_job(directory: str | Path) -> Run | Transfer:
    """The run or the transfer of a directory.

    Raises:
        InputError: it is neither, or cannot be read.
    """
    tree = read_json(Path(directory) / SPEC, "spec")
    return (Transfer if isinstance(tree, dict) and "transfer" in tree else Run).open(directory)
